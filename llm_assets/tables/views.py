"""The view of a table's rows with all their answers, one line a row, as SQL that a person can read."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from llm_assets.errors import ConfigError, DatabaseError, OutputTableError
from llm_assets.tables.database import OUTPUT_DIALECTS, Database, reason_of
from llm_assets.tables.names import literal, one_line, quoted
from llm_assets.tables.row_keys import row_key_sql
from llm_assets.tables.source import Source
from llm_assets.tables.source_table import SourceTable
from llm_assets.tables.store import POSTGRES_NAME_BYTES, Output
from llm_assets.tables.view_rights import ViewRights

MARK = "Made by llm_assets."
"""Stands in every view that this package makes; no other view is replaced."""

COLUMNS_CHANGED = "42P16"
"""SQLSTATE of a view that cannot be replaced, because it has columns that the new one lacks."""


class ViewColumn(NamedTuple):
    """A column of the view: what it is, in SQL and in words, and whose it is."""

    name: str
    sql: str
    comment: str
    owner: str


class AnsweredView:
    """Every row of a source with the answers of all its tasks: `<table>_answered`.

    The source's columns stand as they are. Each task has its columns with its name before them, `<task>_answered_at`,
    and `<task>_failed`: why there is no answer. Where both are NULL, the row has not been asked.

    Args:
        database: The database that has both the source and the answers.
        source: The source table.
        outputs: The tasks' output tables.
        schema: Schema of the output tables; the view stands there too.
        name: The view's name, in place of `<table>_answered`.

    Raises:
        DatabaseError: the database cannot be opened.
        SourceError: there is no such source, or it has no key.
        ConfigError: the database is neither SQLite nor Postgres, two columns of the view would have one name, or a
            name is too long.
    """

    def __init__(
        self,
        database: Database,
        source: Source,
        outputs: Sequence[Output],
        schema: str | None = None,
        name: str | None = None,
    ) -> None:
        if database.dialect not in OUTPUT_DIALECTS:
            raise ConfigError(
                f"{database.name} holds no answers: its kind is {database.dialect!r}, and they are written to "
                f"{' or '.join(OUTPUT_DIALECTS)}."
            )
        database.check_exists()
        self.database = database
        self.source = source
        self.outputs = tuple(outputs)
        self.schema = schema
        self.name = name or f"{source.output_prefix}_answered"
        self._dialect = database.engine.dialect
        self._table = SourceTable(database, source, ())
        self._check_names()

    @property
    def full_name(self) -> str:
        """The view's name in SQL, with its schema if it has one."""
        return self._quoted(self.schema, self.name)

    @property
    def comment(self) -> str:
        """What the view is, as its comment in the database says."""
        return (
            f"Every row of {one_line(self.source.name)} with its answers, one line a row. Where <task>_answered_at and "
            f"<task>_failed are both NULL, the row has not been asked yet. {MARK}"
        )

    @cached_property
    def columns(self) -> tuple[ViewColumn, ...]:
        """The columns of the view, in order."""
        return tuple(self._columns())

    @property
    def statements(self) -> list[str]:
        """The SQL that makes the view, and in Postgres its comments; made already, it is replaced."""
        if self.database.dialect == "sqlite":
            return [f"DROP VIEW IF EXISTS {self.full_name}", f"CREATE VIEW {self.full_name} AS\n{self._select()}"]
        return [f"CREATE OR REPLACE VIEW {self.full_name} AS\n{self._select()}", *self._comments()]

    @property
    def sql(self) -> str:
        """The statements as a script."""
        return "".join(f"{statement};\n" for statement in self.statements)

    def create(self) -> None:
        """Make the view, or replace the one that this package made before, in one transaction.

        In Postgres its owner, the rights granted on it and its options stay, also where columns are gone and it must
        be dropped and made anew.

        Raises:
            OutputTableError: a table or column of the answers does not exist yet, or something else has the name.
            DatabaseError: the database refused; the view is as it was.
        """
        self.database.check_writable()
        try:
            with self.database.engine.begin() as connection:
                # Without parameters a driver leaves percent signs alone.
                connection = connection.execution_options(no_parameters=True)
                if self.database.dialect == "sqlite":
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                inspector = sa.inspect(connection)
                self._check_answers(inspector)
                self._check_replaceable(connection, inspector)
                if self.database.dialect == "postgresql":
                    self._replace_in_postgres(connection)
                else:
                    for statement in self.statements:
                        connection.exec_driver_sql(statement)
                # SQLite reads what a view says at its first use only.
                connection.exec_driver_sql(f"SELECT * FROM {self.full_name} LIMIT 0")  # noqa: S608
        except DBAPIError as error:
            raise DatabaseError(
                f"The view {self.name!r} cannot be made in {self.database.name}: {reason_of(error)}. It is as it was."
            ) from None

    def _replace_in_postgres(self, connection: sa.Connection) -> None:
        rights = ViewRights.of(connection, self.full_name)
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(self.statements[0])
        except DBAPIError as error:
            if getattr(error.orig, "pgcode", None) != COLUMNS_CHANGED:
                raise
            # What depends on the view refuses this.
            connection.exec_driver_sql(f"DROP VIEW {self.full_name}")
            connection.exec_driver_sql(self.statements[0])
        for statement in self._comments():
            connection.exec_driver_sql(statement)
        if rights is not None:
            rights.restore(connection)

    def _quoted(self, *names: str | None) -> str:
        return quoted(self._dialect, *names)

    def _columns(self) -> Iterator[ViewColumn]:
        for name, comment in self._source_columns():
            yield ViewColumn(name, f"source.{self._quoted(name)}", comment, f"the source {self.source.name!r}")
        for output in self.outputs:
            task, answer, owner = output.task, f"answer_{output.task}", f"task {output.task!r}"
            for column in output.columns:
                sql, comment = f"{answer}.{self._quoted(column.name)}", f"{task}: {column.comment}"
                yield ViewColumn(f"{task}_{column.name}", sql, comment, owner)
            comment = f"{task}: when it was answered (UTC); NULL if it was not."
            yield ViewColumn(f"{task}_answered_at", f"{answer}.answered_at", comment, owner)
            comment = (
                f"{task}: why there is no answer, a kind of llm_failures; NULL if there is one, or none was asked."
            )
            yield ViewColumn(f"{task}_failed", f"failure_{task}.kind", comment, owner)

    def _source_columns(self) -> Iterator[tuple[str, str]]:
        """The names of the source's columns, and what is known of them."""
        if self.source.query is not None:
            yield from ((name, "") for name in self._table.column_types)
            return
        found = sa.inspect(self.database.engine).get_columns(self.source.table, schema=self.source.db_schema)
        for column in found:
            yield column["name"], column.get("comment") or ""

    def _check_names(self) -> None:
        names: dict[str, ViewColumn] = {}
        for column in self.columns:
            # To SQLite, names that differ by case only are one.
            name = column.name.lower() if self.database.dialect == "sqlite" else column.name
            if name in names:
                raise ConfigError(
                    f"The view {self.name!r} would have the column {column.name!r} twice: of {names[name].owner} and "
                    f"of {column.owner}. Give the task another name, or read the source through a view."
                )
            names[name] = column
        taken = next((output for output in self.outputs if output.table == self.name), None)
        if taken is not None:
            raise ConfigError(
                f"The view cannot be named {self.name!r}, as the answers of task {taken.task!r} are. Choose another "
                "name for it."
            )
        for name in (self.name, *(column.name for column in self.columns)):
            size = len(name.encode())
            if self.database.dialect == "postgresql" and size > POSTGRES_NAME_BYTES:
                raise ConfigError(
                    f"The name {name!r} in the view {self.name!r} is too long for Postgres: {size} bytes, of at most "
                    f"{POSTGRES_NAME_BYTES}. Give the task a shorter name."
                )

    def _check_answers(self, inspector: sa.Inspector) -> None:
        """Raise an OutputTableError if the tasks have not been run as they are now."""
        for output in self.outputs:
            lacks = ""
            if not inspector.has_table(output.table, self.schema):
                lacks = "the table does not exist"
            else:
                there = {column["name"] for column in inspector.get_columns(output.table, self.schema)}
                if missing := [column.name for column in output.columns if column.name not in there]:
                    lacks = f"{output.table} has no column {', '.join(missing)}"
            if lacks:
                raise OutputTableError(
                    f"The view {self.name!r} cannot be made in {self.database.name}: task {output.task!r} has not "
                    f"been run there as it is now ({lacks}). Materialize {output.table} first, one partition will do."
                )

    def _check_replaceable(self, connection: sa.Connection, inspector: sa.Inspector) -> None:
        """Raise an OutputTableError if something stands under the view's name that this package did not make."""
        if self.name in inspector.get_view_names(self.schema):
            if self.database.dialect == "sqlite":
                views = self._quoted(self.schema, "sqlite_master")
                query = f"SELECT sql FROM {views} WHERE name = {literal(self.name)}"  # noqa: S608
            else:
                query = f"SELECT obj_description({literal(self.full_name)}::regclass, 'pg_class')"
            text = connection.exec_driver_sql(query).scalar_one()
            if MARK not in (text or ""):
                raise OutputTableError(
                    f"The view {self.name!r} in {self.database.name} was not made by llm_assets, so it is not "
                    f"replaced. Choose another name, or drop it: DROP VIEW {self.full_name};"
                )
        elif inspector.has_table(self.name, self.schema):
            raise OutputTableError(
                f"{self.name!r} in {self.database.name} is not a view, so it is not replaced. Choose another name."
            )

    def _select(self) -> str:
        in_sqlite = self.database.dialect == "sqlite"
        lines: list[str] = []
        if in_sqlite:
            lines.append(f"-- {self.comment}")
        lines.append("SELECT")
        for index, column in enumerate(self.columns):
            if in_sqlite and column.comment:
                lines.append(f"    -- {one_line(column.comment)}")
            comma = "," if index < len(self.columns) - 1 else ""
            lines.append(f"    {column.sql} AS {self._quoted(column.name)}{comma}")
        lines.append(f"FROM {self._rows()} AS source")
        keys = dict(zip(self._table.key_columns, self._table.key_types, strict=True))
        row_key = row_key_sql(
            [(f"source.{self._quoted(name)}", kind) for name, kind in keys.items()], self.database.dialect
        )
        for output in self.outputs:
            answer, failure = f"answer_{output.task}", f"failure_{output.task}"
            on = [f"{answer}.{self._quoted(name)} = {self._key(name, kind)}" for name, kind in keys.items()]
            lines.append(f"LEFT JOIN {self._quoted(self.schema, output.table)} AS {answer}")
            lines.append(f"    ON {' AND '.join(on)}")
            lines.append(f"LEFT JOIN {self._quoted(self.schema, 'llm_failures')} AS {failure}")
            lines.append(f"    ON {failure}.source = {literal(self.source.name)}")
            lines.append(f"    AND {failure}.task = {literal(output.task)}")
            lines.append(f"    AND {failure}.row_key = {row_key}")
        return "\n".join(lines)

    def _rows(self) -> str:
        if self.source.query is None:
            rows = self._quoted(self.source.db_schema, self.source.table)
        else:
            # On lines of its own, so that a comment at its end hides nothing.
            rows = f"(\n{self.source.query.strip().rstrip(';')}\n)"
        if not self.source.where:
            return rows
        name = "" if self.source.query is None else f" AS {self._quoted(self.source.output_prefix)}"
        return f"(SELECT * FROM {rows}{name} WHERE ({self.source.where}))"  # noqa: S608 - the pipeline's own condition

    def _key(self, name: str, kind: Any) -> str:
        column = f"source.{self._quoted(name)}"
        # The answers have a key of an extension's type as text.
        is_text = self.database.dialect == "postgresql" and isinstance(kind, sa.types.NullType)
        return f"CAST({column} AS TEXT)" if is_text else column

    def _comments(self) -> list[str]:
        """The statements that comment the view and its columns; only Postgres has any."""
        found = [f"COMMENT ON VIEW {self.full_name} IS {literal(self.comment)}"]
        for column in self.columns:
            name = f"{self.full_name}.{self._quoted(column.name)}"
            comment = column.comment or f"As in {self.source.name}."
            found.append(f"COMMENT ON COLUMN {name} IS {literal(comment)}")
        return found
