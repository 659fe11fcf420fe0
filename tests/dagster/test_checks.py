"""The checks as a part of runs: which there are, when they run, and what becomes of their results."""

from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

from llm_assets.dagster import (
    Checks,
    DynamicPartitions,
    MultiPartitions,
    StaticPartitions,
    build_llm_assets,
)
from llm_assets.dagster.checks.settings import Check
from llm_assets.dagster.partitions import Partitions
from llm_assets.errors import ConfigError, SourceError
from llm_assets.tables import Source
from llm_assets.tasks import Generate, Summarize, Task
from tests.dagster.answers import (
    DAYS,
    FACTS,
    FIRST,
    SENTIMENT,
    SUMMARY,
    LoadCountingEngine,
    Reviews,
    by_name,
    examples,
    number,
)


def names(assets) -> dict[str, set[str]]:
    """The names of the checks of each asset."""
    found: dict[str, set[str]] = {}
    for spec in assets[1].check_specs:
        found.setdefault(spec.asset_key.to_user_string(), set()).add(spec.name)
    return found


def test_each_asset_has_the_checks_that_fit_its_task(reviews: Reviews) -> None:
    note = Generate(name="note", instruction="Say something.")
    assets = reviews.assets(SENTIMENT, FACTS, SUMMARY, note, checks={"accuracy": {"gold": {"sentiment": "gold"}}})
    everywhere = {"coverage", "failures", "confidence"}
    assert names(assets) == {
        "reviews_sentiment": everywhere | {"valid", "drift", "accuracy"},
        "reviews_facts": everywhere | {"valid", "grounded"},
        "reviews_summary": everywhere | {"summaries"},
        "reviews_note": everywhere,
    }


def test_a_check_can_be_off_and_so_can_all(reviews: Reviews) -> None:
    assets = reviews.assets(SENTIMENT, checks={"drift": {"enabled": False}, "coverage": {"enabled": False}})
    assert names(assets) == {"reviews_sentiment": {"failures", "confidence", "valid"}}
    assert names(build_llm_assets(Source(table="reviews"), [SENTIMENT, FACTS, SUMMARY], checks=Checks.off())) == {}


def test_answers_without_a_confidence_are_not_checked_for_it(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good"])
    assets = reviews.assets(Summarize(name="summary", confidence=False))
    assert names(assets) == {"reviews_summary": {"coverage", "failures", "summaries"}}
    result = reviews.run(assets, instance=instance, partition_key=FIRST)
    assert all(found.passed for found in result.get_asset_check_evaluations())


COUNTRIES = StaticPartitions(column="gold", values=("de", "fr"))
FOUND = DynamicPartitions(column="gold")


@pytest.mark.parametrize(
    ("partitions", "has_drift"),
    [
        (None, False),
        (COUNTRIES, False),
        (FOUND, False),
        (MultiPartitions(dimensions={"a": FOUND, "b": DynamicPartitions(column="text")}), False),
        (DAYS, True),
        (MultiPartitions(dimensions={"day": DAYS, "country": FOUND}), True),
    ],
    ids=["whole", "static", "dynamic", "two dynamic", "daily", "daily and dynamic"],
)
def test_partitions_without_an_order_have_no_drift(partitions: Partitions | None, has_drift: bool) -> None:
    found = names(build_llm_assets(Source(table="reviews"), [SENTIMENT], partitions))
    assert ("drift" in found["reviews_sentiment"]) == has_drift


@pytest.mark.parametrize(
    ("task", "partitions", "checks", "needed"),
    [
        (SUMMARY.model_copy(update={"confidence": False}), DAYS, {"confidence": {}}, "a task with a confidence"),
        (SUMMARY, DAYS, {"valid": {"blocking": True}}, "a Classify, an Extract, or a Generate with choice"),
        (SENTIMENT, None, {"drift": {"max_distance": 0.1}}, "a task with labels, and partitions by time"),
        (SENTIMENT, FOUND, {"drift": {}}, "a task with labels, and partitions by time"),
        (SUMMARY, DAYS, {"drift": {}}, "a task with labels, and partitions by time"),
        (SENTIMENT, DAYS, {"grounded": {"max_share": 0.1}}, "an Extract with strings or numbers"),
        (FACTS, DAYS, {"grounded": {"skip": ["product", "tags"]}}, "an Extract with strings or numbers"),
        (SENTIMENT, DAYS, {"summaries": {}}, "a Summarize"),
        (SENTIMENT, DAYS, {"accuracy": {"min_accuracy": 0.9}}, "`gold`, which names the column"),
    ],
)
def test_a_check_that_is_given_and_no_tasks_is_refused(
    task: Task, partitions: Partitions | None, checks: dict[str, dict[str, Any]], needed: str
) -> None:
    def made(settings: dict[str, dict[str, Any]]) -> None:
        build_llm_assets(Source(table="reviews"), [task], partitions, checks=Checks.model_validate(settings))

    [name] = checks
    with pytest.raises(ConfigError, match=f"^checks.{name} would check nothing: it needs {needed}"):
        made(checks)
    made({name: {**checks[name], "enabled": False}})


def test_checks_run_after_each_materialization(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good", "bad", None])
    found = by_name(reviews.run(reviews.assets(SENTIMENT), instance=instance, partition_key=FIRST))
    assert found.keys() == {"coverage", "failures", "confidence", "valid", "drift"}
    for evaluation in found.values():
        assert evaluation.partition == FIRST
        assert evaluation.target_materialization_data is not None
        assert evaluation.description


def test_checks_alone_load_no_model_and_write_nothing(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good", "bad"])
    assets = reviews.assets(SENTIMENT)
    reviews.run(assets, instance=instance, partition_key=FIRST)
    reviews.add(["new"], first_id=3)
    loads, runs = LoadCountingEngine.loads, reviews.column("SELECT count(*) FROM llm_throughput")
    found = reviews.check(assets, instance, FIRST)
    assert not found["coverage"].passed
    assert LoadCountingEngine.loads == loads > 0
    assert reviews.column("SELECT count(*) FROM llm_throughput") == runs


def test_only_the_selected_checks_are_evaluated(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good"])
    assets = reviews.assets(SENTIMENT, SUMMARY)
    key = dg.AssetKey("reviews_summary")
    chosen = dg.AssetSelection.checks(dg.AssetCheckKey(key, "coverage"), dg.AssetCheckKey(key, "summaries"))
    result = reviews.run(assets, selection=chosen, instance=instance, tags={"dagster/partition": FIRST})
    assert by_name(result).keys() == {"coverage", "summaries"}
    result = reviews.run(
        assets, selection=dg.AssetSelection.assets(key).without_checks(), instance=instance, partition_key=FIRST
    )
    assert not result.get_asset_check_evaluations()
    assert reviews.column("SELECT count(*) FROM reviews_summary") == [1]


def test_a_partition_without_rows_passes(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    checks = {"accuracy": {"gold": {"sentiment": "gold"}}}
    result = reviews.run(
        reviews.assets(SENTIMENT, FACTS, SUMMARY, checks=checks), instance=instance, partition_key=FIRST
    )
    found = result.get_asset_check_evaluations()
    assert len(found) == 6 + 5 + 4
    for evaluation in found:
        assert evaluation.passed
        assert evaluation.description


def test_a_table_without_partitions_is_checked_as_one(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good", "bad"])
    assets = reviews.assets(SENTIMENT, days=False)
    found = by_name(reviews.run(assets, instance=instance))
    assert found.keys() == {"coverage", "failures", "confidence", "valid"}
    assert number(found["coverage"], "rows_answered") == 2
    reviews.add(["new"], first_id=3)
    found = reviews.check(assets, instance)
    assert (found["coverage"].passed, found["coverage"].partition) == (False, None)


def test_a_gold_column_that_is_missing_is_refused_before_the_model_loads(
    reviews: Reviews, instance: dg.DagsterInstance
) -> None:
    reviews.add(["good"])
    assets = reviews.assets(SENTIMENT, checks={"accuracy": {"gold": {"sentiment": "golden"}}})
    loads = LoadCountingEngine.loads
    with pytest.raises(SourceError, match=r"no column 'golden', which checks.accuracy.gold .* Did you mean 'gold'"):
        reviews.run(assets, instance=instance, partition_key=FIRST)
    assert LoadCountingEngine.loads == loads


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ({"accuracy": {"gold": {"sentimnt": "gold"}}}, r"names the task 'sentimnt'. Did you mean 'sentiment'"),
        ({"accuracy": {"gold": {"summary": "gold"}}}, r"'summary', whose answers are not one of some values"),
        ({"grounded": {"skip": ["produkt"]}}, r"names the field 'produkt'. Did you mean 'product'"),
        ({"grounded": {"skip": ["request"]}}, r"names the field 'request'"),
    ],
)
def test_settings_that_name_what_there_is_not_are_refused(reviews: Reviews, checks: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reviews.assets(SENTIMENT, FACTS, SUMMARY, checks=checks)


@pytest.mark.parametrize(
    "checks",
    [
        {"drif": {}},
        {"drift": {"max_distanc": 0.1}},
        {"drift": {"max_distance": 1.1}},
        {"drift": {"severity": "fatal"}},
        {"drift": {"severity": "warn", "blocking": True}},
    ],
)
def test_settings_that_cannot_be_are_refused(checks: Any) -> None:
    with pytest.raises(ValidationError):
        Checks.model_validate(checks)


def test_every_check_has_a_severity_and_can_block() -> None:
    for name, field in Checks.model_fields.items():
        assert isinstance(field.default, Check), name
        blocking = type(field.default).model_validate({"blocking": True})
        assert (blocking.severity, blocking.blocking) == ("error", True)


def test_a_blocking_check_stops_what_is_downstream(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good", None])

    @dg.asset(deps=["reviews_sentiment"])
    def report() -> None:
        reviews.execute("CREATE TABLE report (id INTEGER)")

    for checks, success in (({"failures": {"blocking": True}}, False), ({"failures": {"severity": "error"}}, True)):
        assets = [*reviews.assets(SENTIMENT, checks=checks, days=False), report]
        result = reviews.run(assets, instance=instance, raise_on_error=False)
        assert result.success == success
        # Either way it failed, and the answers are there.
        [failed] = [found for found in result.get_asset_check_evaluations() if not found.passed]
        assert (failed.check_name, failed.severity) == ("failures", dg.AssetCheckSeverity.ERROR)
        assert len(result.asset_materializations_for_node("reviews__answers")) == 1
        assert (len(result.asset_materializations_for_node("report")) == 1) == success


def test_a_run_over_several_partitions_has_a_result_for_each_and_one_that_names_the_worst(
    reviews: Reviews, instance: dg.DagsterInstance
) -> None:
    reviews.add(["a", "b", "c", "d"], day=1)
    reviews.add(["e", "f", None, None], day=2, first_id=10)
    reviews.add(["g", "h", "i", None], day=3, first_id=20)
    tags = {"dagster/asset_partition_range_start": FIRST, "dagster/asset_partition_range_end": "2026-11-03"}
    result = reviews.run(reviews.assets(SENTIMENT), instance=instance, tags=tags)
    found = [item for item in result.get_asset_check_evaluations() if item.check_name == "failures"]
    assert [(item.partition, item.passed) for item in found] == [
        (FIRST, True),
        ("2026-11-02", False),
        ("2026-11-03", False),
        (None, False),
    ]
    # The UI shows the result of a partition as current only if it names that partition's last materialization.
    for item in found[:3]:
        [record] = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=item.asset_key, asset_partitions=[str(item.partition)]), limit=1
        ).records
        assert item.target_materialization_data is not None
        assert item.target_materialization_data.storage_id == record.storage_id
    together = found[-1]
    assert str(together.description).startswith("2 of 3 partitions fail. The worst is 2026-11-02: 2 of 4 (50 %) rows")
    assert [number(together, name) for name in ("partitions", "partitions_failed", "worst_partition")] == [
        3,
        2,
        "2026-11-02",
    ]
    assert [row["partition"] for row in examples(together, "by_partition")] == ["2026-11-02", "2026-11-03", FIRST]


def test_results_are_about_the_last_recording_of_a_partition_also_where_there_are_two(
    reviews: Reviews, instance: dg.DagsterInstance
) -> None:
    reviews.add(["a", "b"], day=1)
    reviews.add(["c", "d"], day=2, first_id=10)

    # With something downstream in the run, Dagster records each partition once more at the end of the step.
    @dg.asset(deps=["reviews_sentiment"])
    def report() -> None: ...

    tags = {"dagster/asset_partition_range_start": FIRST, "dagster/asset_partition_range_end": "2026-11-02"}
    result = reviews.run([*reviews.assets(SENTIMENT), report], instance=instance, tags=tags)
    key = dg.AssetKey("reviews_sentiment")
    for day in (FIRST, "2026-11-02"):
        found = [item for item in result.get_asset_check_evaluations() if item.partition == day]
        latest = {item.check_name: item for item in found}
        wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[day])
        records = instance.fetch_materializations(wanted, limit=10).records
        assert len(records) == 2
        for item in latest.values():
            assert item.target_materialization_data is not None
            assert item.target_materialization_data.storage_id == records[0].storage_id


def test_checks_alone_without_partitions_are_about_those_with_answers(
    reviews: Reviews, instance: dg.DagsterInstance
) -> None:
    reviews.add(["a", "b"], day=1)
    reviews.add(["c"], day=3, first_id=10)
    assets = reviews.assets(SENTIMENT)
    for partition in (FIRST, "2026-11-03"):
        reviews.run(assets, instance=instance, partition_key=partition)
    reviews.execute("UPDATE reviews_sentiment SET label = 'x', partition_key = '2025-01-01' WHERE id = 1")
    result = reviews.run(assets, instance=instance, selection=dg.AssetSelection.all_asset_checks())
    found = [item for item in result.get_asset_check_evaluations() if item.check_name == "coverage"]
    # A partition that stands in the table and is none any more is left out.
    assert [item.partition for item in found] == [FIRST, "2026-11-03", None]
