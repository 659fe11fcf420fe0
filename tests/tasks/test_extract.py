import json
import math
from datetime import UTC, date, datetime

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator

from llm_assets.json_schema import MAX_STRING_LENGTH, bounded
from llm_assets.prompts import ByteTokenizer
from llm_assets.records import Answer, Candidate, Column, Completion, Failure, FailureKind
from llm_assets.sampling import RepetitionDetection
from llm_assets.tasks import PROVENANCE_COLUMNS, Extract


class Purchase(BaseModel):
    shop: str = Field(description="Where it was bought.")
    stars: int
    price: float | None
    day: date
    moment: datetime
    good: bool
    tags: list[str]


# The same, written by hand.
PURCHASE = {
    "type": "object",
    "properties": {
        "shop": {"type": "string", "description": "Where it was bought."},
        "stars": {"type": "integer", "title": "Stars"},
        "price": {"type": ["number", "null"], "title": "Price"},
        "day": {"type": "string", "format": "date", "title": "Day"},
        "moment": {"type": "string", "format": "date-time", "title": "Moment"},
        "good": {"type": "boolean", "title": "Good"},
        "tags": {"type": "array", "items": {"type": "string"}, "title": "Tags"},
    },
    "required": ["shop", "stars", "price", "day", "moment", "good", "tags"],
}
ANSWER = {
    "shop": "Köhler & Co",
    "stars": 4,
    "price": 12,
    "day": "2026-02-28",
    "moment": "2026-02-28T10:20:30Z",
    "good": True,
    "tags": ["a", "b"],
}


def obj(**properties):
    return {"type": "object", "properties": properties, "required": list(properties)}


def read(schema, text, finish_reason="stop", logprobs=(-0.1, -0.3)):
    """What becomes of a generated text."""
    plan = Extract(name="facts", schema=schema).plan(ByteTokenizer(), 5000)
    candidate = Candidate(text, tuple(range(len(logprobs))), finish_reason, logprobs)
    return plan.answer([Completion(0, (candidate,))])


@pytest.mark.parametrize("schema", [Purchase, PURCHASE], ids=["model", "json"])
def test_a_models_and_a_json_schemas_columns_are_the_same(schema):
    assert Extract(name="facts", schema=schema).columns[:-1] == (
        Column("shop", "text", "Where it was bought."),
        Column("stars", "integer", "Stars"),
        Column("price", "number", "Price"),
        Column("day", "date", "Day"),
        Column("moment", "datetime", "Moment"),
        Column("good", "boolean", "Good"),
        Column("tags", "json", "Tags"),
    )


@pytest.mark.parametrize("schema", [Purchase, PURCHASE], ids=["model", "json"])
def test_values_get_their_columns_types(schema):
    columns = read(schema, json.dumps(ANSWER)).columns
    assert columns == {
        "shop": "Köhler & Co",
        "stars": 4,
        "price": 12.0,
        "day": date(2026, 2, 28),
        "moment": datetime(2026, 2, 28, 10, 20, 30, tzinfo=UTC),
        "good": True,
        "tags": ["a", "b"],
        "confidence": pytest.approx(math.exp(-0.2)),
    }
    assert isinstance(columns["price"], float)
    assert isinstance(columns["good"], bool)


@pytest.mark.parametrize("schema", [Purchase, PURCHASE], ids=["model", "json"])
def test_null_stays_null(schema):
    assert read(schema, json.dumps({**ANSWER, "price": None})).columns["price"] is None


def test_a_property_that_the_answer_leaves_out_is_null():
    schema = {**obj(a={"type": "integer"}, b={"type": "integer"}), "required": ["a"]}
    columns = read(schema, '{"a": 1}').columns
    assert (columns["a"], columns["b"]) == (1, None)


def test_nested_values_are_stored_as_they_are():
    nested = {"deep": [{"x": 1.5, "y": None}], "text": "日本"}
    assert read(obj(a={"type": "object"}), json.dumps({"a": nested})).columns["a"] == nested


@pytest.mark.parametrize("schema", [Purchase, PURCHASE], ids=["model", "json"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stars", "1" + "0" * 30),
        ("stars", str(2**63)),
        ("stars", str(-(2**63) - 1)),
        ("stars", '"four"'),
        ("price", "1e999"),
        ("price", "-1e999"),
        ("price", "NaN"),
        ("price", "Infinity"),
        ("price", "1" + "0" * 400),
        ("price", "1" + "0" * 5000),
        ("price", "[]"),
        ("day", '"2026-02-30"'),
        ("day", '"yesterday"'),
        ("moment", '"2026-02-28T25:00:00Z"'),
        ("shop", "7"),
        ("good", '"maybe"'),
    ],
)
def test_a_value_that_its_column_cannot_hold_is_a_failure(schema, field, value):
    text = json.dumps({**ANSWER, field: "VALUE"}).replace('"VALUE"', value)
    failure = read(schema, text)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.INVALID_JSON
    assert failure.raw_output == text


PRICE = {"type": "integer", "minimum": 0}


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ({"allOf": [{"type": "integer", "minimum": 2}, {"maximum": 5}]}, 3, 7),
        ({"$ref": "#/$defs/price", "maximum": 5}, 3, 7),
        ({"anyOf": [PRICE, {"type": "null"}], "maximum": 5}, None, 7),
        ({"oneOf": [PRICE, {"type": "integer", "maximum": 5}]}, 7, 3),
        ({**PRICE, "not": {"const": 0}}, 1, 0),
        ({**PRICE, "if": {"minimum": 3}, "then": {"maximum": 5}}, 1, 7),
        ({**PRICE, "multipleOf": 3}, 6, 7),
        ({"type": "number", "multipleOf": 0.01}, 19.99, 19.995),
        ({**obj(a=PRICE, b=PRICE), "required": [], "dependentRequired": {"a": ["b"]}}, {"b": 1}, {"a": 1}),
        ({"allOf": [obj(a=PRICE), obj(b=PRICE)]}, {"a": 1, "b": 1}, {"a": 1}),
        ({"type": "string", "enum": ["S", "large"], "maxLength": 1}, "S", "large"),
        ({"type": "string", "pattern": r"^(?!N/A).*$"}, "7", "N/A"),
        ({"type": "string", "pattern": r"\A[A-Z]\Z"}, "A", "AAZ"),
        ({"type": "string", "pattern": "^[0-9]+$", "maxLength": 2}, "12", "123"),
        ({"maxLength": 2}, "12", "123"),
    ],
    ids=str,
)
def test_an_answer_is_held_against_what_the_constraint_leaves_out(field, good, bad):
    schema = {**obj(a={"type": "array", "items": field}), "$defs": {"price": PRICE}}
    assert read(schema, json.dumps({"a": [good]})).columns["a"] == [good]
    failure = read(schema, json.dumps({"a": [good, bad]}))
    assert failure.kind is FailureKind.INVALID_JSON
    assert "a.1" in failure.message


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63)])
def test_the_largest_integers_of_a_database_are_kept(number):
    assert read(obj(a={"type": "integer"}), json.dumps({"a": number})).columns["a"] == number


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("no JSON", "Expecting value"),
        ('{"a": 1', "Expecting ',' delimiter"),
        ("[1]", "expected an object, got list"),
        ("7", "expected an object, got int"),
        ("null", "expected an object, got NoneType"),
        ('{"a": [NaN]}', "the number NaN is out of range"),
    ],
)
def test_what_is_no_json_object_is_a_failure_that_says_why(text, reason):
    failure = read(obj(a={"type": "array"}), text)
    assert failure.kind is FailureKind.INVALID_JSON
    assert reason in failure.message
    assert failure.raw_output == text


def test_an_answer_that_was_cut_off_is_a_failure_even_if_it_parses():
    failure = read(obj(a={"type": "integer"}), '{"a": 1}', finish_reason="length")
    assert failure.kind is FailureKind.TRUNCATED
    assert "after 2 tokens. Raise sampling.max_tokens of task 'facts'" in failure.message
    assert failure.raw_output == '{"a": 1}'


class Checked(BaseModel):
    stars: int = Field(le=5)
    shop: str

    @field_validator("shop")
    @classmethod
    def _is_known(cls, shop):
        if shop == "nowhere":
            raise ValueError("that is no shop")
        return shop.upper()


def test_what_a_models_validators_return_is_stored():
    assert read(Checked, '{"stars": 5, "shop": "corner"}').columns["shop"] == "CORNER"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"stars": 5, "shop": "nowhere"}', "shop: Value error, that is no shop"),
        ('{"stars": 6, "shop": "corner"}', "stars: Input should be less than or equal to 5"),
        ('{"stars": 5}', "shop: Field required"),
        ("[]", "Input should be an object"),
    ],
)
def test_what_a_models_validators_refuse_is_a_failure(text, reason):
    failure = read(Checked, text)
    assert failure.kind is FailureKind.INVALID_JSON
    assert reason in failure.message


@pytest.mark.parametrize("schema", [Purchase, PURCHASE], ids=["model", "json"])
def test_a_lone_surrogate_is_no_failure(schema):
    assert isinstance(read(schema, json.dumps({**ANSWER, "shop": "a\ud800b"})), Answer)


class Aliased(BaseModel):
    stars: int = Field(alias="Number of stars")


def test_an_alias_names_the_column():
    columns = read(Aliased, '{"Number of stars": 3}').columns
    assert columns["Number of stars"] == 3


def test_a_model_is_found_by_its_path():
    by_path = Extract(name="facts", schema="llm_assets.sampling:RepetitionDetection")
    assert by_path.answer_model is RepetitionDetection
    assert by_path.columns == Extract(name="facts", schema=RepetitionDetection).columns
    with pytest.raises(ValidationError, match=r"'llm_assets\.nothing:Here' cannot be imported"):
        Extract(name="facts", schema="llm_assets.nothing:Here")


def test_the_answer_is_constrained_by_the_bounded_schema():
    task = Extract(name="facts", schema=obj(größe={"type": "string"}))
    assert task.constraint.kind == "json"
    assert "größe" in task.constraint.value
    assert json.loads(task.constraint.value) == {
        **obj(größe={"type": "string", "maxLength": MAX_STRING_LENGTH}),
        "additionalProperties": False,
    }
    assert json.loads(Extract(name="facts", schema=Purchase).constraint.value) == bounded(Purchase.model_json_schema())


def test_the_model_is_told_the_fields():
    task = Extract(name="facts", instruction="Read the receipt.", schema=Purchase)
    assert task.system_message().splitlines()[:4] == [
        "Read the receipt.",
        "Answer with JSON that has these fields:",
        "- shop: string. Where it was bought.",
        "- stars: integer",
    ]


@pytest.mark.parametrize("name", [*PROVENANCE_COLUMNS, "confidence", "Confidence", "MODEL"])
def test_a_property_named_like_a_column_of_every_answer_is_refused(name):
    with pytest.raises(ValidationError, match=f"the property '{name}' has the name of a column that every answer has"):
        Extract(name="facts", schema=obj(**{name: {"type": "string"}}))


def test_logprobs_is_a_free_name_unless_log_probabilities_are_asked_for():
    schema = obj(logprobs={"type": "string"})
    Extract(name="facts", schema=schema)
    with pytest.raises(ValidationError, match="the property 'logprobs' has the name"):
        Extract(name="facts", schema=schema, sampling={"logprobs": 2})


def test_a_property_too_long_for_a_column_is_refused():
    Extract(name="facts", schema=obj(**{"ü" * 31: {"type": "string"}}))
    with pytest.raises(ValidationError, match="too long for a column"):
        Extract(name="facts", schema=obj(**{"ü" * 32: {"type": "string"}}))


@pytest.mark.parametrize("schema", [{"type": "string"}, obj(), 7, int])
def test_a_schema_without_columns_is_refused(schema):
    with pytest.raises(ValidationError):
        Extract(name="facts", schema=schema)


def test_an_examples_answer_must_be_json():
    with pytest.raises(ValidationError, match=r"the example 'Good\.' has the answer 'four stars', which is no JSON"):
        Extract(name="facts", schema=PURCHASE, examples=[{"text": "Good.", "answer": "four stars"}])


@pytest.mark.parametrize(
    ("schema", "answer", "reason"),
    [
        (PURCHASE, {"stars": 4}, "answer: 'shop' is a required property"),
        (PURCHASE, {**ANSWER, "day": "2026-02-30"}, "day"),
        (obj(a={"type": "string"}), {"a": "x", "aa": "zzz"}, "'aa' was unexpected"),
        (obj(a={"type": "string"}), {"a": "x" * (MAX_STRING_LENGTH + 1)}, "is too long"),
        (Checked, {"stars": 5, "shop": "nowhere"}, "shop: Value error, that is no shop"),
    ],
)
def test_an_examples_answer_must_fit_the_schema(schema, answer, reason):
    with pytest.raises(
        ValidationError, match=r"the example 'Good\.' has the answer .* does not fit the schema"
    ) as caught:
        Extract(name="facts", schema=schema, examples=[{"text": "Good.", "answer": answer}])
    assert reason in str(caught.value)


def test_an_examples_answer_may_be_given_as_values():
    schema = obj(stars={"type": "integer"})
    as_values = Extract(name="facts", schema=schema, examples=[{"text": "Good.", "answer": {"stars": 4}}])
    as_text = Extract(name="facts", schema=schema, examples=[{"text": "Good.", "answer": '{"stars":4}'}])
    assert as_values.messages() == as_text.messages()
    assert as_values.messages()[2] == {"role": "assistant", "content": '{"stars": 4}'}


def test_log_probabilities_that_were_asked_for_are_stored_by_token():
    task = Extract(name="facts", schema=obj(a={"type": "integer"}), sampling={"logprobs": 2})
    text = '{"a":1}'
    token_ids = tuple(text.encode())
    candidate = Candidate(text, token_ids, "stop", (-0.5,) * 7, ({ord("{"): -0.5, ord("["): -1.0},) * 7)
    columns = task.plan(ByteTokenizer(), 5000).answer([Completion(0, (candidate,))]).columns
    assert [column.name for column in task.columns] == ["a", "confidence", "logprobs"]
    assert columns.keys() == {"a", "confidence", "logprobs"}
    assert columns["logprobs"][0] == {"token": "{", "logprob": -0.5, "top": {"{": -0.5, "[": -1.0}}
    assert "".join(step["token"] for step in columns["logprobs"]) == text


def test_of_tokens_with_the_same_text_the_likeliest_is_stored():
    task = Extract(name="facts", schema=obj(a={"type": "integer"}), sampling={"logprobs": 3})
    text = '{"a":1}'
    # No byte of a character in several is one by itself.
    top = {ord("{"): -0.5, 0xF0: -2.0, 0xE4: -6.0}
    candidate = Candidate(text, tuple(text.encode()), "stop", (-0.5,) * 7, (top,) * 7)
    columns = task.plan(ByteTokenizer(), 5000).answer([Completion(0, (candidate,))]).columns
    assert columns["logprobs"][0]["top"] == {"{": -0.5, "\ufffd": -2.0}


@pytest.mark.parametrize("names", [("Price", "price"), ("",), (" ",)])
def test_properties_that_cannot_be_columns_of_their_own_are_refused(names):
    properties = {name: {"type": "string"} for name in names}
    with pytest.raises(ValidationError, match="is empty, or another one differs from it in case only"):
        Extract(name="facts", schema={"type": "object", "properties": properties})


def test_a_model_that_writes_its_fields_by_other_names_than_it_reads_is_refused():
    class Renamed(BaseModel):
        price: float = Field(validation_alias="Preis", serialization_alias="price_eur")

    with pytest.raises(ValidationError, match="by other names"):
        Extract(name="facts", schema=Renamed)


LINE = obj(reason={"type": "string"}, verdict={"type": "string"})
TURNED = {**LINE, "properties": dict(reversed(LINE["properties"].items()))}


@pytest.mark.parametrize(
    ("nest", "in_settings"),
    [
        (lambda line: obj(**line["properties"]), False),
        (lambda line: obj(line=line), False),
        (lambda line: obj(lines={"type": "array", "items": line}), False),
        (lambda line: obj(order=obj(lines={"type": "array", "items": line})), True),
        (lambda line: {**obj(order=obj(line={"$ref": "#/$defs/line"})), "$defs": {"line": line}}, True),
    ],
    ids=["outermost", "object", "list", "two deep", "reference"],
)
def test_properties_in_another_order_are_another_question(nest, in_settings):
    tasks = [Extract(name="facts", schema=nest(line)) for line in (LINE, TURNED)]
    assert tasks[0].fingerprint("m") != tasks[1].fingerprint("m")
    # What the prompt names need not stand in the settings too.
    assert all(("property_order" in task.settings()) is in_settings for task in tasks)
