"""Asking only what must be asked: a table with 30 % duplicate rows, and a rerun with 1 % of the rows changed.

Against the same pipeline with a task whose answers may not be reused, and against a full refresh of it.
"""

from typing import Any

from benchmarks.common import (
    Bench,
    Side,
    Turn,
    compare,
    demo_texts,
    insert_rows,
    main,
    median_of,
    ratio,
    run_pipeline,
    speeds,
)
from benchmarks.incremental import change
from benchmarks.prompts import LONG_CHOICE
from llm_assets.pipeline import PipelineSettings
from llm_assets.tasks import Classify

DUPLICATE_SHARE = 0.3
CHANGED_SHARE = 0.01


class AskAll(Classify):
    """A Classify that asks about every row, also when an equal text has an answer."""

    @property
    def reusable(self) -> bool:
        return False


ASK_ALL = AskAll(**{name: getattr(LONG_CHOICE, name) for name in LONG_CHOICE.model_fields_set})


def repeated(texts: list[str], share: float) -> list[str]:
    """Return as many texts, of which that share are copies of others, spread over the whole table."""
    distinct = texts[: len(texts) - round(share * len(texts))]
    copies = distinct[: len(texts) - len(distinct)]
    spread = [(index / len(distinct), text) for index, text in enumerate(distinct)]
    spread += [((index + 0.5) / len(copies), text) for index, text in enumerate(copies)]
    return [text for _, text in sorted(spread, key=lambda item: item[0])]


def run(bench: Bench) -> dict[str, Any]:
    """Measure first runs and reruns."""
    engine = bench.engine()
    rows = bench.rows(cpu=32, gpu=4096)

    def rerun(task: Classify, settings: PipelineSettings) -> Side:
        def answer(texts: list[str]) -> Turn:
            with bench.database() as database:
                insert_rows(database, texts)
                run_pipeline(database, engine, [task])
                change(database, CHANGED_SHARE, "rows")
                engine.reset_prefix_cache()
                return run_pipeline(database, engine, [task], settings)

        return answer

    first = {
        "reuse": bench.pipeline(engine, [LONG_CHOICE]),
        "ask_all": bench.pipeline(engine, [ASK_ALL]),
    }
    again = {
        "rerun": rerun(LONG_CHOICE, PipelineSettings()),
        "rerun_all": rerun(ASK_ALL, PipelineSettings(full_refresh=True)),
    }
    texts = repeated(demo_texts(rows), DUPLICATE_SHARE)
    turns = compare(first, texts, bench.options.rounds, engine.reset_prefix_cache)
    turns |= compare(again, texts, bench.options.rounds, engine.reset_prefix_cache)
    return bench.report(
        "duplicates",
        {
            "30 % duplicates: reuse / ask all": ratio(turns, "reuse", "ask_all"),
            "1 % changed: rerun / ask all": ratio(turns, "rerun", "rerun_all"),
        },
        speeds(turns, rows),
        turns,
        rows=rows,
        asked=median_of(turns, lambda turn: turn.asked),
        database=bench.dialect,
    )


if __name__ == "__main__":
    main(run, __doc__)
