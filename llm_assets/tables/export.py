"""A table as CSV, for spreadsheets and other programs."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO
from unicodedata import normalize

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, NoSuchTableError

from llm_assets.errors import ConfigError, DatabaseError, did_you_mean
from llm_assets.tables.columns import UNSTORABLE
from llm_assets.tables.database import Database, reason_of

FETCH_ROWS = 1000

FORMULA_SIGNS = ("=", "+", "-", "@", "\N{MINUS SIGN}")
"""What a formula begins with. In their full width and small forms these count too."""

HIDDEN_SIGNS = ("\t", "\r", "\n", "\0")
"""What spreadsheets drop at the beginning of a cell, or take for the end of the one before."""


def export_csv(database: Database, table: str, stream: TextIO, schema: str | None = None, raw: bool = False) -> int:
    """Write a table or view to a text stream as CSV; return how many rows it has.

    The first line names the columns. Rows come in the order of the primary key if there is one, a thousand at a time,
    from one transaction. Text stands in quotes and NULL is empty, so NULL and empty text differ. JSON is compact, and
    times are ISO 8601: with their offset from UTC where the column has a zone, and as they were stored where it has
    none; SQLite has none, and there the times that this package writes are UTC.

    Text that a spreadsheet would take for a formula gets an apostrophe before it, unless `raw`. Columns of numbers are
    left alone.

    Raises:
        DatabaseError: the database cannot be opened, or has no such table or schema, or the table cannot be read.
    """
    database.check()
    try:
        inspector = sa.inspect(database.engine)
        schemas = inspector.get_schema_names()
        if schema and schema not in schemas:
            raise DatabaseError(f"There is no schema {schema!r} in {database.name}. {did_you_mean(schema, schemas)}")
        try:
            types = {column["name"]: column["type"] for column in inspector.get_columns(table, schema=schema)}
        except NoSuchTableError:
            tables = [*inspector.get_table_names(schema), *inspector.get_view_names(schema)]
            raise DatabaseError(
                f"There is no table {table!r} in {database.name}. {did_you_mean(table, tables)}"
            ) from None
        key = inspector.get_pk_constraint(table, schema=schema)["constrained_columns"]
        # Columns without a type, as in a source: what a SQLite file holds need not be what the table declares.
        found = sa.table(table, *map(sa.column, types), schema=schema)
        # JSON as its text: a driver that reads it makes no difference between the text "1" and the number.
        columns = [found.c[name].cast(sa.Text) if _is_json(kind) else found.c[name] for name, kind in types.items()]
        query = sa.select(*columns).order_by(*(found.c[name] for name in key))
        writers = [_writer(kind, raw) for kind in types.values()]
        stream.write(",".join(_quoted(name if raw else unformulaic(name)) for name in types) + "\r\n")
        count = 0
        with database.engine.connect().execution_options(yield_per=FETCH_ROWS) as connection:
            for row in connection.execute(query):
                stream.write(",".join(write(value) for write, value in zip(writers, row, strict=True)) + "\r\n")
                count += 1
        stream.flush()
    except DBAPIError as error:
        raise DatabaseError(
            f"The table {table!r} in {database.name} cannot be read: {reason_of(error)}. Check the right to read it."
        ) from None
    return count


def export_file(database: Database, table: str, path: Path, schema: str | None = None, raw: bool = False) -> int:
    """Write a table or view to a file as `export_csv` does. The file appears, or is replaced, when it is complete.

    Raises:
        DatabaseError: as in `export_csv`.
        ConfigError: the file cannot be written.
    """
    try:
        with _complete_file(path) as stream:
            return export_csv(database, table, stream, schema, raw)
    except OSError as error:
        raise ConfigError(
            f"The file {str(path)!r} cannot be written: {error.strerror or error}. Choose another place for it."
        ) from None


@contextmanager
def _complete_file(path: Path) -> Iterator[TextIO]:
    """Open a file beside `path` that takes its place when the block ends well, and is removed when it does not."""
    path = path.resolve()  # the file that a link leads to is replaced, and not the link
    if path.exists() and not path.is_file():
        # A device or a pipe, which can be written to and must stay what it is.
        with path.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("x", encoding="utf-8", newline="") as stream:
            yield stream
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def unformulaic(text: str) -> str:
    """Return text that a spreadsheet shows as text: with an apostrophe before what it would take for a formula."""
    first = next((character for character in text if character.isprintable() and not character.isspace()), "")
    is_formula = normalize("NFKC", first) in FORMULA_SIGNS
    return f"'{text}" if is_formula or text[:1] in HIDDEN_SIGNS else text


def _writer(kind: Any, raw: bool) -> Callable[[object], str]:
    """Return what writes the values of a column of some type as cells."""
    is_json = _is_json(kind)
    is_boolean = isinstance(kind, sa.Boolean)
    is_time = isinstance(kind, sa.DateTime)

    def write(value: object) -> str:
        match value:
            case None:
                return ""
            case bool():
                return str(value).lower()
            case int() if is_boolean and value in (0, 1):
                return str(bool(value)).lower()
            case int() | float() | Decimal():
                return str(value)
            case datetime():
                return (value.astimezone(UTC) if value.tzinfo else value).isoformat()
            case date() | time():
                return value.isoformat()
            case dict() | list():
                return _quoted(_json(value))
            case bytes() | memoryview():
                return _quoted(f"\\x{bytes(value).hex()}")
        text = str(value)
        try:
            if is_json:
                return _quoted(_json(json.loads(text)))
            if is_time:
                return datetime.fromisoformat(text).isoformat()
        except (ValueError, RecursionError):
            pass  # SQLite holds any text in a column of any type
        return _quoted(text if raw else unformulaic(text))

    return write


def _is_json(kind: Any) -> bool:
    return isinstance(kind, sa.JSON)


def _json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    # UTF-8 has no lone surrogates; JSON can write them as escapes.
    return json.dumps(value, separators=(",", ":"), default=str) if UNSTORABLE.search(text) else text


def _quoted(text: str) -> str:
    doubled = text.replace('"', '""')
    return f'"{doubled}"'
