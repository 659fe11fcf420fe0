"""The package's tables made, and those of an earlier version or of a task's earlier columns brought up to date."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from llm_assets.errors import DatabaseError, OutputTableError
from llm_assets.tables.columns import is_created
from llm_assets.tables.database import Database, reason_of
from llm_assets.tables.names import plain

LAYOUT = 4
"""Version of the package's own tables.

1: the tables of release 0.1, which had no version. 2: `status` and `rows_left` in `llm_throughput`. 3: `seconds_idle`,
`layout` and `expected_tokens` there. 4: `gpus`, `tokens_per_second_per_gpu`, `cost` and `currency` there.
"""

AFFINITIES = {
    "INTEGER": ("INT",),
    "TEXT": ("CHAR", "CLOB", "TEXT"),
    "BLOB": ("BLOB",),
    "REAL": ("REAL", "FLOA", "DOUB"),
}
"""Parts of a declared type by the affinity that they give a SQLite column, in the order that it looks for them."""

TEXTS = ("TEXT", "VARCHAR")


def table_changes(
    connection: sa.Connection, metadata: sa.MetaData, version: sa.Table, database: Database
) -> tuple[int | None, list[str]]:
    """Return the layout of the tables that exist, and the statements that add the columns that they lack.

    Raises:
        OutputTableError: a table is not one of this package's, has another key, has columns that it no longer writes
            or writes as another type, or was made by a later version.
    """
    inspector = sa.inspect(connection)
    existing = set(inspector.get_table_names(metadata.schema))
    stored = None
    if version.name in existing:
        stored = connection.execute(sa.select(sa.func.max(version.c.layout))).scalar_one()
        if stored is not None and stored > LAYOUT:
            raise OutputTableError(
                f"The tables in {database.name} were made by a later version of llm_assets: they have layout {stored}, "
                f"and this version knows layout {LAYOUT}. Install the later version."
            )
    statements = [
        statement
        for table in metadata.sorted_tables
        if table.name in existing
        for statement in _additions(connection, inspector, table, database)
    ]
    return stored, statements


def make_tables(connection: sa.Connection, metadata: sa.MetaData, version: sa.Table, database: Database) -> None:
    """Create the tables that do not exist, and add to those that do the columns that they lack.

    Raises:
        OutputTableError: as `table_changes`.
        DatabaseError: the right to make or alter tables is missing; the message has the statements.
    """
    stored, statements = table_changes(connection, metadata, version, database)
    try:
        for statement in statements:
            # Without parameters a driver leaves percent signs alone.
            connection.execution_options(no_parameters=True).exec_driver_sql(statement)
        metadata.create_all(connection)
        if stored != LAYOUT:
            connection.execute(version.insert().values(layout=LAYOUT, since=datetime.now(UTC)))
    except (ProgrammingError, OperationalError) as error:
        raise DatabaseError(_refusal(error, statements, database)) from None


def _additions(connection: sa.Connection, inspector: sa.Inspector, table: sa.Table, database: Database) -> list[str]:
    """Return the statements that add what a table lacks."""
    dialect = connection.dialect
    types = {column["name"]: column["type"] for column in inspector.get_columns(table.name, table.schema)}
    missing = [column for column in table.columns if column.name not in types]
    unknown = types.keys() - table.columns.keys()
    if any(not column.nullable and column.server_default is None for column in missing):
        raise OutputTableError(_not_ours(table, {column.name for column in missing}, unknown, database.name))
    _check_key(dialect, table, types, inspector.get_pk_constraint(table.name, table.schema), database.name)
    other = [
        f"{column.name} is {types[column.name].compile(dialect)} there and {column.type.compile(dialect)} now"
        for column in table.columns
        if column.name in types
        and not column.primary_key
        and types[column.name].compile(dialect) != column.type.compile(dialect)
    ]
    if other or unknown:
        name = dialect.identifier_preparer.format_table(table)
        quote = dialect.identifier_preparer.quote
        columns = [*sorted(unknown), *(text.partition(" ")[0] for text in other)]
        changes = [*(f"{column} is not written any more" for column in sorted(unknown)), *other]
        drops = "\n".join(plain(dialect, f"ALTER TABLE {name} DROP COLUMN {quote(column)};") for column in columns)
        raise OutputTableError(
            f"The columns of the output table {table.fullname!r} in {database.name} have changed: "
            f"{'; '.join(changes)}. Give the task another name to keep the old table, or drop what is stale; new "
            f"columns are added by themselves:\n{drops}"
        )
    statements: list[str] = []
    for column in missing:
        name = dialect.identifier_preparer.format_table(table)
        statements.append(f"ALTER TABLE {name} ADD COLUMN {sa.schema.CreateColumn(column).compile(dialect=dialect)}")
        if dialect.supports_comments:
            statements.append(str(sa.schema.SetColumnComment(column).compile(dialect=dialect)))
    return [plain(dialect, statement) for statement in statements]


def _check_key(dialect: sa.Dialect, table: sa.Table, types: Mapping[str, Any], found: Any, database: str) -> None:
    """Raise an OutputTableError if a table's key is not the source's, or cannot hold the source's values as they are.

    A narrower type would round keys, so that one row gets the answer of another, or refuse them.
    """
    key = [column.name for column in table.primary_key]
    where = f"The key of the output table {table.fullname!r} in {database}"
    if set(found["constrained_columns"]) != set(key):
        raise OutputTableError(
            f"{where} is ({', '.join(found['constrained_columns'])}), and the source's is ({', '.join(key)}). Rename "
            "or drop that table, or give the task another name."
        )
    changed = [column for column in table.primary_key if not _holds_alike(dialect, types[column.name], column.type)]
    if not changed:
        return
    changes = "; ".join(
        f"{column.name} is {types[column.name].compile(dialect)} there and {column.type.compile(dialect)} now"
        for column in changed
    )
    message = f"{where} has changed: {changes}. Rename or drop that table, or give the task another name"
    if dialect.name == "sqlite":  # which cannot change a column
        raise OutputTableError(f"{message}.")
    name, quote = dialect.identifier_preparer.format_table(table), dialect.identifier_preparer.quote
    sql = "\n".join(
        plain(dialect, f"ALTER TABLE {name} ALTER COLUMN {quote(column.name)} TYPE {column.type.compile(dialect)};")
        for column in changed
    )
    raise OutputTableError(f"{message}, or change it:\n{sql}")


def _holds_alike(dialect: sa.Dialect, found: Any, wanted: Any) -> bool:
    """Whether a key column of the type that was found holds every value of the wanted one as it is."""
    there, now = found.compile(dialect), wanted.compile(dialect)
    if dialect.name == "sqlite":
        return _affinity(there) in (_affinity(now), "BLOB")
    if there in TEXTS:
        # A type that someone created is text where the source is in another database, or reached by another URL.
        return now.startswith(TEXTS) or getattr(wanted, "created", False)
    # Without a length or a precision, a type holds what it holds with one.
    return is_created(found) or now == there or now.startswith(f"{there}(")


def _affinity(declared: str) -> str:
    """What a SQLite column makes of values, by its declared type: https://sqlite.org/datatype3.html, 3.1."""
    for affinity, words in AFFINITIES.items():
        if any(word in declared.upper() for word in words):
            return affinity
    return "NUMERIC"


def _not_ours(table: sa.Table, missing: set[str], unknown: set[str], database: str) -> str:
    parts = [f"lacks {', '.join(sorted(missing))}"]
    if unknown:
        parts.append(f"has {', '.join(sorted(unknown))}, which is not written here")
    return (
        f"The output table {table.fullname!r} in {database} exists with other columns: it {' and '.join(parts)}. "
        "Rename or drop that table, or give the task another name."
    )


def _refusal(
    error: DBAPIError,
    statements: Sequence[str],
    database: Database,
) -> str:
    message = (
        f"The output tables cannot be made in {database.name}: {reason_of(error)}. Give the role the right to make "
        "tables there, as the SQL of `llm-assets roles` does"
    )
    if not statements:
        return f"{message}."
    sql = "\n".join(f"{statement};" for statement in statements)
    return f"{message}, or let their owner run:\n{sql}"
