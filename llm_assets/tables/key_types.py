"""The type of a key in an output table, which must hold every key of the source as it is: rows are found by it."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.ranges import AbstractRange
from sqlalchemy.exc import CompileError

from llm_assets.errors import SourceError
from llm_assets.records import Key
from llm_assets.tables.columns import AsInSource, is_created
from llm_assets.tables.database import Database
from llm_assets.tables.source_table import SourceTable, matches

EXACT_DIGITS = 15
"""So many decimal digits a double keeps."""

NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]\d+)?", re.ASCII)
"""As Python writes numbers."""

VALUES: dict[type, type | tuple[type, ...]] = {sa.Text: str, sa.BigInteger: int, sa.Double: (int, float)}
"""What a column of Postgres takes, where SQLite's column may hold anything."""


class Form(NamedTuple):
    """How values of a key are written as text, and what the text is read as."""

    declaration: str
    write: Callable[[Any], str]
    read: Callable[[str], Any]


class KeyAsText(sa.types.UserDefinedType[Any]):
    """A key as text, where the database has no type that holds it exactly; read as the value that it was."""

    cache_ok = True

    def __init__(self, form: str) -> None:
        self.form = form

    def get_col_spec(self, **_: Any) -> str:
        return FORMS[self.form].declaration

    def bind_processor(self, dialect: sa.Dialect) -> Any:
        write = FORMS[self.form].write
        # Postgres' own text for a time that Python cannot hold, and text among SQLite's numbers, stay as they are.
        return lambda value: value if isinstance(value, str) else write(value)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        read = FORMS[self.form].read

        def process(text: str) -> Any:
            try:
                return read(text)
            except ValueError:
                return text

        return process


def _write_decimal(value: Decimal) -> str:
    """Equal numbers as equal texts: 1.1 and 1.10 are one key."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _write_moment(value: datetime) -> str:
    return (value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value).isoformat(" ", "microseconds")


def _read_utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _read_number(text: str) -> int | float:
    """Of text and numbers in one column of SQLite: it makes numbers of all text that looks like one."""
    if not NUMBER.fullmatch(text):
        raise ValueError
    return int(text) if text.lstrip("-").isdigit() else float(text)


FORMS = {
    "decimal": Form("TEXT", _write_decimal, Decimal),
    "date": Form("DATE", date.isoformat, date.fromisoformat),
    "moment": Form("DATETIME", _write_moment, datetime.fromisoformat),
    "utc": Form("DATETIME", _write_moment, _read_utc),
    "time": Form("TIME", time.isoformat, time.fromisoformat),
    "number": Form("TEXT", repr, _read_number),
}


def key_type(name: str, source: SourceTable, output: Database) -> Any:
    """Return the type of a key column in an output table: as in the source where that can be, so that both join.

    Raises:
        SourceError: the output database has no type that holds such keys.
    """
    kind = source.column_types[name]
    if isinstance(kind, sa.Integer):
        return sa.BigInteger()
    if source.database.url == output.url:
        return _as_in_source(kind, output)
    if isinstance(kind, postgresql.DOMAIN):
        # What the driver gives as text stays text.
        kind = sa.Text() if isinstance(kind.data_type, sa.String | sa.Uuid) else kind.data_type
    if isinstance(kind, sa.Integer):
        return sa.BigInteger()
    if source.database.dialect == output.dialect and not is_created(kind):
        return _as_in_source(kind, output)
    if isinstance(kind, sa.String):
        return sa.Text()
    found = _of_sqlite(kind) if source.database.dialect == "sqlite" else _generic(kind, output)
    if found is None:
        raise SourceError(
            f"{source.source.title}: the key column {name!r} is {kind.compile(source.database.engine.dialect)}, which "
            f"{output.dialect} cannot hold as it is. Read it through a view as text, or write the answers to "
            f"{source.database.dialect} too."
        )
    return found


def _as_in_source(kind: Any, output: Database) -> Any:
    try:
        return AsInSource(kind.compile(dialect=output.engine.dialect), is_created(kind))
    except CompileError:
        # No type is known: a view's expression in SQLite, whose values keep their own; or an extension's type.
        return AsInSource("BLOB") if output.dialect == "sqlite" else sa.Text()


def _of_sqlite(kind: Any) -> Any:
    """The type in Postgres for a column of SQLite, which may hold numbers beside text; None if there is none."""
    match kind:
        case sa.LargeBinary():
            return None
        case sa.Boolean():
            return sa.BigInteger()
        case sa.Float():
            return sa.Double()
        case sa.Numeric() if kind.precision is not None and kind.precision <= EXACT_DIGITS:
            return sa.Double()
        case sa.types.NullType():
            return sa.Text()
    return KeyAsText("number")


def _generic(kind: Any, output: Database) -> Any:
    """The type for a column of any other database; None if there is none."""
    if isinstance(kind, sa.ARRAY | sa.JSON | AbstractRange):
        return None
    if output.dialect == "sqlite":
        match kind:
            case postgresql.OID():
                return sa.BigInteger()
            case sa.Numeric() if not isinstance(kind, sa.Float) and not _is_exact_as_double(kind):
                return KeyAsText("decimal")
            case sa.Date():
                return KeyAsText("date")
            case sa.DateTime():
                return KeyAsText("utc" if kind.timezone else "moment")
            case sa.Time() if kind.timezone:
                return KeyAsText("time")
    try:
        return kind.as_generic()
    except NotImplementedError:
        return sa.Text()


def _is_exact_as_double(kind: Any) -> bool:
    return kind.precision is not None and kind.precision <= EXACT_DIGITS and (kind.scale or 0) >= 0


def check_values(keys: Sequence[Key], columns: Sequence[sa.Column[Any]], source: SourceTable) -> None:
    """Raise a SourceError if a key has a value of another kind than its column in Postgres."""
    for column, values in zip(columns, zip(*keys, strict=True), strict=True):
        expected = next((kinds for kind, kinds in VALUES.items() if isinstance(column.type, kind)), object)
        for value in values:
            if not isinstance(value, expected):
                raise SourceError(
                    f"{source.source.title}: the key column {column.name!r} holds {value!r}, and {column.type} in the "
                    "output table does not. Give the column one type: cast it through a view."
                )


def check_stored(
    connection: sa.Connection, columns: Sequence[sa.Column[Any]], keys: Sequence[Key], source: SourceTable
) -> None:
    """Raise a SourceError if a key that was written is not read as itself: its answer would never be found again."""
    stored = {tuple(row) for row in connection.execute(sa.select(*columns).where(matches(columns, keys)))}
    for key in keys:
        if key not in stored:
            types = ", ".join(f"{name} {source.column_types[name]!r}" for name in source.key_columns)
            raise SourceError(
                f"{source.source.title}: the key {key!r} ({types}) is not read from the output table as it was "
                "written. Read it through a view as text, or write the answers to the source's kind of database."
            )
