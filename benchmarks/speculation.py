"""JSON with and without n-gram speculative decoding, which guesses an answer's next tokens from the row's own text.

Guesses are right or wrong by what the weights say, so that random weights show nothing. Each side is a load of its own.
"""

from typing import Any

from benchmarks.common import (
    Bench,
    LeftOutError,
    Turn,
    compare,
    demo_texts,
    insert_rows,
    main,
    ratio,
    run_pipeline,
    speeds,
)
from benchmarks.prompts import LONG_EXTRACT
from llm_assets.engines import VllmEngine
from llm_assets.errors import ModelError
from llm_assets.pipeline import output_table_name
from llm_assets.tables import Database, Source

NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}


def answers(database: Database) -> dict[int, tuple[object, ...]]:
    """Return the fields that were read, by row."""
    import sqlalchemy as sa

    fields = [sa.column(name) for name in LONG_EXTRACT.json_schema["properties"]]
    table = sa.table(output_table_name(Source(table="rows"), LONG_EXTRACT))
    with database.engine.connect() as connection:
        rows = connection.execute(sa.select(sa.column("id"), *fields).select_from(table))
        return {row[0]: tuple(row[1:]) for row in rows}


def run(bench: Bench) -> dict[str, Any]:
    """Measure both loads, one after the other."""
    if bench.weights_are_random:
        raise LeftOutError("speculation needs real weights, and --load-format dummy has random ones.")
    rows = bench.rows(cpu=8, gpu=2048)
    texts = demo_texts(rows)
    turns: dict[str, list[Turn]] = {}
    found: dict[str, dict[int, tuple[object, ...]]] = {}
    for name, settings in {"plain": {}, "ngram": {"speculative_config": NGRAM}}.items():
        try:
            engine = bench.engine(**settings)
        except ModelError as error:
            raise LeftOutError(f"this build of vLLM does not load a model with {settings}: {error}") from error

        def side(texts: list[str], name: str = name, engine: VllmEngine = engine) -> Turn:
            with bench.database() as database:
                insert_rows(database, texts)
                turn = run_pipeline(database, engine, [LONG_EXTRACT])
                found[name] = answers(database)
                return turn

        turns |= compare({name: side}, texts, bench.options.rounds, engine.reset_prefix_cache)
    same = sum(found["plain"][key] == found["ngram"][key] for key in found["plain"])
    return bench.report(
        "speculation",
        {"n-gram / plain": ratio(turns, "ngram", "plain")},
        speeds(turns, rows),
        turns,
        rows=rows,
        same_answers=f"{same} of {rows}",
        database=bench.dialect,
    )


if __name__ == "__main__":
    main(run, __doc__)
