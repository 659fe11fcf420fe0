"""Text and values that satisfy a constraint, made without a model."""

import random
from typing import Any

from llm_assets.errors import ConfigError
from llm_assets.json_schema import MAX_BOUND, resolve, shortest_answers

_FORMATS = {
    "date": "2026-01-31",
    "time": "12:34:56Z",
    "date-time": "2026-01-31T12:34:56Z",
    "duration": "P1D",
    "email": "user@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_MAX_DEPTH = 8
_MAX_VALUES = 1000
_MAX_CHARACTERS = 2000


def example_value(schema: Any, root: dict[str, Any], rng: random.Random) -> Any:
    """Return a random value that is valid under a JSON schema; `root` holds its definitions.

    Raises:
        ConfigError: the schema uses something this function does not know, or its answers nest too deep.
    """
    return Examples(root, schema).value(rng)


class Examples:
    """Makes random values that are valid under a JSON schema: `root`, or another one with `root`'s definitions."""

    def __init__(self, root: dict[str, Any], schema: Any = None) -> None:
        self._root = root
        self._schema = root if schema is None else schema
        self._sizes = shortest_answers(root)

    def value(self, rng: random.Random) -> Any:
        """Return another value.

        Raises:
            ConfigError: the schema uses something this class does not know, or its answers nest too deep.
        """
        self._made = 0
        try:
            return self._value(self._schema, rng, 0)
        except RecursionError:
            raise ConfigError(
                "No answer under the JSON schema nests less deep than Python can follow. Leave properties that lead "
                "to ever more others out of 'required'."
            ) from None

    def _is_enough(self, depth: int) -> bool:
        """Whether only what must be is added: a recursive schema would go on forever."""
        return depth > _MAX_DEPTH or self._made > _MAX_VALUES

    def _size(self, schema: Any) -> float:
        return self._sizes.get(id(schema), 0)

    def _value(self, schema: Any, rng: random.Random, depth: int) -> Any:
        self._made += 1
        if schema is True or schema == {}:
            return None
        if not isinstance(schema, dict):
            raise ConfigError(f"No value is valid under the JSON schema {schema!r}.")
        schema = resolve(schema, self._root)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return rng.choice(schema["enum"])
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            ending = [option for option in options if self._size(option) <= MAX_BOUND] or options
            option = min(ending, key=self._size) if self._is_enough(depth) else rng.choice(ending)
            return self._value(option, rng, depth + 1)
        if "allOf" in schema:
            merged = {key: value for part in schema["allOf"] for key, value in resolve(part, self._root).items()}
            return self._value({**merged, **{k: v for k, v in schema.items() if k != "allOf"}}, rng, depth)
        kind = schema.get("type", "object" if "properties" in schema else None)
        if isinstance(kind, list):
            kind = rng.choice(kind)
        match kind:
            case "null" | None:
                return None
            case "boolean":
                return rng.random() < 0.5
            case "integer" | "number":
                return _number(schema, kind, rng)
            case "string":
                return _string(schema, rng)
            case "array":
                return self._array(schema, rng, depth)
            case "object":
                return self._object(schema, rng, depth)
        raise ConfigError(f"The JSON schema has the unknown type {kind!r}.")

    def _array(self, schema: dict[str, Any], rng: random.Random, depth: int) -> list[Any]:
        fixed = [self._value(item, rng, depth + 1) for item in schema.get("prefixItems", [])]
        items = schema.get("items", {})
        low = max(schema.get("minItems", 0) - len(fixed), 0)
        high = max(low, min(low + 3, schema.get("maxItems", low + 3) - len(fixed)))
        if self._is_enough(depth) or self._size(items) > MAX_BOUND:
            high = low
        return [*fixed, *(self._value(items, rng, depth + 1) for _ in range(rng.randint(low, high)))]

    def _object(self, schema: dict[str, Any], rng: random.Random, depth: int) -> dict[str, Any]:
        required = schema.get("required", [])
        made = {}
        for name, child in schema.get("properties", {}).items():
            if name not in required and (self._is_enough(depth) or self._size(child) > MAX_BOUND):
                continue
            if name in required or rng.random() < 0.7:
                made[name] = self._value(child, rng, depth + 1)
        return made


def _number(schema: dict[str, Any], kind: str, rng: random.Random) -> int | float:
    top = schema.get("maximum", schema.get("exclusiveMaximum"))
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0 if top is None else min(0, top - 100)))
    high = low + 100 if top is None else top
    if kind == "number" and "multipleOf" not in schema:
        return round(low + (high - low) * rng.uniform(0.25, 0.75), 6)
    low += "exclusiveMinimum" in schema
    high -= "exclusiveMaximum" in schema
    step = schema.get("multipleOf", 1)
    first = -(-low // step) * step
    return first + step * rng.randint(0, max(0, int((high - first) // step)))


def _string(schema: dict[str, Any], rng: random.Random) -> str:
    if "pattern" in schema:
        return derive_text("regex", schema["pattern"].removeprefix("^").removesuffix("$"), rng)
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    low = schema.get("minLength", 0)
    high = min(schema.get("maxLength", low + 12), low + 12)
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(rng.randint(low, high)))


def derive_text(kind: str, value: str, rng: random.Random) -> str:
    """Return a random text that matches a regular expression or an EBNF grammar.

    xgrammar compiles the constraint, as it does for vLLM, and says at each byte which ones may follow.

    Raises:
        ConfigError: the constraint does not compile, or has no short text; or xgrammar is not installed.
    """
    try:
        import xgrammar
    except ImportError:
        raise ConfigError(
            f"A {kind} constraint needs the package xgrammar. Install llm_assets[cpu] or [cuda]."
        ) from None
    stop = 256
    vocabulary: list[Any] = [*(bytes([byte]) for byte in range(256)), b"<end>"]
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo(vocabulary, stop_token_ids=[stop]))
    try:
        compiled = compiler.compile_regex(value) if kind == "regex" else compiler.compile_grammar(value)
    except Exception as error:  # xgrammar raises RuntimeError and errors of its C++ side
        raise ConfigError(f"The constraint compiler refuses this {kind}: {value}\nIt says: {error}") from None
    matcher = xgrammar.GrammarMatcher(compiled)
    bitmask = xgrammar.allocate_token_bitmask(1, stop + 1)
    text = bytearray()
    while len(text) < _MAX_CHARACTERS:
        matcher.fill_next_token_bitmask(bitmask)
        words = bitmask[0].tolist()
        allowed = [token for token in range(stop + 1) if words[token // 32] >> (token % 32) & 1]
        if not allowed or (stop in allowed and (len(allowed) == 1 or rng.random() < 0.3)):
            return text.decode()
        # Plain letters where they may stand; any byte at all would start multi-byte characters.
        plain = [token for token in allowed if 32 <= token < 127] or [token for token in allowed if token != stop]
        token = rng.choice(plain)
        matcher.accept_token(token)
        text.append(token)
    raise ConfigError(f"No text of less than {_MAX_CHARACTERS} characters was found for this {kind}: {value}")
