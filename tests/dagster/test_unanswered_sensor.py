"""The sensor for unanswered rows, evaluated on real instances and databases, and once by a real daemon's tick."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy.exc import OperationalError

from llm_assets.dagster import (
    DatabaseResource,
    TimePartitions,
    build_llm_assets,
    build_unanswered_sensor,
    sensors,
)
from llm_assets.dagster.local import prepare_instance
from llm_assets.dagster.ranges import RANGE_END, RANGE_START
from llm_assets.errors import ConfigError
from llm_assets.pipeline import PipelineSettings
from llm_assets.tables import Source
from tests.dagster.messages import DAYS, PAIRS, Table, reason, spans
from tests.tables.shop import NOTE, SENTIMENT, Shop


def test_a_run_is_asked_for_until_every_row_is_answered_or_failed(table: Table) -> None:
    assets = table.assets()
    sensor = build_unanswered_sensor(assets)
    assert reason(table.tick(sensor, assets)) == "0 rows are unanswered, and none of them for too long."
    table.add((1, None, None), (2, None, None))
    table.shop.execute("INSERT INTO messages (id, text) VALUES (3, '')")
    [request] = table.tick(sensor, assets).run_requests or ()
    assert request.asset_selection == [dg.AssetKey("messages_sentiment")]
    assert table.run(assets, request)
    assert table.shop.column("SELECT row_key FROM llm_failures") == ["3"]
    assert reason(table.tick(sensor, assets)).startswith("0 rows are unanswered")
    table.add((4, None, None))
    assert len(table.tick(sensor, assets).run_requests or ()) == 1


def test_few_rows_wait_for_more(table: Table) -> None:
    assets = table.assets()
    sensor = build_unanswered_sensor(assets, min_rows=3)
    table.add((1, None, None), (2, None, None))
    assert reason(table.tick(sensor, assets)) == "2 rows are unanswered, and none of them for too long."
    table.add((3, None, None))
    assert len(table.tick(sensor, assets).run_requests or ()) == 1


@pytest.mark.parametrize("partitions", [None, DAYS], ids=["whole", "daily"])
def test_a_row_that_has_become_old_does_not_wait(table: Table, partitions: TimePartitions | None) -> None:
    assets = table.assets(partitions)
    age = datetime.now(UTC) - datetime(2026, 11, 3, 12, tzinfo=UTC)
    table.add((1, None, "03 13:00"), (2, None, "05 10:00"))
    arguments: dict[str, Any] = {"min_rows": 10, "max_age": age, "time_column": "at"}
    assert reason(table.tick(build_unanswered_sensor(assets, **arguments), assets)).startswith("2 rows are unanswered")
    arguments["max_age"] = age - timedelta(hours=2)
    found = table.tick(build_unanswered_sensor(assets, **arguments), assets).run_requests or ()
    assert [each.partition_key for each in found] == ([None] if partitions is None else ["2026-11-03", "2026-11-05"])


def test_an_age_is_counted_in_hours_that_passed_when_the_clock_is_turned_back(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2026, 10, 25, 2, 30, tzinfo=UTC).astimezone(tz)

    assets = table.assets()
    kind = "TIMESTAMPTZ" if table.shop.database.dialect == "postgresql" else "TEXT"
    table.shop.execute(f"ALTER TABLE messages ADD COLUMN said_at {kind}")
    table.shop.insert("messages", [{"id": 1, "said_at": "2026-10-25 00:00:00+00:00", "text": "a"}])
    monkeypatch.setattr(sensors, "datetime", Clock)
    for hours, asks in ((2, True), (3, False)):
        sensor = build_unanswered_sensor(
            assets, max_age=timedelta(hours=hours), time_column="said_at", timezone="Europe/Berlin"
        )
        assert bool(table.tick(sensor, assets).run_requests) == asks


def test_partitions_that_follow_upon_each_other_are_one_run(table: Table) -> None:
    assets = table.assets(DAYS)
    table.add(*((day, None, f"0{day} 10:00") for day in (1, 2, 3, 5, 7)))
    table.shop.execute(
        "INSERT INTO messages (id, at, text) VALUES (99, '2026-12-24', 'in no partition'), (98, NULL, '')"
    )
    requests = table.tick(build_unanswered_sensor(assets), assets)
    assert spans(requests) == [("2026-11-01", "2026-11-03"), "2026-11-05", "2026-11-07"]
    for request in requests.run_requests or ():
        assert table.run(assets, request)
    assert table.shop.column("SELECT id FROM messages_sentiment ORDER BY id") == [1, 2, 3, 5, 7]
    assert reason(table.tick(build_unanswered_sensor(assets), assets)).startswith("0 rows are unanswered")


def test_pairs_are_asked_for_in_rectangles(table: Table) -> None:
    assets = table.assets(PAIRS)
    days = range(1, 8)
    table.add(*((10 * day + number, c, f"0{day} 10:00") for number, c in enumerate(("de", "fr", "it")) for day in days))
    sensor = build_unanswered_sensor(assets)
    [request] = table.tick(sensor, assets).run_requests or ()
    assert spans(table.tick(sensor, assets)) == [("de|2026-11-01", "it|2026-11-07")]
    assert table.run(assets, request)
    assert table.shop.column("SELECT COUNT(DISTINCT partition_key) FROM messages_sentiment") == [21]
    table.shop.execute("DELETE FROM messages_sentiment WHERE id IN (20, 21, 30, 31, 72)")
    found = table.tick(sensor, assets)
    assert spans(found) == [("de|2026-11-02", "fr|2026-11-03"), "it|2026-11-07"]
    for request in found.run_requests or ():
        assert table.run(assets, request)
    assert reason(table.tick(sensor, assets)).startswith("0 rows are unanswered")


def unfinished_run(table: Table, assets: Sequence[Any], partition: str | None = None, **tags: str) -> dg.DagsterRun:
    """Put a run into the instance that has not begun."""
    [answers] = [each for each in assets if isinstance(each, dg.AssetsDefinition)]
    job = dg.Definitions(assets=assets, resources=table.resources).resolve_implicit_global_asset_job_def()
    all_tags = {**tags, **({"dagster/partition": partition} if partition else {})}
    return table.instance.create_run_for_job(job, asset_selection=answers.keys, tags=all_tags)


def test_partitions_of_unfinished_runs_are_not_asked_for_again(table: Table) -> None:
    assets = table.assets(DAYS)
    sensor = build_unanswered_sensor(assets)
    table.add(*((day, None, f"0{day} 10:00") for day in (1, 2, 3, 4, 5)))
    unfinished_run(table, assets, "2026-11-01")
    unfinished_run(table, assets, **{RANGE_START: "2026-11-03", RANGE_END: "2026-11-04"})
    assert spans(table.tick(sensor, assets)) == ["2026-11-02", "2026-11-05"]
    unfinished_run(table, assets)
    assert "a run works on them" in reason(table.tick(sensor, assets))


@pytest.mark.parametrize("status", ["waits", "failed"])
def test_only_rows_of_partitions_that_would_be_run_count(table: Table, status: str) -> None:
    assets = table.assets(DAYS)
    sensor = build_unanswered_sensor(assets, min_rows=3)
    table.add(*((number, None, "01 10:00") for number in range(5)), (10, None, "02 10:00"), (11, None, "04 10:00"))
    run = unfinished_run(table, assets, "2026-11-01", **{"dagster/sensor_name": sensor.name})
    if status == "failed":
        table.instance.report_run_failed(run)
    skipped = reason(table.tick(sensor, assets))
    assert skipped.startswith("2 rows are unanswered, and none of them for too long. 1 partitions were left out")
    table.add((12, None, "04 11:00"))
    assert spans(table.tick(sensor, assets)) == ["2026-11-02", "2026-11-04"]


def test_an_old_row_of_a_partition_that_is_run_asks_for_no_other(table: Table) -> None:
    assets = table.assets(DAYS)
    age = datetime.now(UTC) - datetime(2026, 11, 3, 12, tzinfo=UTC)
    sensor = build_unanswered_sensor(assets, min_rows=9, max_age=age)
    table.add((1, None, "01 10:00"), (2, None, "05 10:00"))
    unfinished_run(table, assets, "2026-11-01")
    assert reason(table.tick(sensor, assets)).startswith("1 rows are unanswered, and none of them for too long.")


def test_unfinished_runs_of_other_tables_do_no_harm(table: Table) -> None:
    table.shop.add(["x"])
    others = build_llm_assets(Source(table="reviews"), [SENTIMENT])
    assets = table.assets()
    table.add((1, None, None))
    unfinished_run(table, others)
    assert len(table.tick(build_unanswered_sensor(assets), assets).run_requests or ()) == 1
    unfinished_run(table, assets)
    assert "a run works on them" in reason(table.tick(build_unanswered_sensor(assets), assets))


def test_a_failed_run_is_tried_again_after_a_while_only(table: Table) -> None:
    assets = table.assets(DAYS)
    table.add((1, None, "01 10:00"), (2, None, "02 10:00"))
    sensor = build_unanswered_sensor(assets)
    run = unfinished_run(table, assets, "2026-11-01", **{"dagster/sensor_name": sensor.name})
    table.instance.report_run_failed(run)
    assert spans(table.tick(sensor, assets)) == ["2026-11-02"]
    impatient = build_unanswered_sensor(assets, retry_after=timedelta(0))
    assert spans(table.tick(impatient, assets)) == [("2026-11-01", "2026-11-02")]


def test_a_run_takes_no_more_partitions_than_the_assets_allow(table: Table) -> None:
    [source, answers] = table.assets(DAYS)
    assert isinstance(answers, dg.AssetsDefinition)
    answers = answers.with_attributes(backfill_policy=dg.BackfillPolicy.multi_run(2))
    table.add(*((day, None, f"0{day} 10:00") for day in (1, 2, 3)))
    found = table.tick(build_unanswered_sensor([source, answers]), [source, answers])
    assert spans(found) == [("2026-11-01", "2026-11-02"), "2026-11-03"]


def test_a_row_is_unanswered_while_one_task_has_no_answer(table: Table) -> None:
    table.add((1, None, None))
    assert table.run(table.assets())
    both = table.assets(tasks=[SENTIMENT, NOTE])
    sensor = build_unanswered_sensor(both)
    assert len(table.tick(sensor, both).run_requests or ()) == 1
    assert table.run(both)
    assert reason(table.tick(sensor, both)).startswith("0 rows")


def test_answers_in_another_database_are_found(table: Table, tmp_path: Path) -> None:
    table.resources["answers"] = DatabaseResource(url=f"sqlite:///{tmp_path / 'answers.db'}")
    options = {"database_key": "answers", "source_database_key": "database"}
    assets = table.assets(DAYS, **options)
    sensor = build_unanswered_sensor(assets)
    table.add((1, None, "01 10:00"), (2, None, "04 10:00"))
    assert spans(table.tick(sensor, assets)) == ["2026-11-01", "2026-11-04"]
    assert table.run(assets, partition_key="2026-11-01")
    assert spans(table.tick(sensor, assets)) == ["2026-11-04"]


def test_a_sensor_reads_and_makes_no_table(table: Table) -> None:
    assets = table.assets(settings=PipelineSettings())
    table.add((1, None, None))
    table.tick(build_unanswered_sensor(assets), assets)
    with pytest.raises(Exception, match="llm_failures"):
        table.shop.rows("SELECT * FROM llm_failures")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_rows": 0}, "min_rows=0 would ask for runs without rows"),
        ({"max_age": timedelta(hours=-1)}, "lies in the future"),
        ({"max_age": timedelta(hours=1)}, "max_age needs the time of a row: set time_column"),
        ({"min_rows": 5, "time_column": "at"}, "time_column='at' has no effect without max_age"),
        ({"timezone": "Mars"}, "There is no time zone 'Mars'"),
        ({"timezone": "Europe/Paris"}, "timezone='Europe/Paris' has no effect without max_age"),
    ],
)
def test_settings_of_a_sensor_that_cannot_be_are_refused(table: Table, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_unanswered_sensor(table.assets(), **arguments)


LOCATION = """
import dagster as dg
from llm_assets.dagster import *
from llm_assets.tables import Source
from llm_assets.tasks import Classify

assets = build_llm_assets(
    Source(table="messages"),
    [Classify(name="sentiment", labels=("positive", "negative"))],
    DynamicPartitions(column="country"),
)
running = {{"default_status": dg.DefaultSensorStatus.RUNNING, "minimum_interval_seconds": 1}}
defs = dg.Definitions(
    assets=assets,
    sensors=[build_partitions_sensor(assets, **running), build_unanswered_sensor(assets, **running)],
    resources={{"database": DatabaseResource(url={url!r}), "engine": DummyEngineResource()}},
)
"""


def test_a_daemon_finds_values_and_has_their_rows_answered(tmp_path: Path, sqlite_url: str) -> None:
    shop = Shop(sqlite_url)
    shop.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, country TEXT, text TEXT)")
    rows = [("de", "a"), ("fr", "b"), ("it", "c"), (None, "d"), ("de", "")]
    shop.insert("messages", [{"id": i, "country": country, "text": text} for i, (country, text) in enumerate(rows)])
    (tmp_path / "location.py").write_text(LOCATION.format(url=sqlite_url))
    home = prepare_instance(tmp_path / "dagster")
    command = [sys.executable, "-m", "dagster._daemon", "run", "-f", str(tmp_path / "location.py")]
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    with (tmp_path / "log").open("w") as log:
        daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and not answered(shop, 3):
            assert daemon.poll() is None, (tmp_path / "log").read_text()
            time.sleep(1)
    finally:
        os.killpg(daemon.pid, signal.SIGTERM)
        daemon.wait(60)
    found = shop.rows("SELECT id, partition_key FROM messages_sentiment ORDER BY id")
    assert found == [(0, "de"), (1, "fr"), (2, "it")], (tmp_path / "log").read_text()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        [run] = instance.get_runs()
    assert (run.tags[RANGE_START], run.tags[RANGE_END]) == ("de", "it")


def answered(shop: Shop, rows: int) -> bool:
    """Whether so many rows have an answer, and the run that gave them is at its end."""
    try:
        return shop.rows("SELECT SUM(rows_answered) FROM llm_throughput WHERE status = 'complete'") == [(rows,)]
    except OperationalError:
        return False
