"""What the checks find that compare answers with their texts: extracted values, and summaries."""

import json
from decimal import Decimal
from typing import Any, Literal

import dagster as dg
import pytest
from pydantic import BaseModel, Field

from llm_assets.dagster.checks.texts import numbers_in
from llm_assets.tasks import Extract
from tests.dagster.answers import FACTS, FIRST, SUMMARY, Reviews, examples, number


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


def test_extracted_numbers_that_the_text_does_not_have_are_found(
    reviews: Reviews, instance: dg.DagsterInstance
) -> None:
    class Order(BaseModel):
        lamps: int
        price: float | None
        sizes: list[int]
        stars: Literal[1, 2, 3]
        gift: bool

    reviews.add(["12 lamps for 1.200,50 €, 40 and 60 cm"])
    assets = reviews.assets(Extract(name="facts", schema=Order), checks={"grounded": {"max_share": 0.25}})
    reviews.run(assets, instance=instance, partition_key=FIRST)
    change = "UPDATE reviews_facts SET lamps = :lamps, price = :price, sizes = :sizes"
    reviews.execute(change, lamps=12, price=1200.5, sizes="[40, 60]")
    found = reviews.check(assets, instance, FIRST)["grounded"]
    assert (found.passed, number(found, "values"), number(found, "absent_values")) == (True, 4, 0)
    # One of fixed values and a boolean need not stand in the text, and null is no value.
    reviews.execute(change, lamps=1, price=None, sizes="[40, 6]")
    found = reviews.check(assets, instance, FIRST)["grounded"]
    assert (found.passed, number(found, "values"), number(found, "absent_values")) == (False, 3, 2)
    assert [(row["field"], row["value"]) for row in examples(found)] == [("lamps", 1), ("sizes", 6)]
    skipping = reviews.assets(Extract(name="facts", schema=Order), checks={"grounded": {"skip": ["lamps", "sizes"]}})
    assert reviews.check(skipping, instance, FIRST)["grounded"].passed


def test_an_extract_of_numbers_only_is_compared_with_the_text_and_one_of_fixed_values_is_not(reviews: Reviews) -> None:
    def names(**fields: Any) -> set[str]:
        schema = {"type": "object", "properties": fields, "required": list(fields)}
        return {spec.name for spec in reviews.assets(Extract(name="facts", schema=schema))[1].check_specs}

    assert "grounded" in names(price={"type": "number"}, rooms={"type": ["integer", "null"]})
    assert "grounded" not in names(stars={"enum": [1, 2]}, paid={"type": "boolean"})
    assert "grounded" not in names(stars={"type": "integer", "minimum": 1, "maximum": 5})
    assert "grounded" not in names(stars={"anyOf": [{"type": "integer", "enum": [1]}, {"type": "null"}]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12 lamps", "12"),
        ("12.0", "12"),
        ("12.50", "12.5"),
        ("12,50 €", "12.5"),
        ("1,200", "1200 1.2"),
        ("1.200,50", "1200.5"),
        ("1,200.50", "1200.5"),
        ("1'200.50", "1200.5"),
        ("1 200", "1200 1 200"),
        ("1\u202f200\u00a0300,5 m", "1200300.5 1 200 300.5"),
        ("0800 123 456", "800 123456 123 456"),
        ("-5 °C.", "5"),
        ("\uff11\uff12", "12"),
        ("on 05.11.2026 at 10:30", "5 11 2026 10 30"),
        ("3,12,5", "3 12 5"),
        ("twelve", ""),
    ],
)
def test_a_number_stands_in_a_text_in_every_usual_spelling(text: str, expected: str) -> None:
    assert numbers_in(text) == {Decimal(each) for each in expected.split()}


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


@pytest.mark.parametrize(
    ("product", "tags", "full"),
    [("x" * 200, "[]", 1), ("lamp", json.dumps(["a"] * 16), 1), ("x" * 199, json.dumps(["a"] * 15), 0)],
)
def test_values_that_are_as_long_as_they_may_be_by_default_are_told_of(
    reviews: Reviews, instance: dg.DagsterInstance, product: str, tags: str, full: int
) -> None:
    reviews.add(["The lamp is lovely.", "The desk is fine."])
    assets = reviews.assets(FACTS)
    reviews.run(assets, instance=instance, partition_key=FIRST)
    for number_of_row in (1, 2):
        facts(reviews, number_of_row, "lamp", "[]")
    facts(reviews, 1, product, tags)
    found = reviews.check(assets, instance, FIRST)["valid"]
    assert (found.passed, number(found, "full_rows")) == (True, full)
    assert ("set a higher maxLength or maxItems" in (found.description or "")) == bool(full)


def test_values_as_long_as_their_schemas_own_bound_are_not_told_of(
    reviews: Reviews, instance: dg.DagsterInstance
) -> None:
    class Tagged(BaseModel):
        product: str = Field(max_length=300)
        tags: list[Literal["a"]] = Field(max_length=20)

    reviews.add(["The lamp is lovely."])
    assets = reviews.assets(Extract(name="facts", schema=Tagged))
    reviews.run(assets, instance=instance, partition_key=FIRST)
    facts(reviews, 1, "x" * 200, json.dumps(["a"] * 16))
    assert number(reviews.check(assets, instance, FIRST)["valid"], "full_rows") == 0


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


def test_summaries_that_were_cut_off_at_their_limit_are_found(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add([LONG, "A lamp."])
    assets = reviews.assets(SUMMARY)
    reviews.run(assets, instance=instance, partition_key=FIRST)
    reviews.execute("UPDATE reviews_summary SET summary = 'The writer loves the', finish_reason = 'stop'")
    assert reviews.check(assets, instance, FIRST)["summaries"].passed
    reviews.execute("UPDATE reviews_summary SET finish_reason = 'length' WHERE id = 1")
    found = reviews.check(assets, instance, FIRST)["summaries"]
    assert (found.passed, number(found, "cut_rows"), number(found, "wrong_share")) == (False, 1, 0.5)
    assert [(row["id"], row["problem"]) for row in examples(found)] == [(1, "cut")]
    assert "raise sampling.max_tokens, or lower max_words" in (found.description or "")
