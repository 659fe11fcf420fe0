"""Pydantic models that raise anything, read strictly, or write other types than they read."""

import json
import math
from datetime import date
from decimal import Decimal
from enum import Enum
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, ValidationError, field_serializer, field_validator

from llm_assets.records import Answer, FailureKind
from llm_assets.tasks import Extract
from tests.tasks.test_extract import read


class Stumbling(BaseModel):
    day: str

    @field_validator("day")
    @classmethod
    def _is_known(cls, day):
        if day == "text":
            Decimal(day)
        if day == "none":
            raise TypeError("there is no day")
        return {"monday": "Mon"}[day]


@pytest.mark.parametrize(
    ("day", "reason"),
    [("sunday", "KeyError: 'sunday'"), ("text", "InvalidOperation: "), ("none", "TypeError: there is no day")],
)
def test_whatever_a_models_validators_raise_is_a_failure(day, reason):
    failure = read(Stumbling, json.dumps({"day": day}))
    assert failure.kind is FailureKind.INVALID_JSON
    assert reason in failure.message


class Size(Enum):
    SMALL = "S"
    LARGE = "L"


class Strict(BaseModel, strict=True):
    day: date
    size: Size
    pair: tuple[int, str]
    kinds: set[str]
    id: UUID
    price: Decimal


def test_a_strict_model_takes_values_in_the_form_that_json_has():
    answer = {
        "day": "2026-02-28",
        "size": "L",
        "pair": [1, "a"],
        "kinds": ["a"],
        "id": str(UUID(int=7)),
        "price": "1.50",
    }
    columns = read(Strict, json.dumps(answer)).columns
    assert columns == {**answer, "day": date(2026, 2, 28), "confidence": pytest.approx(math.exp(-0.2))}


class Node(BaseModel):
    name: str = Field(validation_alias="nm")
    children: list["Node"] = []


def test_a_model_that_refers_to_itself_is_refused_for_other_names_too():
    with pytest.raises(ValidationError, match=r"Node reads its fields by other names \(nm, children\) than it writes"):
        Extract(name="facts", schema=Node)


class Written(BaseModel):
    """Writes other types than it reads."""

    good: bool
    tags: str
    stars: int
    day: date
    price: Decimal

    @field_serializer("good")
    def _yes_or_no(self, good: bool) -> str:
        return "yes" if good else "no"

    @field_serializer("tags")
    def _as_list(self, tags: str) -> list[str]:
        return tags.split(",")

    @field_serializer("stars")
    def _as_share(self, stars: int) -> float:
        return stars / 5

    @field_serializer("day")
    def _in_german(self, day: date) -> str:
        return f"{day:%d.%m.%Y}"


def test_a_column_has_the_type_that_a_model_writes():
    assert [column.type for column in Extract(name="facts", schema=Written).columns[:-1]] == [
        "text",
        "json",
        "number",
        "text",
        "json",  # read as a number or a text
    ]
    answer = read(Written, '{"good": true, "tags": "a,b", "stars": 4, "day": "2026-02-28", "price": "1.50"}')
    columns = {"good": "yes", "tags": ["a", "b"], "stars": 0.8, "day": "28.02.2026", "price": "1.50"}
    assert answer.columns == {**columns, "confidence": pytest.approx(math.exp(-0.2))}


class Untold(BaseModel):
    """Writes other types than it says."""

    good: bool
    tags: str

    @field_serializer("good")
    def _yes_or_no(self, good):
        return "yes" if good else good

    @field_serializer("tags")
    def _as_list(self, tags):
        return tags.split(",") if "," in tags else tags


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"good": true, "tags": "a"}', "good is 'yes', which is no boolean"),
        ('{"good": false, "tags": "a,b"}', "tags is ['a', 'b'], which is no text"),
    ],
)
def test_a_value_that_a_model_writes_in_another_type_than_it_says_is_a_failure(text, reason):
    failure = read(Untold, text)
    assert failure.kind is FailureKind.INVALID_JSON
    assert reason in failure.message
    assert isinstance(read(Untold, '{"good": false, "tags": "a"}'), Answer)
