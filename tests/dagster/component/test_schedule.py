"""Schedules and sensors of tables in YAML."""

from datetime import datetime

import dagster as dg
import pytest
import sqlalchemy as sa

from tests.dagster.component.project import SMALL, Project, count, run


def requests_of(definitions: dg.Definitions, when: str) -> list[dg.RunRequest]:
    repository = definitions.get_repository_def()
    [schedule] = repository.schedule_defs
    moment = datetime.fromisoformat(when)
    with (
        dg.instance_for_test() as instance,
        dg.build_schedule_context(instance, moment, repository_def=repository) as context,
    ):
        return list(schedule.evaluate_tick(context).run_requests or [])


def test_a_schedule_runs_each_day_after_it_has_ended(project: Project) -> None:
    attributes = (
        SMALL + "partitions: {type: time, column: at, start: 2026-11-01}\nschedule: {hour_of_day: 2, running: true}\n"
    )
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


def test_a_schedule_that_does_not_fit_the_partitions_is_refused_with_the_file(project: Project) -> None:
    days = "partitions: {type: time, column: at, start: 2026-11-01}\n"
    [line] = project.refused(SMALL + days + "schedule: {cron: 0 2 * * *}\n")
    assert "The schedule of 'reviews' follows its partitions by time" in line
    [line] = project.refused(SMALL + "schedule: {hour_of_day: 2}\n")
    assert "has no partitions by time for the schedule to follow" in line


def test_sensors_are_those_that_are_given(project: Project, shop: sa.Engine) -> None:
    partitions = "partitions: {type: dynamic, column: country}\n"
    sensors = "sensors: {unanswered: {min_rows: 3, running: true}, partitions: {remove_gone: true}, source: {}}\n"
    _, definitions = project.load(project.write(SMALL + partitions + sensors))
    repository = definitions.get_repository_def()
    found = {sensor.name: sensor for sensor in repository.sensor_defs}
    assert found.keys() == {"answer_new_rows_of_reviews", "find_partitions_of_reviews", "watch_reviews"}
    assert found["answer_new_rows_of_reviews"].default_status == dg.DefaultSensorStatus.RUNNING
    assert found["find_partitions_of_reviews"].default_status == dg.DefaultSensorStatus.STOPPED
    resources = dict(definitions.resources or {})
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance, resources=resources, repository_def=repository) as context,
    ):
        [request] = found["find_partitions_of_reviews"].evaluate_tick(context).dynamic_partitions_requests or []
    assert sorted(request.partition_keys) == ["de", "fr"]


def test_tables_of_one_name_under_two_prefixes_do_not_collide(project: Project) -> None:
    ticks = 'schedule: {cron: "@daily"}\nsensors: {unanswered: {}, source: {}}\n'
    for prefix in ("crm", "shop"):
        project.write(SMALL + ticks + f"key_prefix: [{prefix}]\n", prefix)
    repository = project.everything().get_repository_def()
    assert {each.name for each in repository.schedule_defs} == {
        "answer_crm__reviews_schedule",
        "answer_shop__reviews_schedule",
    }
    assert len(repository.sensor_defs) == 4


def test_a_sensor_that_does_not_fit_the_partitions_says_so(project: Project) -> None:
    with pytest.raises(Exception, match="reviews") as caught:
        project.load(project.write(SMALL + "sensors: {partitions: {}}\n"))
    assert "has no DynamicPartitions" in str(caught.value.__cause__)
