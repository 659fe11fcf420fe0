"""What the prefix cache is worth: switched off, emptied before the run, and with every prompt of the run in it.

The task is a Generate with a choice, because a request that generates text can be kept from reading the cache; labels
of a Classify are scored in a way that has no such switch.
"""

from typing import Any

from benchmarks.common import Bench, Side, Turn, compare, demo_texts, main, median_of, ratio, speeds
from benchmarks.prompts import LONG_CHOICE, MOODS, check_shared
from llm_assets.sampling import Sampling
from llm_assets.tasks import Generate


def task(**sampling: Any) -> Generate:
    """Return the task, with its labels described as a Classify does it."""
    return Generate(
        name="intent",
        instruction=LONG_CHOICE.system_message().rpartition("\n")[0],  # Generate adds the line with the choice itself
        choice=MOODS,
        examples=LONG_CHOICE.examples,
        sampling=Sampling(max_tokens=16, **sampling),
    )


def run(bench: Bench) -> dict[str, Any]:
    """Measure the pipeline in the three states of the cache."""
    engine = bench.engine()
    rows = bench.rows(cpu=16, gpu=4096)
    cached = bench.pipeline(engine, [task()])
    uncached = bench.pipeline(engine, [task(skip_reading_prefix_cache=True)])

    def emptied(side: Side) -> Side:
        def answer(texts: list[str]) -> Turn:
            engine.reset_prefix_cache()
            return side(texts)

        return answer

    def filled(texts: list[str]) -> Turn:
        engine.reset_prefix_cache()
        cached(texts)
        return cached(texts)

    sides = {"off": emptied(uncached), "cold": emptied(cached), "warm": filled}
    turns = compare(sides, demo_texts(rows), bench.options.rounds)
    return bench.report(
        "prefix",
        {"cold / off": ratio(turns, "cold", "off"), "warm / off": ratio(turns, "warm", "off")},
        speeds(turns, rows),
        turns,
        rows=rows,
        shared_tokens=check_shared(task(), engine.tokenizer),
        cached_share=median_of(turns, lambda turn: turn.cached_share),
        database=bench.dialect,
    )


if __name__ == "__main__":
    main(run, __doc__)
