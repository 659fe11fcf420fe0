"""The JSON schema of settings as they stand in a YAML file: for `dg check yaml`, for editors, and for messages."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llm_assets.engines.vllm.settings import REFUSED, engine_argument_names

Schema = dict[str, Any]

TEMPLATE: Schema = {"type": "string", "pattern": r"\{\{|\{%"}
_TEXT = ("title", "description", "default", "examples")


class SettingsSchema:
    """What pydantic's JSON schema of a model says about a place in a file."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def names(self, path: Sequence[str | int], values: Any) -> list[str]:
        """Return the settings that there are at a place."""
        found = [name for schema in self._at(path, values) for name in schema.get("properties", {})]
        return list(dict.fromkeys(found))

    def kinds(self, path: Sequence[str | int], values: Any) -> list[str]:
        """Return the types that a thing at a place can have."""
        *before, last = path
        kinds: list[str] = []
        for schema in self._at(before, values):
            for part in self._inside(schema, last):
                kinds += self._tags(part)
        return list(dict.fromkeys(kinds))

    def description(self, path: Sequence[str | int], values: Any) -> str:
        """Return what a setting is for; empty if nothing says so."""
        *before, last = path
        found = [part for schema in self._at(before, values) for part in self._inside(schema, last)]
        return next((part["description"] for part in found if "description" in part), "")

    def _at(self, path: Sequence[str | int], values: Any) -> list[Schema]:
        """Return the schemas that the value at a place may have."""
        schemas = list(self._members(self._schema, values))
        for part in path:
            values = values[part] if has(values, part) else None
            inside = [each for schema in schemas for each in self._inside(schema, part)]
            schemas = [member for each in inside for member in self._members(each, values)]
        return schemas

    def _inside(self, schema: Schema, part: str | int) -> list[Schema]:
        found = schema.get("items") if isinstance(part, int) else schema.get("properties", {}).get(part)
        found = found or schema.get("additionalProperties")
        return [found] if isinstance(found, dict) else []

    def _members(self, schema: Schema, value: Any) -> Iterator[Schema]:
        """Yield what a schema stands for: what it refers to, and the members of a union that may be meant."""
        if "$ref" in schema:
            yield from self._members(self._schema["$defs"][schema["$ref"].rpartition("/")[2]], value)
            return
        for member in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
            kind = self._kind(member)
            if kind is None or not isinstance(value, Mapping) or value.get("type", kind) == kind:
                yield from self._members(member, value)
        yield schema

    def _tags(self, schema: Schema) -> list[str]:
        members = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
        kind = self._kind(schema)
        return [*([kind] if kind else []), *(tag for member in members for tag in self._tags(member))]

    def _kind(self, schema: Schema) -> str | None:
        """The type that things of a schema say they are."""
        if "$ref" in schema:
            schema = self._schema["$defs"][schema["$ref"].rpartition("/")[2]]
        return schema.get("properties", {}).get("type", {}).get("const")

    def for_files(self) -> Schema:
        """Return the schema by which a file is checked without being loaded, and completed in an editor.

        In place of any value a template may stand. A union becomes a chain of conditions on `type`, because a checker
        says of a union only that no member fits, and of a condition what is wrong and where.
        """
        schema = self._walk(self._schema)
        schema["$defs"] = {name: self._walk(part) for name, part in self._schema.get("$defs", {}).items()}
        return schema

    def _walk(self, schema: Schema) -> Schema:
        result = {name: value for name, value in schema.items() if name not in ("$defs", "discriminator", "oneOf")}
        if "properties" in schema:
            result["properties"] = {
                name: part if name == "type" and "const" in part else self._or_template(part)
                for name, part in schema["properties"].items()
            }
            if "engine_args" in schema["properties"]:
                result |= _engine_arguments(result["properties"])
        for name in ("items", "additionalProperties"):
            if isinstance(schema.get(name), dict):
                result[name] = self._or_template(schema[name])
        if "anyOf" in schema:
            members = [member for member in schema["anyOf"] if member != {"type": "null"}]
            if len(members) == 1 and len(schema["anyOf"]) == 2:
                del result["anyOf"]
                return {**result, "if": {"type": "null"}, "else": self._walk(members[0])}
            result["anyOf"] = [self._walk(member) for member in schema["anyOf"]]
        if "oneOf" in schema:
            result |= self._by_type(schema)
        return result

    def _or_template(self, schema: Schema) -> Schema:
        if schema.get("type") == "string" and not schema.keys() & {"enum", "const", "pattern"}:
            return schema
        walked = self._walk(schema)
        text = {name: walked.pop(name) for name in _TEXT if name in walked}
        return {**text, "if": TEMPLATE, "else": walked}

    def _by_type(self, schema: Schema) -> Schema:
        if not any(map(self._kind, schema["oneOf"])):
            [settings, text] = schema["oneOf"]
            return {"if": {"type": "object"}, "then": settings, "else": text}
        kinds = {kind: member for member in schema["oneOf"] if (kind := self._kind(member))}
        others = [member for member in schema["oneOf"] if self._kind(member) is None]
        conditions = [
            {"if": {"properties": {"type": {"const": kind}}, "required": ["type"]}, "then": member}
            for kind, member in kinds.items()
        ]
        checked: Schema = {"properties": {"type": {"enum": list(kinds)}}, "allOf": conditions}
        if "discriminator" in schema:
            checked["required"] = ["type"]
        else:  # what is of no type is of the first
            conditions.append({"if": {"not": {"required": ["type"]}}, "then": next(iter(kinds.values()))})
        if not others:
            return {"type": "object", **checked}
        return {"if": {"type": "object"}, "then": checked, "else": others[0]}


def _engine_arguments(properties: Schema) -> Schema:
    """vLLM's own arguments stand beside ours; which there are is known where vLLM is installed."""
    names = engine_argument_names() - REFUSED.keys()
    if not names:
        return {"additionalProperties": True}
    return {"properties": {**{name: {} for name in sorted(names)}, **properties}, "additionalProperties": False}


def has(values: Any, part: str | int) -> bool:
    """Whether a YAML value has a key, or a list an item of that number."""
    if isinstance(values, Mapping):
        return part in values
    return isinstance(values, list) and part in range(len(values))
