"""The output tables as they are, to be looked at: nothing is created, altered or written."""

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from llm_assets.errors import DatabaseError, OutputTableError
from llm_assets.records import Column, Key
from llm_assets.tables.batch import FailedRow
from llm_assets.tables.columns import clean
from llm_assets.tables.database import retried
from llm_assets.tables.source_table import matches
from llm_assets.tables.store import Store
from llm_assets.tables.upgrade import table_changes

PAGE_ROWS = 10_000
"""Rows that are fetched together."""

PAST_PARTITIONS = 1000
"""So many of the latest partitions say how fast a model is."""


@dataclass(frozen=True, slots=True)
class StoredAnswers:
    """A task's answers with one fingerprint from one model: how many, when, and their mean tokens."""

    fingerprint: str
    model: str
    rows: int
    first: datetime
    last: datetime
    prompt_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True)
class PastPartition:
    """What a run did with one partition, from the rows of `llm_throughput` that its tasks have."""

    source: str
    device: str
    gpus: int | None
    tasks: tuple[str, ...]
    """Those that were asked about rows."""
    answers: int
    tokens: int
    """Prompt tokens that were computed, and tokens generated."""
    seconds: float
    seconds_load: float


class ReadOnlyStore(Store):
    """The output tables of one source, for reading. Those that do not exist count as empty."""

    def prepare(self) -> None:
        """Find out which tables and columns there are."""
        self._existing: dict[str, set[str]] = {}
        if self.database.is_absent:
            return
        inspector = sa.inspect(self.database.engine)
        schema = self._metadata.schema
        if schema and schema not in inspector.get_schema_names():
            return
        tables = set(inspector.get_table_names(schema))
        for table in self._metadata.sorted_tables:
            if table.name in tables:
                self._existing[table.name] = {column["name"] for column in inspector.get_columns(table.name, schema)}

    def refusal(self) -> str | None:
        """Return why a run would refuse to write to the tables as they are; None if it would not."""
        if self.database.is_absent:
            return None
        try:
            with self.database.engine.connect() as connection:
                self._check_place(connection)
                table_changes(connection, self._metadata, self._version, self.database)
        except (OutputTableError, DatabaseError) as error:
            return str(error)
        return None

    def fingerprint_counts(self, task: str, fingerprints: Collection[str]) -> dict[str, int]:
        return super().fingerprint_counts(task, fingerprints) if self._exists(self._results[task]) else {}

    def failed(self, task: str, keys: Sequence[Key]) -> dict[Key, FailedRow]:
        return super().failed(task, keys) if self._exists(self._failures) else {}

    def has_table(self, task: str) -> bool:
        """Return whether a task's output table exists."""
        return self._exists(self._results[task])

    def answered_marks(self, task: str, fingerprint: str) -> "array[int]":
        """Return hash((key, content hash)) of each of a task's answers with a fingerprint."""
        table = self._results[task]
        if not self._exists(table):
            return array("q")
        columns = self._key_columns(table)
        query = sa.select(*columns, table.c.content_hash).where(table.c.fingerprint == fingerprint)
        return self._marks(query, lambda rows: (hash((tuple(row[:-1]), row[-1])) for row in rows))

    def failed_marks(
        self, task: str, fingerprint: str | None, kinds: Collection[str] = (), passing: Mapping[str, int] | None = None
    ) -> "array[int]":
        """Return hash((key as text, content hash)) of a task's failures; with no fingerprint, hash(key as text).

        Args:
            task: The task.
            fingerprint: Only failures under it; None takes all.
            kinds: Only these kinds; empty is all.
            passing: Kinds that are left out as long as they were attempted less often than this.
        """
        table = self._failures
        if not self._exists(table):
            return array("q")
        query = sa.select(table.c.row_key, table.c.content_hash)
        query = query.where(table.c.source == self._source.source.name, table.c.task == task)
        if fingerprint is not None:
            query = query.where(table.c.fingerprint == fingerprint)
        if kinds:
            query = query.where(table.c.kind.in_(list(kinds)))
        for kind, attempts in (passing or {}).items():
            query = query.where(sa.or_(table.c.kind != kind, table.c.attempts >= attempts))
        if fingerprint is None:
            return self._marks(query, lambda rows: (hash(row[0]) for row in rows))
        return self._marks(query, lambda rows: (hash(tuple(row)) for row in rows))

    def ledger_marks(self, fingerprint: str) -> "array[int]":
        """Return hash(content hash) of each of the ledger's answers under a fingerprint."""
        table = self._ledger
        if not self._exists(table):
            return array("q")
        query = sa.select(table.c.content_hash).where(table.c.fingerprint == fingerprint)
        return self._marks(query, lambda rows: (hash(row[0]) for row in rows))

    @retried
    def _marks(self, query: sa.Select[Any], of_rows: Any) -> "array[int]":
        found = array("q")
        with self.database.engine.connect() as connection:
            rows = connection.execute(query, execution_options={"stream_results": True, "yield_per": PAGE_ROWS})
            for page in rows.partitions():
                found.extend(of_rows(page))
        return found

    @retried
    def stored_answers(self, task: str, partition_keys: Sequence[str] | None = None) -> list[StoredAnswers]:
        """Return a task's answers by fingerprint and model, the latest first; of some partitions, or all."""
        table = self._results[task]
        if not self._exists(table):
            return []
        moments = [sa.func.min(table.c.answered_at), sa.func.max(table.c.answered_at)]
        means = [sa.func.avg(table.c.prompt_tokens), sa.func.avg(table.c.output_tokens)]
        names = [table.c.fingerprint, table.c.model]
        query = sa.select(*names, sa.func.count(), *moments, *means).group_by(*names)
        if partition_keys is not None:
            query = query.where(table.c.partition_key.in_(list(partition_keys)))
        with self.database.engine.connect() as connection:
            found = [
                StoredAnswers(fingerprint, model, rows, clean(first), clean(last), float(prompt), float(output))
                for fingerprint, model, rows, first, last, prompt, output in connection.execute(query)
            ]
        return sorted(found, key=lambda item: item.last, reverse=True)

    @retried
    def past_partitions(self, model: str, revision: str) -> list[PastPartition]:
        """Return what runs with a model did, the latest first, where it was asked anything."""
        table = self._throughput
        if not self._exists(table):
            return []
        # Layout 4 brought it.
        gpus = table.c.gpus if "gpus" in self._existing[table.name] else sa.null().label("gpus")
        query = (
            sa.select(table)
            .with_only_columns(
                *(table.c[name] for name in ("run_id", "source", "partition_key", "task", "device", "rows_answered")),
                gpus,
                (table.c.prompt_tokens - table.c.cached_tokens + table.c.output_tokens).label("tokens"),
                table.c.seconds_total,
                table.c.seconds_load,
            )
            .where(table.c.model == model, table.c.revision == revision, table.c.device != "")
            .order_by(table.c.finished_at.desc())
            .limit(PAST_PARTITIONS)
        )
        by_partition: dict[tuple[str, str, str], list[Any]] = {}
        with self.database.engine.connect() as connection:
            for row in connection.execute(query):
                by_partition.setdefault((row.run_id, row.source, row.partition_key), []).append(row)
        return [
            PastPartition(
                source,
                rows[0].device,
                rows[0].gpus,
                tuple(sorted(row.task for row in rows if row.rows_answered)),
                sum(row.rows_answered for row in rows),
                sum(row.tokens for row in rows),
                rows[0].seconds_total,  # on the row of each task the same
                rows[0].seconds_load,
            )
            for (_, source, _), rows in by_partition.items()
            if sum(row.rows_answered for row in rows) and rows[0].seconds_total
        ]

    @retried
    def answers(self, task: str, keys: Sequence[Key]) -> dict[Key, dict[str, Any]]:
        """Return the stored answers to some rows, with every column that the table has of those now written."""
        table = self._results[task]
        if not self._exists(table):
            return {}
        columns = [column for column in table.columns if column.name in self._existing[table.name]]
        keys_of = self._key_columns(table)
        with self.database.engine.connect() as connection:
            rows = connection.execute(sa.select(*columns).where(matches(keys_of, keys))).mappings()
            return {tuple(row[column.name] for column in keys_of): dict(row) for row in rows}

    @retried
    def count_answers(self, task: str, partition_keys: Sequence[str] | None = None, other_than: str = "") -> int:
        """Return how many answers a task has, of some partitions or all, that have another fingerprint than one."""
        table = self._results[task]
        if not self._exists(table):
            return 0
        query = sa.select(sa.func.count()).select_from(table).where(*self._of(table, partition_keys, other_than))
        with self.database.engine.connect() as connection:
            return connection.execute(query).scalar_one()

    @retried
    def answered_keys(
        self, task: str, positions: Iterable[int], partition_keys: Sequence[str] | None = None, other_than: str = ""
    ) -> list[Key]:
        """Return the keys of those answers that `count_answers` counts at some positions, from 0 in key order."""
        table = self._results[task]
        columns = self._key_columns(table)
        number = sa.func.row_number().over(order_by=columns).label("llm_assets_number")
        numbered = sa.select(*columns, number).where(*self._of(table, partition_keys, other_than)).subquery()
        query = sa.select(*(numbered.c[column.name] for column in columns))
        query = query.where(numbered.c.llm_assets_number.in_([position + 1 for position in positions]))
        with self.database.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(query)]

    def existing_columns(self, task: str, columns: Iterable[Column]) -> list[str]:
        """Return the names of those of some columns that a task's table has."""
        found = self._existing.get(self._results[task].name, set())
        return [column.name for column in columns if column.name in found]

    def _of(
        self, table: sa.Table, partition_keys: Sequence[str] | None, other_than: str
    ) -> list[sa.ColumnElement[bool]]:
        conditions: list[sa.ColumnElement[bool]] = [table.c.fingerprint != other_than]
        if partition_keys is not None:
            conditions.append(table.c.partition_key.in_(list(partition_keys)))
        return conditions

    def _exists(self, table: sa.Table) -> bool:
        return table.name in self._existing
