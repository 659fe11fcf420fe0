"""The table that rows are read from: checked before anything runs, then streamed in the order of its key."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import HSTORE
from sqlalchemy.exc import DataError, DBAPIError, NoSuchTableError

from llm_assets.errors import SourceError, did_you_mean
from llm_assets.records import Equals, Key, Partition, Row
from llm_assets.tables.columns import AsInSource
from llm_assets.tables.database import Database, passes, reason_of, retried
from llm_assets.tables.partitions import ColumnOf, ColumnValues
from llm_assets.tables.query import query_columns, subselect
from llm_assets.tables.source import Source

CHUNK_ROWS = 1000


class SourceTable:
    """A source in its database.

    Raises:
        SourceError: no such table or column, no key, or a key that is NULL or not unique.
    """

    def __init__(
        self, database: Database, source: Source, columns: Collection[str], partition_columns: Collection[str] = ()
    ) -> None:
        self.database = database
        self.source = source
        self.key_columns = self._check(set(columns), partition_columns)
        self.columns = tuple(dict.fromkeys([*self.key_columns, *columns]))
        # Columns without a type: values arrive as the driver gives them, whatever the table declares.
        names = dict.fromkeys((*self.columns, *partition_columns))
        # Those of the key neither on their way back: in SQLite a column holds numbers beside text.
        columns_read = [sa.column(name, AsInSource() if name in self.key_columns else None) for name in names]
        if source.query is None:
            self._table = sa.table(source.table, *columns_read, schema=source.db_schema)
        else:
            self._table = subselect(source.query, columns_read, source.output_prefix)

    @property
    def column_types(self) -> Mapping[str, sa.types.TypeEngine[Any]]:
        """Every column that the source has, with its type."""
        return self._types

    @cached_property
    def key_types(self) -> tuple[sa.types.TypeEngine[Any], ...]:
        """The types of the key columns, for the output tables."""
        return tuple(self._types[name] for name in self.key_columns)

    def read(self, partition: Partition) -> Iterator[list[Row]]:
        """Yield the partition's rows in key order, in lists of at most `CHUNK_ROWS`; no cursor stays open between."""
        keys = [self._table.c[name] for name in self.key_columns]
        query = sa.select(*(self._table.c[name] for name in self.columns)).where(*self.conditions(partition))
        last: Key | None = None
        while True:
            page = query.order_by(*keys).limit(CHUNK_ROWS)
            if last is not None:
                page = page.where(after(keys, last))
            try:
                rows = self._page(page)
            except DataError as error:  # a view has a row that cannot be computed
                raise self._unreadable(partition, error) from None
            if rows:
                yield rows
                last = rows[-1].key
            if len(rows) < CHUNK_ROWS:
                return

    @retried
    def sample(self, limit: int) -> list[Mapping[str, object]]:
        """Return the columns of the first rows in key order, whatever their partition; none if they cannot be read.

        Why they cannot, `check_key` says.
        """
        keys = [self._table.c[name] for name in self.key_columns]
        query = sa.select(*(self._table.c[name] for name in self.columns)).where(*self.conditions(Partition()))
        try:
            with self.database.engine.connect() as connection:
                found = connection.execute(query.order_by(*keys).limit(limit)).mappings()
                return [self._row(values).values for values in found]
        except DBAPIError as error:
            if passes(error):
                raise
            return []

    @retried
    def _page(self, query: sa.Select[Any]) -> list[Row]:
        with self.database.engine.connect() as connection:
            rows = [self._row(values) for values in connection.execute(query).mappings()]
        # A key that is read as something else would never be found again, and no page could begin behind it.
        if changed := [row.key for row in rows if any(map(_may_have_changed, row.key))]:
            columns = [self._table.c[name] for name in self.key_columns]
            with self.database.engine.connect() as connection:
                found = {tuple(row) for row in connection.execute(sa.select(*columns).where(matches(columns, changed)))}
            for key in changed:
                if key not in found:
                    raise SourceError(
                        f"{self.source.title}: the key {key!r} cannot be read as it is stored: it is no valid "
                        "UTF-8, or no number. Mend it, or leave that row out with `where`."
                    )
        return rows

    @retried
    def count(self, partition: Partition) -> int:
        """Return the number of rows in a partition."""
        query = sa.select(sa.func.count()).select_from(self._table).where(*self.conditions(partition))
        with self.database.engine.connect() as connection:
            return connection.execute(query).scalar_one()

    @retried
    def present(self, partition: Partition, keys: Sequence[Key]) -> set[Key]:
        """Return those of some keys that the partition holds."""
        columns = [self._table.c[name] for name in self.key_columns]
        query = sa.select(*columns).where(*self.conditions(partition), matches(columns, keys))
        with self.database.engine.connect() as connection:
            return {tuple(row) for row in connection.execute(query)}

    @retried
    def check_unique(self, keys: Sequence[Key]) -> None:
        """Raise a SourceError if one of some keys stands in several rows, of whatever partitions."""
        if self._key_is_unique or not keys:
            return
        columns = [self._table.c[name] for name in self.key_columns]
        query = sa.select(*columns).where(*self.conditions(Partition()), matches(columns, keys))
        with self.database.engine.connect() as connection:
            found = connection.execute(query.group_by(*columns).having(sa.func.count() > 1).limit(1)).first()
        if found is not None:
            raise self._not_unique(found, "of several partitions")

    def rows(self, keys: Sequence[Key], partition: Partition | None = None) -> dict[Key, Row]:
        """Return those of some rows that a partition has, or the whole source, by key and in the order of the keys."""
        columns = [self._table.c[name] for name in self.key_columns]
        query = sa.select(*(self._table.c[name] for name in self.columns))
        query = query.where(*self.conditions(partition or Partition()))
        found: dict[Key, Row] = {}
        for start in range(0, len(keys), CHUNK_ROWS):
            page = self._page(query.where(matches(columns, keys[start : start + CHUNK_ROWS])))
            found |= {row.key: row for row in page}
        return {key: found[key] for key in keys if key in found}

    def check_column(self, name: str, use: str) -> None:
        """Raise a SourceError if the table has no such column; `use` says what names it."""
        if name not in self._types:
            raise SourceError(
                f"{self.source.title} has no column {name!r}, which {use}. {did_you_mean(name, self._types)}"
            )

    @retried
    def known(self, partition: Partition, column: str, limit: int) -> dict[Key, object]:
        """Return the values of a column by key: those of a partition's first rows where it is not NULL."""
        keys, value = [self._table.c[name] for name in self.key_columns], sa.column(column)
        query = sa.select(*keys, value).select_from(self._table)
        query = query.where(*self.conditions(partition), value.is_not(None)).order_by(*keys).limit(limit)
        with self.database.engine.connect() as connection:
            return {tuple(row[:-1]): _as_text(row[-1]) for row in connection.execute(query)}

    @retried
    def keys_at(self, partition: Partition, positions: Collection[int]) -> list[Key]:
        """Return the keys of a partition's rows at some positions, counted from 0 in key order."""
        columns = [self._table.c[name] for name in self.key_columns]
        number = sa.func.row_number().over(order_by=columns).label("llm_assets_number")
        numbered = sa.select(*columns, number).where(*self.conditions(partition)).subquery()
        query = sa.select(*(numbered.c[name] for name in self.key_columns))
        query = query.where(numbered.c.llm_assets_number.in_([position + 1 for position in positions]))
        with self.database.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(query.order_by(numbered.c.llm_assets_number))]

    @retried
    def find(self, texts: Sequence[str]) -> Row:
        """Return the row whose key is given as text, a value for each key column.

        Raises:
            SourceError: there is no such row, or the values are too few, too many or of another type.
        """
        if len(texts) != len(self.key_columns):
            raise SourceError(
                f"The key of {self.source.name!r} is {', '.join(self.key_columns)}: {len(self.key_columns)} value(s), "
                f"and {len(texts)} were given: {', '.join(texts)}."
            )
        columns = [self._table.c[name] for name in self.key_columns]
        # As text to the database: it knows how it writes its own types, a UUID or a date.
        equal = [sa.cast(column, sa.Text) == text for column, text in zip(columns, texts, strict=True)]
        query = sa.select(*columns).where(*self.conditions(Partition()))
        with self.database.engine.connect() as connection:
            found = connection.execute(query.where(*equal).limit(2)).all()
            some = connection.execute(query.order_by(*columns).limit(3)).all() if not found else []
        if not found:
            shown = "; ".join(" ".join(map(str, key)) for key in some)
            raise SourceError(
                f"Table {self.source.name!r} has no row with the key {' '.join(texts)!r}. "
                + (f"Its first keys are {shown}." if some else "It has no rows.")
            )
        key = tuple(found[0])
        return self.rows([key])[key]

    @retried
    def check_key(self, partition: Partition) -> None:
        """Raise a SourceError if the partition has a key twice or one that is NULL, or cannot be read at all."""
        try:
            self._check_key(partition)
        except DBAPIError as error:
            if passes(error):
                raise
            raise self._unreadable(partition, error) from None

    def _unreadable(self, partition: Partition, error: DBAPIError) -> SourceError:
        return SourceError(
            f"{self.source.title}: partition {partition.key!r} cannot be read: {reason_of(error)}. Check "
            "the partition's value, `where`, and the right to read the table."
        )

    def _check_key(self, partition: Partition) -> None:
        keys = [self._table.c[name] for name in self.key_columns]
        conditions = self.conditions(partition)
        with self.database.engine.connect() as connection:
            for name, column in zip(self.key_columns, keys, strict=True):
                if connection.execute(sa.select(column).where(*conditions, column.is_(None)).limit(1)).first():
                    raise SourceError(
                        f"{self.source.title}: the key column {name!r} is NULL in some rows of partition "
                        f"{partition.key!r}. Choose a key that every row has, or leave those rows out with `where`."
                    )
            if self._key_is_unique:
                return
            twice = sa.select(*keys).where(*conditions).group_by(*keys).having(sa.func.count() > 1).limit(1)
            found = connection.execute(twice).first()
        if found is not None:
            raise self._not_unique(found, f"of partition {partition.key!r}")

    def _not_unique(self, key: Sequence[object], where: str) -> SourceError:
        value = ", ".join(f"{name}={value!r}" for name, value in zip(self.key_columns, key, strict=True))
        return SourceError(
            f"{self.source.title}: the key ({', '.join(self.key_columns)}) is not unique: {value} stands in several "
            f"rows {where}. Choose columns that name one row each."
        )

    def _check(self, columns: set[str], partition_columns: Collection[str]) -> tuple[str, ...]:
        """Compare the settings with the table; return the key columns."""
        source = self.source
        inspector = sa.inspect(self.database.engine)
        if source.query is None:
            self._types = self._table_columns(inspector)
        else:
            self._types = query_columns(self.database, source.query, source.name)
        uses = dict.fromkeys(columns, "a text template names") | dict.fromkeys(source.key, "the key names")
        for name in partition_columns:
            uses.setdefault(name, "the partitions name")
        for name, use in uses.items():
            self.check_column(name, use)
        primary, unique = self._unique_columns(inspector) if source.query is None else ((), [])
        key = source.key or primary
        for name in key if self.database.dialect == "postgresql" else ():
            if isinstance(self._types[name], sa.LargeBinary):
                raise SourceError(
                    f"{source.title}: the key column {name!r} is binary. Read it through a view as text: "
                    f"encode({name}, 'hex')."
                )
            # Their values are lists and mappings to Python, by which no row can be looked up.
            if isinstance(self._types[name], sa.ARRAY | sa.JSON | HSTORE):
                raise SourceError(
                    f"{source.title}: the key column {name!r} is {self._types[name]}, and its values name no rows. "
                    f"Read it through a view as text: CAST({name} AS TEXT)."
                )
            if isinstance(self._types[name], sa.REAL):
                raise SourceError(
                    f"{source.title}: the key column {name!r} is REAL, whose values do not equal the numbers that they "
                    f"are read as. Read it through a view as text: CAST({name} AS TEXT)."
                )
        if not key:
            raise SourceError(
                f"{source.title} has no primary key. Say which columns name a row: key=['id']. "
                f"Columns: {', '.join(self._types)}."
            )
        self._key_is_unique = any(set(constraint) <= set(key) for constraint in unique)
        return key

    def _table_columns(self, inspector: sa.Inspector) -> dict[str, sa.types.TypeEngine[Any]]:
        source = self.source
        try:
            found = inspector.get_columns(source.table, schema=source.db_schema)
        except NoSuchTableError:
            tables = [*inspector.get_table_names(source.db_schema), *inspector.get_view_names(source.db_schema)]
            raise SourceError(
                f"There is no table {source.name!r} in {self.database.name}. {did_you_mean(source.table, tables)}"
            ) from None
        return {column["name"]: column["type"] for column in found}

    def _unique_columns(self, inspector: sa.Inspector) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return the primary key, and all sets of columns that the table itself keeps unique."""
        where: Any = {"table_name": self.source.table, "schema": self.source.db_schema}
        primary = tuple(inspector.get_pk_constraint(**where)["constrained_columns"])
        unique = [tuple(item["column_names"]) for item in inspector.get_unique_constraints(**where)]
        return primary, [primary, *unique] if primary else unique

    def _row(self, values: Mapping[Any, object]) -> Row:
        return Row(
            tuple(values[name] for name in self.key_columns), {name: _as_text(values[name]) for name in self.columns}
        )

    def conditions(self, partition: Partition) -> list[sa.ColumnElement[bool]]:
        """Return what a partition is in SQL, together with `where`, or raise a SourceError; see `ColumnOf`."""
        # Not sa.text, which takes a word after a colon for a parameter.
        where = [sa.literal_column(f"({self.source.where})")] if self.source.where else []
        return [*where, *(self.column_of(each.column).condition(each) for each in partition.conditions)]

    @property
    def selectable(self) -> sa.FromClause:
        """The table, with the columns that are read."""
        return self._table

    def column(self, name: str) -> sa.ColumnElement[Any]:
        """Return one of the columns that are read, by its name."""
        return self._table.c[name]

    def column_of(self, name: str) -> ColumnOf:
        """Return a column that the table is cut by, or whose times are compared."""
        column: Any = self._table.c[name]
        return ColumnOf(self.source.name, column, self._types[name], self.database.dialect)

    def check_partitions(self, partitions: Sequence[Partition]) -> None:
        """Raise a SourceError if the columns are not of a type that partitions like these can cut."""
        seen: dict[tuple[str, object], str] = {}
        for each in partitions:
            self.conditions(each)
            for condition in each.conditions:
                if isinstance(condition, Equals):
                    value = self.column_of(condition.column).value(condition.value)
                    other = seen.setdefault((condition.column, value), condition.value)
                    if other != condition.value:
                        raise SourceError(
                            f"Partitions {other!r} and {condition.value!r} are the same value of column "
                            f"{condition.column!r}, and would hold the same rows. Leave one out."
                        )

    @retried
    def largest(self, column: str) -> object:
        """Return the largest value of a column that the table is cut by; None if it has none."""
        query = sa.select(sa.func.max(self._table.c[column])).where(*self.conditions(Partition()))
        with self.database.engine.connect() as connection:
            return connection.execute(query).scalar_one()

    @retried
    def values(self, column: str, limit: int) -> ColumnValues:
        """Return the values that a column has in the rows of the source.

        Args:
            column: One of those that the table is cut by.
            limit: No more of them are read; not in any order.
        """
        chosen = self._table.c[column]
        query = sa.select(chosen).where(*self.conditions(Partition())).distinct().limit(limit)
        with self.database.engine.connect() as connection:
            found = list(connection.execute(query).scalars())
        texts = [(self.column_of(column).text(value), value) for value in found if value is not None]
        return ColumnValues(
            sorted({text for text, _ in texts if text is not None}),
            [value for text, value in texts if text is None],
            None in found,
        )


def _may_have_changed(value: object) -> bool:
    """Whether a value of a key may have been read as something else: text with a broken byte, or NaN."""
    return (isinstance(value, str) and "\ufffd" in value) or value != value


def _as_text(value: object) -> object:
    """Bytes as the UTF-8 that they mostly are, and what the driver has parsed as JSON again."""
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value


def matches(columns: Sequence[sa.ColumnElement[Any]], keys: Sequence[Key]) -> sa.ColumnElement[bool]:
    """Return the condition that a row's key is one of `keys`."""
    if len(columns) == 1:
        return columns[0].in_([key[0] for key in keys])
    return sa.tuple_(*columns).in_([tuple(key) for key in keys])


def after(columns: Sequence[sa.ColumnElement[Any]], key: Key) -> sa.ColumnElement[bool]:
    """Return the condition that a row's key comes after `key`, written out for databases without row comparison."""
    steps = []
    for index, column in enumerate(columns):
        equal = [columns[before] == key[before] for before in range(index)]
        steps.append(sa.and_(*equal, column > sa.literal(key[index], column.type)))
    return sa.or_(*steps)
