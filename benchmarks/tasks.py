"""Three tasks over the same rows, long ones and short ones: the pipeline's layouts against three passes of plain vLLM.

With the row first, the three prompts of a row share it in the prefix cache; with the instruction first, the prompts of
a task share that. Each pass of plain vLLM is one `LLM.generate` over all rows, with the instruction first. Long rows
are asked about twice: with instructions of a line or two, and with those of the short rows, which have examples.

    python -m benchmarks.tasks [--cases "long, brief"] [--sides auto three_passes]
                               [the options that all benchmarks have]
"""

import os
from collections.abc import Sequence
from typing import Any

from benchmarks.common import Bench, compare, median_of, options_of, parser, ratios, speeds, texts_of, write_line
from benchmarks.plain import plain
from benchmarks.prompts import BRIEF, THREE
from llm_assets.pipeline import PipelineSettings

CASES = {"long, brief": (1000, BRIEF), "long": (1000, THREE), "short": (83, THREE)}
"""Tokens of a row, and what is asked about it."""

SIDES = ("auto", "row_first", "instruction_first", "three_passes")


def run(bench: Bench, cases: Sequence[str] = tuple(CASES), names: Sequence[str] = SIDES) -> dict[str, Any]:
    """Measure the layouts on long and on short rows: in some cases, and by some sides, the first among them."""
    engine = bench.engine()
    long = bench.rows(cpu=1, gpu=512)
    counts = {"long, brief": long, "long": long, "short": bench.rows(cpu=4, gpu=4096)}
    found_ratios: dict[str, float] = {}
    found_speeds: dict[str, float] = {}
    shares: dict[str, dict[str, float]] = {}
    computed: dict[str, dict[str, float]] = {}
    all_turns = {}
    for case in cases:
        (tokens, tasks), rows = CASES[case], counts[case]
        texts = texts_of(engine.tokenizer, rows, tokens)
        every = {
            "auto": bench.pipeline(engine, tasks, PipelineSettings(layout="auto")),
            "row_first": bench.pipeline(engine, tasks, PipelineSettings(layout="row_first")),
            "instruction_first": bench.pipeline(engine, tasks, PipelineSettings(layout="instruction_first")),
            "three_passes": plain(engine, tasks),
        }
        sides = {name: every[name] for name in names}
        print(f"  rows of {tokens} tokens ({case})")
        turns = compare(sides, texts, bench.options.rounds, engine.reset_prefix_cache)
        found_ratios |= {f"{case}: {name}": value for name, value in ratios(turns, names[0]).items()}
        found_speeds |= {f"{case}: {name}": value for name, value in speeds(turns, rows).items()}
        shares[case] = median_of(turns, lambda turn: turn.cached_share)
        computed[case] = median_of(turns, lambda turn, n=rows: (turn.prompt_tokens - turn.cached_tokens) / n)
        all_turns |= {f"{case}: {name}": some for name, some in turns.items()}
    return bench.report(
        "tasks",
        found_ratios,
        found_speeds,
        all_turns,
        rows={case: counts[case] for case in cases},
        row_tokens={case: CASES[case][0] for case in cases},
        cached_share=shares,
        computed_tokens=computed,
    )


def main() -> None:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    command = parser(__doc__)
    command.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), help="these rows alone")
    command.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES), help="auto, and others")
    arguments = command.parse_args()
    with Bench(options_of(arguments)) as bench:
        write_line(run(bench, arguments.cases, arguments.sides), arguments.json)


if __name__ == "__main__":
    main()
