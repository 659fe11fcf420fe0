"""Which rows a partition holds: by time, in every way a database stores one, and by value."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from llm_assets.errors import SourceError
from llm_assets.records import Equals, Partition, Within
from llm_assets.tables import Source, SourceTable
from tests.tables.shop import RecordingEngine, Shop, only

DATES = ["2026-11-02", "2026-10-25", "2026-03-08"]
"""An ordinary day, the end of summer time in Berlin, and its begin in New York."""
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"]

Stored = Callable[[datetime], str]

WITHOUT_A_ZONE: list[tuple[str, str, str, Stored]] = [
    ("sqlite", "TEXT", "date", lambda moment: f"{moment:%Y-%m-%d}"),
    ("sqlite", "TEXT", "seconds", lambda moment: f"{moment:%Y-%m-%d %H:%M:%S}"),
    ("sqlite", "TEXT", "T", lambda moment: f"{moment:%Y-%m-%dT%H:%M:%S}"),
    ("sqlite", "TEXT", "microseconds", lambda moment: f"{moment:%Y-%m-%d %H:%M:%S.%f}"),
    ("sqlite", "TIMESTAMP", "T and microseconds", lambda moment: f"{moment:%Y-%m-%dT%H:%M:%S.%f}"),
    ("postgres", "DATE", "date", lambda moment: f"{moment:%Y-%m-%d}"),
    ("postgres", "TIMESTAMP", "microseconds", lambda moment: f"{moment:%Y-%m-%d %H:%M:%S.%f}"),
]
WITH_A_ZONE: list[tuple[str, str, str, Stored]] = [
    ("sqlite", "TEXT", "Z", lambda moment: f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"),
    ("sqlite", "TEXT", "own offset", lambda moment: moment.isoformat(timespec="microseconds")),
    ("sqlite", "TEXT", "other offset", lambda moment: moment.astimezone(ZoneInfo("Asia/Tokyo")).isoformat()),
    ("postgres", "TIMESTAMPTZ", "UTC", lambda moment: moment.astimezone(UTC).isoformat()),
    ("postgres", "TIMESTAMPTZ", "other offset", lambda moment: moment.astimezone(ZoneInfo("Asia/Tokyo")).isoformat()),
]


@pytest.fixture
def shop(request: pytest.FixtureRequest, dialect: str) -> Shop:
    return Shop(request.getfixturevalue(f"{dialect}_url"))


def within(start: datetime, end: datetime) -> Partition:
    return Partition(f"{start:%Y-%m-%d}", (Within("at", start, end),))


def valued(value: str) -> Partition:
    return Partition(value, (Equals("part", value),))


def day_of(midnight: datetime) -> Partition:
    return within(midnight, midnight + timedelta(days=1))


def read(shop: Shop, partition: Partition) -> list[object]:
    table = SourceTable(shop.database, Source(table="t"), ["id"], [each.column for each in partition.conditions])
    keys = [row.key[0] for rows in table.read(partition) for row in rows]
    assert table.count(partition) == len(keys)
    return keys


@pytest.mark.parametrize(
    ("dialect", "kind", "name", "stored"),
    [pytest.param(*form, id=" ".join(form[:3])) for form in [*WITHOUT_A_ZONE, *WITH_A_ZONE]],
)
def test_a_day_begins_at_its_midnight_and_ends_before_the_next(
    shop: Shop, kind: str, name: str, stored: Stored
) -> None:
    # SQLite rounds a time with an offset to milliseconds.
    tick = timedelta(milliseconds=1) if "offset" in name or name == "Z" else timedelta(microseconds=1)
    shop.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, at {kind})")
    if kind == "TIMESTAMPTZ":
        shop.set_time_zone("Pacific/Auckland")
    found = {}
    for zone in ZONES:
        for date in DATES:
            midnight = datetime.fromisoformat(date).replace(tzinfo=ZoneInfo(zone))
            days = [day_of(midnight + timedelta(days=offset)) for offset in (-1, 0, 1)]
            noon = timedelta(hours=12)
            spans = [(condition.start, condition.end) for each in days for condition in each.conditions]
            moments = [moment for start, end in spans for moment in (start, start + noon, end - tick)]
            shop.execute("DELETE FROM t")
            shop.insert("t", [{"id": i, "at": stored(moment)} for i, moment in enumerate(moments)])
            found[zone, date] = [read(shop, each) for each in days]
    assert found == {(zone, date): [[0, 1, 2], [3, 4, 5], [6, 7, 8]] for zone in ZONES for date in DATES}


@pytest.mark.parametrize(("dialect", "kind"), [("sqlite", "TEXT"), ("postgres", "TIMESTAMP")])
def test_hours_of_a_day_share_its_rows_without_overlap(shop: Shop, kind: str) -> None:
    shop.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, at {kind})")
    midnight = datetime(2026, 11, 1, tzinfo=UTC)
    shop.insert("t", [{"id": i, "at": f"{midnight + i * timedelta(minutes=7):%Y-%m-%d %H:%M:%S}"} for i in range(205)])
    hours = [midnight + i * timedelta(hours=1) for i in range(24)]
    found = [read(shop, within(h, h + timedelta(hours=1))) for h in hours]
    assert [key for keys in found for key in keys] == list(range(205))


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_rows_without_a_time_are_in_no_partition(shop: Shop, dialect: str) -> None:
    shop.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TIMESTAMP)", "INSERT INTO t VALUES (1, NULL)")
    whole = within(datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))
    assert read(shop, whole) == []


@pytest.mark.parametrize(("dialect", "kind"), [("postgres", "TEXT"), ("postgres", "INTEGER")])
def test_a_column_that_holds_no_time_cannot_be_cut_by_time(shop: Shop, kind: str) -> None:
    shop.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, at {kind})")
    with pytest.raises(
        SourceError, match=rf"Table 't': the column 'at' is {kind}, which is no time. Cast it in a view"
    ):
        read(shop, day_of(datetime(2026, 11, 1, tzinfo=UTC)))


VALUES = {
    "TEXT": (["a", "A", "it's", ""], "it's", [2]),
    "VARCHAR(10)": (["a", "b"], "b", [1]),
    "INTEGER": ([7, 70, -7], "7", [0]),
    "BIGINT": ([2**40, 1], str(2**40), [0]),
    "DOUBLE PRECISION": ([2.5, 2.0], "2", [1]),
    "NUMERIC(6,2)": ([2.5, 2.25], "2.50", [0]),
    "DATE": (["2026-11-01", "2026-11-02"], "2026-11-02", [1]),
    "BOOLEAN": ([True, False, None], "true", [0]),
}


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_a_partition_by_value_holds_the_rows_with_that_value(shop: Shop, dialect: str) -> None:
    found = {}
    for kind, (values, value, _) in VALUES.items():
        shop.execute("DROP TABLE IF EXISTS t", f"CREATE TABLE t (id INTEGER PRIMARY KEY, part {kind})")
        shop.insert("t", [{"id": i, "part": part} for i, part in enumerate(values)])
        found[kind] = read(shop, valued(value))
    assert found == {kind: expected for kind, (_, _, expected) in VALUES.items()}


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_a_boolean_may_be_written_as_word_or_number(shop: Shop, dialect: str) -> None:
    shop.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, part BOOLEAN)")
    shop.insert("t", [{"id": 0, "part": True}, {"id": 1, "part": False}, {"id": 2, "part": None}])
    found = {value: read(shop, valued(value)) for value in ("false", "True", "0", "1")}
    assert found == {"false": [1], "True": [0], "0": [1], "1": [0]}


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
@pytest.mark.parametrize(("kind", "value"), [("INTEGER", "seven"), ("BOOLEAN", "maybe"), ("DOUBLE PRECISION", "1,5")])
def test_a_value_of_the_wrong_type_is_refused_before_the_engine_is_touched(
    shop: Shop, dialect: str, kind: str, value: str
) -> None:
    shop.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT, part {kind})")
    engine = RecordingEngine()
    with pytest.raises(SourceError, match=f"Partition '{value}' is no value of column 'part', whose type is "):
        shop.run(source=Source(table="t"), column="part", partition=valued(value), engine=engine)
    assert engine.loads == 0


@pytest.mark.parametrize(("dialect", "kind"), [("postgres", "DATE"), ("postgres", "UUID")])
def test_a_value_that_only_the_database_can_read_is_refused_too(shop: Shop, kind: str) -> None:
    shop.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT, part {kind})")
    engine = RecordingEngine()
    message = rf"Table 't': partition 'abc' cannot be read: invalid input syntax for type {kind.lower()}: \"abc\""
    with pytest.raises(SourceError, match=message):
        shop.run(source=Source(table="t"), column="part", partition=valued("abc"), engine=engine)
    assert engine.loads == 0


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_a_row_whose_time_changed_moves_with_its_answer(shop: Shop, dialect: str) -> None:
    shop.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TIMESTAMP, text TEXT)")
    shop.execute("INSERT INTO t VALUES (1, '2026-11-01 23:59:59', 'x')")
    first, second = (day_of(datetime(2026, 11, day, tzinfo=UTC)) for day in (1, 2))
    shop.run(source=Source(table="t"), column="at", partition=first)
    shop.execute("UPDATE t SET at = '2026-11-02 00:00:00'")
    assert only(shop.run(source=Source(table="t"), column="at", partition=second)).rows_skipped == 1
    assert shop.column("SELECT partition_key FROM t_sentiment") == ["2026-11-02"]
