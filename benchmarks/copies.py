"""One copy of the model, and one on each GPU, over the same rows: labels and JSON, table to committed table.

Each side is a load of its own, one after the other. Where there are not two GPUs, two copies share a processor and gain
nothing: there it runs only with --rows.

    python -m benchmarks.copies [--rows 4096] [--rounds 3] [--model DIRECTORY [--load-format dummy]]
"""

from typing import Any

from benchmarks.common import Bench, LeftOutError, Turn, compare, demo_texts, main, ratio, speeds
from benchmarks.prompts import LONG_CHOICE, LONG_EXTRACT
from llm_assets.engines.vllm.hardware import gpu_names

CASES = {"choice": (LONG_CHOICE, 16, 24_576), "extract": (LONG_EXTRACT, 4, 4096)}
"""Each with its rows on a CPU, and on GPUs: so many there that the second which a run takes besides does not count."""


def run(bench: Bench) -> dict[str, Any]:
    """Measure both loads."""
    gpus = len(gpu_names())
    if gpus < 2 and not bench.options.rows:
        raise LeftOutError(f"one copy for each GPU needs two of them, and here are {gpus}.")
    copies = max(gpus, 2)
    turns: dict[str, list[Turn]] = {}
    speed: dict[str, float] = {}
    for count in (1, copies):
        engine = bench.engine(data_parallel_size=count)
        for name, (task, cpu, gpu) in CASES.items():
            rows = bench.rows(cpu, gpu)
            side = {f"{name}, {count}": bench.pipeline(engine, [task])}
            turns |= (found := compare(side, demo_texts(rows), bench.options.rounds, engine.reset_prefix_cache))
            speed |= speeds(found, rows)
    ratios = {f"{name}, {copies} copies / 1": ratio(turns, f"{name}, {copies}", f"{name}, 1") for name in CASES}
    return bench.report("copies", ratios, speed, turns, database=bench.dialect, copies=copies)


if __name__ == "__main__":
    main(run, __doc__)
