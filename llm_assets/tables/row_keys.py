"""The text of a row's key in `llm_failures`, as SQL: what `key_text` writes in Python, to join with."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa


def row_key_sql(keys: Sequence[tuple[str, Any]], dialect: str) -> str:
    """Return the SQL expression that equals `llm_failures.row_key`.

    It does so for keys of whole numbers, text, dates, times, decimals, UUIDs and booleans up to `LONGEST_KEY_TEXT`
    bytes; of a time with a zone where runs connect in UTC. SQLite's other values and Postgres' floats are written
    otherwise in SQL than in Python, so that their failures are not found.

    Args:
        keys: SQL and type of each key column, in the order of the key.
        dialect: sqlite or postgresql.
    """
    as_text, as_json = (_sqlite_text, _sqlite_json) if dialect == "sqlite" else (_postgres_text, _postgres_json)
    if len(keys) == 1:
        return as_text(*keys[0])
    values = " || ', ' || ".join(as_json(sql, kind) for sql, kind in keys)
    return f"'[' || {values} || ']'"


def _sqlite_text(sql: str, _: Any) -> str:
    return f"CAST({sql} AS TEXT)"


def _sqlite_json(sql: str, kind: Any) -> str:
    if isinstance(kind, sa.String):
        return f"json_quote(CAST({sql} AS TEXT))"
    # A blob in a column without a type would end the query with an error.
    return f"CASE typeof({sql}) WHEN 'blob' THEN NULL ELSE json_quote({sql}) END"


def _postgres_text(sql: str, kind: Any) -> str:
    if isinstance(kind, sa.Boolean):
        return f"CASE WHEN {sql} THEN 'True' ELSE 'False' END"
    if isinstance(kind, sa.CHAR) and kind.length:
        return f"RPAD(CAST({sql} AS TEXT), {kind.length})"  # a cast removes the blanks at the end
    if isinstance(kind, sa.DateTime):
        moment = f"({sql} AT TIME ZONE 'UTC')" if kind.timezone else sql
        text = (
            f"CASE WHEN DATE_TRUNC('second', {moment}) = {moment} THEN TO_CHAR({moment}, 'YYYY-MM-DD HH24:MI:SS') "
            f"ELSE TO_CHAR({moment}, 'YYYY-MM-DD HH24:MI:SS.US') END"
        )
        return f"({text}) || '+00:00'" if kind.timezone else text
    return f"CAST({sql} AS TEXT)"


def _postgres_json(sql: str, kind: Any) -> str:
    if isinstance(kind, sa.Integer | sa.Boolean | sa.Float):
        return f"CAST({sql} AS TEXT)"
    return f"CAST(TO_JSON({_postgres_text(sql, kind)}) AS TEXT)"
