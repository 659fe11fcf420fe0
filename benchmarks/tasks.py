"""Three tasks over the same rows, long ones and short ones: the pipeline's layouts against three passes of plain vLLM.

With the row first, the three prompts of a row share it in the prefix cache; with the instruction first, the prompts of
a task share that. Each pass of plain vLLM is one `LLM.generate` over all rows, with the instruction first.
"""

from typing import Any

from benchmarks.common import Bench, compare, main, median_of, ratios, speeds, texts_of
from benchmarks.plain import plain
from benchmarks.prompts import THREE
from llm_assets.pipeline import PipelineSettings

TOKENS = {"long": 1000, "short": 83}
"""Tokens of a row."""


def run(bench: Bench) -> dict[str, Any]:
    """Measure the layouts on long and on short rows."""
    engine = bench.engine()
    counts = {"long": bench.rows(cpu=1, gpu=512), "short": bench.rows(cpu=4, gpu=4096)}
    found_ratios: dict[str, float] = {}
    found_speeds: dict[str, float] = {}
    cached: dict[str, dict[str, float]] = {}
    all_turns = {}
    for size, rows in counts.items():
        texts = texts_of(engine.tokenizer, rows, TOKENS[size])
        sides = {
            "auto": bench.pipeline(engine, THREE, PipelineSettings(layout="auto")),
            "row_first": bench.pipeline(engine, THREE, PipelineSettings(layout="row_first")),
            "instruction_first": bench.pipeline(engine, THREE, PipelineSettings(layout="instruction_first")),
            "three_passes": plain(engine, THREE),
        }
        print(f"  rows of {TOKENS[size]} tokens")
        turns = compare(sides, texts, bench.options.rounds, engine.reset_prefix_cache)
        found_ratios |= {f"{size} rows: {name}": value for name, value in ratios(turns, "auto").items()}
        found_speeds |= {f"{size} rows: {name}": value for name, value in speeds(turns, rows).items()}
        cached[size] = median_of(turns, lambda turn: turn.cached_share)
        all_turns |= {f"{size} rows: {name}": some for name, some in turns.items()}
    return bench.report(
        "tasks", found_ratios, found_speeds, all_turns, rows=counts, row_tokens=TOKENS, cached_share=cached
    )


if __name__ == "__main__":
    main(run, __doc__)
