"""Two tables in YAML over one source."""

import dagster as dg
import pytest
import sqlalchemy as sa

from llm_assets.errors import ConfigError
from tests.dagster.component.project import SMALL, Project, count, run

TICKS = 'schedule: {cron: "@daily"}\nsensors: {unanswered: {}, source: {}}\n'
TEXTS = SMALL.replace("{type: classify, name: sentiment, labels: [positive, negative]}", "{type: summarize, name: sum}")
NAMED = TEXTS.replace("engine: {type: dummy}", "engine: {type: dummy, max_model_len: 9999}") + "name: reviews_texts\n"


def refusal(project: Project) -> str:
    """The message of this package with which a project is refused."""
    with pytest.raises(Exception, match="two") as caught:
        project.everything()
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, ConfigError):
        error = error.__cause__
    assert error is not None, caught.value
    return str(error)


def test_tables_of_two_files_share_the_asset_of_their_source(project: Project, shop: sa.Engine) -> None:
    project.write(SMALL + TICKS, "one")
    project.write(NAMED + TICKS, "two")
    definitions = project.everything()
    dg.Definitions.validate_loadable(definitions)
    graph = definitions.resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {
        "reviews",
        "reviews_sentiment",
        "reviews_sum",
    }
    assert graph.get(dg.AssetKey("reviews")).description == "Table 'reviews', read by llm_assets."
    repository = definitions.get_repository_def()
    assert {name for name in repository.job_names if not name.startswith("__")} == {
        "answer_reviews",
        "ask_failed_reviews",
        "answer_reviews_texts",
        "ask_failed_reviews_texts",
    }
    assert {each.name for each in repository.schedule_defs} == {
        "answer_reviews_schedule",
        "answer_reviews_texts_schedule",
    }
    assert len(repository.sensor_defs) == 4
    for job in ("answer_reviews", "answer_reviews_texts"):
        with run(definitions, job) as result:
            assert result.success
    assert count(shop, "reviews_sentiment") == count(shop, "reviews_sum") == 6


def test_two_tables_of_one_file_share_the_asset_of_their_source(project: Project) -> None:
    folder = project.write(SMALL)
    second = project.write(NAMED, "two") / "defs.yaml"
    (folder / "defs.yaml").write_text((folder / "defs.yaml").read_text() + "---\n" + second.read_text())
    second.unlink()
    definitions = project.everything()
    dg.Definitions.validate_loadable(definitions)
    assert dg.AssetKey("reviews") in definitions.resolve_asset_graph().get_all_asset_keys()


def test_both_can_name_the_asset_that_makes_the_source(project: Project) -> None:
    project.write(SMALL + "source_asset: crm/letters\n", "one")
    project.write(NAMED + "source_asset: crm/letters\n", "two")
    graph = project.everything().resolve_asset_graph()
    for name in ("reviews_sentiment", "reviews_sum"):
        assert graph.get(dg.AssetKey(name)).parent_keys == {dg.AssetKey(["crm", "letters"])}
    assert dg.AssetKey("reviews") not in graph.get_all_asset_keys()


def test_two_tables_of_one_name_are_refused_with_the_file_and_a_name(project: Project) -> None:
    folder = project.write(TEXTS, "one")
    project.write(SMALL, "two")
    assert refusal(project) == (
        f"{folder / 'defs.yaml'}:2: attributes: Two tables are named 'reviews', the one that asks sum and the one "
        "that asks sentiment. Dagster tells their steps and jobs apart by names: give one of them its own, "
        "name: reviews_sum."
    )


def test_a_task_of_both_is_refused(project: Project) -> None:
    project.write(SMALL, "one")
    project.write(SMALL + "name: again\n", "two")
    assert (
        "Two tables have the asset reviews_sentiment: both ask 'sentiment' about 'reviews'. Name one of the two tasks "
        "otherwise."
    ) in refusal(project)


FOUND = "partitions: {type: dynamic, column: country}\n"
FIRST_ROWS = "{table: reviews, where: id < 3}"


@pytest.mark.parametrize(
    ("source", "partitions", "fits"),
    [
        ("{table: reviews}", FOUND, True),
        (FIRST_ROWS, FOUND, False),
        (FIRST_ROWS, "partitions: {type: dynamic, column: country, name: first_countries}\n", True),
        (FIRST_ROWS, "partitions: {type: static, column: country, values: [de, fr]}\n", True),
        ("{table: reviews}", "partitions: {type: dynamic, column: text, name: reviews_country}\n", False),
    ],
)
def test_two_tables_with_one_set_of_partitions_must_find_the_same_values(
    project: Project, source: str, partitions: str, fits: bool
) -> None:
    folder = project.write(SMALL + FOUND, "one")
    project.write(NAMED.replace("{table: reviews}", source) + partitions, "two")
    if fits:
        project.everything()
        return
    named = "reviews_texts_text" if "column: text" in partitions else "reviews_texts_country"
    assert refusal(project) == (
        f"{folder / 'defs.yaml'}:2: attributes: The tables 'reviews' and 'reviews_texts' share the dynamic partitions "
        "'reviews_country', but not the column and `where` that their values come from, so that each would remove "
        f"those of the other. Give the partitions of 'reviews_texts' their own, name: {named}."
    )


@pytest.mark.parametrize(
    ("source", "more", "fits"),
    [
        ("{table: reviews}", "", True),
        (FIRST_ROWS, "", False),
        ("{table: reviews, query: SELECT * FROM reviews, key: id}", "", False),
        ("{table: reviews}", "source_database: {url: 'sqlite:///america.db'}\n", False),
        (FIRST_ROWS, "settings: {output_schema: america}\n", True),
        (FIRST_ROWS, "database: {url: 'sqlite:///america.db'}\n", True),
    ],
)
def test_two_tables_with_one_output_table_must_read_the_same_rows(
    project: Project, source: str, more: str, fits: bool
) -> None:
    folder = project.write(SMALL, "one")
    second = SMALL.replace("{table: reviews}", source) + "key_prefix: [america]\n"
    if "database:" in more:
        second = "".join(line for line in second.splitlines(True) if not line.startswith(more.partition(":")[0] + ":"))
    project.write(second + more, "two")
    if fits:
        project.everything()
        return
    assert refusal(project) == (
        f"{folder / 'defs.yaml'}:2: attributes: The tables 'reviews' and 'america__reviews' both write to "
        "'reviews_sentiment', and do not read the same rows: their source databases, queries or `where` differ, so "
        "that each would remove the answers of the other. Give one of them another settings.output_schema, or name "
        "one task 'sentiment' otherwise."
    )


def test_a_name_that_cannot_be_is_refused(project: Project) -> None:
    [line] = project.refused(SMALL + "name: two words\n")
    assert line.startswith("6: name: The name 'two words' is none for Dagster. Write letters, digits and _")
