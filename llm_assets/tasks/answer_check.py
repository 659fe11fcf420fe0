"""Answers held against their JSON schema, where the constraint may have let one through that does not fit."""

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from llm_assets.json_schema import subschemas

_WITHOUT_EFFECT = {
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    *("$comment", "$schema", "$id", "$defs", "definitions"),
}

_WITH_A_TYPE = {
    *("properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems"),
    *("minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}

_NOT_COMPILED = re.compile(r"\(\?(?!:)|\\[A-Zb]|(?!^)\^|\$(?!$)")
"""Of a pattern, xgrammar leaves out what looks around and anchors inside, and takes \\A and \\Z for letters."""


def is_kept(schema: dict[str, Any]) -> bool:
    """Whether vLLM's compilers allow no answers but those that fit the schema.

    xgrammar ignores keywords that it does not know, and those beside `$ref`, `anyOf`, `enum`, `const`, `pattern` or
    `format`; llguidance follows them or refuses the schema.
    """
    return all(map(_is_kept, subschemas(schema)))


def _is_kept(node: dict[str, Any]) -> bool:
    match list(node.keys() - _WITHOUT_EFFECT - {"type"}):
        case []:
            return True
        case ["enum" | "const" | "format"]:
            return True
        case ["pattern"]:
            return _NOT_COMPILED.search(str(node["pattern"])) is None
        case ["$ref" | "anyOf"]:
            return "type" not in node
        case keys:
            return "type" in node and _WITH_A_TYPE.issuperset(keys)


def schema_check(schema: dict[str, Any]) -> Callable[[Any], None]:
    """Return what raises a ValueError for an answer that does not fit the schema."""
    from jsonschema import ValidationError
    from jsonschema.validators import extend, validator_for

    def multiple_of(_: Any, divisor: float, value: Any, __: Any) -> Iterator[ValidationError]:
        # In decimals, as both are written: of floats, 19.99 is no multiple of 0.01.
        if type(value) in (int, float) and Decimal(str(value)) % Decimal(str(divisor)):
            yield ValidationError(f"{value} is not a multiple of {divisor}")

    validator = extend(validator_for(schema), {"multipleOf": multiple_of})(schema)

    def check(fields: Any) -> None:
        try:
            validator.validate(fields)
        except ValidationError as error:
            where = ".".join(map(str, error.absolute_path)) or "answer"
            reason = error.message  # which ends with what is wrong about the value that it begins with
            reason = reason if len(reason) <= 200 else f"{reason[:100]} [...] {reason[-90:]}"
            raise ValueError(f"{where}: {reason}") from None
        except Exception:  # a pattern that is none in Python, say: then the engine has the only word
            return

    return check
