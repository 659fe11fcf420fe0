"""The text that is asked about: a template over the columns of a row, such as `{title}\\n{text}`."""

import hashlib
import string
from collections.abc import Mapping

from llm_assets.errors import ConfigError


class TextTemplate:
    """A template whose only placeholders are column names. Values are put in as they are and never interpreted.

    Raises:
        ConfigError: the template does not parse, names no column, or uses indexes, attributes or formats.
    """

    def __init__(self, template: str) -> None:
        self.template = template
        try:
            pieces = list(string.Formatter().parse(template))
        except ValueError as error:
            raise ConfigError(
                f"Text template {template!r} does not parse: {error}. Write {{column}}, and {{{{ or }}}} for a brace."
            ) from None
        self._pieces: list[tuple[str, str | None]] = []
        for literal, name, spec, conversion in pieces:
            if name is not None and (spec or conversion or not name.isidentifier()):
                raise ConfigError(
                    f"Text template {template!r}: {{{name}}} is not a plain column name. Write {{column}}, "
                    "without indexes, attributes or formats."
                )
            self._pieces.append((literal, name))
        self.columns = tuple(dict.fromkeys(name for _, name in self._pieces if name is not None))
        if not self.columns:
            raise ConfigError(
                f"Text template {template!r} names no column. Write the column to ask about, as {{text}}."
            )

    def render(self, values: Mapping[str, object]) -> str:
        """Return the text of a row, without white space around it, or "" when every named column is NULL or blank."""
        if all(values[name] is None or not str(values[name]).strip() for name in self.columns):
            return ""
        parts = []
        for literal, name in self._pieces:
            value = None if name is None else values[name]
            parts.append(literal + ("" if value is None else str(value)))
        return "".join(parts).strip()


def content_hash(text: str) -> str:
    """Return the hash that stands for a text in the tables: the first 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
