"""The table whose rows are asked about, changes to it, and what must stand in the tables of answers."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from tests.crash.engine import REFUSED
from tests.tables.shop import Shop

DAYS = ("monday", "tuesday", "wednesday", "thursday")
WORDS = ("lamp", "chair", "kettle", "drill", "jacket", "clock", "carpet", "mirror")

ANY_RUN = {"run_id", "answered_at", "failed_at", "attempts", "since"}
"""Columns in which two runs over the same rows differ."""

Review = Mapping[str, Any]


def reviews(rng: random.Random, count: int) -> list[Review]:
    """Return rows of which some have the same text, in one partition and across them, and some have none."""
    return [{"id": i, "day": rng.choice(DAYS), "text": _text(rng, i, "")} for i in range(1, count + 1)]


def changes(rng: random.Random, count: int, share: float, version: int) -> list[Review]:
    """Return a share of the rows anew: with another text, or in another partition."""
    changed = rng.sample(range(1, count + 1), int(share * count))
    return [{"id": i, "day": rng.choice(DAYS), "text": _text(rng, i, f" since {version}")} for i in changed]


def _text(rng: random.Random, number: int, more: str) -> str | None:
    kind, word = rng.random(), rng.choice(WORDS)
    if kind < 0.04:
        return rng.choice([None, "", " \n\t"])
    if kind < 0.06:
        return f"Review {number} of a {word} is {REFUSED}{more}."
    if kind < 0.25:
        return f"The {word} number {rng.randrange(6)} is as good as the last one{more}."
    return f"Review {number}: the {word} broke after {rng.randrange(2, 90)} days{more}."


def change(shop: Shop, rows: Sequence[Review]) -> None:
    table = shop.table("reviews")
    statement = table.update().where(table.c.id == sa.bindparam("row"))
    values = {"day": sa.bindparam("to_day"), "text": sa.bindparam("to_text")}
    with shop.database.engine.begin() as connection:
        connection.execute(
            statement.values(values),
            [{"row": row["id"], "to_day": row["day"], "to_text": row["text"]} for row in rows],
        )


def outputs(shop: Shop) -> dict[str, list[dict[str, Any]]]:
    """Return every row of the tables that a run writes, without what differs from run to run, in the order of the keys.

    Not `llm_throughput`: it says what each run did.
    """
    names = sorted({*sa.inspect(shop.database.engine).get_table_names()} - {"reviews", "llm_throughput"})
    found = {}
    for name in names:
        table = shop.table(name)
        query = sa.select(*(column for column in table.c if column.name not in ANY_RUN))
        with shop.database.engine.connect() as connection:
            rows = connection.execute(query.order_by(*table.primary_key)).mappings()
            found[name] = [dict(row) for row in rows]
    return found


def lost_and_doubled(shop: Shop) -> tuple[int, int]:
    """Return how many rows have no outcome, and how many have several, counted for each task."""
    lost = doubled = 0
    keys = {str(key) for key in shop.column("SELECT id FROM reviews")}
    tables = sa.inspect(shop.database.engine).get_table_names()
    for task in [table.removeprefix("reviews_") for table in tables if table.startswith("reviews_")]:
        answered = [str(key) for key in shop.column(f"SELECT id FROM reviews_{task}")]
        failed = shop.column(f"SELECT row_key FROM llm_failures WHERE task = '{task}'")
        lost += len(keys - {*answered, *failed})
        doubled += len(answered) + len(failed) - len({*answered, *failed})
        doubled += len({*answered, *failed} - keys)  # the outcome of no row
    return lost, doubled
