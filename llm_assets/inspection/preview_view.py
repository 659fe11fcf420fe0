"""A preview on the terminal: rows as lines and variants as columns; one below another where they do not fit."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_assets.inspection.answers import outcome_text
from llm_assets.inspection.preview import Column, Preview, PreviewRow
from llm_assets.inspection.show import line, literal, shorten
from llm_assets.records import Failure, Key

COLUMN_WIDTH = 18
"""A column of answers narrower than this cannot be read."""


def print_preview(console: Console, found: Preview, model: str) -> None:
    """Print rows with their answers, and below them how the variants did."""
    if console.width >= COLUMN_WIDTH * (len(found.columns) + 2):
        console.print(_table(found, model))
    else:
        for row in found.rows:
            _print_row(console, found, row, model)
    if len(found.columns) > 1:
        share = found.differing / len(found.rows)
        line(console, f"The variants differ in {found.differing} of {len(found.rows)} rows ({share:.0%}).", "bold")
    for column in found.columns:
        line(console, f"{_name(column, model)}: {_means(column)}")
    line(console, "Nothing was written. The number behind an answer is its confidence.", "dim")


def key_text(key: Key) -> str:
    """Return a key to be shown: its values with spaces between them."""
    return shorten(" ".join(str(value) for value in key), 40)


def outcome_cell(row: PreviewRow, number: int, column: Column, limit: int = 120) -> Text:
    """Return what came of a row in a variant, to be shown."""
    outcome = row.outcomes[number]
    return literal(outcome_text(column.variant.task, outcome, limit), "red" if isinstance(outcome, Failure) else "")


def _name(column: Column, model: str) -> str:
    return shorten(column.variant.label, 100) or model


def _table(found: Preview, model: str) -> Table:
    table = Table(box=box.ROUNDED, show_lines=True)
    table.add_column("key", overflow="fold", max_width=20)
    table.add_column("text", overflow="fold", ratio=2)
    for column in found.columns:
        table.add_column(literal(_name(column, model)), overflow="fold", ratio=2)
    for row in found.rows:
        cells = [outcome_cell(row, number, column) for number, column in enumerate(found.columns)]
        mark = " ≠" if row.differs else ""
        table.add_row(literal(key_text(row.key) + mark), literal(shorten(row.text, 160)), *cells)
    return table


def _print_row(console: Console, found: Preview, row: PreviewRow, model: str) -> None:
    line(console, f"{key_text(row.key)}{' (differs)' if row.differs else ''}", "bold")
    line(console, shorten(row.text, 160), "dim")
    for number, column in enumerate(found.columns):
        text = Text.assemble((f"{_name(column, model)}: ", "cyan") if len(found.columns) > 1 else "")
        console.print(text + outcome_cell(row, number, column))
    console.print()


def _means(column: Column) -> str:
    parts = []
    if column.confidence is not None:
        parts.append(f"mean confidence {column.confidence:.2f}")
    if column.prompt_tokens is not None and column.output_tokens is not None:
        parts.append(f"{column.prompt_tokens:,.0f} prompt and {column.output_tokens:,.1f} output tokens a row")
    if column.failed:
        parts.append(f"{column.failed} failed")
    return ", ".join(parts)
