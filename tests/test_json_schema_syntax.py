"""What is no JSON schema is refused where it stands; what is one is not."""

from datetime import date
from enum import StrEnum

import pytest

from llm_assets.errors import ConfigError
from llm_assets.json_schema import bounded


class Mood(StrEnum):
    GOOD = "good"


def obj(**properties):
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "object", "properties": {False: {}}}, r"\$\.properties has the key False, which is no text"),
        ({"type": "object", "properties": {2024: {}}}, r"\$\.properties has the key 2024, which is no text"),
        (obj(a={"const": {1: "x"}}), r"\$\.properties\.a\.const has the key 1, which is no text"),
        (
            obj(a={"enum": [date(2026, 1, 31)]}),
            r"\$\.properties\.a\.enum\.0 is datetime.date\(2026, 1, 31\), which JSON",
        ),
        (obj(a={"examples": [date(2026, 1, 31)]}), r"\$\.properties\.a\.examples\.0 is datetime.date"),
        (obj(a={"default": {1}}), r"\$\.properties\.a\.default is \{1\}, which JSON does not have"),
        (obj(a="string"), r"\$\.properties\.a cannot be: 'string' is not of type 'object', 'boolean'"),
        (obj(a={"type": "array", "items": "string"}), r"\$\.properties\.a\.items cannot be: 'string' is not of type"),
        (
            obj(a={"type": "object", "properties": None}),
            r"\$\.properties\.a\.properties cannot be: None is not of type",
        ),
        (obj(a={"anyOf": None}), r"\$\.properties\.a\.anyOf cannot be: None is not of type 'array'"),
        (obj(a={"enum": None}), r"\$\.properties\.a\.enum cannot be: None is not of type 'array'"),
        (obj(a={"type": "strng"}), r"\$\.properties\.a\.type cannot be: 'strng' is not valid"),
        ({**obj(a={}), "$defs": None}, r"\$\.\$defs cannot be: None is not of type 'object'"),
        ({**obj(a={}), "required": "a"}, r"\$\.required cannot be: 'a' is not of type 'array'"),
        (
            obj(a={"type": "string", "enum": ["x", True]}),
            r"\$\.properties\.a\.enum\.1 is True, which is no string\. YAML",
        ),
        (obj(a={"type": "integer", "const": True}), r"\$\.properties\.a\.const is True, which is no integer\."),
        (
            obj(a={"type": ["integer", "null"], "enum": [1, "2"]}),
            r"\$\.properties\.a\.enum\.1 is '2', which is no integer or null",
        ),
    ],
)
def test_what_is_no_schema_is_refused_where_it_stands(schema, problem):
    with pytest.raises(ConfigError, match=f"The JSON schema's {problem}"):
        bounded(schema)


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {"enum": [True, False, 1, None, 2.5, [1], {"a": None}]},
        {"type": "string", "enum": [Mood.GOOD]},
        {"type": ["string", "null"], "enum": ["yes", None]},
        {"type": "number", "enum": [1, 2.5]},
        {"type": "boolean", "const": True},
        {"type": "array", "prefixItems": ({"type": "string"}, {"type": "null"})},
        {"type": "string", "pattern": r"\p{Lu}"},
        {"type": "string", "default": 5, "x-own": "anything", "deprecated": True},
    ],
)
def test_what_is_a_schema_is_taken(schema):
    assert list(bounded(obj(a=schema))["properties"]) == ["a"]


def test_a_schema_as_deep_as_any_may_be_is_taken():
    schema = {"type": "integer"}
    for _ in range(97):
        schema = {"type": "array", "items": schema}
    assert bounded(obj(a=schema))
