"""The rows of every partition, taken as one slice, are those that runs over all partitions read."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from llm_assets.dagster import (
    DatabaseResource,
    DummyEngineResource,
    DynamicPartitions,
    MultiPartitions,
    StaticPartitions,
    TimePartitions,
    build_llm_assets,
)
from llm_assets.dagster.every_partition import every_partition
from llm_assets.dagster.local import prepare_instance
from llm_assets.dagster.partitions import Partitions
from llm_assets.dagster.sensors import MOST_VALUES
from llm_assets.dagster.table import TableDefinition, assets_of
from llm_assets.engines import DummyEngine
from llm_assets.errors import ConfigError, SourceError
from llm_assets.inspection.asking import random_rows
from llm_assets.inspection.explain import explain
from llm_assets.inspection.explain_view import explanation_json, print_explanation
from llm_assets.inspection.explanation import Explanation
from llm_assets.pipeline import Pipeline
from llm_assets.tables import Source
from tests.inspection.looking import printed
from tests.tables.shop import SENTIMENT, Shop

COUNTRY = DynamicPartitions(column="country")
DAYS = TimePartitions(column="at", start="2026-11-01", end="2026-11-05")
NOW = datetime.now(UTC).replace(tzinfo=None)


@pytest.fixture(autouse=True)
def _no_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


@pytest.fixture
def messages(shop: Shop) -> Shop:
    shop.execute(
        "CREATE TABLE messages (id INTEGER PRIMARY KEY, country TEXT, size INTEGER, at TIMESTAMP, text TEXT)",
    )
    return shop


def add(shop: Shop, **columns: list[Any]) -> None:
    """Add a row for each value of a column, or for the pairs of two."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    shop.insert("messages", [{"id": n, "text": f"text {n}", **row} for n, row in enumerate(rows)])


def cut(partitions: Partitions | None) -> TableDefinition:
    return assets_of(build_llm_assets(Source(table="messages"), [SENTIMENT], partitions))[1]


@contextmanager
def looking_at(shop: Shop, table: TableDefinition) -> Iterator[Pipeline]:
    resources = {"database": DatabaseResource(url=shop.url), "engine": DummyEngineResource()}
    with dg.build_resources(resources) as built:
        yield table.pipeline({key: getattr(built, key) for key in resources}, read_only=True)


def explained(shop: Shop, partitions: Partitions | None) -> Explanation:
    table = cut(partitions)
    with looking_at(shop, table) as pipeline:
        return explain(pipeline, [every_partition(table, pipeline.source)])


def rows_of_each(shop: Shop, partitions: Partitions, keys: list[str]) -> int:
    """Count the rows that a run over all partitions reads."""
    engine = DummyEngine()
    pipeline = Pipeline(Source(table="messages"), [SENTIMENT], engine, shop.database, shop.database, partitions.columns)
    results = pipeline.run_all([partitions.partition(key) for key in keys], "run")
    return sum(result.counts["sentiment"].rows_read for result in results)


def test_what_is_in_no_partition_by_time_is_not_asked(messages: Shop) -> None:
    times = [datetime(2026, 10, 1)] * 100 + [datetime(2026, 11, day, 12) for day in (1, 2, 3, 4, 4)] + [None]
    add(messages, at=times)
    found = explained(messages, DAYS)
    assert (found.rows, found.in_no_partition, found.tasks[0].to_ask) == (5, 101, 5)
    shown = printed(lambda console: print_explanation(console, found))
    assert "messages, every partition: 5 rows" in shown
    assert "Partitions: at from 2026-11-01 to 2026-11-04." in shown
    assert "101 rows are in no partition" in shown
    values = explanation_json(found)
    assert (values["in_no_partition"], values["partitions"]) == (101, None)
    assert values["every_partition"] == ("at from 2026-11-01 to 2026-11-04",)
    assert rows_of_each(messages, DAYS, list(DAYS.definition().get_partition_keys())) == 5
    assert explained(messages, DAYS).tasks[0].to_ask == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"start": "2026-10-24", "end": "2026-10-27", "timezone": "Europe/Berlin", "hour_offset": 3},
        {"start": "2026-10-24T22:30", "end": "2026-10-25T05:00", "timezone": "Europe/Berlin", "cadence": "hourly"},
        {"start": "2026-10-20", "end": "2026-10-28", "cadence": "weekly", "day_offset": 3},
        {"start": "2026-10-24T01:00", "end": "2026-10-26T20:00", "cron_schedule": "15 */7 * * *"},
    ],
)
def test_edges_of_time_are_those_of_the_partitions(messages: Shop, settings: dict[str, Any]) -> None:
    begin = datetime(2026, 10, 18)
    add(messages, at=[begin + timedelta(minutes=30 * n) for n in range(2 * 24 * 14)])
    partitions = TimePartitions(column="at", **settings)
    keys = list(partitions.definition().get_partition_keys())
    found = explained(messages, partitions)
    assert 0 < found.rows < 2 * 24 * 14
    assert found.rows == rows_of_each(messages, partitions, keys)
    assert found.in_no_partition == 2 * 24 * 14 - found.rows


def test_the_day_that_is_not_over_counts_where_dagster_has_it(messages: Shop) -> None:
    start = (NOW - timedelta(days=3)).date().isoformat()
    add(messages, at=[NOW - timedelta(days=days) for days in (-1, 0, 1, 2, 9)])
    assert explained(messages, TimePartitions(column="at", start=start)).rows == 2
    assert explained(messages, TimePartitions(column="at", start=start, end_offset=1)).rows == 3
    future = explained(messages, TimePartitions(column="at", start=f"{NOW.year + 1}-01-01"))
    assert (future.rows, future.in_no_partition) == (0, 5)
    shown = printed(lambda console: print_explanation(console, future))
    assert f"at has none yet, they begin at {NOW.year + 1}-01-01" in shown
    assert "There are no rows" in shown


def test_a_row_has_one_of_the_listed_values(messages: Shop) -> None:
    add(messages, size=[1, 2, 2, 30, None], country=["de", "de", "", "it", None])
    found = explained(messages, StaticPartitions(column="size", values=("2", "30", "4")))
    assert (found.rows, found.in_no_partition) == (3, 2)
    assert found.every_partition == ("size in 2, 30, 4",)
    many = StaticPartitions(column="country", values=("it", *(f"c{n}" for n in range(2000))))
    assert explained(messages, many).rows == 1
    with pytest.raises(SourceError, match="'big' is no value of column 'size'"):
        explained(messages, StaticPartitions(column="size", values=("big",)))


def test_dynamic_partitions_are_those_of_the_instance(
    messages: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(messages, country=["de", "de", "fr", "", "a\nb", None])
    found = explained(messages, COUNTRY)
    assert (found.rows, found.in_no_partition) == (3, 3)
    assert found.every_partition is not None
    assert found.every_partition[0].startswith("country in de, fr (all that it has, because DAGSTER_HOME names no")
    home = prepare_instance(tmp_path / "home")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    assert explained(messages, COUNTRY).rows == 0
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions("messages_country", ["fr", "gone"])
    found = explained(messages, COUNTRY)
    assert (found.rows, found.in_no_partition) == (1, 5)
    assert found.every_partition == (f"country in fr (registered in the instance of DAGSTER_HOME={home})",)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "nothing"))
    found = explained(messages, COUNTRY)
    assert found.rows == 3
    assert found.every_partition is not None
    assert f"DAGSTER_HOME={tmp_path / 'nothing'} cannot be read" in found.every_partition[0]


def test_a_column_with_too_many_values_is_refused(messages: Shop) -> None:
    add(messages, country=[f"c{n}" for n in range(MOST_VALUES + 1)])
    with pytest.raises(ConfigError, match=r"'country' of 'messages' has more than 10,000 values.*--partition KEY"):
        explained(messages, COUNTRY)


def test_two_dimensions_are_both_met(messages: Shop) -> None:
    days = [datetime(2026, 11, 1), datetime(2026, 11, 2), datetime(2026, 12, 1), None]
    countries = ["de", "fr", "a|b", None]
    pairs = [(day, country) for day in days for country in countries]
    add(messages, at=[day for day, _ in pairs], country=[country for _, country in pairs])
    listed = MultiPartitions(dimensions={"day": DAYS, "land": StaticPartitions(column="country", values=("de", "it"))})
    assert (explained(messages, listed).rows, explained(messages, listed).in_no_partition) == (2, 14)
    found = explained(messages, MultiPartitions(dimensions={"day": DAYS, "land": COUNTRY}))
    assert (found.rows, found.in_no_partition) == (4, 12)
    assert found.every_partition is not None
    assert len(found.every_partition) == 2


def test_a_table_without_partitions_is_read_whole(messages: Shop) -> None:
    add(messages, country=["de", None])
    found = explained(messages, None)
    assert (found.rows, found.in_no_partition, found.every_partition) == (2, 0, None)
    assert "messages, all rows: 2 rows" in printed(lambda console: print_explanation(console, found))


def test_many_partitions_take_few_queries(messages: Shop) -> None:
    add(messages, at=[datetime(2026, 1, 1) + timedelta(hours=n) for n in range(50)])
    table = cut(TimePartitions(column="at", cadence="hourly", start="2020-01-01", end="2026-11-01"))
    assert table.partitions_definition is not None
    assert len(table.partitions_definition.get_partition_keys()) > 50_000
    queries: list[str] = []
    with looking_at(messages, table) as pipeline:
        engine = pipeline.source.database.engine
        sa.event.listen(engine, "before_cursor_execute", lambda *arguments: queries.append(arguments[2]))
        found = explain(pipeline, [every_partition(table, pipeline.source)])
    assert (found.rows, found.in_no_partition) == (50, 0)
    assert len(queries) < 20


def test_a_preview_takes_rows_of_the_partitions(messages: Shop) -> None:
    add(messages, at=[datetime(2026, 11, 2), datetime(2026, 12, 2), None])
    table = cut(DAYS)
    with looking_at(messages, table) as pipeline:
        rows = random_rows(pipeline, [every_partition(table, pipeline.source)], 9, 0)
        assert [row.key for row in rows] == [(0,)]
        messages.execute("DELETE FROM messages WHERE id = 0")
        with pytest.raises(SourceError, match="'messages' has no rows in any partition: at from 2026-11-01 to"):
            random_rows(pipeline, [every_partition(table, pipeline.source)], 9, 0)
