"""JSON schemas of answers: bounded so that an answer ends, and read as columns."""

import copy
import importlib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from llm_assets.errors import ConfigError
from llm_assets.records import Column, ColumnType

MAX_STRING_LENGTH = 200
"""Characters allowed to a string whose schema sets no bound. Without one, a string can fill the whole token limit."""

MAX_ITEMS = 16
"""Items allowed to a list whose schema sets no bound."""

_TYPES: dict[str, ColumnType] = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "object": "json",
    "array": "json",
}
_FORMATS: dict[str, ColumnType] = {"date": "date", "date-time": "datetime"}


def import_model(path: str) -> type[BaseModel]:
    """Return the pydantic model that `package.module:Class` names.

    Raises:
        ConfigError: nothing can be imported there, or it is no pydantic model.
    """
    module_name, _, class_name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"Schema {path!r} cannot be imported: {error}. Write 'package.module:Class', or the JSON schema itself."
        ) from None
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise ConfigError(f"Schema {path!r} is {found!r}, which is no pydantic model.")
    return found


def resolve(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Follow a local `$ref`; keys beside it win over those of what it points to."""
    followed: set[str] = set()
    while "$ref" in schema:
        reference = schema["$ref"]
        if reference in followed:
            raise ConfigError(f"The JSON schema's {reference!r} refers to nothing but itself.")
        followed.add(reference)
        target: Any = root
        for part in str(reference).removeprefix("#/").split("/"):
            if not isinstance(target, dict) or part not in target:
                raise ConfigError(f"The JSON schema refers to {reference!r}, which it does not define.")
            target = target[part]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with a length for every open string and list, and no properties but the named ones."""
    result = copy.deepcopy(schema)
    for node in _nodes(result):
        kinds = node.get("type")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if "string" in kinds and not node.keys() & {"maxLength", "pattern", "format", "enum", "const"}:
            node["maxLength"] = max(MAX_STRING_LENGTH, node.get("minLength", 0))
        if "array" in kinds and not node.keys() & {"maxItems", "prefixItems"}:
            node["maxItems"] = max(MAX_ITEMS, node.get("minItems", 0))
        if "object" in kinds and "properties" in node:
            node.setdefault("additionalProperties", False)
    return result


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every subschema, the schema itself first. What stands under `const`, `enum` or `default` is data."""
    if not isinstance(schema, dict):
        return
    yield schema
    for key in ("properties", "$defs", "definitions", "patternProperties"):
        for child in schema.get(key, {}).values():
            yield from _nodes(child)
    for key in ("items", "additionalProperties", "not"):
        yield from _nodes(schema.get(key))
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for child in schema.get(key, []):
            yield from _nodes(child)


def schema_columns(schema: dict[str, Any]) -> tuple[Column, ...]:
    """Return one typed column for each property of an object schema.

    Raises:
        ConfigError: the schema is no object with properties.
    """
    top = resolve(schema, schema)
    properties = top.get("properties")
    if top.get("type") != "object" or not isinstance(properties, dict) or not properties:
        raise ConfigError(
            f"The schema of an Extract task must be an object with properties, which become columns; got type "
            f"{top.get('type')!r} with properties {list(properties or [])}."
        )
    columns = []
    for name, declared in properties.items():
        declared = declared if isinstance(declared, dict) else {}  # `true` is a schema too
        field = resolve(declared, schema)
        comment = declared.get("description") or field.get("description") or field.get("title") or name
        columns.append(Column(name, _column_type(field, schema), str(comment)))
    return tuple(columns)


def _column_type(field: dict[str, Any], root: dict[str, Any]) -> ColumnType:
    """The type that holds every value the schema allows; JSON when they differ."""
    found: set[ColumnType] = set()
    for option in field.get("anyOf") or field.get("oneOf") or [field]:
        node = resolve(option, root)
        values = node.get("enum", [node["const"]] if "const" in node else None)
        kinds = node.get("type")
        if kinds is not None:
            names = kinds if isinstance(kinds, list) else [kinds]
            found |= {_FORMATS.get(node.get("format", ""), _TYPES.get(n, "json")) for n in names if n != "null"}
        elif values is not None:
            found |= {_value_type(value) for value in values if value is not None}
        else:
            found.add("json")
    if found == {"integer", "number"}:
        return "number"
    return found.pop() if len(found) == 1 else "json"


def _value_type(value: object) -> ColumnType:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "text" if isinstance(value, str) else "json"


def describe(schema: dict[str, Any]) -> str:
    """Return one line for each property: its name, what it may hold, and its description."""
    top = resolve(schema, schema)
    lines = []
    for name, declared in top["properties"].items():
        text = f"- {name}: {_describe_values(declared, schema)}"
        description = declared.get("description") if isinstance(declared, dict) else None
        lines.append(f"{text}. {description}" if description else text)
    return "\n".join(lines)


def _describe_values(declared: Any, root: dict[str, Any], depth: int = 0) -> str:
    # `true` is a schema too, and one that refers to itself is described as far as anybody reads.
    if not isinstance(declared, dict) or depth > 3:
        return "any value"
    field = resolve(declared, root)
    options = field.get("anyOf") or field.get("oneOf")
    if options:
        return " or ".join(_describe_values(option, root, depth + 1) for option in options)
    if "enum" in field:
        return "one of " + ", ".join(str(value) for value in field["enum"])
    if "const" in field:
        return str(field["const"])
    kind = field.get("type", "any value")
    if kind == "array":
        return f"list of {_describe_values(field.get('items', {}), root, depth + 1)}"
    if kind == "object" and "properties" in field:
        return "object with " + ", ".join(field["properties"])
    return " or ".join(kind) if isinstance(kind, list) else str(field.get("format", kind))
