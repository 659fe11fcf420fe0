"""A source that is a SELECT: its columns, found without reading a row, and the statement as a table to read."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from llm_assets.errors import SourceError
from llm_assets.tables.database import Database, passes, reason_of

PROBE = "llm_assets_probe"
"""Name of the temporary view that SQLite is asked about; it never leaves its connection."""


def subselect(query: str, columns: Sequence[sa.ColumnClause[Any]], name: str) -> sa.Subquery:
    """Return a SELECT statement as a table with these columns."""
    return _text(query).columns(*columns).subquery(name)


def query_columns(database: Database, query: str, name: str) -> dict[str, sa.types.TypeEngine[Any]]:
    """Return the columns of a query's rows with their types, by running it for no rows.

    A type that the database does not say is a `NullType`.

    Raises:
        SourceError: the database refuses the query, or two of its columns have one name.
    """
    try:
        with database.engine.connect() as connection:
            nothing = sa.select(sa.literal_column("*")).select_from(subselect(query, [], "q")).where(sa.false())
            result = connection.execute(nothing)
            described = list(result.cursor.description)  # pyright: ignore[reportOptionalMemberAccess]
            names = list(result.keys())
            for column in names:
                if names.count(column) > 1:
                    raise SourceError(
                        f"The query of source {name!r} has two columns named {column!r}. Give one another name with AS."
                    )
            return dict(zip(names, _types(connection, query, names, described), strict=True))
    except DBAPIError as error:
        if passes(error):
            raise
        raise SourceError(
            f"The query of source {name!r} cannot be run: {reason_of(error)}. Give one SELECT that the database "
            f"accepts in parentheses after FROM. It is: {' '.join(query.split())[:500]}"
        ) from None


def _text(query: str) -> sa.TextClause:
    return sa.text(_statement(query).replace(":", r"\:"))  # else a word after a colon is a parameter


def _statement(query: str) -> str:
    """The query without a semicolon; a comment at its end does not hide the parenthesis behind it."""
    return query.strip().rstrip(";") + "\n"


def _types(
    connection: sa.Connection, query: str, names: Sequence[str], described: Sequence[Sequence[Any]]
) -> list[sa.types.TypeEngine[Any]]:
    match connection.dialect.name:
        case "sqlite":
            found = _types_in_sqlite(connection, query)
        case "postgresql":
            found = dict(zip(names, _types_in_postgres(connection, described), strict=True))
        case _:
            found = {}
    return [found.get(name, sa.types.NULLTYPE) for name in names]


def _types_in_sqlite(connection: sa.Connection, query: str) -> dict[str, sa.types.TypeEngine[Any]]:
    """SQLite says of a view, and of nothing else, which declared columns its own stand for."""
    connection.exec_driver_sql(f"CREATE TEMP VIEW {PROBE} AS {_statement(query)}")
    try:
        return {column["name"]: column["type"] for column in sa.inspect(connection).get_columns(PROBE)}
    finally:
        connection.exec_driver_sql(f"DROP VIEW {PROBE}")


def _types_in_postgres(connection: sa.Connection, described: Sequence[Sequence[Any]]) -> list[sa.types.TypeEngine[Any]]:
    """A view would need the right to make one, and a server that is no replica. The result has the types' numbers."""
    query = sa.text("SELECT oid, format_type(oid, NULL) FROM pg_type WHERE oid = ANY(:codes)")
    codes = [column[1] for column in described]
    declared: dict[int, str] = dict(connection.execute(query, {"codes": codes}).tuples().all())
    known = connection.dialect.ischema_names  # pyright: ignore[reportAttributeAccessIssue]
    types: list[sa.types.TypeEngine[Any]] = []
    for _, code, _, size, *_ in described:
        name = declared.get(code, "")
        element = name.removesuffix("[]")
        if name == "character":
            # Without a length it would be that of one character.
            types.append(sa.CHAR(size) if size and size > 0 else sa.Text())
        elif element.startswith("bit"):
            found = postgresql.BIT(varying=True)  # likewise
            types.append(sa.ARRAY(found) if name != element else found)
        else:
            kind = known.get(element)
            timezone = {"timezone": True} if element.endswith("with time zone") else {}
            found = kind(**timezone) if kind is not None else sa.types.NULLTYPE
            types.append(sa.ARRAY(found) if name != element else found)
    return types
