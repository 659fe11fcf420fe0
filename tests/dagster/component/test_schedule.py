"""Schedules of tables in YAML."""

from datetime import datetime

import dagster as dg
import pytest
import sqlalchemy as sa

from llm_assets.dagster import AnyPartitions, MultiPartitions, Schedule, StaticPartitions, TimePartitions
from llm_assets.errors import ConfigError
from tests.dagster.component.project import SMALL, Project, count, run


def requests_of(definitions: dg.Definitions, when: str) -> list[dg.RunRequest]:
    repository = definitions.get_repository_def()
    [schedule] = repository.schedule_defs
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(
            instance=instance, scheduled_execution_time=datetime.fromisoformat(when), repository_def=repository
        )
        return list(schedule.evaluate_tick(context).run_requests or [])


def test_a_schedule_runs_each_day_after_it_has_ended(project: Project) -> None:
    attributes = SMALL + "partitions: {type: time, column: at, start: 2026-11-01}\nschedule: {hour: 2, running: true}\n"
    _, definitions = project.load(project.write(attributes))
    [schedule] = definitions.get_repository_def().schedule_defs
    assert schedule.cron_schedule == "0 2 * * *"
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    [request] = requests_of(definitions, "2026-11-05T02:00+00:00")
    assert request.partition_key == "2026-11-04"


def test_a_schedule_of_a_whole_table_asks_for_one_run(project: Project) -> None:
    _, definitions = project.load(project.write(SMALL + "schedule: {cron: 0 2 * * *, timezone: Europe/Berlin}\n"))
    [schedule] = definitions.get_repository_def().schedule_defs
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 2 * * *", "Europe/Berlin")
    [request] = requests_of(definitions, "2026-11-05T02:00+00:00")
    assert request.partition_key is None


def test_a_schedule_of_static_partitions_answers_all_of_them_in_one_run(project: Project, shop: sa.Engine) -> None:
    partitions = "partitions: {type: static, column: country, values: [de, it, fr]}\n"
    _, definitions = project.load(project.write(SMALL + partitions + 'schedule: {cron: "@daily"}\n'))
    [request] = requests_of(definitions, "2026-11-05T02:00+00:00")
    with run(definitions, "answer_reviews", tags=dict(request.tags)) as result:
        assert result.success
    assert count(shop, "llm_throughput") == 3
    assert count(shop, "reviews_sentiment") == 6


DAYS = TimePartitions(column="at", start="2026-11-01")
COUNTRIES = StaticPartitions(column="country", values=("de", "fr"))


@pytest.mark.parametrize(
    ("schedule", "partitions", "message"),
    [
        (Schedule(hour=2), None, "needs `cron`"),
        (Schedule(hour=2), COUNTRIES, "needs `cron`"),
        (Schedule(cron="0 2 * * *"), DAYS, "set `hour` and `minute` in place of `cron`"),
        (Schedule(hour=2), TimePartitions(column="at", start="2026-11-01", cadence="hourly"), "set `minute` alone"),
        (Schedule(minute=2), TimePartitions(column="at", start="2026-11-01", cron_schedule="0 6 * * *"), "leave out"),
        (
            Schedule(cron="0 2 * * *"),
            MultiPartitions(
                dimensions={"a": COUNTRIES, "b": StaticPartitions(column="channel", values=("mail", "shop"))}
            ),
            "two dimensions without time",
        ),
    ],
)
def test_a_schedule_that_does_not_fit_the_partitions_is_refused(
    schedule: Schedule, partitions: AnyPartitions | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        schedule.check(partitions)
