import copy
from datetime import date, datetime
from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from llm_assets.errors import ConfigError
from llm_assets.json_schema import (
    MAX_ITEMS,
    MAX_STRING_LENGTH,
    bounded,
    describe,
    import_model,
    resolve,
    schema_columns,
)
from llm_assets.sampling import Sampling


def obj(**properties):
    return {"type": "object", "properties": properties, "required": list(properties)}


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    label: str
    parts: list["Part"] = []


class Facts(BaseModel):
    """Every kind of field."""

    name: str = Field(description="Who it is about.")
    stars: int
    price: float
    either: int | float
    bought: bool
    day: date
    moment: datetime
    colour: Colour
    mood: Literal["good", "bad"]
    exactly: Literal[3]
    maybe_name: str | None
    maybe_day: date | None
    maybe_colour: Colour | None
    name_or_stars: str | int
    tags: list[str]
    part: Part
    maybe_part: Part | None
    prices: dict[str, float]
    pair: tuple[int, str]
    anything: Any


COLUMN_TYPES = {
    "name": "text",
    "stars": "integer",
    "price": "number",
    "either": "number",
    "bought": "boolean",
    "day": "date",
    "moment": "datetime",
    "colour": "text",
    "mood": "text",
    "exactly": "integer",
    "maybe_name": "text",
    "maybe_day": "date",
    "maybe_colour": "text",
    "name_or_stars": "json",
    "tags": "json",
    "part": "json",
    "maybe_part": "json",
    "prices": "json",
    "pair": "json",
    "anything": "json",
}


@pytest.mark.parametrize(
    ("schema", "added"),
    [
        ({"type": "string"}, {"maxLength": MAX_STRING_LENGTH}),
        ({"type": "string", "minLength": 300}, {"maxLength": 300}),
        ({"type": ["string", "null"]}, {"maxLength": MAX_STRING_LENGTH}),
        ({"type": "string", "maxLength": 5000}, {}),
        ({"type": "string", "pattern": "^a+$"}, {}),
        ({"type": "string", "format": "date"}, {}),
        ({"type": "string", "enum": ["a", "b"]}, {}),
        ({"type": "string", "const": "a"}, {}),
        ({"type": "array"}, {"maxItems": MAX_ITEMS}),
        ({"type": "array", "minItems": 20}, {"maxItems": 20}),
        ({"type": "array", "maxItems": 99}, {}),
        ({"type": "array", "prefixItems": [{"type": "integer"}]}, {}),
        ({"type": "integer"}, {}),
        ({"type": "boolean"}, {}),
        ({"enum": ["a", 1]}, {}),
        (obj(a={"type": "integer"}), {"additionalProperties": False}),
        ({**obj(a={"type": "integer"}), "additionalProperties": True}, {}),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {}),
    ],
)
def test_a_length_is_added_only_where_there_is_none(schema, added):
    assert bounded(schema) == {**schema, **added}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: obj(a=inner),
        lambda inner: {"type": "array", "maxItems": 2, "items": inner},
        lambda inner: {"anyOf": [{"type": "null"}, inner]},
        lambda inner: {"oneOf": [inner]},
        lambda inner: {"allOf": [inner]},
        lambda inner: {"$ref": "#/$defs/A", "$defs": {"A": inner}},
        lambda inner: {"$ref": "#/definitions/A", "definitions": {"A": inner}},
        lambda inner: {"type": "object", "additionalProperties": inner},
        lambda inner: {"type": "array", "prefixItems": [inner], "maxItems": 1},
        lambda inner: obj(a=obj(b={"type": "array", "maxItems": 2, "items": {"anyOf": [inner]}})),
        lambda inner: obj(items=inner, properties=inner, enum=inner),
    ],
)
def test_open_strings_are_bounded_wherever_they_stand(wrap):
    expected = wrap({"type": "string", "maxLength": MAX_STRING_LENGTH})
    # Objects are closed, too; that is another test's business.
    assert bounded(expected) == bounded(wrap({"type": "string"}))
    assert bounded(wrap({"type": "string"})) != bounded(wrap({"type": "string", "maxLength": 7}))


def test_data_under_enum_const_and_default_is_left_alone():
    data = {"type": "string", "items": {"type": "array"}}
    schema = {**obj(a={"enum": [data]}, b={"const": data}, c={"type": "integer", "default": data}), "default": data}
    assert bounded(schema) == {**schema, "additionalProperties": False}


def test_the_users_schema_itself_is_not_changed():
    schema = obj(a={"type": "string"})
    before = copy.deepcopy(schema)
    bounded(schema)
    assert schema == before


def test_bounding_twice_is_bounding_once():
    once = bounded(Facts.model_json_schema())
    assert bounded(once) == once


def test_a_recursive_model_is_bounded_once_for_all_its_levels():
    part = bounded(Part.model_json_schema())["$defs"]["Part"]["properties"]
    assert part["label"]["maxLength"] == MAX_STRING_LENGTH
    assert part["parts"]["maxItems"] == MAX_ITEMS
    assert part["parts"]["items"] == {"$ref": "#/$defs/Part"}


def test_each_field_becomes_a_column_of_its_type():
    columns = schema_columns(bounded(Facts.model_json_schema()))
    assert {column.name: column.type for column in columns} == COLUMN_TYPES


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": ["integer", "null"]}, "integer"),
        ({"type": ["integer", "number"]}, "number"),
        ({"type": ["integer", "string"]}, "json"),
        ({"enum": ["a", "b", None]}, "text"),
        ({"enum": [1, 2]}, "integer"),
        ({"enum": [1, 2.5]}, "number"),
        ({"enum": [True, False]}, "boolean"),
        ({"enum": ["a", 1]}, "json"),
        ({"const": 2.5}, "number"),
        ({"const": True}, "boolean"),
        ({"const": ["a"]}, "json"),
        ({"oneOf": [{"type": "integer"}, {"type": "null"}]}, "integer"),
        ({"anyOf": [{"const": "a"}, {"type": "string"}]}, "text"),
        ({"anyOf": [{"type": "string", "format": "date"}, {"type": "string"}]}, "json"),
        ({"type": "string", "format": "email"}, "text"),
        ({}, "json"),
        (True, "json"),
        ({"type": "null"}, "json"),
    ],
)
def test_a_column_holds_every_value_its_schema_allows(schema, kind):
    (column,) = schema_columns(obj(a=schema))
    assert column.type == kind


def test_columns_keep_the_order_of_the_schema_and_the_best_description_there_is():
    schema = obj(
        z={"type": "string", "description": "Its own.", "title": "No"},
        a={"$ref": "#/$defs/A"},
        m={"type": "string", "title": "Titled"},
        b={"type": "string"},
        o={"$ref": "#/$defs/A", "description": "Beside the reference."},
    )
    columns = schema_columns({**schema, "$defs": {"A": {"type": "integer", "description": "Of the definition."}}})
    assert [(column.name, column.comment) for column in columns] == [
        ("z", "Its own."),
        ("a", "Of the definition."),
        ("m", "Titled"),
        ("b", "b"),
        ("o", "Beside the reference."),
    ]


@pytest.mark.parametrize(
    "schema",
    [{"type": "string"}, {"type": "array", "items": obj(a={})}, {"type": "object"}, obj(), {"properties": {"a": {}}}],
)
def test_a_schema_that_is_no_object_with_properties_has_no_columns(schema):
    with pytest.raises(ConfigError, match="must be an object with properties"):
        schema_columns(schema)


def test_a_reference_is_followed_and_what_stands_beside_it_wins():
    root = {"$defs": {"A": {"$ref": "#/$defs/B", "title": "A"}, "B": {"type": "string", "title": "B", "maxLength": 3}}}
    assert resolve({"$ref": "#/$defs/A", "maxLength": 9}, root) == {"type": "string", "title": "A", "maxLength": 9}


def test_a_reference_to_nothing_is_named():
    with pytest.raises(ConfigError, match="refers to '#/\\$defs/B'"):
        resolve({"$ref": "#/$defs/B"}, {"$defs": {"A": {}}})


def test_the_description_has_a_line_for_each_field():
    assert describe(Facts.model_json_schema()).splitlines() == [
        "- name: string. Who it is about.",
        "- stars: integer",
        "- price: number",
        "- either: integer or number",
        "- bought: boolean",
        "- day: date",
        "- moment: date-time",
        "- colour: one of red, blue",
        "- mood: one of good, bad",
        "- exactly: 3",
        "- maybe_name: string or null",
        "- maybe_day: date or null",
        "- maybe_colour: one of red, blue or null",
        "- name_or_stars: string or integer",
        "- tags: list of string",
        "- part: object with label, parts",
        "- maybe_part: object with label, parts or null",
        "- prices: object",
        "- pair: list of any value",
        "- anything: any value",
    ]


def test_a_recursive_model_is_described():
    assert describe(Part.model_json_schema()) == "- label: string\n- parts: list of object with label, parts"


def test_a_schema_that_allows_everything_is_described():
    assert describe(obj(a=True, b={"type": "array", "items": True})) == "- a: any value\n- b: list of any value"


def test_a_model_is_imported_by_its_path():
    assert import_model("llm_assets.sampling:Sampling") is Sampling


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no_such_module_here:Facts", "No module named 'no_such_module_here'"),
        ("llm_assets.sampling:Nothing", "has no attribute 'Nothing'"),
        ("llm_assets.sampling", "cannot be imported"),
        ("llm_assets.sampling:REMOVED", "is no pydantic model"),
        ("llm_assets.records:Row", "is no pydantic model"),
        ("", "cannot be imported"),
    ],
)
def test_a_path_that_leads_to_no_model_is_refused(path, reason):
    with pytest.raises(ConfigError, match=reason):
        import_model(path)


def test_a_reference_to_itself_is_refused():
    with pytest.raises(ConfigError, match="refers to nothing but itself"):
        resolve({"$ref": "#/$defs/a"}, {"$defs": {"a": {"$ref": "#/$defs/a"}}})


def test_a_recursive_union_is_described_in_finite_words():
    schema = {
        "type": "object",
        "properties": {"tree": {"$ref": "#/$defs/tree"}},
        "$defs": {"tree": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#/$defs/tree"}}]}},
    }
    assert describe(schema).startswith("- tree: string or list of string or list of")
