"""Column types, values made fit to store, and upserts: what all output tables share."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from llm_assets.records import Column, ColumnType, Key

Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
Moment = sa.DateTime(timezone=True)

UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")

TYPES: dict[ColumnType, Any] = {
    "text": sa.Text(),
    "integer": sa.BigInteger(),
    "number": sa.Double(),
    "boolean": sa.Boolean(),
    "date": sa.Date(),
    "datetime": Moment,
    "json": Json,
}


LONGEST_KEY_TEXT = 2000
"""Bytes. A longer key is cut in `llm_failures`, and made unique by its hash: Postgres' indexes hold 2,704."""


class AsInSource(sa.types.UserDefinedType[Any]):
    """A type by its declaration. Values pass as the driver gives them, so a stored key equals the key that was read.

    `created` is whether someone created it in its database.
    """

    cache_ok = True

    def __init__(self, declaration: str = "", created: bool = False) -> None:
        self.declaration = declaration
        self.created = created

    def get_col_spec(self, **_: Any) -> str:
        return self.declaration


def is_created(kind: Any) -> bool:
    """Return whether someone created a type in its database, so that another one may not have it."""
    return isinstance(kind, sa.Enum | postgresql.DOMAIN | postgresql.CITEXT)


def answer_column(column: Column) -> sa.Column[Any]:
    """Return the table column for one column of a task's answer."""
    return sa.Column(column.name, TYPES[column.type], comment=column.comment)


_NUMBERS = (float, int)


def clean(value: Any) -> Any:
    """Return a value that every database stores alike: text without NUL characters or lone surrogates, times in UTC.

    Postgres has no NUL in text, and neither database has surrogates. Each becomes U+FFFD, so nothing is lost silently.
    SQLite has no time zones; a time without one is taken as UTC in both.
    """
    if value is None or isinstance(value, _NUMBERS):  # most values; the questions below cost more
        return value
    if isinstance(value, str):
        return UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, Mapping):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value


def to_json(columns: Mapping[str, object]) -> dict[str, object]:
    """Return an answer's columns as JSON values, for the ledger."""
    return {name: value.isoformat() if isinstance(value, date) else value for name, value in columns.items()}


def from_json(values: Mapping[str, Any], columns: Sequence[Column]) -> dict[str, object]:
    """Undo `to_json`: dates and times get their types back."""
    readers = {"date": date.fromisoformat, "datetime": datetime.fromisoformat}
    result: dict[str, object] = {}
    for column in columns:
        value = values.get(column.name)
        reader = readers.get(column.type)
        result[column.name] = reader(value) if reader and value is not None else value
    return result


def key_text(key: Key) -> str:
    """Return a key as text: the value of a single column, or a JSON list of several; of a long one its beginning."""
    text = str(key[0]) if len(key) == 1 else json.dumps(key, default=str, ensure_ascii=False)
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) <= LONGEST_KEY_TEXT:
        return text
    return f"{encoded[: LONGEST_KEY_TEXT - 40].decode('utf-8', 'ignore')}... {hashlib.sha256(encoded).hexdigest()[:32]}"


def upsert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; a row whose primary key exists is replaced."""
    if not rows:
        return
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    # Not by the columns' names: to SQLAlchemy's parameters, "unit price" and "unit_price" are one.
    parameters = {name: f"value_{index}" for index, name in enumerate(rows[0])}
    statement = insert(table).values({name: sa.bindparam(parameter) for name, parameter in parameters.items()})
    keys = [column.name for column in table.primary_key]
    others = {name: statement.excluded[name] for name in parameters if name not in keys}
    values = [{parameter: row[name] for name, parameter in parameters.items()} for row in rows]
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=others), values)
