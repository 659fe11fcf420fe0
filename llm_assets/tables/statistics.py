"""What can be said of one task's stored answers: counted in the database, or looked at in a bounded sample."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from llm_assets.records import Column, Key
from llm_assets.tables.database import Database, retried
from llm_assets.tables.names import plain
from llm_assets.tables.source_table import CHUNK_ROWS, matches

HASH_DIGITS = 8
"""So many first digits of a text's hash decide whether its row is in a sample."""


class Histogram(NamedTuple):
    """How many rows have a value in each range: from `edges[i]` up to `edges[i + 1]`, which only the last one has."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Statistics:
    """One task's answers and failures, to be counted and looked at, a partition at a time. Nothing is written.

    Args:
        database: The output database.
        results: The task's output table.
        failures: The table of failures.
        key: Names of the key columns.
        columns: The task's columns.
        source: The name of the source in the package's tables.
        task: The task's name.
    """

    def __init__(
        self,
        database: Database,
        results: sa.Table,
        failures: sa.Table,
        key: Sequence[str],
        columns: Sequence[Column],
        source: str,
        task: str,
    ) -> None:
        self.database = database
        self.table_name = results.fullname
        self.columns = tuple(columns)
        self.key_types = tuple(_declaration(results.c[name].type, database) for name in key)
        self.task = task
        self._results = results
        self._key = [results.c[name] for name in key]
        self._failures = failures
        self._failed = (failures.c.source == source, failures.c.task == task)

    @retried
    def answers(self, partition_key: str | None = None) -> int:
        """Return how many rows the output table has, or a partition of it."""
        query = sa.select(sa.func.count()).select_from(self._results)
        if partition_key is not None:
            query = query.where(self._in(partition_key))
        with self.database.engine.connect() as connection:
            return connection.execute(query).scalar_one()

    @retried
    def failures(self, partition_key: str) -> dict[str, int]:
        """Return how many rows of a partition failed, by kind, the commonest first."""
        kind, number = self._failures.c.kind, sa.func.count()
        query = sa.select(kind, number).where(*self._failed, self._failures.c.partition_key == partition_key)
        with self.database.engine.connect() as connection:
            return dict(connection.execute(query.group_by(kind).order_by(number.desc(), kind)).tuples().all())

    @retried
    def failure_examples(self, partition_key: str, limit: int) -> list[dict[str, Any]]:
        """Return some failures of a partition: row_key, kind and message."""
        table = self._failures
        query = sa.select(table.c.row_key, table.c.kind, table.c.message).where(
            *self._failed, table.c.partition_key == partition_key
        )
        with self.database.engine.connect() as connection:
            found = connection.execute(query.order_by(table.c.kind, table.c.row_key).limit(limit)).mappings()
            return [dict(row) for row in found]

    def has_column(self, name: str) -> bool:
        """Return whether the output table has a column; a task can do without the confidence."""
        return name in self._results.c

    def failures_sql(self, partition_key: str) -> str:
        """Return SQL that lists the failures of a partition, for a person to run."""
        names = ("row_key", "kind", "message", "raw_output", "attempts", "failed_at")
        query = sa.select(*(self._failures.c[name] for name in names)).where(
            *self._failed, self._failures.c.partition_key == partition_key
        )
        query = query.order_by(self._failures.c.kind, self._failures.c.row_key)
        dialect = self.database.engine.dialect
        return plain(dialect, str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True})))

    @retried
    def value_counts(self, column: str, partition_keys: Sequence[str]) -> dict[str | None, int]:
        """Return how often each value of a column stands in some partitions, the commonest first."""
        value, number = self._results.c[column], sa.func.count()
        query = sa.select(value, number).where(self._results.c.partition_key.in_(list(partition_keys)))
        with self.database.engine.connect() as connection:
            rows = connection.execute(query.group_by(value).order_by(number.desc(), value))
            return {None if found is None else str(found): count for found, count in rows}

    @retried
    def mean(self, column: str, partition_key: str) -> float | None:
        """Return the mean of a number column in a partition; None if it has no values."""
        query = sa.select(sa.func.avg(self._results.c[column])).where(self._in(partition_key))
        with self.database.engine.connect() as connection:
            return connection.execute(query).scalar_one()

    @retried
    def below(self, column: str, limit: float, partition_key: str) -> int:
        """Return how many values of a number column are less than a limit in a partition."""
        query = sa.select(sa.func.count()).where(self._in(partition_key), self._results.c[column] < limit)
        with self.database.engine.connect() as connection:
            return connection.execute(query).scalar_one()

    @retried
    def lowest(self, column: str, partition_key: str, limit: int) -> list[dict[str, Any]]:
        """Return the answers of a partition with the lowest values of a number column, with their keys."""
        query = self._select().where(self._in(partition_key), self._results.c[column].is_not(None))
        return self._rows(query.order_by(self._results.c[column], *self._key).limit(limit))

    @retried
    def histogram(
        self, column: str, partition_key: str, bins: int, span: tuple[float, float] | None = None
    ) -> Histogram:
        """Return a number column's histogram in a partition, counted by the database.

        Args:
            column: A column of numbers; of whole ones, a range has a whole number as its width.
            partition_key: The partition.
            bins: So many ranges, or fewer where there are fewer whole numbers.
            span: Where the first range begins and the last one ends; from the lowest to the highest value if not given.
        """
        value = self._results.c[column]
        whole = isinstance(value.type, sa.Integer)
        where = (self._in(partition_key), value.is_not(None))
        with self.database.engine.connect() as connection:
            if span is None:
                lowest, highest = connection.execute(
                    sa.select(sa.func.min(value), sa.func.max(value)).where(*where)
                ).one()
                if lowest is None:
                    return Histogram((), ())
                span = (lowest, highest + 1 if whole else highest)
            first, width = span[0], (span[1] - span[0]) / bins
            if whole:
                width = max(1, -int(-width // 1))
                bins = -int(-(span[1] - first) // width)
                place = self._steps(value, int(first), width)
            else:
                width = width or 1.0
                place = self._floor((value - first) / width)
            rows = connection.execute(sa.select(place, sa.func.count()).where(*where).group_by(place))
            counts = [0] * bins
            for index, count in rows:
                counts[min(max(int(index), 0), bins - 1)] += count
        return Histogram(tuple(first + width * index for index in range(bins + 1)), tuple(counts))

    @retried
    def partitions(self, limit: int, before: str | None = None) -> list[str]:
        """Return the keys of the last partitions that have answers, the latest first; only those `before` a key.

        They are in the order of text, which for the keys of time partitions is the order of time.
        """
        key = self._results.c.partition_key
        found: list[str] = []
        with self.database.engine.connect() as connection:
            # One step down the index for each, where DISTINCT would read all rows of each.
            while len(found) < limit:
                query = sa.select(sa.func.max(key))
                latest = connection.execute(query if before is None else query.where(key < before)).scalar_one()
                if latest is None:
                    break
                found.append(latest)
                before = latest
        return found

    def first(self, partition_key: str, limit: int) -> list[dict[str, Any]]:
        """Return some answers of a partition in key order, with their keys."""
        return self._rows(self._select().where(self._in(partition_key)).order_by(*self._key).limit(limit))

    def sample(self, partition_key: str, size: int) -> list[dict[str, Any]]:
        """Return about `size` answers of a partition with their keys: all if it has no more, else by their text's hash.

        A hash is as good as chance, needs no sorting, and gives the same rows each time.
        """
        total = self.answers(partition_key)
        query = self._select().where(self._in(partition_key))
        if total > size:
            bound = f"{int(16**HASH_DIGITS * size / total):0{HASH_DIGITS}x}"
            # Compared as bytes, so that the database's collation has no say.
            digits = sa.func.substr(self._results.c.content_hash, 1, HASH_DIGITS)
            query = query.where((sa.collate(digits, "C") if self._is_postgres else digits) < bound)
        return self._rows(query.order_by(*self._key).limit(2 * size))

    def with_values(
        self, column: str, values: Sequence[str | None], partition_key: str, limit: int
    ) -> list[dict[str, Any]]:
        """Return some answers of a partition whose column has one of some values, with their keys."""
        found = self._results.c[column]
        texts = [value for value in values if value is not None]
        condition = sa.or_(found.in_(texts), found.is_(None)) if None in values else found.in_(texts)
        query = self._select().where(self._in(partition_key), condition)
        return self._rows(query.order_by(*self._key).limit(limit))

    def by_key(self, keys: Sequence[Key], column: str) -> dict[Key, Any]:
        """Return a column's value for those of some keys that have an answer."""
        found: dict[Key, Any] = {}
        for start in range(0, len(keys), CHUNK_ROWS):
            found |= self._by_key(keys[start : start + CHUNK_ROWS], column)
        return found

    def key_of(self, row: Mapping[str, Any]) -> Key:
        """Return the key of a row that one of these methods returned."""
        return tuple(row[column.name] for column in self._key)

    @retried
    def _by_key(self, keys: Sequence[Key], column: str) -> dict[Key, Any]:
        query = sa.select(*self._key, self._results.c[column]).where(matches(self._key, keys))
        with self.database.engine.connect() as connection:
            return {tuple(row[:-1]): row[-1] for row in connection.execute(query)}

    @retried
    def _rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self.database.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _select(self) -> sa.Select[Any]:
        return sa.select(*self._key, *(self._results.c[column.name] for column in self.columns))

    def _in(self, partition_key: str) -> sa.ColumnElement[bool]:
        return self._results.c.partition_key == partition_key

    @property
    def _is_postgres(self) -> bool:
        return self.database.dialect == "postgresql"

    def _steps(self, value: sa.ColumnElement[int], first: int, width: int) -> sa.ColumnElement[Any]:
        """How many whole widths a value lies behind the first."""
        if self._is_postgres:  # whose integers do not hold every difference of two of them
            return sa.func.div(sa.cast(value, sa.Numeric) - first, width)
        return (value - first) // width

    def _floor(self, value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """SQLite's cast cuts the fraction off, and not every build has floor(); Postgres' cast rounds."""
        return sa.func.floor(value) if self._is_postgres else sa.cast(value, sa.Integer)


def _declaration(kind: sa.types.TypeEngine[Any], database: Database) -> str:
    """A type as it stands in the table's declaration; empty where it has none."""
    return str(kind.compile(dialect=database.engine.dialect)).lower()
