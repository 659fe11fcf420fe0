"""Values, rows and texts made fit to be shown in Dagster's UI: short, masked, and without any effect there."""

import json
import re
from collections.abc import Mapping, Sequence

import dagster as dg

from llm_assets.errors import printable
from llm_assets.secrets import masked

PREFIX = "llm_assets/"
"""What this package's keys in metadata begin with."""

CELL_CHARACTERS = 160
TABLE_COLUMNS = 40
TABLE_BYTES = 30_000
"""A table of metadata is at most so large as JSON: its cells are cut until it is."""

Cell = str | int | float | bool | None


def plain(value: object, characters: int = CELL_CHARACTERS) -> Cell:
    """Return a value as it can be shown: short, on one line, without secrets and control characters."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else plain(str(value), characters)
    if isinstance(value, float):
        return round(value, 4)
    # Masked before it is cut: half of a secret would not be found.
    text = masked(str(value)[: 100 * CELL_CHARACTERS])
    text = printable(re.sub(r"\s+", " ", text))
    return text if len(text) <= characters else text[: characters - 1] + "…"


def records_table(
    rows: Sequence[Mapping[str, object]],
    types: Mapping[str, str] | None = None,
    descriptions: Mapping[str, str] | None = None,
) -> dg.TableMetadataValue:
    """Return rows as a table of metadata, whose size is bounded.

    Args:
        rows: One or more, with the same columns.
        types: Types of columns, by name; `string` where there is none.
        descriptions: Descriptions of columns, by name.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))[:TABLE_COLUMNS]
    characters = CELL_CHARACTERS
    records = _cells(rows, names, characters)
    while len(json.dumps(records)) > TABLE_BYTES and characters > 10:
        characters //= 2
        records = _cells(rows, names, characters)
    return dg.MetadataValue.table(
        records=[dg.TableRecord(record) for record in records],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn(
                    name,
                    type=(types or {}).get(name, "string"),
                    description=masked((descriptions or {}).get(name, ""))[:CELL_CHARACTERS] or None,
                )
                for name in names
            ]
        ),
    )


def _cells(rows: Sequence[Mapping[str, object]], names: Sequence[str], characters: int) -> list[dict[str, Cell]]:
    return [{name: plain(row.get(name), characters) for name in names} for row in rows]


def markdown(text: str) -> str:
    """Return text for a place that the UI takes for Markdown, in which it is to stand as it is."""
    return re.sub(r"([\\`*_<\[\]])", r"\\\1", text)


def code_block(text: str, language: str = "") -> str:
    """Return text as a block of code in Markdown, which nothing in the text can end."""
    text = printable(text)
    fence = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=0) + 3)
    return f"{fence}{language}\n{text}\n{fence}"


def code_span(text: str) -> str:
    """Return text as code inside a line of Markdown, which nothing in the text can end."""
    line = " ".join(printable(text).split())
    fence = "`" * (max((len(run) for run in re.findall(r"`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}"


def middle_cut(text: str, characters: int) -> str:
    """Return the beginning and the end of a text that is longer than so many characters."""
    if len(text) <= characters:
        return text
    half = characters // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters are not shown ...]\n{text[-half:]}"
