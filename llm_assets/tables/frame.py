"""Answers as a pandas DataFrame, with the types that they have in the database."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from llm_assets.errors import ConfigError
from llm_assets.secrets import masked
from llm_assets.tables.answers import AnswersTable, Kind, reader_of
from llm_assets.tables.database import Database

if TYPE_CHECKING:
    import pandas as pd

DTYPES: dict[Kind, str] = {
    "integer": "Int64",
    "number": "float64",
    "boolean": "boolean",
    # Of a microsecond, as Python's times: nanoseconds end in the year 2262.
    "date": "datetime64[s]",
    "datetime": "datetime64[us]",
    "utc": "datetime64[us, UTC]",
}
"""Of text it is `string`; of JSON and all else the values are objects."""

REPEATED = ("label", "model", "fingerprint", "finish_reason", "run_id", "partition_key", "task", "source", "kind")
"""Text that stands in many rows is kept in memory once."""


def to_pandas(
    database: str | sa.Engine | Database,
    table: str,
    partition: str | tuple[str, str] | None = None,
    *,
    columns: Sequence[str] | None = None,
    index: bool = True,
    schema: str | None = None,
) -> "pd.DataFrame":
    """Return a task's answers as a DataFrame; also another table of this package, or a view such as `reviews_answered`.

    The types are the same from SQLite and from Postgres: text `string`, whole numbers `Int64`, numbers `float64`,
    truth values `boolean`, days `datetime64[s]`, times `datetime64[us]`, with the zone UTC where the database has one
    or this package wrote them. JSON is Python's objects. NULL is NA, NaN, NaT or None. A column of the source that
    holds what its type does not allow (SQLite takes anything; Postgres has times that Python lacks) has objects, with
    each value as it stands there.

    Rows come in the order of the key, 10,000 at a time, so little more is held than the DataFrame itself.
    `DataFrame.attrs` says what was read: `table`, `partition`, `models` and `fingerprints`, the last with their rows.

    Args:
        database: SQLAlchemy URL, engine, or `Database`.
        table: The table, such as `reviews_sentiment`.
        partition: Key of a partition, or the first and the last of a range of them. A range is in the order of text,
            as the keys of time partitions are. None reads all.
        columns: Only these, in this order; all of them if not given.
        index: Whether the key becomes the index.
        schema: The table's schema, when not the default one.

    Raises:
        DatabaseError: the database, the schema or the table is not there, or may not be read.
        ConfigError: there is no such column or partition.
    """
    if isinstance(database, str):
        opened = Database(database)
        try:
            opened.check_exists()
            return to_pandas(opened, table, partition, columns=columns, index=index, schema=schema)
        finally:
            opened.close()
    import pandas as pd

    if isinstance(database, Database):
        engine, database_name = database.engine, database.name
    else:
        engine, database_name = database, masked(database.url.render_as_string(hide_password=True))
    found = AnswersTable(engine, database_name, table, schema)
    first, last = _range(partition)
    conditions = found.condition(first, last)
    key = found.key if index else ()
    shown = list(found.kinds) if columns is None else list(columns)
    found.check_columns(shown)
    names = [*key, *(name for name in shown if name not in key)]
    parts = [_Column(found.kinds[name], name in REPEATED) for name in names]
    for rows in found.portions(names, conditions):
        for position, part in enumerate(parts):
            part.add([row[position] for row in rows])
    if first is not None and last is not None and not any(part.rows for part in parts):
        found.check_partition(first, last)
    frame = pd.DataFrame({name: part.series() for name, part in zip(names, parts, strict=True)}, copy=False)
    if key:
        frame = frame.set_index(list(key))
    answered_by = found.answered_by(conditions)
    frame.attrs = {
        "table": table,
        "partition": partition,
        "models": sorted({model for model, _, _ in answered_by}),
        "fingerprints": {fingerprint: rows for _, fingerprint, rows in answered_by},
    }
    return frame


def _range(partition: object) -> tuple[str | None, str | None]:
    match partition:
        case None:
            return None, None
        case str():
            return partition, partition
        case (str() as first, str() as last):
            return first, last
    raise ConfigError(
        f"The partition {partition!r} is neither a key, such as '2026-11-03', nor the first and the last of a range, "
        "such as ('2026-11-01', '2026-11-07')."
    )


class _Column:
    """One column, kept in arrays of its type; as objects from the first value on that is not of that type."""

    def __init__(self, kind: Kind, repeated: bool) -> None:
        self.rows = 0
        self._kind: Kind = kind
        self._read = reader_of(kind)
        self._seen: dict[Any, Any] | None = {} if repeated else None
        self._parts: list[pd.Series] = []

    def add(self, values: list[Any]) -> None:
        """Add the values of more rows."""
        self.rows += len(values)
        try:
            read = [None if value is None else self._read(value) for value in values]
            self._parts.append(self._typed(read))
        except (ValueError, TypeError, OverflowError, RecursionError):
            self._kind, self._read = "other", reader_of("other")
            self._parts.append(self._typed(values))

    def series(self) -> "pd.Series":
        """Return the whole column, and forget it."""
        import pandas as pd

        parts, self._parts = self._parts, []
        dtype = self._dtype()
        # Parts from before a value that was not of the column's type.
        parts = [part if part.dtype == dtype else part.astype(object) for part in parts]
        return pd.concat(parts, ignore_index=True) if parts else pd.Series([], dtype=dtype)

    def _typed(self, values: list[Any]) -> "pd.Series":
        import pandas as pd

        # Of text only: JSON and arrays have no hash, and to a dict 1 and True are one.
        if self._seen is not None and self._kind == "text":
            seen = self._seen
            values = [seen.setdefault(value, value) for value in values]
        return pd.Series(values, dtype=self._dtype())

    def _dtype(self) -> Any:
        import pandas as pd

        if self._kind == "text":
            return pd.StringDtype("python")  # the same whether pyarrow is installed or not
        return DTYPES.get(self._kind, "object")
