"""Names and text written into SQL by hand: views and roles are read by people, and made from one text."""

import sqlalchemy as sa


def quoted(dialect: sa.Dialect, *names: str | None) -> str:
    """Return a name as the database reads it, in quotes where it needs them; of several the dotted one."""
    return ".".join(plain(dialect, dialect.identifier_preparer.quote(name)) for name in names if name)


def plain(dialect: sa.Dialect, sql: str) -> str:
    """Return SQL as the database reads it: for some drivers SQLAlchemy doubles percent signs."""
    return sql.replace("%%", "%") if dialect.paramstyle in ("format", "pyformat") else sql


def literal(text: str) -> str:
    """Return text as an SQL string."""
    doubled = text.replace("'", "''")
    return f"'{doubled}'"


def one_line(text: str) -> str:
    """Return text without line breaks, as the rest of a line of SQL after `--`."""
    return " ".join(text.split())
