"""Schemas under which an answer is nothing but one of some values."""

import json
from typing import Any

from llm_assets.json_schema import resolve

Value = str | int | bool

_ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "$comment", "$schema", "$id"}
_MAX_UNIONS = 3
"""Unions inside one another that are looked into. References can nest them without end."""

_TYPES: dict[str, type] = {"string": str, "integer": int, "boolean": bool}


def only_choice(schema: dict[str, Any]) -> tuple[str, list[Value]] | None:
    """Return the name and the values of a schema's only property, if those are all that an answer can hold.

    That is an object with one required property and no others, which is one of some texts, whole numbers, true and
    false. None for every other schema, and where any other keyword has a say.
    """
    top = resolve(schema, schema)
    properties = top.get("properties")
    if top.keys() - _ANNOTATIONS - {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}:
        return None
    if top.get("type") != "object" or not isinstance(properties, dict) or len(properties) != 1:
        return None
    [(name, declared)] = properties.items()
    if top.get("required") != [name] or top.get("additionalProperties", False) is not False:
        return None
    values = _values(declared, schema)
    # Told apart as JSON: in Python, 1 is True.
    return None if values is None else (name, list({json.dumps(value): value for value in values}.values()))


def _values(declared: Any, root: dict[str, Any], depth: int = 0) -> list[Value] | None:
    """The values that a schema allows, if it lists them all."""
    if not isinstance(declared, dict) or depth > _MAX_UNIONS:
        return None
    field = resolve(declared, root)
    match sorted(field.keys() - _ANNOTATIONS - {"type"}):
        case ["const"]:
            values = [field["const"]]
        case ["enum"]:
            values = field["enum"]
        case ["anyOf"] if "type" not in field:
            return _values_of_all(list(field["anyOf"]), root, depth + 1)
        case [] if field.get("type") == "boolean":
            values = [True, False]
        case _:
            return None
    types = [kind for name, kind in _TYPES.items() if field.get("type", name) == name]
    return list(values) if isinstance(values, list) and all(type(value) in types for value in values) else None


def _values_of_all(options: list[Any], root: dict[str, Any], depth: int) -> list[Value] | None:
    found: list[Value] = []
    for option in options:
        values = _values(option, root, depth)
        if values is None:
            return None
        found += values
    return found
