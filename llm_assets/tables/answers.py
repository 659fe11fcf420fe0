"""A table of answers read for analysis: checked, by partition, in portions, each value as what it is."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, NoSuchTableError

from llm_assets.errors import ConfigError, DatabaseError, did_you_mean
from llm_assets.tables.database import reason_of
from llm_assets.tables.source import output_prefix

FETCH_ROWS = 10_000

Kind = Literal["text", "integer", "number", "boolean", "date", "datetime", "utc", "json", "other"]
"""What the values of a column are. `datetime` has no zone; `utc` is a datetime in UTC."""

OWN_TABLES = ("llm_answers", "llm_failures", "llm_throughput", "llm_version")

PROVENANCE = {"fingerprint", "content_hash", "answered_at", "partition_key"}
"""The columns by which a table is known to be one of answers."""


class AnswersTable:
    """A table of answers, another table of this package, or a view over them.

    Raises:
        DatabaseError: the database cannot be opened, has no such table or schema, or the table cannot be read.
    """

    def __init__(self, engine: sa.Engine, database: str, name: str, schema: str | None = None) -> None:
        self.engine = engine
        self.database = database
        self.name = name
        self.schema = schema
        try:
            inspector = sa.inspect(engine)
            schemas = inspector.get_schema_names()
            if schema and schema not in schemas:
                raise DatabaseError(
                    f"There is no schema {schema!r} in {self.database}. {did_you_mean(schema, schemas)}"
                )
            tables = [*inspector.get_table_names(schema), *inspector.get_view_names(schema)]
            try:
                found = inspector.get_columns(name, schema=schema)
            except NoSuchTableError:
                raise DatabaseError(
                    f"There is no table {name!r} in {self.database}. {did_you_mean(name, tables)}"
                ) from None
            self.key: tuple[str, ...] = tuple(inspector.get_pk_constraint(name, schema=schema)["constrained_columns"])
            types: dict[str, Any] = {column["name"]: column["type"] for column in found}
            in_utc = _utc_columns(inspector, name, schema, types, tables) if engine.dialect.name == "sqlite" else set()
        except DBAPIError as error:
            raise self._unreadable(error) from None
        self.kinds: Mapping[str, Kind] = {
            column: "utc" if column in in_utc else kind_of(kind) for column, kind in types.items()
        }
        # Columns without a type: values arrive as the driver gives them, and each is read as what its column says.
        self._table = sa.table(name, *map(sa.column, types), schema=schema)
        self._is_results = types.keys() >= PROVENANCE

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raise a ConfigError for a column that the table does not have, or that is given twice."""
        for column in columns:
            if column not in self.kinds:
                raise ConfigError(
                    f"The table {self.name!r} has no column {column!r}. {did_you_mean(column, self.kinds)}"
                )
            if list(columns).count(column) > 1:
                raise ConfigError(f"The column {column!r} is given twice. Give it once.")

    def condition(self, first: str | None, last: str | None) -> list[sa.ColumnElement[bool]]:
        """Return the condition that a row belongs to the partitions from `first` to `last`, in the order of text.

        Raises:
            ConfigError: the table has no partitions, or `last` comes before `first`.
        """
        if first is None or last is None:
            return []
        if "partition_key" not in self.kinds:
            raise ConfigError(
                f"{self.name!r} has no column partition_key, so no partition can be read from it. Read all of it, or "
                "the table of one task."
            )
        column = self._table.c.partition_key
        if first == last:
            return [column == first]
        if last < first:
            raise ConfigError(f"The range of partitions ends at {last!r}, before it begins at {first!r}.")
        return [column >= first, column <= last]

    def portions(
        self, columns: Sequence[str], conditions: Sequence[sa.ColumnElement[bool]]
    ) -> Iterator[Sequence[tuple[Any, ...]]]:
        """Yield the rows in the order of the key, at most `FETCH_ROWS` at a time, with the driver's values.

        JSON comes as its text. All rows are of one transaction.
        """
        chosen = [
            self._table.c[name].cast(sa.Text) if self.kinds[name] == "json" else self._table.c[name] for name in columns
        ]
        query = sa.select(*chosen).where(*conditions).order_by(*(self._table.c[name] for name in self.key))
        try:
            with self.engine.connect().execution_options(yield_per=FETCH_ROWS) as connection:
                for rows in connection.execute(query).partitions():
                    yield [tuple(row) for row in rows]
        except DBAPIError as error:
            raise self._unreadable(error) from None

    def answered_by(self, conditions: Sequence[sa.ColumnElement[bool]]) -> list[tuple[str, str, int]]:
        """Return the models and fingerprints that the answers have, with the number of rows of each."""
        if not self._is_results:
            return []
        pair = (self._table.c.model, self._table.c.fingerprint)
        query = sa.select(*pair, sa.func.count()).where(*conditions).group_by(*pair).order_by(*pair)
        try:
            with self.engine.connect() as connection:
                return [(model, fingerprint, count) for model, fingerprint, count in connection.execute(query)]
        except DBAPIError as error:
            raise self._unreadable(error) from None

    @cached_property
    def partition_keys(self) -> list[str]:
        """Every partition that has rows, or that a run has been through."""
        query = sa.select(self._table.c.partition_key).distinct()
        try:
            with self.engine.connect() as connection:
                found = set(connection.execute(query).scalars())
                if self._is_results and sa.inspect(connection).has_table("llm_throughput", self.schema):
                    names = ("source", "task", "partition_key")
                    runs = sa.table("llm_throughput", *map(sa.column, names), schema=self.schema)
                    for source, task, partition_key in connection.execute(sa.select(runs).distinct()):
                        # A source stands there as table, or as schema.table.
                        prefixes = (output_prefix(source), output_prefix(source.partition(".")[2]))
                        if self.name in [f"{prefix}_{task}" for prefix in prefixes]:
                            found.add(partition_key)
        except DBAPIError as error:
            raise self._unreadable(error) from None
        return sorted(found)

    def check_partition(self, first: str, last: str) -> None:
        """Raise a ConfigError if no run has been through any partition from `first` to `last`."""
        if any(first <= key <= last for key in self.partition_keys):
            return
        what = f"partition {first!r}" if first == last else f"partition from {first!r} to {last!r}"
        keys = self.partition_keys
        if len(keys) > SHOWN_PARTITIONS and first not in keys:
            known = f"They go from {keys[0]!r} to {keys[-1]!r}."
        else:
            known = did_you_mean(first, keys)
        raise ConfigError(f"The table {self.name!r} in {self.database} has no {what}. {known}")

    def _unreadable(self, error: DBAPIError) -> DatabaseError:
        return DatabaseError(
            f"The table {self.name!r} in {self.database} cannot be read: {reason_of(error)}. Check the right to read "
            "it."
        )


SHOWN_PARTITIONS = 20
"""Of more than so many partitions, a message names the first and the last only."""


def kind_of(kind: Any) -> Kind:
    """Return what the values of a column of some type are."""
    if isinstance(kind, sa.DateTime):
        return "utc" if kind.timezone else "datetime"
    for types, name in _KINDS:
        if isinstance(kind, types):
            return name
    return "other"


def reader_of(kind: Kind) -> Callable[[Any], Any]:
    """Return what makes a driver's value that is not NULL a value of its kind, or raises a ValueError."""
    return _READERS.get(kind, _as_it_is)


def _utc_columns(
    inspector: sa.Inspector, name: str, schema: str | None, types: Mapping[str, Any], tables: Sequence[str]
) -> set[str]:
    """The columns of a SQLite table or view whose times are UTC, as this package writes them. SQLite has no zones."""
    times = {column for column, kind in types.items() if isinstance(kind, sa.DateTime)}
    if not times:
        return times
    if name in OWN_TABLES:
        return times
    if types.keys() >= PROVENANCE:
        key = inspector.get_pk_constraint(name, schema=schema)["constrained_columns"]
        return times - set(key)
    # A view of any name: its tasks are those whose times of answering it has.
    tasks = {column.removesuffix("_answered_at") for column in times if column.endswith("_answered_at")}
    found: set[str] = set()
    for task in tasks:
        for table in tables:
            if table.endswith(f"_{task}") and table != name:
                columns = {column["name"] for column in inspector.get_columns(table, schema=schema)}
                if columns >= PROVENANCE:
                    found |= {f"{task}_{column}" for column in columns}
    return times & found


def _as_it_is(value: Any) -> Any:
    return value


def _text(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview | list | dict):
        raise ValueError(value)
    return str(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(value)
    return value


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):
        raise ValueError(value)
    return float(value)


def _boolean(value: Any) -> bool:
    if value not in (0, 1):
        raise ValueError(value)
    return bool(value)


def _date(value: Any) -> date:
    if isinstance(value, datetime) or not isinstance(value, date):
        return date.fromisoformat(_only_text(value))
    return value


def _datetime(value: Any) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(_only_text(value))
    if moment.tzinfo is not None:
        raise ValueError(value)
    return moment


def _utc(value: Any) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(_only_text(value))
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _only_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


_KINDS: tuple[tuple[type[Any], Kind], ...] = (
    (sa.Boolean, "boolean"),
    (sa.Integer, "integer"),
    (sa.Numeric, "number"),
    (sa.Date, "date"),
    (sa.JSON, "json"),
    (sa.String, "text"),
    (sa.Uuid, "text"),
)

_READERS: dict[Kind, Callable[[Any], Any]] = {
    "text": _text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "date": _date,
    "datetime": _datetime,
    "utc": _utc,
    "json": json.loads,
}
