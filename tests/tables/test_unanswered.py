"""Which rows are unanswered, counted by the database, or by comparing keys where it cannot."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from llm_assets.engines import DummyEngine
from llm_assets.pipeline import Pipeline, output_table_name
from llm_assets.records import Equals, FailureKind, Partition, Within
from llm_assets.tables import Database, Output, RowOutcomes, Source, SourceTable, Store, Unanswered, UnansweredRows
from llm_assets.tables import unanswered as module
from llm_assets.tasks import Task
from tests.tables.shop import NOTE, SENTIMENT, FaultyEngine, Shop, day

WHOLE = [Partition()]


def made(
    shop: Shop,
    *tasks: Task,
    source: Source | None = None,
    columns: Sequence[str] = ("day",),
    output: Database | None = None,
    schema: str | None = None,
) -> Unanswered:
    source = source or Source(table="reviews")
    table = SourceTable(shop.database, source, [], columns)
    outputs = [Output(task.name, output_table_name(source, task), task.columns, "") for task in tasks or (SENTIMENT,)]
    return Unanswered(table, Store(output or shop.database, table, outputs, schema), outputs, schema)


def whole(found: dict[str, UnansweredRows]) -> int:
    """Return the unanswered rows of a table without partitions."""
    assert set(found) <= {"all"}
    return found["all"].rows if found else 0


def test_before_the_first_run_every_row_is_unanswered(shop: Shop) -> None:
    assert made(shop).count(WHOLE) == {}
    shop.add(["a", None, "b"])
    assert made(shop).count(WHOLE) == {"all": UnansweredRows(3, 0)}


def test_rows_with_an_answer_or_a_failure_of_every_task_are_not_counted(shop: Shop) -> None:
    shop.add(["a", "", "b"])
    shop.run(SENTIMENT)
    assert whole(made(shop).count(WHOLE)) == 0
    assert whole(made(shop, SENTIMENT, NOTE).count(WHOLE)) == 3
    shop.run(NOTE)
    assert whole(made(shop, SENTIMENT, NOTE).count(WHOLE)) == 0
    shop.add(["c"], first_id=4)
    shop.execute("DELETE FROM reviews WHERE id = 1")
    assert whole(made(shop, SENTIMENT, NOTE).count(WHOLE)) == 1


FAILED = "row_key, partition_key, kind, message, raw_output, attempts, fingerprint, content_hash, run_id, failed_at"


def test_failures_of_another_source_or_task_do_not_count(shop: Shop) -> None:
    shop.add([""])
    shop.run(NOTE)
    shop.execute("INSERT INTO llm_failures SELECT 'other', 'sentiment', " + FAILED + " FROM llm_failures")
    assert whole(made(shop).count(WHOLE)) == 1


def test_only_the_rows_of_where_are_counted(shop: Shop) -> None:
    shop.add(["a", "b", "ab"])
    assert whole(made(shop, source=Source(table="reviews", where="text LIKE 'a%'")).count(WHOLE)) == 2


KEYS: dict[str, tuple[str, tuple[str, ...], list[tuple[object, ...]]]] = {
    "integer": ("id INTEGER PRIMARY KEY", ("id",), [(1,), (-2,), (2**31 - 1,)]),
    "text": ("code TEXT PRIMARY KEY", ("code",), [("a",), ("it's",), ("Ünïcode 🦓",), (" ",), ("NULL",)]),
    "long text": ("code TEXT PRIMARY KEY", ("code",), [("x" * 3000,), ("x" * 2999 + "y",), ("short",)]),
    "several": ("a INTEGER, b TEXT, PRIMARY KEY (a, b)", ("a", "b"), [(1, "x"), (1, "y"), (2, 'x"')]),
    "number": ("n DOUBLE PRECISION PRIMARY KEY", ("n",), [(0.1,), (2.0,), (-1e300,)]),
    "date": ("d DATE PRIMARY KEY", ("d",), [("2026-11-01",), ("2026-11-02",)]),
    "char": ("c CHAR(4) PRIMARY KEY", ("c",), [("ab",), ("abcd",)]),
}


def keyed_rows(shop: Shop, kind: str, failing: bool) -> tuple[Source, list[dict[str, object]], dict[str, FailureKind]]:
    """A table with keys of a kind that holds all rows but the last one, those rows, and which of their texts fail."""
    declaration, names, keys = KEYS[kind]
    shop.execute(f"CREATE TABLE t (text TEXT, {declaration})")
    rows = [{**dict(zip(names, key, strict=True)), "text": f"text {i}"} for i, key in enumerate(keys)]
    shop.insert("t", rows[:-1])
    errors = {str(row["text"]): FailureKind.REFUSED_REQUEST for row in rows} if failing else {}
    return Source(table="t", key=names), rows, errors


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("failing", [False, True], ids=["answered", "failed"])
def test_keys_of_every_kind_are_found_again(shop: Shop, kind: str, failing: bool) -> None:
    source, rows, errors = keyed_rows(shop, kind, failing)
    engine = FaultyEngine(errors=errors)
    shop.run(SENTIMENT, source=source, engine=engine)
    if failing:
        assert shop.column("SELECT COUNT(*) FROM llm_failures") == [len(rows) - 1]
    assert whole(made(shop, source=source, columns=()).count(WHOLE)) == 0
    shop.insert("t", rows[-1:])
    assert whole(made(shop, source=source, columns=()).count(WHOLE)) == 1


def test_answers_in_another_database_are_compared_in_lists(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_assets.tables.source_table.CHUNK_ROWS", 3)
    other = Database(f"sqlite:///{tmp_path / 'other.db'}")
    shop.add([f"text {i}" for i in range(8)] + [""])
    assert whole(made(shop, output=other).count(WHOLE)) == 9
    pipeline = shop.pipeline(SENTIMENT)
    here = type(pipeline)(Source(table="reviews"), [SENTIMENT], pipeline.engine, shop.database, other)
    here.run(Partition(), "run")
    assert whole(made(shop, output=other).count(WHOLE)) == 0
    shop.add(["new", "newer"], first_id=100)
    assert whole(made(shop, output=other).count(WHOLE)) == 2


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("failing", [False, True], ids=["answered", "failed"])
def test_a_partitions_rows_count_by_their_own_keys_of_every_kind(shop: Shop, kind: str, failing: bool) -> None:
    source, rows, errors = keyed_rows(shop, kind, failing)
    before = made(shop, source=source, columns=())
    assert before.outcomes("sentiment", Partition(), 9).missing == len(rows) - 1
    shop.run(SENTIMENT, source=source, engine=FaultyEngine(errors=errors))
    shop.execute("DELETE FROM t WHERE text = 'text 0'")
    shop.insert("t", rows[-1:])
    found = made(shop, source=source, columns=()).outcomes("sentiment", Partition(), 9)
    known = len(rows) - 2
    counts = (0, known) if failing else (known, 0)
    assert (found.rows, found.answered, found.failed, found.missing) == (len(rows) - 1, *counts, 1)
    [key] = found.first_missing
    assert [str(part).strip() for part in key] == [str(rows[-1][name]) for name in source.key]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["one database", "two"])
def test_only_a_partitions_own_rows_count_and_those_of_where(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    monkeypatch.setattr("llm_assets.tables.source_table.CHUNK_ROWS", 3)
    output = Database(f"sqlite:///{tmp_path / 'other.db'}") if elsewhere else shop.database
    source = Source(table="reviews", where="text <> 'left out'")
    shop.add([f"text {i}" for i in range(8)] + ["", "left out"], day="monday")
    shop.add(["a", "b"], first_id=50, day="tuesday")
    pipeline = Pipeline(source, [SENTIMENT, NOTE], DummyEngine(), shop.database, output, ("day",))
    pipeline.run(day("monday"), "run")
    found = made(shop, SENTIMENT, NOTE, source=source, output=output)
    assert found.outcomes("note", day("monday"), 5) == RowOutcomes(9, 8, 1, 0, ())
    assert found.outcomes("sentiment", day("tuesday"), 1) == RowOutcomes(2, 0, 0, 2, ((50,),))
    assert found.outcomes("sentiment", day("sunday"), 1) == RowOutcomes(0, 0, 0, 0, ())
    shop.execute("DELETE FROM reviews WHERE id IN (2, 3, 9)", "UPDATE reviews SET day = 'monday' WHERE id = 51")
    shop.add([f"new {i}" for i in range(4)], first_id=100, day="monday")
    assert found.outcomes("sentiment", day("monday"), 2) == RowOutcomes(11, 6, 0, 5, ((51,), (100,)))
    # An answer stands under the partition that the row was in; the row is answered all the same.
    shop.execute("UPDATE reviews SET day = 'tuesday' WHERE id = 1")
    assert found.outcomes("sentiment", day("tuesday"), 2) == RowOutcomes(2, 1, 0, 1, ((50,),))


def test_rows_are_counted_by_partition_and_rows_of_none_are_not(shop: Shop) -> None:
    shop.add(["a", "b"], day="monday")
    shop.add(["c"], first_id=3, day="tuesday")
    shop.add(["d"], first_id=4, day="someday")
    shop.insert("reviews", [{"id": 9, "text": "without a day"}])
    days = [day(name) for name in ("monday", "tuesday", "wednesday")]
    assert made(shop).count(days) == {"monday": UnansweredRows(2), "tuesday": UnansweredRows(1)}
    shop.run(SENTIMENT, column="day", partition=day("monday"))
    assert made(shop).count(days) == {"tuesday": UnansweredRows(1)}


def hours(number: int) -> list[Partition]:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    bounds = [start + timedelta(hours=each) for each in range(number + 1)]
    return [Partition(f"{bounds[i]:%d %H}", (Within("at", bounds[i], bounds[i + 1]),)) for i in range(number)]


def test_of_many_windows_each_row_finds_its_own(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TIMESTAMP, country TEXT, text TEXT)")
    start = datetime(2026, 10, 31, 12)
    moments = [start + timedelta(minutes=37 * number) for number in range(700)]
    shop.insert(
        "t",
        [
            {"id": i, "at": f"{at:%Y-%m-%d %H:%M:%S}", "country": "de" if i % 3 else "fr"}
            for i, at in enumerate(moments)
        ],
    )
    windows = hours(400)[::-1]
    expected = {f"{at:%d %H}": 0 for at in moments if datetime(2026, 11, 1) <= at < datetime(2026, 11, 17, 16)}
    for at in moments:
        if f"{at:%d %H}" in expected and at >= datetime(2026, 11, 1):
            expected[f"{at:%d %H}"] += 1
    for limit in (500, 7):
        monkeypatch.setattr(module, "CONDITIONS_OF_A_QUERY", limit)
        found = made(shop, source=Source(table="t"), columns=("at", "country")).count(windows)
        assert {key: each.rows for key, each in found.items()} == expected
        pairs = [
            Partition(f"{country}|{each.key}", (Equals("country", country), *each.conditions))
            for country in ("de", "fr", "it")
            for each in hours(400)
        ]
        in_pairs = made(shop, source=Source(table="t"), columns=("at", "country")).count(pairs)
        assert sum(each.rows for each in in_pairs.values()) == sum(expected.values())
        assert {key.partition("|")[0] for key in in_pairs} == {"de", "fr"}


@pytest.mark.parametrize("limit", [500, 7])
def test_of_windows_in_an_hour_that_comes_twice_each_row_finds_its_own(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(module, "CONDITIONS_OF_A_QUERY", limit)
    kind = "TIMESTAMPTZ" if shop.database.dialect == "postgresql" else "TEXT"
    shop.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, at {kind}, text TEXT)")
    first = datetime(2026, 11, 1, tzinfo=UTC)
    moments = [first + timedelta(minutes=30 * number + 10) for number in range(20)]
    shop.insert("t", [{"id": i, "at": at.isoformat(sep=" ")} for i, at in enumerate(moments)])
    zone = ZoneInfo("America/New_York")
    bounds = [(first + timedelta(minutes=30 * number)).astimezone(zone) for number in range(21)]
    windows = [Partition(str(i), (Within("at", bounds[i], bounds[i + 1]),)) for i in range(20)]
    counter = made(shop, source=Source(table="t"), columns=("at",))
    assert counter.count(windows) == {str(i): UnansweredRows(1) for i in range(20)}
    for last in range(1, 20):
        assert counter.count(windows[:last]) == {str(i): UnansweredRows(1) for i in range(last)}


def test_windows_are_equal_if_they_are_the_same_instants() -> None:
    zone = ZoneInfo("America/New_York")
    hour = datetime(2026, 11, 1, 1, tzinfo=zone)
    again = hour.replace(fold=1)
    assert Within("at", hour, again) != Within("at", again, again + timedelta(hours=1))
    assert len({Within("at", hour, hour), Within("at", again, again)}) == 2
    in_utc = Within("at", hour.astimezone(UTC), again.astimezone(UTC))
    assert Within("at", hour, again) == in_utc
    assert hash(Within("at", hour, again)) == hash(in_utc)


def test_old_rows_are_those_before_a_moment(shop: Shop) -> None:
    shop.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TIMESTAMP, day DATE, text TEXT)")
    times: list[dict[str, Any]] = [
        {"id": i, "at": f"2026-11-0{i} 10:00:00", "day": f"2026-11-0{i}"} for i in range(1, 5)
    ]
    shop.insert("t", times)
    counter = made(shop, source=Source(table="t"), columns=("at", "day"))
    found = [
        counter.count(WHOLE, (column, moment))["all"].old
        for column in ("at", "day")
        for moment in (datetime(2026, 11, 3, 10, tzinfo=UTC), datetime(2026, 11, 3, 10, 1, tzinfo=UTC))
    ]
    # In SQLite a day without a time is its midnight.
    assert found == ([2, 3, 2, 2] if shop.database.dialect == "postgresql" else [2, 3, 3, 3])


def test_no_more_rows_are_looked_at_than_there_is_time_for(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COUNTED_ROWS", 5)
    shop.add([f"text {i}" for i in range(20)])
    assert whole(made(shop).count(WHOLE)) == 5
    assert whole(made(shop).count(WHOLE, at_least=12)) == 12


def test_unanswered_rows_in_no_partition_do_not_hide_others(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COUNTED_ROWS", 5)
    shop.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TIMESTAMP, text TEXT, day TEXT)")
    rows = [{"id": i, "at": "2020-01-01 10:00:00", "day": "someday"} for i in range(50)]
    rows += [{"id": i, "at": None, "day": None} for i in range(50, 60)]
    shop.insert("t", [*rows, {"id": 99, "at": "2026-11-01 05:30:00", "day": "monday"}])
    counter = made(shop, source=Source(table="t"), columns=("at", "day"))
    assert counter.count(hours(24)) == {"01 05": UnansweredRows(1)}
    assert counter.count([day("monday"), day("tuesday")]) == {"monday": UnansweredRows(1)}
    monkeypatch.setattr(module, "CONDITIONS_OF_A_QUERY", 7)
    assert counter.count(hours(24)) == {"01 05": UnansweredRows(1)}


def test_rows_of_partitions_that_are_left_out_do_not_hide_others(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COUNTED_ROWS", 5)
    monkeypatch.setattr(module, "CONDITIONS_OF_A_QUERY", 7)
    shop.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TIMESTAMP, text TEXT)")
    rows = [{"id": i, "at": "2026-11-01 10:00:00"} for i in range(50)]
    shop.insert("t", [*rows, {"id": 99, "at": "2026-11-02 11:30:00"}])
    counter = made(shop, source=Source(table="t"), columns=("at",))
    assert counter.count([each for each in hours(48) if each.key != "01 10"]) == {"02 11": UnansweredRows(1)}
    assert counter.count(hours(48)[1::2]) == {"02 11": UnansweredRows(1)}


def test_answers_in_a_schema_of_their_own_are_found(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute("CREATE SCHEMA answers")
    shop.add(["a", ""])
    assert whole(made(shop, schema="answers").count(WHOLE)) == 2
    shop.run(SENTIMENT, output_schema="answers")
    assert whole(made(shop, schema="answers").count(WHOLE)) == 0
    assert whole(made(shop).count(WHOLE)) == 2
