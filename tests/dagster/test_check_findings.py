"""What each check finds: it passes and fails on rows that were made so, in real runs."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import BaseModel, field_validator

from llm_assets.dagster import DatabaseResource
from llm_assets.dagster.checks.finding import Subject
from llm_assets.dagster.checks.labels import same_label, wilson
from llm_assets.pipeline import Pipeline, PipelineSettings
from llm_assets.records import Partition
from llm_assets.sampling import Sampling
from llm_assets.tables import Database, Source, Unanswered
from llm_assets.tasks import Classify, Extract, Generate
from tests.dagster.answers import (
    FACTS,
    FIRST,
    SENTIMENT,
    Facts,
    LoadCountingEngine,
    Reviews,
    by_name,
    examples,
    number,
)


class Even(BaseModel):
    """A number that is even, which no JSON schema says."""

    number: int

    @field_validator("number")
    @classmethod
    def _is_even(cls, value: int) -> int:
        if value % 2 and value < 4:
            raise ValueError(f"{value} is odd")
        return value


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


@pytest.mark.parametrize("days", [True, False], ids=["daily", "whole"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["one database", "two"])
def test_as_many_new_rows_as_are_gone_are_missing(
    reviews: Reviews, instance: dg.DagsterInstance, tmp_path: Path, days: bool, elsewhere: bool
) -> None:
    options: dict[str, Any] = {"days": days}
    resources = {}
    if elsewhere:
        options |= {"database_key": "answers", "source_database_key": "database"}
        resources["answers"] = DatabaseResource(url=f"sqlite:///{tmp_path / 'answers.db'}")
    reviews.add([f"text {n}" for n in range(8)] + [""])
    assets = reviews.assets(SENTIMENT, **options)
    partition = FIRST if days else None
    result = reviews.run(assets, instance=instance, partition_key=partition, more_resources=resources)
    assert by_name(result)["coverage"].passed
    reviews.execute("DELETE FROM reviews WHERE id <= 3")
    reviews.add(["new", "newer", None], first_id=20)
    found = reviews.check(assets, instance, partition, more_resources=resources)["coverage"]
    assert not found.passed
    assert str(found.description).startswith("3 of 9 (33.3 %) source rows are neither answered nor failed.")
    assert [number(found, f"rows_{name}") for name in ("answered", "failed", "missing")] == [5, 1, 3]
    assert [row["id"] for row in examples(found)] == [20, 21, 22]


def test_answers_that_are_kept_of_gone_rows_cover_no_others(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add([f"text {n}" for n in range(9)])
    assets = reviews.assets(SENTIMENT, settings=PipelineSettings(keep_removed=True))
    reviews.run(assets, instance=instance, partition_key=FIRST)
    reviews.execute("DELETE FROM reviews WHERE id <= 3")
    reviews.add(["new", "newer", "newest"], first_id=20)
    config = {"ops": {"reviews__answers": {"config": {"max_rows": 1}}}}
    result = reviews.run(assets, instance=instance, partition_key=FIRST, run_config=config)
    found = by_name(result)["coverage"]
    assert not found.passed
    assert [number(found, f"rows_{name}") for name in ("answered", "missing")] == [7, 2]
    assert by_name(reviews.run(assets, instance=instance, partition_key=FIRST))["coverage"].passed


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
    schema = "tests.dagster.test_check_findings:Even"
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
    found = by_name(reviews.run(assets, instance=instance, partition_key=FIRST))
    assert found.keys() == {"coverage", "failures", "confidence", "valid", "drift"}
    assert found["valid"].passed
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


# By a type of the gold column: what it holds for the first value, and for the second.
GOLD: dict[str, tuple[list[Any], list[tuple[str, Any, Any]]]] = {
    "boolean": (
        [True, False],
        [
            ("BOOLEAN", True, False),
            ("INTEGER", 1, 0),
            ("DOUBLE PRECISION", 1.0, 0.0),
            ("TEXT", "true", "false"),
            ("TEXT", " TRUE ", "False"),
            ("TEXT", "t", "F"),
            ("TEXT", "1", "0"),
        ],
    ),
    "integer": (
        [1, 20],
        [
            ("INTEGER", 1, 20),
            ("REAL", 1.0, 20.0),
            ("NUMERIC(9, 2)", 1, 20),
            ("TEXT", "1", "20.0"),
            ("TEXT", " 1", "2E1"),
        ],
    ),
    "text": (["1", "true"], [("TEXT", "1", "true"), ("TEXT", " 1", "true "), ("CHAR(6)", "1", "true")]),
    "json": ([1, "high"], [("TEXT", "1", "high"), ("TEXT", "1.0", " high")]),
}


@pytest.mark.parametrize("name", GOLD)
def test_right_labels_are_compared_by_the_answers_type(
    reviews: Reviews, instance: dg.DagsterInstance, name: str
) -> None:
    values, golds = GOLD[name]
    reviews.add([f"row {n}" for n in range(40)])
    schema = {"type": "object", "properties": {"v": {"enum": values}}, "required": ["v"]}
    task = Extract(name="facts", schema=schema)
    reviews.run(reviews.assets(task), instance=instance, partition_key=FIRST)
    database = Database(reviews.url)
    pipeline = Pipeline(Source(table="reviews"), [task], LoadCountingEngine(), database, database)
    answers = pipeline.store.statistics("facts").by_key([(n,) for n in range(1, 41)], "v")
    database.close()
    keys = [", ".join(str(key) for (key,), answer in answers.items() if answer == value) for value in values]
    assert all(keys)
    for column, (kind, *right) in enumerate(golds):
        reviews.execute(f"ALTER TABLE reviews ADD COLUMN gold_{column} {kind}")
        for value, some in zip(right, keys, strict=True):
            reviews.execute(f"UPDATE reviews SET gold_{column} = :value WHERE id IN ({some})", value=value)
        checks: dict[str, Any] = {"accuracy": {"gold": {"facts": f"gold_{column}"}}}
        assets = reviews.assets(task, checks=checks)
        found = reviews.check(assets, instance, FIRST)["accuracy"]
        assert (number(found, "gold_rows"), number(found, "gold_right")) == (40, 40)
        reviews.execute(f"UPDATE reviews SET gold_{column} = :value", value=right[1])
        found = reviews.check(assets, instance, FIRST)["accuracy"]
        assert number(found, "gold_right") == sum(value == values[1] for value in answers.values())
        assert "no labels" not in str(found.description)


@pytest.mark.parametrize(
    ("label", "gold"),
    [
        (True, "yes"),
        (True, 2),
        (False, ""),
        (True, None),
        (1, "one"),
        (1, "NaN"),
        (1, 1.5),
        (2**63 - 1, float(2**63 - 1)),
        ("true", True),
        ("Good", "good"),
        ("1", 1.0),
        (None, "None"),
    ],
)
def test_a_right_label_of_another_value_is_another_label(label: object, gold: object) -> None:
    assert not same_label(label, gold)


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"), [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_the_confidence_interval_is_wilsons(right: int, rows: int, low: float, high: float) -> None:
    assert wilson(right, rows) == pytest.approx((low, high), abs=1e-4)


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


@pytest.mark.parametrize(
    ("time_place", "key", "earlier"),
    [
        (1, "de|2026-11-03", ["de|2026-11-02", "de|2026-11-01"]),
        (0, "2026-11-03|de", ["2026-11-02|de", "2026-11-01|de"]),
    ],
)
def test_earlier_partitions_of_two_dimensions_are_alike_in_all_but_the_time(
    reviews: Reviews, instance: dg.DagsterInstance, time_place: int, key: str, earlier: list[str]
) -> None:
    reviews.add([f"text {n}" for n in range(8)])
    reviews.run(reviews.assets(SENTIMENT), instance=instance, partition_key=FIRST)
    places = [(country, day) for country in ("at", "de") for day in (1, 2, 3, 4)]
    for row, (country, day) in enumerate(places, start=1):
        parts = [country, f"2026-11-0{day}"]
        name = "|".join(parts if time_place else reversed(parts))
        reviews.execute("UPDATE reviews_sentiment SET partition_key = :name WHERE id = :id", name=name, id=row)
    database = Database(reviews.url)
    pipeline = Pipeline(Source(table="reviews"), [SENTIMENT], LoadCountingEngine(), database, database)
    answers = pipeline.store.statistics("sentiment")
    unanswered = Unanswered(pipeline.source, pipeline.store, [], None)
    subject = Subject(SENTIMENT, Partition(key), answers, pipeline.source, unanswered, time_place)
    assert subject.earlier(5) == earlier
    database.close()
