"""Whether a JSON schema is one: its names and values are JSON's, and its keywords hold what they may."""

import json
import math
from collections.abc import Iterator
from typing import Any

from llm_assets.errors import ConfigError

QUOTES = (
    "YAML reads yes, no, on and off as true and false, digits as numbers, 2026-01-31 as a day: write text in quotes."
)

Place = tuple[str, ...]


def placed(schema: Any, path: Place = ()) -> Iterator[tuple[dict[str, Any], Place]]:
    """Yield every subschema with the keys that lead to it, the schema itself first.

    What stands under `const`, `enum` or `default` is data, and what is no subschema is left out.
    """
    if not isinstance(schema, dict):
        return
    yield schema, path
    for key in ("properties", "$defs", "definitions", "patternProperties"):
        children = schema.get(key)
        for name, child in children.items() if isinstance(children, dict) else ():
            yield from placed(child, (*path, key, str(name)))
    for key in ("items", "additionalProperties", "not"):
        yield from placed(schema.get(key), (*path, key))
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        children = schema.get(key)
        for index, child in enumerate(children if isinstance(children, list | tuple) else ()):
            yield from placed(child, (*path, key, str(index)))


def check_value(value: object, path: Place) -> None:
    """Refuse what JSON cannot hold; of a dict, its keys are looked at.

    Raises:
        ConfigError: it is a day, say, or a key is no text.
    """
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"The JSON schema's {place(path)} has the key {key!r}, which is no text. {QUOTES}")
    elif not isinstance(value, str | int | float | list | tuple | None):
        raise ConfigError(f"The JSON schema's {place(path)} is {shown(value)}, which JSON does not have. {QUOTES}")


def check_syntax(schema: dict[str, Any]) -> None:
    """Refuse a schema that is none by the rules of JSON Schema 2020-12, or whose fixed values do not fit their type.

    Raises:
        ConfigError: which place in it is wrong, and why.
    """
    from jsonschema import Draft202012Validator, FormatChecker, SchemaError

    try:
        # As it is handed on, with lists for tuples. A pattern may be one for the compiler and none in Python.
        Draft202012Validator.check_schema(json.loads(json.dumps(schema)), format_checker=FormatChecker(()))
    except SchemaError as error:
        where = place(tuple(map(str, error.absolute_path)))
        raise ConfigError(f"The JSON schema's {where} cannot be: {error.message[:200]}.") from None
    for node, path in placed(schema):
        kinds = node.get("type", [])
        kinds = kinds if isinstance(kinds, list | tuple) else [kinds]
        fixed = [(("enum", str(index)), value) for index, value in enumerate(node.get("enum", ()))]
        fixed += [(("const",), node["const"])] if "const" in node else []
        for key, value in fixed:
            if kinds and not any(Draft202012Validator.TYPE_CHECKER.is_type(value, kind) for kind in kinds):
                raise ConfigError(
                    f"The JSON schema's {place((*path, *key))} is {shown(value)}, which is no "
                    f"{' or '.join(kinds)}. {QUOTES} Or add its type."
                )


def place(path: Place) -> str:
    """Return a path in a schema, in the middle of which much may be left out."""
    shown = path if len(path) <= 8 else (*path[:5], "...", *path[-2:])
    return ".".join(("$", *shown))[:300]


def shown(value: object) -> str:
    """Return a value as Python writes it, or so much as can be read."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return f"a number of about {int(value.bit_length() * math.log10(2))} digits"  # Python refuses to print some
    return repr(value)[:100]
