"""JSON by each of vLLM's constraint compilers: strings with a pattern, with the default bound, and with short bounds.

vLLM computes for each token of each answer which tokens may come next, on the host. Each compiler is a load of its own.
Their answers differ by random weights, so that tokens are compared and not rows.
"""

from typing import Any

from benchmarks.common import Bench, Turn, compare, demo_texts, main, rounded
from benchmarks.prompts import LONG_EXTRACT, MOODS
from llm_assets.sampling import Sampling
from llm_assets.tasks import Extract

COMPILERS = ("guidance", "xgrammar")


def task(name: str, *strings: dict[str, Any]) -> Extract:
    """Return a task of some strings and a closed choice."""
    fields = {f"field{number}": {"type": "string", **bound} for number, bound in enumerate(strings)}
    properties = {**fields, "mood": {"enum": list(MOODS)}}
    return Extract(
        name=name,
        instruction="Note what the message states.",
        schema={"type": "object", "properties": properties, "required": list(properties)},
        sampling=Sampling(max_tokens=512),
    )


TASKS = {
    "patterns": LONG_EXTRACT,
    "default bound": task("bounded", {}, {}),
    "short bounds": task("short", {"maxLength": 12}, {"maxLength": 3}, {"maxLength": 40}),
}


def run(bench: Bench) -> dict[str, Any]:
    """Measure both loads, one after the other."""
    rows = bench.rows(cpu=32, gpu=2048)
    texts = demo_texts(rows)
    turns: dict[str, list[Turn]] = {}
    for compiler in COMPILERS:
        engine = bench.engine(structured_outputs_config={"backend": compiler, "disable_any_whitespace": True})
        for name, asked in TASKS.items():
            side = {f"{compiler}, {name}": bench.pipeline(engine, [asked])}
            turns |= compare(side, texts, bench.options.rounds, engine.reset_prefix_cache)
    # The median round, by tokens: a round's answers are those of the others.
    speed = {side: rounded(sorted(map(tokens_per_second, some))[len(some) // 2]) for side, some in turns.items()}
    first, other = COMPILERS
    ratios = {
        f"{first} / {other}: {name}": rounded(speed[f"{first}, {name}"] / speed[f"{other}, {name}"]) for name in TASKS
    }
    report = bench.report("compilers", ratios, {}, turns, rows=rows, database=bench.dialect)
    del report["rows_per_second"]
    return {**report, "tokens_per_second": speed}


def tokens_per_second(turn: Turn) -> float:
    """Return the speed of a round in generated tokens."""
    return turn.output_tokens / turn.seconds


if __name__ == "__main__":
    main(run, __doc__)
