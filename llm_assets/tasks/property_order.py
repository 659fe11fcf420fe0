"""The order of properties that a prompt does not tell: the constraint keeps to it, so answers depend on it."""

from typing import Any

from llm_assets.json_schema import resolve
from llm_assets.json_schema_syntax import placed


def untold_orders(schema: dict[str, Any]) -> dict[str, list[str]]:
    """Return the properties, in their order, of the objects whose properties `describe` does not name, by place."""
    told = _told(schema)
    return {
        "/".join(path): list(node["properties"])
        for node, path in placed(schema)
        if len(node.get("properties", ())) > 1 and id(node["properties"]) not in told
    }


def _told(schema: dict[str, Any]) -> set[int]:
    """The ids of the `properties` that `describe` names: the outermost, and those of objects that stand in them."""
    top = resolve(schema, schema)
    told = {id(top["properties"])}
    waiting = [(declared, 0) for declared in top["properties"].values()]
    seen: set[tuple[int, int]] = set()
    while waiting:
        declared, depth = waiting.pop()
        if not isinstance(declared, dict) or depth > 3 or (id(declared), depth) in seen:
            continue
        seen.add((id(declared), depth))
        field = resolve(declared, schema)
        options = field.get("anyOf") or field.get("oneOf")
        if options:
            waiting += [(option, depth + 1) for option in options]
        elif field.get("type") == "array":
            waiting.append((field.get("items"), depth + 1))
        elif field.get("type") == "object" and "properties" in field:
            told.add(id(field["properties"]))
    return told
