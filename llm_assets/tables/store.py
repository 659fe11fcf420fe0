"""The output database: what is answered already, and transactions that add to it."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import DataError

from llm_assets.errors import ConfigError, OutputTableError, SourceError
from llm_assets.records import Answer, Column, Failure, Key
from llm_assets.secrets import masked
from llm_assets.tables.batch import AnsweredRow, AnswerToWrite, Batch, FailedRow, FailureToWrite, UnstorableError
from llm_assets.tables.columns import clean, from_json, key_text, to_json, upsert
from llm_assets.tables.database import OUTPUT_DIALECTS, Database, reason_of, retried
from llm_assets.tables.key_types import check_stored, check_values, key_type
from llm_assets.tables.layout import failures_table, ledger_table, results_table, throughput_table, version_table
from llm_assets.tables.source import output_prefix
from llm_assets.tables.source_table import CHUNK_ROWS, SourceTable, after, matches
from llm_assets.tables.statistics import Statistics
from llm_assets.tables.upgrade import make_tables

POSTGRES_NAME_BYTES = 63

COUNTED_ANSWERS = 1000
"""So many answers say which layout a table has; all of a large one would take long to count."""


class Output(NamedTuple):
    """One task's output table: its name, its answer columns and its comment."""

    task: str
    table: str
    columns: tuple[Column, ...]
    comment: str


class Store:
    """The output tables of one source.

    Raises:
        ConfigError: the database is neither SQLite nor Postgres, or a task's column has the name of a key column.
        OutputTableError: a table exists with columns that differ from those this package writes.
    """

    def __init__(
        self, database: Database, source: SourceTable, outputs: Sequence[Output], schema: str | None = None
    ) -> None:
        if database.dialect not in OUTPUT_DIALECTS:
            raise ConfigError(
                f"Answers cannot be written to {database.name}: its kind is {database.dialect!r}. Write them to one of "
                f"{', '.join(OUTPUT_DIALECTS)}; any SQLAlchemy database can be the source."
            )
        self.database = database
        self._source = source
        self._columns = {output.task: output.columns for output in outputs}
        self._metadata = sa.MetaData(schema=schema)
        key = [(name, key_type(name, source, database)) for name in source.key_columns]
        self._results: dict[str, sa.Table] = {}
        for output in outputs:
            size = len(output.table.encode())
            if database.dialect == "postgresql" and size > POSTGRES_NAME_BYTES:
                raise OutputTableError(
                    f"The output table's name {output.table!r} is too long for Postgres: {size} bytes, of at most "
                    f"{POSTGRES_NAME_BYTES}. Give the task a shorter name, or read the table through a view."
                )
            for column in output.columns:
                # To SQLite, names that differ by case only are one.
                if column.name.lower() in {name.lower() for name in source.key_columns}:
                    raise ConfigError(
                        f"Task {output.task!r} has the column {column.name!r}, which is a key column of the source."
                    )
            self._results[output.task] = results_table(
                self._metadata, output.table, key, output.columns, output.comment
            )
        self._ledger = ledger_table(self._metadata)
        self._failures = failures_table(self._metadata)
        self._throughput = throughput_table(self._metadata)
        self._version = version_table(self._metadata)

    def prepare(self) -> None:
        """Create the tables that do not exist, and bring those that do up to date; see `make_tables`."""
        self.database.check_writable()
        with self.database.engine.begin() as connection:
            # Of runs that start together one makes the tables, and the others wait for it.
            lock = "SELECT pg_advisory_xact_lock(hashtext('llm_assets'))"
            connection.exec_driver_sql("BEGIN IMMEDIATE" if self.database.dialect == "sqlite" else lock)
            self._check_place(connection)
            make_tables(connection, self._metadata, self._version, self.database)

    def _check_place(self, connection: sa.Connection) -> None:
        """Raise an OutputTableError if there is no such schema, or it has another source's answers in these tables."""
        inspector = sa.inspect(connection)
        schema = self._metadata.schema
        if schema and schema not in inspector.get_schema_names():
            raise OutputTableError(
                f"There is no schema {schema!r} in {self.database.name}. Create it, or choose one of "
                f"{', '.join(inspector.get_schema_names())}."
            )
        if inspector.has_table(self._throughput.name, schema):
            self._check_owner(connection)

    def _check_owner(self, connection: sa.Connection) -> None:
        """Raise an OutputTableError if another source writes to the same tables: each would remove the other's rows."""
        mine, table = self._source.source, self._throughput
        # A source of which no row was ever read, such as one that could not be, has no answers there.
        others = (table.c.source != mine.name, table.c.rows_read > 0)
        query = sa.select(table.c.source).distinct().where(table.c.task.in_(self._results), *others)
        for other in connection.execute(query).scalars():
            # A source stands there as table, or as schema.table.
            if mine.output_prefix in (output_prefix(other), output_prefix(other.partition(".")[2])):
                names = ", ".join(output.name for output in self._results.values())
                raise OutputTableError(
                    f"The output tables {names} hold the answers of the source {other!r}, and {mine.name!r} would "
                    "write to them too. Set output_schema, name the tasks otherwise, or read one through a view."
                )

    def table_name(self, task: str) -> str:
        """Return the full name of a task's output table."""
        return self._results[task].fullname

    @retried
    def answered(self, task: str, keys: Sequence[Key]) -> dict[Key, AnsweredRow]:
        """Return, for those of some keys that have an answer, what it was an answer to."""
        self._check_keys(keys)
        table = self._results[task]
        if self.database.dialect == "postgresql" and keys:
            check_values(keys, self._key_columns(table), self._source)
        key_columns = self._key_columns(table)
        query = sa.select(*key_columns, table.c.fingerprint, table.c.content_hash, table.c.partition_key)
        width = len(key_columns)
        with self.database.engine.connect() as connection:
            rows = connection.execute(query.where(matches(key_columns, keys)))
            return {tuple(row[:width]): AnsweredRow(*row[width:]) for row in rows}

    @retried
    def fingerprint_counts(self, task: str, fingerprints: Collection[str]) -> dict[str, int]:
        """Return how many of a task's answers have each of some fingerprints, of the first thousand that have one."""
        column = self._results[task].c.fingerprint
        found = sa.select(column).where(column.in_(list(fingerprints))).limit(COUNTED_ANSWERS).subquery()
        query = sa.select(found.c.fingerprint, sa.func.count()).group_by(found.c.fingerprint)
        with self.database.engine.connect() as connection:
            return dict(connection.execute(query).tuples().all())

    @retried
    def failed(self, task: str, keys: Sequence[Key]) -> dict[Key, FailedRow]:
        """Return, for those of some keys that failed, what failed and how often."""
        table = self._failures
        by_text = {key_text(key): key for key in keys}
        query = sa.select(table).where(
            table.c.source == self._source.source.name, table.c.task == task, table.c.row_key.in_(list(by_text))
        )
        with self.database.engine.connect() as connection:
            return {
                by_text[row.row_key]: FailedRow(
                    row.fingerprint, row.content_hash, row.attempts, Failure(row.kind, row.message, row.raw_output)
                )
                for row in connection.execute(query)
            }

    @retried
    def reusable(
        self, task: str, fingerprint: str, hashes: Collection[str], since: datetime | None = None
    ) -> dict[str, Answer]:
        """Return the ledger's answers to some texts under a fingerprint, by content hash; those `since` a time."""
        table = self._ledger
        query = sa.select(table).where(table.c.fingerprint == fingerprint, table.c.content_hash.in_(list(hashes)))
        if since is not None:
            query = query.where(table.c.answered_at >= since)
        with self.database.engine.connect() as connection:
            return {
                row.content_hash: Answer(
                    from_json(row.answer, self._columns[task]), row.prompt_tokens, row.output_tokens, row.finish_reason
                )
                for row in connection.execute(query)
            }

    def write(self, batch: Batch, model: str, run_id: str, throughput: Sequence[Mapping[str, Any]] = ()) -> None:
        """Commit a batch in one transaction: answers, ledger, failures, and rows of `llm_throughput`.

        Args:
            batch: What to write.
            model: What gave the answers.
            run_id: The run that writes.
            throughput: How far the run is in the batch's partitions.

        Raises:
            UnstorableError: the database cannot hold some of the answers; nothing is written.
        """
        now = datetime.now(UTC)
        try:
            self._write(batch, model, run_id, now, throughput)
        except (DataError, OverflowError):
            refused = [(item, reason) for item in batch.answers if (reason := self._refusal(item, model, run_id, now))]
            if not refused:
                raise
            raise UnstorableError(refused) from None

    @retried
    def _write(
        self, batch: Batch, model: str, run_id: str, now: datetime, throughput: Sequence[Mapping[str, Any]]
    ) -> None:
        with self.database.engine.begin() as connection:
            for task, table in self._results.items():
                answers = [item for item in batch.answers if item.task == task]
                upsert(connection, table, [self._result_row(item, model, run_id, now) for item in answers])
                if answers and self._source.database.dialect != self.database.dialect:
                    check_stored(connection, self._key_columns(table), [item.key for item in answers], self._source)
                self._delete_failures(connection, task, [item.key for item in answers])
                self._delete(connection, table, [item.key for item in batch.failures if item.task == task])
                for moved_task, key, partition_key in batch.moved:
                    if moved_task == task:
                        keys = matches(self._key_columns(table), [key])
                        connection.execute(table.update().where(keys).values(partition_key=partition_key))
            ledger = {(item.fingerprint, item.content_hash): item for item in batch.answers if item.to_ledger}
            upsert(connection, self._ledger, [_ledger_row(ledger[name], now) for name in sorted(ledger)])
            upsert(connection, self._failures, [self._failure_row(item, run_id, now) for item in batch.failures])
            upsert(connection, self._throughput, throughput)

    @retried
    def _refusal(self, item: AnswerToWrite, model: str, run_id: str, now: datetime) -> str | None:
        """Return why the database cannot hold an answer; None if it can. Nothing is written."""
        with self.database.engine.connect() as connection:
            try:
                upsert(connection, self._results[item.task], [self._result_row(item, model, run_id, now)])
                upsert(connection, self._ledger, [_ledger_row(item, now)])
            except DataError as error:
                return reason_of(error)
            except OverflowError as error:
                return str(error)
            finally:
                connection.rollback()
        return None

    def remove_missing(self, task: str, partition_key: str, present: Callable[[Sequence[Key]], set[Key]]) -> int:
        """Delete the partition's answers whose source row is gone; return how many.

        `present` says which of some keys the source partition still holds.
        """
        table = self._results[task]
        removed = 0
        for keys in self._stored_keys(table, partition_key):
            gone = set(keys) - present(keys)
            if gone:
                removed += self._remove(table, partition_key, list(gone))
        return removed

    @retried
    def _remove(self, table: sa.Table, partition_key: str, keys: Sequence[Key]) -> int:
        # By the partition too: another run may have moved a row to its own partition meanwhile.
        condition = matches(self._key_columns(table), keys)
        with self.database.engine.begin() as connection:
            return connection.execute(table.delete().where(condition, table.c.partition_key == partition_key)).rowcount

    @retried
    def remove_old_failures(self, task: str, partition_key: str, run_id: str) -> None:
        """Delete the partition's failures that this run did not find again."""
        table = self._failures
        with self.database.engine.begin() as connection:
            connection.execute(
                table.delete().where(
                    table.c.source == self._source.source.name,
                    table.c.task == task,
                    table.c.partition_key == partition_key,
                    table.c.run_id != run_id,
                )
            )

    @retried
    def write_throughput(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one row for each task of a partition."""
        with self.database.engine.begin() as connection:
            upsert(connection, self._throughput, rows)

    def statistics(self, task: str) -> Statistics:
        """Return what counts a task's answers and shows some of them."""
        return Statistics(
            self.database,
            self._results[task],
            self._failures,
            self._source.key_columns,
            self._columns[task],
            self._source.source.name,
            task,
        )

    def _check_keys(self, keys: Sequence[Key]) -> None:
        """Raise a SourceError for keys that the tables cannot hold, or cannot tell apart."""
        by_text = {key_text(key): key for key in keys}
        if len(by_text) < len(keys):
            first, second = next((key, by_text[key_text(key)]) for key in keys if by_text[key_text(key)] is not key)
            raise SourceError(
                f"Table {self._source.source.name!r}: the keys {first!r} and {second!r} are the same as text, and "
                "llm_failures could not hold both. Give the key column one type, or leave one out with `where`."
            )
        if self.database.dialect == "postgresql":
            for key in keys:
                if any(isinstance(value, str) and "\0" in value for value in key):
                    raise SourceError(
                        f"Table {self._source.source.name!r}: the key {key!r} has a NUL character, which Postgres "
                        "cannot hold. Leave that row out with `where`, or write the answers to SQLite."
                    )

    def _key_columns(self, table: sa.Table) -> list[sa.Column[Any]]:
        return [table.c[name] for name in self._source.key_columns]

    def _stored_keys(self, table: sa.Table, partition_key: str) -> Iterator[list[Key]]:
        """Every key of a partition in key order, in lists. Deleting some of them between two lists does no harm."""
        columns = self._key_columns(table)
        query = sa.select(*columns).where(table.c.partition_key == partition_key).order_by(*columns).limit(CHUNK_ROWS)
        page = query
        while True:
            keys = self._keys(page)
            if keys:
                yield keys
            if len(keys) < CHUNK_ROWS:
                return
            page = query.where(after(columns, keys[-1]))

    @retried
    def _keys(self, query: sa.Select[Any]) -> list[Key]:
        with self.database.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(query)]

    def _delete(self, connection: sa.Connection, table: sa.Table, keys: Sequence[Key]) -> None:
        if keys:
            connection.execute(table.delete().where(matches(self._key_columns(table), keys)))

    def _delete_failures(self, connection: sa.Connection, task: str, keys: Sequence[Key]) -> None:
        if keys:
            table = self._failures
            connection.execute(
                table.delete().where(
                    table.c.source == self._source.source.name,
                    table.c.task == task,
                    table.c.row_key.in_([key_text(key) for key in keys]),
                )
            )

    def _result_row(self, item: AnswerToWrite, model: str, run_id: str, now: datetime) -> dict[str, Any]:
        return {
            **dict(zip(self._source.key_columns, item.key, strict=True)),
            **clean(item.answer.columns),
            "model": model,
            "fingerprint": item.fingerprint,
            "content_hash": item.content_hash,
            "prompt_tokens": item.answer.prompt_tokens,
            "output_tokens": item.answer.output_tokens,
            "finish_reason": item.answer.finish_reason,
            "run_id": run_id,
            "answered_at": now,
            "partition_key": item.partition_key,
        }

    def _failure_row(self, item: FailureToWrite, run_id: str, now: datetime) -> dict[str, Any]:
        return {
            "source": self._source.source.name,
            "task": item.task,
            "row_key": key_text(item.key),
            "partition_key": item.partition_key,
            "kind": str(item.failure.kind),
            "message": clean(masked(item.failure.message)),
            "raw_output": clean(item.failure.raw_output),
            "attempts": item.attempts,
            "fingerprint": item.fingerprint,
            "content_hash": item.content_hash,
            "run_id": run_id,
            "failed_at": now,
        }


def _ledger_row(item: AnswerToWrite, now: datetime) -> dict[str, Any]:
    return {
        "fingerprint": item.fingerprint,
        "content_hash": item.content_hash,
        "answer": clean(to_json(item.answer.columns)),
        "prompt_tokens": item.answer.prompt_tokens,
        "output_tokens": item.answer.output_tokens,
        "finish_reason": item.answer.finish_reason,
        "answered_at": now,
    }
