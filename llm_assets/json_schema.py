"""JSON schemas of answers: bounded so that an answer ends, and read as columns."""

import copy
import importlib
import math
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from llm_assets.errors import ConfigError
from llm_assets.json_schema_syntax import check_syntax, check_value, place, placed, shown
from llm_assets.records import Column, ColumnType

MAX_STRING_LENGTH = 200
"""Characters allowed to a string whose schema sets no bound. Without one, a string can fill the whole token limit."""

MAX_ITEMS = 16
"""Items allowed to a list whose schema sets no bound."""

# What a schema may ask for. xgrammar takes a second for a hundred objects inside one another and minutes for 500; it
# takes 0.1 seconds for an enum of 10,000 values and 14 for 20,000. The rest is more than any answer holds.
MAX_DEPTH = 100
"""Dicts and lists inside one another in a schema. What a `$ref` points to is not inside."""

MAX_VALUES = 20_000
"""Values of any kind that a schema is written in."""

MAX_CHOICES = 5000
"""Values of one enum or union, or choices of a task."""

MAX_BOUND = 100_000
"""The highest bound of a length or a count, and the longest that the shortest answer may be."""

MAX_REFERENCES = 100
"""References that lead from one straight to the next."""

_COUNTS = {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
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
        reference = str(schema["$ref"])
        if reference in followed:
            raise ConfigError(f"The JSON schema's {reference!r} refers to nothing but itself.")
        followed.add(reference)
        if len(followed) > MAX_REFERENCES:
            raise ConfigError(
                f"The JSON schema follows more than {MAX_REFERENCES} references, one to the next, and is at "
                f"{reference!r}. Refer to what is meant at once."
            )
        target = _target(reference, root)
        if not isinstance(target, dict):
            raise ConfigError(f"The JSON schema refers to {reference!r}, which it does not define.")
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def _target(reference: object, root: dict[str, Any]) -> Any:
    """What a local reference points to; None if that is nothing."""
    target: Any = root
    for part in str(reference).removeprefix("#/").split("/") if reference != "#" else ():
        target = target.get(part) if isinstance(target, dict) else None
    return target


def bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with a length for every open string and list, and no properties but the named ones.

    Raises:
        ConfigError: the schema asks for more than `check_size` allows.
    """
    check_size(schema)
    result = copy.deepcopy(schema)
    for node in subschemas(result):
        kinds = node.get("type")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if "string" in kinds and not node.keys() & {"maxLength", "pattern", "format", "enum", "const"}:
            node["maxLength"] = max(MAX_STRING_LENGTH, node.get("minLength", 0))
        if "array" in kinds and not node.keys() & {"maxItems", "prefixItems"}:
            node["maxItems"] = max(MAX_ITEMS, node.get("minItems", 0))
        if "object" in kinds and "properties" in node:
            node.setdefault("additionalProperties", False)
    return result


def subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every subschema, the schema itself first. What stands under `const`, `enum` or `default` is data."""
    return (node for node, _ in placed(schema))


def check_size(schema: dict[str, Any]) -> None:
    """Refuse a schema that no compiler should be given, or under which no answer ends.

    Raises:
        ConfigError: it is too deep or too large, a bound or a list in it is, its shortest answer is too long, or it is
            no JSON schema.
    """
    _check_extent(schema)
    for node, path in placed(schema):
        for key, value in node.items():
            _check_keyword(key, value, path)
    check_syntax(schema)
    shortest = shortest_answers(schema).get(id(schema), 0)
    if shortest > MAX_BOUND:
        how_long = "has no end" if shortest == math.inf else f"has about {shortest:,.0f} characters"
        raise ConfigError(
            f"The shortest answer under the JSON schema {how_long}; {MAX_BOUND:,} are allowed. Lower minItems and "
            "minLength, and take properties that refer to their own schema, or to ever more others, out of 'required'."
        )


def _check_extent(schema: dict[str, Any]) -> None:
    """Look at everything the schema is written in; without recursion, for which a schema can be too deep."""
    waiting: list[tuple[Any, tuple[str, ...]]] = [(schema, ())]
    seen = 0
    while waiting:
        value, path = waiting.pop()
        seen += 1
        if len(path) > MAX_DEPTH:
            raise ConfigError(
                f"The JSON schema is nested more than {MAX_DEPTH} levels deep, at {place(path)}. Make it flatter; "
                "what nests in itself is defined once under '$defs' and referred to with '$ref'."
            )
        if seen > MAX_VALUES:
            raise ConfigError(
                f"The JSON schema is written in more than {MAX_VALUES} values, at {place(path)}. Define what repeats "
                "once under '$defs', or ask for less in each task."
            )
        if isinstance(value, list | tuple) and len(value) > MAX_CHOICES:
            raise ConfigError(
                f"The JSON schema's {place(path)} has {len(value)} entries. Write {MAX_CHOICES} or less; in place of "
                "a long enum, a string with a maxLength."
            )
        check_value(value, path)
        if isinstance(value, dict):
            waiting.extend((child, (*path, str(key))) for key, child in value.items())
        elif isinstance(value, list | tuple):
            waiting.extend((child, (*path, str(index))) for index, child in enumerate(value))


def _check_keyword(key: str, value: Any, path: tuple[str, ...]) -> None:
    if key in _COUNTS and (type(value) is not int or not 0 <= value <= MAX_BOUND):
        raise ConfigError(
            f"The JSON schema's {place((*path, key))} is {shown(value)}. Write a whole number from 0 to {MAX_BOUND}; "
            "no answer has more than that."
        )
    if key in _NUMBERS and isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(
            f"The JSON schema's {place((*path, key))} is {shown(value)}, which no integer column holds. Write a "
            "number from -2**63 to 2**63 - 1, or leave it out."
        )
    if key == "pattern" and isinstance(value, str):
        check_regex(value)


def shortest_answers(schema: dict[str, Any]) -> dict[int, float]:
    """Return about how many characters the shortest answer under each subschema has, by the subschema's id.

    Infinite where an answer never ends. Each round knows more than the last about what references point to.
    """
    nodes = list(subschemas(schema))
    sizes = dict.fromkeys(map(id, nodes), math.inf)
    targets = {id(node): _target(node["$ref"], schema) for node in nodes if "$ref" in node}
    for _ in range(MAX_REFERENCES):
        before = dict(sizes)
        for node in reversed(nodes):  # what is inside comes first
            sizes[id(node)] = _shortest(node, sizes, targets)
        if sizes == before:
            break
    return sizes


def _shortest(node: dict[str, Any], sizes: dict[int, float], targets: dict[int, Any]) -> float:
    def of(child: Any) -> float:
        # What is no subschema that we know is left to the compiler.
        return math.inf if child is False else sizes.get(id(child), 0)

    if id(node) in targets:
        return 1 + of(targets[id(node)])
    if "const" in node or "enum" in node:
        return 1
    size = 1 + max((of(part) for part in node.get("allOf", ())), default=0)
    for key in ("anyOf", "oneOf"):
        if node.get(key):
            size = max(size, 1 + min(of(option) for option in node[key]))
    kinds = node.get("type")
    if kinds == "string":
        size = max(size, node.get("minLength", 0) + 2)
    elif kinds == "array":
        fixed, count = node.get("prefixItems", ()), node.get("minItems", 0)
        items = [of(item) for item in fixed[:count]]
        rest = count - len(items)
        size = max(size, 2 + sum(items) + (rest * (1 + of(node.get("items"))) if rest else 0))
    elif kinds == "object":
        named, required = node.get("properties", {}), node.get("required", ())
        names = [name for name in required if name in named] if isinstance(required, list | tuple) else []
        size = max(size, 2 + sum(len(name) + 4 + of(named[name]) for name in names))
    return size


_REGEX_PART = re.compile(
    r"\\.|\[(?:\\.|[^\]\\])*\]|\((?:\?(?:[:=!]|<[=!]|<\w+>))?|\)|\{(\d+)(?:,(\d*))?\}|.", re.DOTALL
)


def check_regex(regex: str) -> None:
    """Refuse a regular expression whose counted repetitions, one inside the other, repeat something too often.

    Raises:
        ConfigError: they multiply to more than an answer can have.
    """
    groups, last = [1], 1
    """For each open group, and for the last part read, how often its most repeated part repeats."""
    for part in _REGEX_PART.finditer(regex):
        if part[0].startswith("("):
            groups.append(1)
        elif part[0] == ")" and len(groups) > 1:
            last = groups.pop()
        elif part[1]:
            digits = part[2] or part[1]
            last *= max(1, int(digits) if len(digits) < 10 else 10**9)
            if last > MAX_BOUND:
                raise ConfigError(
                    f"The regular expression {regex[:300]!r} repeats something {last:,} times with {part[0]!r} and the "
                    f"repetitions inside it. {MAX_BOUND:,} times are allowed; lower the numbers."
                )
        else:
            last = 1
        groups[-1] = max(groups[-1], last)


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
    known: dict[tuple[int, int], str] = {}
    for name, declared in top["properties"].items():
        text = f"- {name}: {_describe_values(declared, schema, known)}"
        description = declared.get("description") if isinstance(declared, dict) else None
        lines.append(f"{text}. {description}" if description else text)
    return "\n".join(lines)


_MAX_DESCRIPTION = 2000


def _describe_values(declared: Any, root: dict[str, Any], known: dict[tuple[int, int], str], depth: int = 0) -> str:
    # `true` is a schema too, and one that refers to itself is described as far as anybody reads.
    if not isinstance(declared, dict) or depth > 3:
        return "any value"
    # Unions that refer to one another have more descriptions than can be written, but few different ones.
    key = (id(declared), depth)
    if key not in known:
        known[key] = _describe(resolve(declared, root), root, known, depth)
    return known[key]


def _describe(field: dict[str, Any], root: dict[str, Any], known: dict[tuple[int, int], str], depth: int) -> str:
    options = field.get("anyOf") or field.get("oneOf")
    if options:
        texts = dict.fromkeys(_describe_values(option, root, known, depth + 1) for option in options)
        text = " or ".join(texts)
        return "any value" if depth and len(text) > _MAX_DESCRIPTION else text
    if "enum" in field:
        return "one of " + ", ".join(str(value) for value in field["enum"])
    if "const" in field:
        return str(field["const"])
    kind = field.get("type", "any value")
    if kind == "array":
        return f"list of {_describe_values(field.get('items', {}), root, known, depth + 1)}"
    if kind == "object" and "properties" in field:
        return "object with " + ", ".join(field["properties"])
    return " or ".join(kind) if isinstance(kind, list) else str(field.get("format", kind))
