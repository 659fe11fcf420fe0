"""Two tables over one source, such as a small model for labels and a large one for summaries."""

from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from llm_assets.cli import main
from llm_assets.dagster import (
    DatabaseResource,
    DummyEngineResource,
    build_failed_rows_job,
    build_schedule,
    build_source_sensor,
    build_unanswered_sensor,
)
from llm_assets.dagster.load import load_project
from llm_assets.dagster.schedules import Schedule
from llm_assets.errors import ConfigError
from llm_assets.records import Partition
from tests.dagster.answers import SENTIMENT, SUMMARY, Reviews

PROJECT = """
import os
import dagster as dg
from llm_assets.dagster import DatabaseResource, DummyEngineResource, build_llm_assets
from llm_assets.tables import Source
from llm_assets.tasks import Classify, Summarize

REVIEWS = Source(table="reviews")
LABELS = [Classify(name="mood", labels=("good", "bad"))]
TEXTS = [Summarize(name="summary")]
defs = dg.Definitions(
    assets=[
        *build_llm_assets(REVIEWS, LABELS, engine_key="small"),
        *build_llm_assets(REVIEWS, TEXTS, engine_key="large", name="reviews_texts"),
        *build_llm_assets(REVIEWS, LABELS, engine_key="large", key_prefix=["again"]),
    ],
    resources={
        "database": DatabaseResource(url=dg.EnvVar("SHOP_URL")),
        "small": DummyEngineResource(max_model_len=1000),
        "large": DummyEngineResource(max_model_len=2000),
    },
)
"""


def test_each_has_a_step_jobs_a_schedule_and_sensors_of_its_own(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good", "bad"])
    labels = reviews.assets(SENTIMENT, days=False)
    texts = reviews.assets(SUMMARY, days=False, name="reviews_texts")
    both = (labels, texts)
    definitions = dg.Definitions(
        assets=[*labels, *texts],
        jobs=[build_failed_rows_job(each) for each in both],
        schedules=[build_schedule(each, Schedule(cron="0 2 * * *")) for each in both],
        sensors=[build(each) for each in both for build in (build_source_sensor, build_unanswered_sensor)],
        resources={"database": DatabaseResource(url=reviews.url), "engine": DummyEngineResource()},
    )
    dg.Definitions.validate_loadable(definitions)
    repository = definitions.get_repository_def()
    assert {"ask_failed_reviews", "ask_failed_reviews_texts"} <= set(repository.job_names)
    assert {each.name for each in repository.schedule_defs} == {"reviews_schedule", "reviews_texts_schedule"}
    assert {each.name for each in repository.sensor_defs} == {
        "watch_reviews",
        "watch_reviews_texts",
        "answer_new_rows_of_reviews",
        "answer_new_rows_of_reviews_texts",
    }
    config = {"ops": {"reviews_texts__answers": {"config": {"max_rows": 1}}}}
    result = reviews.run([*labels, *texts], instance=instance, run_config=config)
    assert result.success
    assert len(result.asset_materializations_for_node("reviews__answers")) == 1
    assert reviews.column("SELECT count(*) FROM reviews_sentiment") == [2]
    assert reviews.column("SELECT count(*) FROM reviews_summary") == [1]


def test_a_task_of_both_is_refused(reviews: Reviews) -> None:
    assets = [*reviews.assets(SENTIMENT), *reviews.assets(SENTIMENT, name="again")]
    resources = {"database": DatabaseResource(url=reviews.url), "engine": DummyEngineResource()}
    with pytest.raises(
        dg.DagsterInvalidDefinitionError, match=r"Duplicate asset key: AssetKey\(\['reviews_sentiment'\]"
    ):
        dg.Definitions.validate_loadable(dg.Definitions(assets=assets, resources=resources))


@pytest.mark.parametrize("name", ["", "two words", "crm/reviews"])
def test_a_name_that_cannot_be_is_refused(reviews: Reviews, name: str) -> None:
    with pytest.raises(ConfigError, match=f"The name '{name}' is none for Dagster"):
        reviews.assets(SENTIMENT, name=name)


@pytest.fixture
def project(tmp_path: Path, reviews: Reviews, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with three tables over the reviews, each of which is answered."""
    monkeypatch.setenv("SHOP_URL", reviews.url)
    file = tmp_path / "two_tables.py"
    file.write_text(PROJECT)
    reviews.add(["good", "bad"])
    return file


def test_every_task_of_every_table_is_found(project: Path) -> None:
    found = load_project(file=project)
    assert list(found.tables) == ["again__reviews", "reviews", "reviews_texts"]
    assert found.task("summary")[0].engine_key == "large"
    assert found.task("summary", "reviews")[0].name == "reviews_texts"
    assert found.task("mood", "again__reviews")[0].engine_key == "large"
    assert found.task("mood", "reviews")[0].engine_key == "small"
    with pytest.raises(
        ConfigError, match=r"tables have a task 'mood'\. Say which by the table: again__reviews, reviews"
    ):
        found.task("mood")
    assert found.table("reviews").engine_key == "small"
    assert found.table("reviews_texts").engine_key == "large"
    with pytest.raises(ConfigError, match=r"has several tables\. Say which: again__reviews, reviews, reviews_texts"):
        found.table(None)
    with pytest.raises(ConfigError, match=r"no task 'mod' in table 'reviews'\. Did you mean 'mood'"):
        found.task("mod", "reviews")


def test_two_tables_with_one_output_table_must_read_the_same_rows(project: Path) -> None:
    rows = "Source(table='reviews', where='id > 1')"
    project.write_text(PROJECT.replace('REVIEWS, LABELS, engine_key="large"', f'{rows}, LABELS, engine_key="large"'))
    with pytest.raises(
        ConfigError, match=r"The tables .*reviews' and .*reviews' both write to 'reviews_mood', and do "
    ):
        load_project(file=project)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_line_finds_every_task(project: Path) -> None:
    where = ("-f", str(project))
    assert "summary" in run("explain", "reviews_texts", *where)
    assert "mood" in run("explain", "reviews", *where)
    assert "Nothing was written" in run("preview", "summary", "-n", "1", *where)
    assert "Nothing was written" in run("preview", "mood", "-n", "1", "--table", "reviews", *where)
    assert "summary" in run("inspect", "summary", "1", *where)


def test_views_and_roles_have_the_answers_of_all_tables_of_a_source(project: Path, reviews: Reviews) -> None:
    found = load_project(file=project)
    for table in found.tables.values():
        with dg.build_resources(found.resources) as resources:
            each = {key: getattr(resources, key) for key in table.resource_keys}
            list(table.pipeline(each).run_all([Partition()], "a run"))
    run("views", "reviews", "--create", "-f", str(project))
    columns = {column["name"] for column in sa.inspect(reviews.engine).get_columns("reviews_answered")}
    assert {"mood_label", "summary_summary"} <= columns
    script = run("roles", "reviews_texts", "-f", str(project))
    assert "reviews_mood" in script
    assert "reviews_summary" in script
