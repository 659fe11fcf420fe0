"""One copy of the model against several, over the same rows, table to committed table: labels and JSON.

On one GPU, two copies share it, and the one copy is the first of them; plain vLLM writes JSON by that one too. Where
there are more GPUs, each has a copy, and the two sides are loads of their own, unless --engine sets copies_per_gpu. On
a CPU, where two copies share the cores and gain nothing, it runs only with --rows.

    python -m benchmarks.copies [--rows 4096] [--rounds 3] [--model DIRECTORY [--load-format dummy]]
                                [--engine '{"copies_per_gpu": 3}']
"""

from typing import Any

from benchmarks.common import Bench, LeftOutError, Turn, compare, demo_texts, main, median_of, ratio, ratios, speeds
from benchmarks.plain import BATCH, plain
from benchmarks.prompts import LONG_CHOICE, LONG_EXTRACT
from llm_assets.engines import VllmEngine
from llm_assets.engines.vllm.hardware import gpu_names
from llm_assets.tasks import GenerationTask

CASES = {"choice": (LONG_CHOICE, 16, 24_576), "extract": (LONG_EXTRACT, 4, 4096)}
"""Each with its rows on a CPU, and on GPUs: so many there that the second which a run takes besides does not count."""


class FirstCopy(VllmEngine):
    """The first of the copies that an engine has on its GPU. It is the other's to close."""

    def __init__(self, engine: VllmEngine) -> None:
        super().__init__(engine.settings.model_copy(update={"copies_per_gpu": 1}))
        self._llm = engine.llm
        self._idle.attach([engine.llm.llm_engine.engine_core], 1)


def on_one_gpu(bench: Bench, copies: int) -> dict[str, Any]:
    """Measure copies that share a GPU, in one load."""
    engine = bench.engine(copies_per_gpu=copies)
    first = FirstCopy(engine)
    turns: dict[str, list[Turn]] = {}
    found_ratios: dict[str, float] = {}
    found_speeds: dict[str, float] = {}
    idle: dict[str, float] = {}
    ours = f"{copies} copies"
    for name, (task, cpu, gpu) in CASES.items():
        rows = bench.rows(cpu, gpu)
        sides = {ours: bench.pipeline(engine, [task]), "1 copy": bench.pipeline(first, [task])}
        if isinstance(task, GenerationTask):  # plain vLLM decodes labels, with another compiler of constraints
            sides |= {"one_submit": plain(engine, [task]), "batches": plain(engine, [task], BATCH)}
        print(f"  {name}")
        found = compare(sides, demo_texts(rows), bench.options.rounds, engine.reset_prefix_cache)
        found_ratios |= {f"{name}: {pair}": value for pair, value in ratios(found, ours).items()}
        found_speeds |= {f"{name}: {side}": value for side, value in speeds(found, rows).items()}
        idle |= median_of({name: found[ours]}, lambda turn: turn.stages["idle"] / turn.seconds)
        turns |= {f"{name}: {side}": some for side, some in found.items()}
    return bench.report(
        "copies", found_ratios, found_speeds, turns, database=bench.dialect, copies_per_gpu=copies, idle_share=idle
    )


def on_each_gpu(bench: Bench, copies: int) -> dict[str, Any]:
    """Measure one copy and one on each GPU, one load after the other."""
    turns: dict[str, list[Turn]] = {}
    speed: dict[str, float] = {}
    for count in (1, copies):
        engine = bench.engine(data_parallel_size=count)
        for name, (task, cpu, gpu) in CASES.items():
            rows = bench.rows(cpu, gpu)
            side = {f"{name}, {count}": bench.pipeline(engine, [task])}
            turns |= (found := compare(side, demo_texts(rows), bench.options.rounds, engine.reset_prefix_cache))
            speed |= speeds(found, rows)
    found_ratios = {f"{name}, {copies} copies / 1": ratio(turns, f"{name}, {copies}", f"{name}, 1") for name in CASES}
    return bench.report("copies", found_ratios, speed, turns, database=bench.dialect, copies=copies)


def run(bench: Bench) -> dict[str, Any]:
    """Measure copies on one GPU, or on several."""
    gpus, per_gpu = len(gpu_names()), bench.options.engine.get("copies_per_gpu")
    if not gpus and not bench.options.rows:
        raise LeftOutError("copies need a GPU, and here is none.")
    return on_each_gpu(bench, gpus) if gpus > 1 and per_gpu is None else on_one_gpu(bench, per_gpu or 2)


if __name__ == "__main__":
    main(run, __doc__)
