"""Partition definitions: what can be, what is refused, and that every row lies in one partition."""

import calendar
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from llm_assets.dagster import (
    AnyPartitions,
    DatabaseResource,
    DummyEngineResource,
    DynamicPartitions,
    MultiPartitions,
    StaticPartitions,
    TimePartitions,
    build_llm_assets,
)
from llm_assets.dagster.partitions import LONGEST_KEY, Partitions
from llm_assets.dagster.ranges import Range, members, ranges
from llm_assets.dagster.table import assets_of
from llm_assets.errors import ConfigError, SourceError
from llm_assets.records import Equals, Partition, Within
from llm_assets.tables import Source
from llm_assets.tables.partitions import ColumnOf, on_the_clock
from tests.tables.shop import SENTIMENT, RecordingEngine, Shop

DAY = {"type": "time", "column": "at", "start": "2026-11-01"}
COUNTRY = {"type": "static", "column": "country", "values": ["de", "fr"]}


def valid(settings: Any) -> Any:
    return TypeAdapter(AnyPartitions).validate_python(settings)


def test_yaml_says_by_type_how_a_table_is_cut() -> None:
    assert isinstance(valid(DAY), TimePartitions)
    assert isinstance(valid(COUNTRY), StaticPartitions)
    assert isinstance(valid({"type": "dynamic", "column": "country"}), DynamicPartitions)
    assert isinstance(valid({"type": "multi", "dimensions": {"day": DAY, "country": COUNTRY}}), MultiPartitions)


def test_dates_and_numbers_as_yaml_reads_them_are_taken() -> None:
    assert valid({**DAY, "start": datetime(2026, 11, 1).date()}) == valid(DAY)
    assert valid({**DAY, "start": datetime(2026, 11, 1, 6)}).start == "2026-11-01T06:00:00"
    assert valid({**COUNTRY, "values": [1, 2.5, "x"]}).values == ("1", "2.5", "x")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**DAY, "cadence": "hourly", "hour_offset": 3}, "hour_offset=3 means nothing to hourly partitions. They have"),
        ({**DAY, "day_offset": 2}, "day_offset=2 means nothing to daily partitions"),
        ({**DAY, "cadence": "weekly", "day_offset": 7}, "day_offset=7 is no day of weekly partitions. Write 0 to 6"),
        ({**DAY, "cadence": "monthly", "day_offset": 31}, "day_offset=31 is no day of monthly partitions. Write 1 to"),
        ({**DAY, "minute_offset": 60}, "less than or equal to 59"),
        ({**DAY, "hour_offset": -1}, "greater than or equal to 0"),
        ({**DAY, "cron_schedule": "at six"}, "'at six' is no cron expression for partitions"),
        ({**DAY, "cron_schedule": "* * * * * *"}, "is no cron expression for partitions"),
        ({**DAY, "cron_schedule": "0 6 * * *", "hour_offset": 6}, "cron_schedule stands in place of hour_offset"),
        ({**DAY, "cron_schedule": "0 6 * * *", "cadence": "daily"}, "cron_schedule stands in place of cadence"),
        ({**DAY, "end": "2026-11-01"}, "end '2026-11-01' is not after start '2026-11-01'"),
        (
            {**DAY, "cadence": "monthly", "start": "2026-03-18", "end": "2026-03-25"},
            "Between start '2026-03-18' and end '2026-03-25' lies no whole partition. The first one lasts from "
            "2026-04-01T00:00 to 2026-05-01T00:00: set end to that, or later.",
        ),
        ({**DAY, "cadence": "weekly", "start": "2026-03-09", "end": "2026-03-21"}, "lies no whole partition"),
        ({**DAY, "end": "2026-11-01T23:00", "end_offset": 1}, "lies no whole partition"),
        ({**DAY, "cron_schedule": "0 6 * * *", "end": "2026-11-02T05:00"}, "lies no whole partition"),
        ({**DAY, "start": "2026-11-01T00:00+02:00"}, "has a zone of its own. Leave it out, and set `timezone`"),
        ({**DAY, "start": "soon"}, "'soon' is no time"),
        ({**DAY, "timezone": "Mars"}, "There is no time zone 'Mars'"),
        ({**DAY, "colunm": "x"}, "colunm"),
        ({**COUNTRY, "values": []}, "at least 1 item"),
        ({**COUNTRY, "values": "de"}, "tuple"),
        ({**COUNTRY, "values": ["de", False]}, "The value False was written without quotes: write 'true' or 'false', "),
        ({**COUNTRY, "values": ["de", "de"]}, "The value 'de' stands twice"),
        ({**COUNTRY, "values": [""]}, "The value '' cannot be a partition: it is empty"),
        ({**COUNTRY, "values": ["a...b"]}, "Dagster has no '...' in a partition key"),
        ({**COUNTRY, "values": ["a\nb"]}, "Dagster has no '\\n' in a partition key"),
        ({**COUNTRY, "values": ["ü" * LONGEST_KEY]}, "it has 1000 bytes, of at most 500"),
        ({"type": "multi", "dimensions": {"day": DAY}}, "Dagster takes two dimensions, not 1: day"),
        (
            {"type": "multi", "dimensions": {"day": DAY, "country": {**COUNTRY, "values": ["a|b"]}}},
            "The value 'a|b' cannot be a partition of 'country': Dagster has no '|' in a partition key of two",
        ),
        ({"type": "multi", "dimensions": {"a": COUNTRY, "b": COUNTRY}}, "Both dimensions are of the column 'country'"),
        (
            {
                "type": "multi",
                "dimensions": {
                    "a": {"type": "dynamic", "column": "shop", "name": "seen"},
                    "b": {"type": "dynamic", "column": "country", "name": "seen"},
                },
            },
            "Both dimensions are the set 'seen'. Give each a `name` of its own",
        ),
        ({"type": "multi", "dimensions": {"a b": DAY, "c": COUNTRY}}, "The dimension's name 'a b' is no name"),
        ({"type": "tme", "column": "at"}, "'time', 'static', 'dynamic', 'multi'"),
    ],
)
def test_partitions_that_cannot_be_are_refused_with_the_value(settings: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        valid(settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "key", "start", "end"),
    [
        ({"cadence": "hourly", "minute_offset": 15}, "2026-06-02-05:15", "2026-06-02T05:15", "2026-06-02T06:15"),
        ({"hour_offset": 6, "minute_offset": 30}, "2026-06-02", "2026-06-02T06:30", "2026-06-03T06:30"),
        ({"cadence": "weekly", "day_offset": 1}, "2026-06-01", "2026-06-01T00:00", "2026-06-08T00:00"),
        (
            {"cadence": "monthly", "day_offset": 15, "hour_offset": 3},
            "2026-06-15",
            "2026-06-15T03:00",
            "2026-07-15T03:00",
        ),
        ({"cadence": "monthly"}, "2026-02-01", "2026-02-01T00:00", "2026-03-01T00:00"),
        ({"cron_schedule": "0 18 * * 5"}, "2026-06-05", "2026-06-05T18:00", "2026-06-12T18:00"),
        ({"cron_schedule": "0 */6 * * *"}, "2026-06-05-12:00", "2026-06-05T12:00", "2026-06-05T18:00"),
    ],
)
def test_offsets_and_cron_say_where_partitions_begin(settings: Any, key: str, start: str, end: str) -> None:
    partitions = TimePartitions(column="at", start="2026-01-01", timezone="Europe/Berlin", **settings)
    [condition] = partitions.partition(key).conditions
    assert isinstance(condition, Within)
    assert (f"{condition.start:%Y-%m-%dT%H:%M}", f"{condition.end:%Y-%m-%dT%H:%M}") == (start, end)


def test_between_start_and_end_one_whole_partition_is_enough() -> None:
    week = TimePartitions(column="at", cadence="weekly", start="2026-03-09", end="2026-03-22")
    assert week.definition().get_partition_keys() == ["2026-03-15"]
    assert week.partition("2026-03-15").key == "2026-03-15"


@pytest.mark.parametrize("minutes", ["0,30", "*/20", "15"])
def test_every_key_of_a_cron_expression_is_a_span_of_its_own_when_the_clock_is_turned_back(minutes: str) -> None:
    partitions = TimePartitions(
        column="at",
        start="2026-10-24",
        end="2026-10-27",
        timezone="Europe/Berlin",
        cron_schedule=f"{minutes} 1-3 * * *",
    )
    spans: list[Within] = []
    for key in partitions.definition().get_partition_keys():
        [condition] = partitions.partition(key).conditions
        assert isinstance(condition, Within)
        assert f"{condition.start:%Y-%m-%d-%H:%M}" == key
        spans.append(condition)
    for span, after in pairwise(spans):
        assert span.end.timestamp() == after.start.timestamp()
    with pytest.raises(ConfigError, match="'2026-10-25-02:31' is no"):
        partitions.partition("2026-10-25-02:31")


def test_the_present_partition_exists_with_an_end_offset() -> None:
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert TimePartitions(column="at", start="2026-11-01", end_offset=1).partition(today).key == today
    with pytest.raises(ConfigError, match=f"'{today}' is no daily partition"):
        TimePartitions(column="at", start="2026-11-01").partition(today)


def test_a_pair_is_the_rows_that_meet_both() -> None:
    pairs = valid({"type": "multi", "dimensions": {"day": DAY, "country": COUNTRY}})
    key = dg.MultiPartitionKey({"day": "2026-11-02", "country": "fr"})
    start = datetime(2026, 11, 2, tzinfo=UTC)
    found = pairs.partition(key)
    assert found == Partition(
        "fr|2026-11-02", (Equals("country", "fr"), Within("at", start, start + timedelta(days=1)))
    )
    assert key in pairs.definition("t").get_partition_keys()
    assert pairs.columns == ("at", "country")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("fr", "'fr' is no partition. Write one as <country>|<day>"),
        ("fr|de|2026-11-02", "is no partition. Write one as"),
        ("it|2026-11-02", "'it' is no partition of column 'country'. Valid: de, fr"),
        ("fr|2026-11-31", "'2026-11-31' is no daily partition"),
    ],
)
def test_a_pair_that_is_none_is_refused(key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
        valid({"type": "multi", "dimensions": {"day": DAY, "country": COUNTRY}}).partition(key)


def test_sets_of_dynamic_partitions_are_named_for_table_and_column() -> None:
    names = [
        DynamicPartitions(column="country").definition("shop.reviews").name,
        DynamicPartitions(column="country", name="lands").definition("reviews").name,
    ]
    assert names == ["shop.reviews_country", "lands"]


COLUMNS = "id INTEGER PRIMARY KEY, text TEXT, day DATE, at TIMESTAMP, country TEXT, number INTEGER, is_new BOOLEAN"
HOURLY = {"start": "2026-11-01", "cadence": "hourly"}
WRONG = [
    (TimePartitions(column="number", start="2026-11-01"), "both", "the column 'number' is INTEGER, which is no time"),
    (TimePartitions(column="is_new", start="2026-11-01"), "both", "the column 'is_new' is BOOLEAN, which is no time"),
    (
        TimePartitions(column="country", start="2026-11-01"),
        "postgres",
        "the column 'country' is TEXT, which is no time",
    ),
    (TimePartitions(column="day", **HOURLY), "postgres", "the column 'day' is DATE, and a partition's edge at 01:00"),
    (TimePartitions(column="day", start="2026-11-01", hour_offset=6), "postgres", "a partition's edge at 06:00 would"),
    (StaticPartitions(column="number", values=("1", "two")), "both", "'two' is no value of column 'number'"),
    (StaticPartitions(column="number", values=("1", "9" * 30)), "both", "is no value of column 'number'"),
    (
        StaticPartitions(column="number", values=("7", "07")),
        "both",
        "'7' and '07' are the same value of column",
    ),
    (StaticPartitions(column="is_new", values=("true", "maybe")), "both", "'maybe' is no value of column 'is_new'"),
    (StaticPartitions(column="is_new", values=("true", "1")), "both", "are the same value of column 'is_new'"),
    (StaticPartitions(column="land", values=("de",)), "both", "no column 'land', which the partitions name"),
    (
        MultiPartitions(
            dimensions={
                "day": TimePartitions(column="at", start="2026-11-01"),
                "number": StaticPartitions(column="number", values=("x",)),
            }
        ),
        "both",
        "'x' is no value of column 'number'",
    ),
]


@pytest.mark.parametrize(
    ("dialect", "partitions", "message"),
    [
        pytest.param(dialect, partitions, message, id=f"{dialect} {message}")
        for partitions, where, message in WRONG
        for dialect in ("sqlite", "postgres")
        if where in ("both", dialect)
    ],
)
def test_partitions_that_do_not_match_the_type_of_their_column_are_refused_before_the_engine_is_touched(
    request: pytest.FixtureRequest, dialect: str, partitions: Partitions, message: str
) -> None:
    shop = Shop(request.getfixturevalue(f"{dialect}_url"))
    shop.execute(f"CREATE TABLE t ({COLUMNS})")
    _, table = assets_of(build_llm_assets(Source(table="t"), [SENTIMENT], partitions))
    engine = RecordingEngine()

    class Engine:
        def get_engine(self) -> RecordingEngine:
            return engine

    with pytest.raises(SourceError) as caught:
        table.pipeline({"database": DatabaseResource(url=shop.url), "engine": Engine()})
    assert message in str(caught.value)
    assert engine.loads == 0


def test_dates_can_be_cut_into_days_weeks_and_months(shop: Shop) -> None:
    shop.execute(f"CREATE TABLE t ({COLUMNS})")
    # In Havana and Beirut a day of 2026 has no midnight, and in Havana another one has two.
    for zone in ("UTC", "America/Havana", "Asia/Beirut"):
        for cadence in ("daily", "weekly", "monthly"):
            partitions = TimePartitions(column="day", start="2026-01-01", cadence=cadence, timezone=zone)
            _, table = assets_of(build_llm_assets(Source(table="t"), [SENTIMENT], partitions))
            resources = {"database": DatabaseResource(url=shop.url), "engine": DummyEngineResource()}
            source = table.pipeline(resources).source
            source.check_partitions([partitions.partition(key) for key in partitions.definition().get_partition_keys()])


CADENCES: list[dict[str, Any]] = [
    {"cadence": "hourly"},
    {"cadence": "hourly", "minute_offset": 30},
    {"cadence": "daily"},
    {"cadence": "daily", "hour_offset": 2, "minute_offset": 30},
    {"cadence": "weekly", "day_offset": 1},
    {"cadence": "monthly", "day_offset": 15},
    {"cron_schedule": "*/15 * * * *"},
    {"cron_schedule": "30 0,2,12 * * *"},
]
CHANGES = {
    "Europe/Berlin": ["2026-03-29", "2026-10-25"],
    "America/New_York": ["2026-03-08", "2026-11-01"],
    "America/Havana": ["2026-03-08", "2026-11-01"],
    "Australia/Lord_Howe": ["2026-04-05", "2026-10-04"],
}
"""Days on which the clock is changed; on Lord Howe by half an hour, in Havana at midnight."""


def windows(zone: str, change: str, cadence: dict[str, Any]) -> list[Within]:
    """Return the partitions around a change of the clock."""
    first = datetime.fromisoformat(change) - timedelta(days=2)
    year, month = (first.year, first.month - 1) if first.month > 1 else (first.year - 1, 12)
    long = cadence.get("cadence") in ("weekly", "monthly")
    start = datetime(year, month, 1) if long else first
    partitions = TimePartitions(
        column="at",
        start=f"{start:%Y-%m-%d}",
        end=f"{first + timedelta(days=70 if long else 6):%Y-%m-%d}",
        timezone=zone,
        **cadence,
    )
    # As if it was later: some of the days are yet to come.
    keys = partitions.definition().get_partition_keys(current_time=datetime(2027, 6, 1, tzinfo=UTC))
    definition = partitions.definition()
    spans = [definition.time_window_for_partition_key(key) for key in keys]
    assert len(set(keys)) == len(keys)
    return [Within("at", span.start, span.end) for span in spans]


def rows_of(shop: Shop, kind: str, conditions: list[Within], column_type: Any) -> list[list[int]]:
    """Return the rows of table t that meet each condition."""
    column = sa.column("at")
    where = ColumnOf("t", column, column_type, shop.database.dialect)
    table = sa.table("t", sa.column("id"), column)
    with shop.database.engine.connect() as connection:
        return [
            sorted(connection.execute(sa.select(table.c.id).where(where.condition(each))).scalars())
            for each in conditions
        ]


@pytest.mark.parametrize("cadence", CADENCES, ids=lambda cadence: " ".join(map(str, cadence.values())))
@pytest.mark.parametrize(("zone", "change"), [(zone, day) for zone, days in CHANGES.items() for day in days])
def test_every_time_lies_in_exactly_one_partition_when_the_clock_is_changed(
    shop: Shop, zone: str, change: str, cadence: dict[str, Any]
) -> None:
    if (zone, change, cadence) == ("Australia/Lord_Howe", "2026-10-04", {"cadence": "hourly"}):
        pytest.skip("Dagster's own partitions leave out half an hour where the clock goes forward by half an hour.")
    spans = windows(zone, change, cadence)
    first = datetime.fromisoformat(change) - timedelta(days=1)
    naive = [first + timedelta(minutes=7 * number) for number in range(412)]
    aware = [first.replace(tzinfo=UTC) + timedelta(minutes=7 * number) for number in range(412)]
    postgres = shop.database.dialect == "postgresql"
    for kind, moments in (("TIMESTAMP", naive), ("TIMESTAMPTZ" if postgres else "TEXT", aware)):
        shop.execute("DROP TABLE IF EXISTS t", f"CREATE TABLE t (id INTEGER PRIMARY KEY, at {kind})")
        shop.insert("t", [{"id": i, "at": moment.isoformat(sep=" ")} for i, moment in enumerate(moments)])
        found = rows_of(shop, kind, spans, sa.DateTime(timezone=kind == "TIMESTAMPTZ"))
        assert sorted(row for rows in found for row in rows) == list(range(len(moments)))


@settings(deadline=None, max_examples=300)
@given(
    zone=st.sampled_from([*CHANGES, "UTC", "Asia/Kolkata", "Africa/Casablanca", "America/Sao_Paulo"]),
    start=st.datetimes(datetime(1950, 1, 1), datetime(2040, 1, 1)),
    seconds=st.lists(st.integers(0, 3 * 86400), min_size=2, max_size=20),
)
def test_a_later_moment_is_never_earlier_on_the_clock(zone: str, start: datetime, seconds: list[int]) -> None:
    first = start.replace(tzinfo=UTC)
    moments = [(first + timedelta(seconds=each)).astimezone(ZoneInfo(zone)) for each in sorted(seconds)]
    clock = [on_the_clock(moment) for moment in moments]
    assert clock == sorted(clock)
    for moment, shown in zip(moments, clock, strict=True):
        assert abs(shown - moment.replace(tzinfo=None)) <= timedelta(hours=2)
        if moment.replace(fold=1).utcoffset() == moment.utcoffset():
            assert shown == moment.replace(tzinfo=None, fold=0)


KEYS = [f"2026-11-{day:02}" for day in range(1, calendar.monthrange(2026, 11)[1] + 1)]
PAIRS = [f"{country}|{day}" for country in ("de", "fr", "it", "uk") for day in KEYS[:6]]


@settings(deadline=None)
@given(wanted=st.sets(st.sampled_from(KEYS)), most=st.none() | st.integers(1, 5))
def test_ranges_hold_the_wanted_partitions_and_no_others(wanted: set[str], most: int | None) -> None:
    found = ranges(KEYS, wanted, False, most)
    held = [members(KEYS, each, False) for each in found]
    assert sorted(key for keys in held for key in keys) == sorted(wanted)
    if most is not None:
        assert all(len(keys) <= most for keys in held)
    else:
        gaps = sum(1 for key, after in zip(KEYS, [*KEYS[1:], ""], strict=True) if key in wanted and after not in wanted)
        assert len(found) == gaps


@settings(deadline=None)
@given(wanted=st.sets(st.sampled_from(PAIRS)), most=st.none() | st.integers(1, 8))
def test_rectangles_hold_the_wanted_pairs_and_no_others(wanted: set[str], most: int | None) -> None:
    definition = dg.MultiPartitionsDefinition(
        {
            "country": dg.StaticPartitionsDefinition(["de", "fr", "it", "uk"]),
            "day": dg.StaticPartitionsDefinition(KEYS[:6]),
        }
    )
    assert definition.get_partition_keys() == PAIRS
    found = ranges(PAIRS, wanted, True, most)
    held = [members(PAIRS, each, True) for each in found]
    # What we take for a range's partitions, Dagster does too.
    assert held == [definition.get_partition_keys_in_range(dg.PartitionKeyRange(*each)) for each in found]
    assert sorted(key for keys in held for key in keys) == sorted(wanted)
    assert most is None or all(len(keys) <= most for keys in held)


def test_pairs_of_all_values_are_one_range() -> None:
    assert ranges(PAIRS, PAIRS, True) == [Range("de|2026-11-01", "uk|2026-11-06")]
    assert members(PAIRS, Range("xx|2026-11-01", "de|2026-11-02"), True) == []
