import copy
import math
from datetime import date, datetime
from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from llm_assets.errors import ConfigError
from llm_assets.json_schema import (
    MAX_BOUND,
    MAX_ITEMS,
    MAX_STRING_LENGTH,
    bounded,
    check_regex,
    check_size,
    describe,
    import_model,
    resolve,
    schema_columns,
    shortest_answers,
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


def test_a_reference_to_the_whole_schema_is_followed():
    root = obj(more={"type": "array", "items": {"$ref": "#"}})
    assert resolve({"$ref": "#"}, root) == root
    assert describe(root) == "- more: list of object with more"


def test_references_are_followed_only_so_far():
    root = {"$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(100_000)}}
    with pytest.raises(ConfigError, match=r"follows more than 100 references.* is at '#/\$defs/d100'"):
        resolve({"$ref": "#/$defs/d0"}, root)


@pytest.mark.timeout(60)
def test_unions_that_refer_to_one_another_are_described_in_few_words():
    names = [f"t{n}" for n in range(200)]
    union = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
    definitions = {name: {"anyOf": [{"const": name}, *union["anyOf"]]} for name in names}
    assert len(describe({**obj(a=union), "$defs": definitions})) < 1_000_000


def test_options_that_are_described_alike_are_described_once():
    assert describe(obj(a={"anyOf": [{"type": "string", "maxLength": 5}, {"type": "string"}]})) == "- a: string"


@pytest.mark.parametrize(
    ("schema", "least"),
    [
        ({"type": "integer"}, 1),
        ({"enum": ["a", "b"]}, 1),
        ({"type": "string"}, 2),
        ({"type": "string", "minLength": 9}, 11),
        ({"type": "array", "items": {"type": "integer"}}, 2),
        ({"type": "array", "items": {"type": "string", "minLength": 7}, "minItems": 3}, 32),
        ({"type": "array", "prefixItems": [{"type": "string", "minLength": 7}], "minItems": 2}, 12),
        (obj(), 2),
        (obj(a={"type": "string"}), 9),
        ({**obj(a={"type": "string"}), "required": []}, 2),
        ({"anyOf": [{"type": "string", "minLength": 9}, {"type": "integer"}]}, 2),
        ({"allOf": [{"type": "string", "minLength": 9}, {"type": "string"}]}, 12),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "string"}}}, 3),
        ({"$ref": "#", "$defs": {}}, math.inf),
        (obj(a={"$ref": "#"}), math.inf),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, math.inf),
        ({"type": "array", "items": {"$ref": "#"}}, 2),
        ({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, 2),
        (obj(a={"type": "array", "items": False, "minItems": 1}), math.inf),
        ({"$ref": "https://example.com/schema"}, 1),
    ],
)
def test_the_shortest_answer_is_as_long_as_its_schema_demands(schema, least):
    assert shortest_answers(schema)[id(schema)] == least


@pytest.mark.parametrize("order", [range(3000), range(2999, -1, -1)], ids=["forward", "backward"])
@pytest.mark.timeout(60)
def test_the_shortest_answer_is_found_at_the_end_of_many_references(order):
    definitions = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in order} | {"d3000": {"type": "integer"}}
    schema = {**obj(a={"$ref": "#/$defs/d2950"}), "$defs": definitions}
    assert shortest_answers(schema)[id(schema)] == 2 + 5 + 51 + 1


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "maxLength": MAX_BOUND},
        {"type": "array", "items": {"type": "null"}, "maxItems": MAX_BOUND, "minItems": 30_000},
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        {"type": "number", "maximum": 1e300},
        {"enum": list(range(5000))},
        {"const": {"maxLength": -1}},
        obj(maxLength={"type": "integer"}, enum={"type": "string"}, pattern={"type": "null"}),
        {"type": "object", "default": {"minimum": 10**30}, "examples": [{"maxItems": "many"}]},
    ],
)
def test_a_schema_that_asks_for_no_more_than_an_answer_holds_is_accepted(schema):
    check_size(schema)


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (obj(a={"anyOf": [{"type": "string", "maxLength": -1}]}), r"\$\.properties\.a\.anyOf\.0\.maxLength"),
        ({"$defs": {"A": {"minItems": 1.5}}}, r"\$\.\$defs\.A\.minItems"),
        ({"items": {"maxItems": True}}, r"\$\.items\.maxItems"),
        (
            obj(a=obj(b=obj(c=obj(d=obj(e={"maxProperties": None}))))),
            r"\$\.properties\.a\.properties\.b\.properties\.\.\.\.\.e\.maxProperties",
        ),
    ],
)
def test_a_bound_that_is_none_is_found_where_it_stands(schema, place):
    with pytest.raises(ConfigError, match=f"The JSON schema's {place} is "):
        bounded(schema)


@pytest.mark.parametrize(
    "regex",
    [
        "[a-z]{1,100000}",
        "(a{300}){300}",
        "(a{1000}b{1000}){100}",
        "(a{1000}){2,}{50}",
        r"\(a{1000}\){1000}",
        "(a{1000}[)]){9}(b{1000}){9}",
        "[(]{1000}[)]{1000}",
        "[{1000}]{1000}",
        "((((a))))",
        "))){3}",
        "(((",
        "a{,5}",
        "",
    ],
)
def test_a_regex_that_repeats_no_more_than_an_answer_holds_is_accepted(regex):
    check_regex(regex)


@pytest.mark.parametrize(
    ("regex", "times"),
    [
        ("a{100001}", "100,001"),
        ("a{5,100001}", "100,001"),
        ("a{100001,}", "100,001"),
        ("(a{1000}){101}", "101,000"),
        ("(?:x(?<n>a{1000})y){101}", "101,000"),
        ("(b(a{1000}|c)d{2}){101}", "101,000"),
        ("(a{1000}){2}{51}", "102,000"),
        ("a{" + "9" * 5000 + "}", "1,000,000,000"),
    ],
)
def test_a_regex_that_repeats_more_is_refused(regex, times):
    with pytest.raises(ConfigError, match=f"repeats something {times} times.*lower the numbers"):
        check_regex(regex)
