"""An asset of the project that makes the source table: the answers come after it, and none is declared beside it."""

import dagster as dg
import pytest

from llm_assets.dagster import (
    DatabaseResource,
    DummyEngineResource,
    automation_condition,
    build_llm_assets,
    build_source_sensor,
)
from llm_assets.errors import ConfigError
from llm_assets.tables import Source
from tests.dagster.answers import DAYS, SENTIMENT, SUMMARY, Reviews


def making(reviews: Reviews, key: list[str]) -> dg.AssetsDefinition:
    """The user's own asset: it writes the rows that are asked about."""

    @dg.asset(key=key)
    def make_reviews() -> None:
        reviews.add(["good", "bad", "so so"])

    return make_reviews


def definitions_of(reviews: Reviews, *assets: dg.AssetsDefinition | dg.AssetSpec) -> dg.Definitions:
    resources = {"database": DatabaseResource(url=reviews.url), "engine": DummyEngineResource()}
    return dg.Definitions(assets=assets, resources=resources)


@pytest.mark.parametrize("key", ["reviews", "crm/letters", ["crm", "letters"], dg.AssetKey(["crm", "letters"])])
def test_the_answers_come_after_the_asset_that_makes_the_table(
    reviews: Reviews, instance: dg.DagsterInstance, key: str | list[str] | dg.AssetKey
) -> None:
    expected = dg.AssetKey(["reviews"] if key == "reviews" else ["crm", "letters"])
    assets = reviews.assets(SENTIMENT, SUMMARY, days=False, source_asset=key)
    upstream = making(reviews, list(expected.path))
    result = reviews.run([upstream, *assets], instance=instance)
    assert result.success
    assert reviews.column("SELECT count(*) FROM reviews_sentiment") == [3]
    graph = definitions_of(reviews, upstream, *assets).resolve_asset_graph()
    assert graph.get_all_asset_keys() == {
        expected,
        dg.AssetKey("reviews_sentiment"),
        dg.AssetKey("reviews_summary"),
    }
    assert graph.get(dg.AssetKey("reviews_summary")).parent_keys == {expected}
    [event] = result.asset_materializations_for_node("reviews__answers")[:1]
    lineage = event.metadata["dagster/column_lineage"].value
    assert {dep.asset_key for deps in lineage.deps_by_column.values() for dep in deps} == {expected}


def test_partitions_come_after_an_asset_that_has_none(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    assets = reviews.assets(SENTIMENT, source_asset="reviews")
    upstream = making(reviews, ["reviews"])
    assert reviews.run([upstream], instance=instance).success
    assert reviews.run(assets, instance=instance, partition_key="2026-11-01").success
    assert reviews.column("SELECT count(*) FROM reviews_sentiment") == [3]


def test_the_key_prefix_is_that_of_the_answers_only(reviews: Reviews) -> None:
    [answers] = reviews.assets(SENTIMENT, source_asset="reviews", key_prefix=["crm"])
    assert isinstance(answers, dg.AssetsDefinition)
    [spec] = answers.specs
    assert spec.key == dg.AssetKey(["crm", "reviews_sentiment"])
    assert [dep.asset_key for dep in spec.deps] == [dg.AssetKey("reviews")]


def test_an_event_of_that_asset_starts_the_eager_answers(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    condition = automation_condition("eager")
    assets = reviews.assets(SENTIMENT, days=False, source_asset="crm/letters", automation_condition=condition)
    upstream = making(reviews, ["crm", "letters"])
    definitions = definitions_of(reviews, upstream, *assets)
    before = dg.evaluate_automation_conditions(definitions, instance)
    assert before.total_requested == 0
    assert reviews.run([upstream], instance=instance).success
    after = dg.evaluate_automation_conditions(definitions, instance, cursor=before.cursor)
    assert after.get_num_requested(dg.AssetKey("reviews_sentiment")) == 1


def test_the_sensor_of_the_source_records_events_of_that_asset(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good"])
    assets = reviews.assets(SENTIMENT, days=False, source_asset="crm/letters")
    sensor = build_source_sensor(assets)
    resources = {"database": DatabaseResource(url=reviews.url)}
    with dg.build_sensor_context(instance, resources=resources) as context:
        [event] = sensor.evaluate_tick(context).asset_events
    assert event.asset_key == dg.AssetKey(["crm", "letters"])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("crm//letters", r"'crm//letters' is no asset key, because a part of it is empty"),
        ("", r"'' is no asset key"),
        ([], r"\[\] is no asset key"),
        ("reviews_sentiment", r"source_asset is reviews_sentiment, which is the asset of the task 'sentiment'"),
    ],
)
def test_a_key_that_cannot_be_is_refused(key: str | list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_llm_assets(Source(table="reviews"), [SENTIMENT], DAYS, source_asset=key)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("crm/shop", r"key_prefix is 'crm/shop', and it has to be a list: \['crm', 'shop'\]"),
        (["crm/shop"], r"key_prefix has the part 'crm/shop'\. A part has letters"),
    ],
)
def test_a_prefix_that_cannot_be_is_refused(prefix: str | list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_llm_assets(Source(table="reviews"), [SENTIMENT], key_prefix=prefix)
