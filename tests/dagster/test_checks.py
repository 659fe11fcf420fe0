"""The checks in real runs: each one passes and fails on rows that were made so."""

from collections.abc import Iterator
from typing import Any, Literal

import dagster as dg
import pytest
from pydantic import BaseModel, ValidationError, field_validator

from llm_assets.dagster import Checks, StaticPartitions, build_llm_assets
from llm_assets.dagster.checks.labels import wilson
from llm_assets.dagster.checks.settings import Check
from llm_assets.errors import ConfigError, SourceError
from llm_assets.sampling import Sampling
from llm_assets.tables import Source
from llm_assets.tasks import Classify, Extract, Generate, Summarize
from tests.dagster.answers import LoadCountingEngine, Reviews, by_name, examples, number

SENTIMENT = Classify(name="sentiment", labels=("positive", "negative"))
SUMMARY = Summarize(name="summary", max_words=10)
FIRST = "2026-11-01"


class Facts(BaseModel):
    """What is extracted."""

    product: str | None
    request: Literal["refund", "none"]
    tags: list[str]


class Even(BaseModel):
    """A number that is even, which no JSON schema says."""

    number: int

    @field_validator("number")
    @classmethod
    def _is_even(cls, value: int) -> int:
        if value % 2 and value < 4:
            raise ValueError(f"{value} is odd")
        return value


FACTS = Extract(name="facts", schema=Facts)


@pytest.fixture
def reviews(database_url: str) -> Iterator[Reviews]:
    reviews = Reviews(database_url)
    yield reviews
    reviews.engine.dispose()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


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


def test_partitions_without_an_order_have_no_drift(reviews: Reviews) -> None:
    countries = StaticPartitions(column="gold", values=("de", "fr"))
    assert "drift" not in names(build_llm_assets(Source(table="reviews"), [SENTIMENT], countries))["reviews_sentiment"]


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


def test_coverage_counts_rows_without_an_outcome_and_shows_them(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good", "bad", ""])
    assets = reviews.assets(SENTIMENT)
    found = by_name(reviews.run(assets, instance=instance, partition_key=FIRST))["coverage"]
    assert found.passed
    assert [number(found, f"rows_{name}") for name in ("answered", "failed", "missing")] == [2, 1, 0]
    reviews.add(["new", "newer"], first_id=10)
    found = reviews.check(assets, instance, FIRST)["coverage"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert number(found, "missing_share") == 0.4
    assert found.description is not None
    assert found.description.startswith("2 of 5 (40 %) source rows are neither answered nor failed.")
    assert [row["id"] for row in examples(found)] == [10, 11]
    allowed = reviews.assets(SENTIMENT, checks={"coverage": {"max_missing_share": 0.4}})
    assert reviews.check(allowed, instance, FIRST)["coverage"].passed


def test_failures_are_a_share_with_their_kinds(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good", "bad", "fine", None])
    assets = reviews.assets(SENTIMENT)
    found = by_name(reviews.run(assets, instance=instance, partition_key=FIRST))["failures"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (number(found, "failed_share"), number(found, "empty_text_rows")) == (0.25, 1)
    assert examples(found)[0]["row_key"] == "4"
    allowed = reviews.assets(SENTIMENT, checks={"failures": {"max_share": 0.25}})
    assert reviews.check(allowed, instance, FIRST)["failures"].passed


def test_labels_that_are_not_of_the_list_are_invalid(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good", "bad", "fine", "poor"])
    assets = reviews.assets(SENTIMENT)
    assert by_name(reviews.run(assets, instance=instance, partition_key=FIRST))["valid"].passed
    reviews.execute("UPDATE reviews_sentiment SET label = :label WHERE id = 3", label="<b>neutral</b>")
    found = reviews.check(assets, instance, FIRST)["valid"]
    assert not found.passed
    assert number(found, "invalid_share") == 0.25
    assert "'<b>neutral</b>' (1)" in str(found.description)
    assert [(row["id"], row["label"]) for row in examples(found)] == [(3, "<b>neutral</b>")]


def test_a_label_list_that_was_edited_makes_older_answers_invalid(
    reviews: Reviews, instance: dg.DagsterInstance
) -> None:
    reviews.add([f"row {n}" for n in range(20)])
    reviews.run(reviews.assets(SENTIMENT), instance=instance, partition_key=FIRST)
    edited = reviews.assets(Classify(name="sentiment", labels=("positive", "bad")))
    found = reviews.check(edited, instance, FIRST)["valid"]
    negative = reviews.column("SELECT count(*) FROM reviews_sentiment WHERE label = 'negative'")
    assert [number(found, "invalid_rows")] == negative != [0]
    assert by_name(reviews.run(edited, instance=instance, partition_key=FIRST))["valid"].passed


def test_fields_that_do_not_fit_the_schema_are_invalid(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good", "bad", "fine", "poor"])
    assets = reviews.assets(FACTS)
    assert by_name(reviews.run(assets, instance=instance, partition_key=FIRST))["valid"].passed
    reviews.execute("UPDATE reviews_facts SET request = 'a cake' WHERE id = 2")
    reviews.execute("UPDATE reviews_facts SET tags = '[1]' WHERE id = 3")
    found = reviews.check(assets, instance, FIRST)["valid"]
    assert not found.passed
    assert number(found, "invalid_rows") == 2
    problems = {row["id"]: row["problem"] for row in examples(found)}
    assert problems[2].startswith("request: 'a cake'")
    assert problems[3].startswith("tags.0: 1")


def test_answers_are_validated_by_the_pydantic_model_too(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good", "bad"])
    schema = "tests.dagster.test_checks:Even"
    assets = reviews.assets(Extract(name="facts", schema=schema))
    reviews.run(assets, instance=instance, partition_key=FIRST)
    reviews.execute("UPDATE reviews_facts SET number = 4")
    assert reviews.check(assets, instance, FIRST)["valid"].passed
    reviews.execute("UPDATE reviews_facts SET number = 3 WHERE id = 1")
    found = reviews.check(assets, instance, FIRST)["valid"]
    assert examples(found)[0]["problem"] == "number: Value error, 3 is odd"


def test_generated_choices_are_checked_as_labels_are(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good", "bad"])
    assets = reviews.assets(Generate(name="mood", instruction="Which mood?", choice=("happy", "sad")))
    assert names(assets) == {"reviews_mood": {"coverage", "failures", "confidence", "valid", "drift"}}
    assert by_name(reviews.run(assets, instance=instance, partition_key=FIRST))["valid"].passed
    reviews.execute("UPDATE reviews_mood SET answer = 'angry' WHERE id = 1")
    assert not reviews.check(assets, instance, FIRST)["valid"].passed


def set_labels(reviews: Reviews, first_id: int, labels: str) -> None:
    """Set labels from a row on: p is positive, n is negative."""
    for index, letter in enumerate(labels):
        label = {"p": "positive", "n": "negative"}[letter]
        reviews.execute("UPDATE reviews_sentiment SET label = :label WHERE id = :id", label=label, id=first_id + index)


def test_drift_compares_with_the_partitions_before(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    assets = reviews.assets(SENTIMENT, checks={"drift": {"min_rows": 10, "max_distance": 0.2, "partitions": 2}})
    for day in (1, 2, 3, 4):
        reviews.add([f"row {n}" for n in range(10)], day=day, first_id=100 * day)
        reviews.run(assets, instance=instance, partition_key=f"2026-11-0{day}")
    for day, labels in ((1, "nnnnnnnnnn"), (2, "pppppppppn"), (3, "pppppppppn"), (4, "ppppnnnnnn")):
        set_labels(reviews, 100 * day, labels)
    found = reviews.check(assets, instance, FIRST)["drift"]
    assert found.passed
    assert str(found.description).endswith("nothing to compare with.")
    # The last two partitions before, not the one before them: 18 of 20 positive, against 4 of 10.
    found = reviews.check(assets, instance, "2026-11-04")["drift"]
    assert not found.passed
    assert [number(found, name) for name in ("distance", "rows", "earlier_rows")] == [0.5, 10, 20]
    assert "'negative' moved most: from 10 % to 60 %" in str(found.description)
    assert "(2026-11-02 to 2026-11-03)" in str(found.description)
    shares = {row["label"]: row for row in examples(found)}
    assert shares["negative"] == {"label": "negative", "share": 0.6, "share before": 0.1, "change": 0.5}
    set_labels(reviews, 400, "pppppppppp")
    assert reviews.check(assets, instance, "2026-11-04")["drift"].passed


def test_drift_decides_nothing_on_few_rows(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    assets = reviews.assets(SENTIMENT, checks={"drift": {"min_rows": 3, "max_distance": 0}})
    reviews.add(["a", "b"], day=1)
    reviews.add(["c", "d", "e"], day=2, first_id=10)
    for day in (1, 2):
        reviews.run(assets, instance=instance, partition_key=f"2026-11-0{day}")
    set_labels(reviews, 1, "pp")
    set_labels(reviews, 10, "nnn")
    found = reviews.check(assets, instance, "2026-11-02")["drift"]
    assert found.passed
    assert "too few to compare: min_rows is 3" in str(found.description)


def test_a_share_of_low_confidence_fails(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good", "bad", "fine", "poor"])
    assets = reviews.assets(SENTIMENT, checks={"confidence": {"low": 0.6, "max_share": 0.25}})
    reviews.run(assets, instance=instance, partition_key=FIRST)
    reviews.execute("UPDATE reviews_sentiment SET confidence = 0.9")
    assert reviews.check(assets, instance, FIRST)["confidence"].passed
    reviews.execute("UPDATE reviews_sentiment SET confidence = 0.55 WHERE id IN (2, 3)")
    found = reviews.check(assets, instance, FIRST)["confidence"]
    assert not found.passed
    assert (number(found, "low_share"), number(found, "mean_confidence")) == (0.5, 0.725)
    assert [(row["id"], row["text"]) for row in examples(found)][:2] == [(2, "bad"), (3, "fine")]


def facts(reviews: Reviews, number: int, product: str | None, tags: str) -> None:
    reviews.execute(
        "UPDATE reviews_facts SET product = :product, tags = :tags WHERE id = :id",
        id=number,
        product=product,
        tags=tags,
    )


def test_extracted_strings_that_the_text_does_not_have_are_found(
    reviews: Reviews, instance: dg.DagsterInstance
) -> None:
    reviews.add(["My ZEBRA-toaster broke, twice.", "The lamp is lovely.", "椅子摇晃得厉害。"])
    assets = reviews.assets(FACTS)
    reviews.run(assets, instance=instance, partition_key=FIRST)
    facts(reviews, 1, "Zebra toaster", '["broke"]')
    facts(reviews, 2, None, "[]")
    facts(reviews, 3, "椅子", '["摇晃"]')
    found = reviews.check(assets, instance, FIRST)["grounded"]
    assert found.passed
    assert number(found, "values") == 4
    # "refund" is one of fixed values, and a null product is no value: neither needs to stand in the text.
    facts(reviews, 2, "desk", '["lovely", "bright"]')
    found = reviews.check(assets, instance, FIRST)["grounded"]
    assert not found.passed
    assert (number(found, "values"), number(found, "absent_values")) == (7, 2)
    assert [(row["field"], row["value"]) for row in examples(found)] == [("product", "desk"), ("tags", "bright")]
    assert examples(found)[0]["text"] == "The lamp is lovely."


@pytest.mark.parametrize("skip", ["tags", "facts.tags"])
def test_a_field_can_be_left_out_of_the_comparison_with_the_text(
    reviews: Reviews, instance: dg.DagsterInstance, skip: str
) -> None:
    reviews.add(["The lamp is lovely."])
    assets = reviews.assets(FACTS, checks={"grounded": {"skip": [skip]}})
    reviews.run(assets, instance=instance, partition_key=FIRST)
    facts(reviews, 1, "lamp", '["made up"]')
    assert reviews.check(assets, instance, FIRST)["grounded"].passed
    assert not reviews.check(reviews.assets(FACTS), instance, FIRST)["grounded"].passed


LONG = "The lamp came a day early, the light is warm, and my cat has decided to live under it for good."


@pytest.mark.parametrize(
    ("summary", "problem"),
    [
        ("The writer loves the lamp.", None),
        ("Lamp.", "empty"),
        ("", "empty"),
        ("!?", "empty"),
        (LONG, "copied"),
        ("the LIGHT is warm, and my cat has decided to live", "copied"),
        ("The light is warm.", None),
        (" ".join(["word"] * 16), "too long"),
        (" ".join(["word"] * 15), None),
    ],
)
def test_summaries_that_are_empty_copied_or_too_long_are_found(
    reviews: Reviews, instance: dg.DagsterInstance, summary: str, problem: str | None
) -> None:
    reviews.add([LONG])
    assets = reviews.assets(SUMMARY)
    reviews.run(assets, instance=instance, partition_key=FIRST)
    reviews.execute("UPDATE reviews_summary SET summary = :summary", summary=summary)
    found = reviews.check(assets, instance, FIRST)["summaries"]
    assert found.passed == (problem is None)
    if problem:
        assert examples(found) == [{"id": 1, "problem": problem, "summary": summary, "text": LONG}]


def test_accuracy_is_measured_on_rows_with_a_right_label(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add([f"row {n}" for n in range(6)], gold=["positive"] * 4 + ["negative", None])
    checks: dict[str, Any] = {"accuracy": {"gold": {"sentiment": "gold"}, "min_accuracy": 0.8, "min_rows": 5}}
    assets = reviews.assets(SENTIMENT, checks=checks)
    reviews.run(assets, instance=instance, partition_key=FIRST)
    set_labels(reviews, 1, "ppppnn")
    found = reviews.check(assets, instance, FIRST)["accuracy"]
    assert found.passed
    assert [number(found, name) for name in ("gold_rows", "gold_right", "accuracy")] == [5, 5, 1.0]
    set_labels(reviews, 1, "pppn")
    reviews.execute("UPDATE reviews SET gold = 'mixed' WHERE id = 5")
    found = reviews.check(assets, instance, FIRST)["accuracy"]
    assert not found.passed
    assert number(found, "accuracy") == 0.6
    assert 0 < number(found, "accuracy_low") < 0.6 < number(found, "accuracy_high") < 1
    assert "values that are no labels, such as 'mixed'" in str(found.description)
    wrong = [(row["id"], row["label"], row["gold"], row["text"]) for row in examples(found)]
    assert wrong == [(4, "negative", "positive", "row 3"), (5, "negative", "mixed", "row 4")]
    checks["accuracy"]["min_rows"] = 6
    found = reviews.check(reviews.assets(SENTIMENT, checks=checks), instance, FIRST)["accuracy"]
    assert found.passed
    assert "too few rows to decide" in str(found.description)


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"), [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_the_confidence_interval_is_wilsons(right: int, rows: int, low: float, high: float) -> None:
    assert wilson(right, rows) == pytest.approx((low, high), abs=1e-4)


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


def test_a_check_that_breaks_fails_and_the_others_are_evaluated(sqlite_url: str, instance: dg.DagsterInstance) -> None:
    reviews = Reviews(sqlite_url)
    reviews.add(["good"])
    assets = reviews.assets(FACTS)
    reviews.run(assets, instance=instance, partition_key=FIRST)
    reviews.execute("UPDATE reviews_facts SET tags = 'no JSON'")  # Postgres would not take it
    found = reviews.check(assets, instance, FIRST)
    assert not found["valid"].passed
    assert "could not be evaluated: JSONDecodeError" in str(found["valid"].description)
    assert found["coverage"].passed


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


def test_descriptions_and_examples_are_bounded_and_without_control_characters(
    reviews: Reviews, instance: dg.DagsterInstance
) -> None:
    reviews.add(["x" * 10_000 + "\x1b[31m"] * 9)
    assets = reviews.assets(SENTIMENT, checks={"confidence": {"low": 1, "max_share": 0}})
    reviews.run(assets, instance=instance, partition_key=FIRST)
    reviews.execute("UPDATE reviews_sentiment SET label = :label", label="\x1b[31m$x^{" + "y" * 100_000)
    found = reviews.check(assets, instance, FIRST)
    for evaluation in found.values():
        assert len(str(evaluation.description)) <= 2000
        assert str(evaluation.description).isprintable()
        for row in examples(evaluation) if "llm_assets/examples" in evaluation.metadata else []:
            assert all(len(value) <= 160 and value.isprintable() for value in row.values() if isinstance(value, str))
    assert not found["valid"].passed
    assert not found["confidence"].passed


def test_a_task_that_samples_has_the_same_checks(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good", "bad"])
    assets = reviews.assets(Extract(name="facts", schema=Facts, sampling=Sampling(temperature=0.5)))
    assert by_name(reviews.run(assets, instance=instance, partition_key=FIRST))["valid"].passed
