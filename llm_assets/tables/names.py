"""Names and text written into SQL by hand: views and roles are read by people, and made from one text."""

import sqlalchemy as sa


def quoted(dialect: sa.Dialect, *names: str | None) -> str:
    """Return a name as the database reads it, in quotes where it needs them; of several the dotted one."""
    # For some drivers SQLAlchemy doubles percent signs.
    doubled = dialect.paramstyle in ("format", "pyformat")
    parts = [dialect.identifier_preparer.quote(name) for name in names if name]
    return ".".join(part.replace("%%", "%") if doubled else part for part in parts)


def literal(text: str) -> str:
    """Return text as an SQL string."""
    doubled = text.replace("'", "''")
    return f"'{doubled}'"


def one_line(text: str) -> str:
    """Return text without line breaks, as the rest of a line of SQL after `--`."""
    return " ".join(text.split())
