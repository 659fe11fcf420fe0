"""Automation conditions, freshness policies and schedules, as Dagster evaluates them."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from pydantic import TypeAdapter, ValidationError

from llm_assets.dagster import (
    Automation,
    DatabaseResource,
    DummyEngineResource,
    Duration,
    DynamicPartitions,
    Freshness,
    MultiPartitions,
    OnCron,
    Schedule,
    StaticPartitions,
    TimePartitions,
    automation_condition,
    build_llm_assets,
    build_schedule,
    build_source_sensor,
)
from llm_assets.dagster.local import prepare_instance
from llm_assets.dagster.partitions import Partitions
from llm_assets.dagster.ranges import RANGE_END, RANGE_START
from llm_assets.errors import ConfigError
from llm_assets.tables import Source
from tests.tables.shop import NOTE, SENTIMENT, Shop

DAYS = TimePartitions(column="at", start="2026-11-01")
COUNTRIES = StaticPartitions(column="country", values=("de", "fr"))
PAIRS = MultiPartitions(dimensions={"country": COUNTRIES, "day": DAYS})
RESOURCES: dict[str, Any] = {"database": DatabaseResource(url="sqlite://"), "engine": DummyEngineResource()}
ASSETS = [dg.AssetKey("reviews_sentiment"), dg.AssetKey("reviews_note")]
AN_EVENT = dg.AssetMaterialization("reviews")


def requested(
    automation: Automation, partitions: Partitions | None, *minutes: dg.AssetMaterialization | None
) -> list[set[str | None]]:
    """Evaluate assets every minute from 01:58 on; return the partitions that each evaluation asks for, of both tasks.

    Before each evaluation, an event may have happened.
    """
    assets = build_llm_assets(
        Source(table="reviews"),
        [SENTIMENT, NOTE],
        partitions,
        automation_condition=automation_condition(automation),
    )
    definitions = dg.Definitions(assets=assets, resources=RESOURCES)
    found, cursor = [], None
    with dg.DagsterInstance.ephemeral() as instance:
        for minute, event in enumerate(minutes):
            if event:
                instance.report_runless_asset_event(event)
            result = dg.evaluate_automation_conditions(
                defs=definitions,
                instance=instance,
                cursor=cursor,
                evaluation_time=datetime(2026, 11, 5, 1, 58, tzinfo=UTC) + timedelta(minutes=minute),
            )
            cursor = result.cursor
            first, second = (result.get_requested_partitions(key) for key in ASSETS)
            assert first == second
            found.append(set(first))
    return found


@pytest.mark.parametrize(
    ("partitions", "expected"),
    [(None, {None}), (DAYS, {"2026-11-04"}), (COUNTRIES, {"de", "fr"}), (PAIRS, {"de|2026-11-04", "fr|2026-11-04"})],
    ids=["whole", "daily", "static", "multi"],
)
def test_eager_asks_when_the_source_has_an_event(partitions: Partitions | None, expected: set[str | None]) -> None:
    assert requested("eager", partitions, None, None, AN_EVENT, None) == [set(), set(), expected, set()]


@pytest.mark.parametrize(("partitions", "expected"), [(None, {None}), (DAYS, {"2026-11-04"})], ids=["whole", "daily"])
def test_cron_asks_at_its_time_though_the_source_has_no_event(
    partitions: Partitions | None, expected: set[str | None]
) -> None:
    at_two = OnCron(cron="0 2 * * *")
    assert requested(at_two, partitions, None, None, None, None) == [set(), set(), expected, set()]
    assert requested(OnCron(cron="0 2 * * *", timezone="Asia/Tokyo"), partitions, *[None] * 4) == [set()] * 4


def test_on_missing_asks_for_a_partition_that_comes_to_exist() -> None:
    hours = TimePartitions(column="at", start="2026-11-05", cadence="hourly")
    assert requested("on_missing", hours, None, None, None, None) == [set(), set(), {"2026-11-05-01:00"}, set()]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("eeger", "There is no automation 'eeger'. Did you mean 'eager'?"),
        ("0 2 * * *", "There is no automation '0 2 * * *'. Valid: eager, on_missing. Or say when: {cron: '0 2 * * *'}"),
        ({"cron": "every night"}, "'every night' is no cron expression. Write minute, hour"),
        ({"cron": "0 25 * * *"}, "'0 25 * * *' is no cron expression"),
        ({"cron": "0 2 * * *", "timezone": "Mars"}, "There is no time zone 'Mars'"),
        ({"corn": "0 2 * * *"}, "corn"),
    ],
)
def test_an_automation_that_cannot_be_is_refused_with_its_value(value: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Automation).validate_python(value)
    assert message in str(caught.value)
    if isinstance(value, str):
        with pytest.raises(ConfigError):
            automation_condition(value)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("24h", timedelta(hours=24)),
        ("90m", timedelta(minutes=90)),
        ("1d 12h", timedelta(days=1, hours=12)),
        ("1.5h", timedelta(minutes=90)),
        ("2w", timedelta(weeks=2)),
        ("PT24H", timedelta(hours=24)),
        ("P7D", timedelta(days=7)),
        (timedelta(hours=1), timedelta(hours=1)),
    ],
)
def test_a_duration_is_a_number_with_its_unit(written: Any, expected: timedelta) -> None:
    assert TypeAdapter(Duration).validate_python(written) == expected


@pytest.mark.parametrize("written", ["24", 24, "h", "soon", "24 hours", "24h and a bit", "-3h", ""])
def test_a_duration_without_a_unit_is_refused(written: Any) -> None:
    with pytest.raises(ValidationError, match=r"is no duration. Write a number and its unit"):
        TypeAdapter(Duration).validate_python(written)


def test_freshness_is_dagsters_policy() -> None:
    window = Freshness.model_validate({"fail_window": "24h", "warn_window": "12h"})
    expected = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=24), warn_window=timedelta(hours=12))
    assert window.policy() == expected
    deadline = {"deadline_cron": "0 9 * * *", "lower_bound_delta": "2h", "timezone": "Europe/Berlin"}
    expected = dg.FreshnessPolicy.cron("0 9 * * *", timedelta(hours=2), "Europe/Berlin")
    assert Freshness.model_validate(deadline).policy() == expected
    assets = build_llm_assets(Source(table="reviews"), [SENTIMENT], freshness_policy=window.policy())
    dg.Definitions.validate_loadable(dg.Definitions(assets=assets, resources=RESOURCES))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "Set either fail_window, such as 24h, or deadline_cron"),
        ({"fail_window": "1h", "deadline_cron": "0 9 * * *", "lower_bound_delta": "1h"}, "Set either fail_window"),
        ({"deadline_cron": "0 9 * * *"}, "deadline_cron and lower_bound_delta go together"),
        ({"fail_window": "1h", "lower_bound_delta": "1h"}, "deadline_cron and lower_bound_delta go together"),
        ({"deadline_cron": "nine", "lower_bound_delta": "1h"}, "'nine' is no cron expression"),
        ({"fail_window": "1h", "warn_window": "2h"}, "warn_window must be less than fail_window"),
        ({"fail_window": "5s"}, "fail_window cannot be less than 1 minute"),
        ({"deadline_cron": "0 9 * * *", "lower_bound_delta": "3d"}, "lower_bound_delta must be less than or equal"),
        ({"fail_window": "1h", "timezone": "Mars"}, "There is no time zone 'Mars'"),
        ({"fail_windw": "1h"}, "fail_windw"),
    ],
)
def test_a_freshness_that_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Freshness.model_validate(values)
    assert message in str(caught.value)
    assert "Invariant" not in str(caught.value)


def ticked(directory: Path, partitions: Partitions | None, schedule: Schedule | None, now: datetime) -> Any:
    """Return what a schedule asks for at a time, its cron expression and time zone."""
    assets = build_llm_assets(Source(table="reviews"), [SENTIMENT], partitions)
    made = build_schedule(assets, schedule)
    repository = dg.Definitions(assets=assets, schedules=[made], resources=RESOURCES).get_repository_def()
    found = repository.get_schedule_def(made.name)
    with dg.DagsterInstance.from_config(str(prepare_instance(directory / "dagster"))) as instance:
        instance.add_dynamic_partitions("reviews_country", ["fr", "de"])
        with dg.build_schedule_context(instance, now, repository_def=repository) as context:
            result = found.evaluate_tick(context)
    requests = result.run_requests or ()
    spans = [each.partition_key or (each.tags.get(RANGE_START), each.tags.get(RANGE_END)) for each in requests]
    return spans, found.cron_schedule, found.execution_timezone


BERLIN = TimePartitions(column="at", start="2026-11-01", timezone="Europe/Berlin", hour_offset=6)
NOON = datetime(2026, 11, 5, 12, tzinfo=ZoneInfo("Europe/Berlin"))


@pytest.mark.parametrize(
    ("partitions", "schedule", "expected"),
    [
        (None, Schedule(cron="0 2 * * *", timezone="Asia/Tokyo"), ([(None, None)], "0 2 * * *", "Asia/Tokyo")),
        (BERLIN, None, (["2026-11-04"], "0 6 * * *", "Europe/Berlin")),
        (BERLIN, Schedule(hour_of_day=9, minute_of_hour=30), (["2026-11-04"], "30 9 * * *", "Europe/Berlin")),
        (COUNTRIES, Schedule(cron="0 2 * * 1"), ([("de", "fr")], "0 2 * * 1", "UTC")),
        (DynamicPartitions(column="country"), Schedule(cron="@daily"), ([("fr", "de")], "@daily", "UTC")),
        (PAIRS, Schedule(hour_of_day=3), ([("de|2026-11-04", "fr|2026-11-04")], "0 3 * * *", "UTC")),
    ],
    ids=["whole", "daily", "daily later", "static", "dynamic", "multi"],
)
def test_a_tick_is_one_run_of_what_is_due(
    tmp_path: Path, partitions: Any, schedule: Schedule | None, expected: Any
) -> None:
    assert ticked(tmp_path, partitions, schedule, NOON) == expected


def moment(zone: str, *numbers: int, fold: int = 0) -> datetime:
    year, month, day, hour = numbers
    return datetime(year, month, day, hour, fold=fold, tzinfo=ZoneInfo(zone))


TOKYO = "Asia/Tokyo"
WINTER = "2026-10-25"
"""The day on which Berlin's clock is turned back at three."""


@pytest.mark.parametrize(
    ("settings", "now", "expected"),
    [
        ({"end_offset": 1}, moment("UTC", 2026, 11, 5, 2), [("2026-11-04", "2026-11-05")]),
        ({"end_offset": 1}, moment("UTC", 2026, 11, 6, 2), [("2026-11-05", "2026-11-06")]),
        # At two in Tokyo, it is the day before in UTC.
        ({"end_offset": 1, "timezone": TOKYO}, moment(TOKYO, 2026, 11, 5, 2), [("2026-11-04", "2026-11-05")]),
        ({"timezone": TOKYO}, moment(TOKYO, 2026, 11, 5, 2), ["2026-11-04"]),
        # Before six, the day that began at six the day before lasts; at six it is over, and the next begins.
        ({"end_offset": 1, "hour_offset": 6}, moment("UTC", 2026, 11, 5, 2), [("2026-11-03", "2026-11-04")]),
        ({"end_offset": 1, "hour_offset": 6}, moment("UTC", 2026, 11, 5, 6), [("2026-11-04", "2026-11-05")]),
        # Partitions that have not begun are not run.
        ({"end_offset": 3}, moment("UTC", 2026, 11, 5, 2), [("2026-11-04", "2026-11-05")]),
        ({"end_offset": 1}, moment("UTC", 2026, 11, 1, 2), ["2026-11-01"]),
        ({"end_offset": 1, "end": "2026-11-04"}, moment("UTC", 2026, 11, 9, 2), ["2026-11-03"]),
        ({"end_offset": 1, "cadence": "monthly"}, moment("UTC", 2026, 12, 5, 2), [("2026-11-01", "2026-12-01")]),
        (
            {"end_offset": 1, "cadence": "hourly", "start": WINTER, "timezone": "Europe/Berlin"},
            moment("Europe/Berlin", 2026, 10, 25, 2),
            [(f"{WINTER}-01:00", f"{WINTER}-02:00")],
        ),
        (
            {"end_offset": 1, "cadence": "hourly", "start": WINTER, "timezone": "Europe/Berlin"},
            moment("Europe/Berlin", 2026, 10, 25, 2, fold=1),
            [(f"{WINTER}-02:00", f"{WINTER}-02:00+0100")],
        ),
    ],
)
def test_a_tick_runs_what_is_over_and_with_an_end_offset_what_has_begun(
    tmp_path: Path, settings: dict[str, Any], now: datetime, expected: list[Any]
) -> None:
    partitions = TimePartitions.model_validate({"column": "at", "start": "2026-11-01", **settings})
    assert ticked(tmp_path, partitions, None, now)[0] == expected


def test_with_an_end_offset_a_tick_runs_all_values_of_the_other_dimension(tmp_path: Path) -> None:
    days = TimePartitions(column="at", start="2026-11-01", end_offset=1)
    pairs = MultiPartitions(dimensions={"country": COUNTRIES, "day": days})
    found = ticked(tmp_path, pairs, Schedule(hour_of_day=3), datetime(2026, 11, 5, 3, tzinfo=UTC))[0]
    assert found == [("de|2026-11-04", "fr|2026-11-05")]


def test_a_schedule_skips_while_there_is_no_partition(tmp_path: Path) -> None:
    assert ticked(tmp_path, DAYS, None, datetime(2026, 10, 1, tzinfo=UTC))[0] == []


@pytest.mark.parametrize(
    ("partitions", "schedule", "message"),
    [
        (None, Schedule(), "'reviews' has no partitions by time for the schedule to follow. Set cron"),
        (DAYS, Schedule(cron="0 2 * * *"), "follows its partitions by time: in place of cron='0 2 * * *', set hour_of"),
        (DAYS, Schedule(day_of_week=1), "Cannot set day of week parameter with daily partitions"),
        (
            TimePartitions(column="at", start="2026-11-01", cadence="hourly"),
            Schedule(hour_of_day=2),
            "Cannot set hour parameter with hourly partitions",
        ),
    ],
)
def test_a_schedule_that_does_not_fit_the_partitions_is_refused(
    partitions: Any, schedule: Schedule, message: str
) -> None:
    assets = build_llm_assets(Source(table="reviews"), [SENTIMENT], partitions)
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_schedule(assets, schedule)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cron": "at two"}, "'at two' is no cron expression"),
        ({"cron": "0 2 * * *", "hour_of_day": 2}, "cron says when it runs, and so does hour_of_day"),
        ({"timezone": "Europe/Berlin"}, "timezone is that of cron"),
        ({"hour_of_day": 24}, "less than or equal to 23"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Schedule.model_validate(values)


def test_a_change_of_the_source_is_recorded_once(shop: Shop) -> None:
    assets = build_llm_assets(Source(table="reviews"), [SENTIMENT])
    sensor = build_source_sensor(assets, column="day")
    cursor: str | None = None

    def tick() -> list[Any]:
        nonlocal cursor
        resources = {"database": DatabaseResource(url=shop.url)}
        with (
            dg.DagsterInstance.ephemeral() as instance,
            dg.build_sensor_context(instance, resources=resources, cursor=cursor) as context,
        ):
            result = sensor.evaluate_tick(context)
        cursor = result.cursor
        assert all(event.asset_key == dg.AssetKey("reviews") for event in result.asset_events)
        return [[value.value for value in event.metadata.values()] for event in result.asset_events]

    assert tick() == [[0]]
    assert tick() == []
    shop.add(["a", "b"], day="monday")
    assert tick() == [[2, "monday"]]
    assert tick() == []
    shop.execute("UPDATE reviews SET day = 'tuesday' WHERE id = 1")
    assert tick() == [[2, "tuesday"]]
    assert tick() == []
