"""The demo's source tables: the rows that ship with this repository, or a CSV file of the user's own."""

import csv
import io
import json
import re
from datetime import datetime
from pathlib import Path
from unicodedata import normalize

import sqlalchemy as sa

from llm_assets.errors import ConfigError, SourceError, did_you_mean
from llm_assets.tables import Database

csv.field_size_limit(2**31 - 1)


def load_reviews(database: Database, directory: Path) -> int:
    """Make the table `reviews` from `schema.sql` and `reviews.jsonl`; rows that exist stay. Return the rows added.

    Raises:
        ConfigError: the directory does not hold the demo's files.
    """
    return _load(database, directory, "reviews", "created_at")


def load_tickets(database: Database, directory: Path) -> int:
    """Make the table `tickets` likewise."""
    return _load(database, directory, "tickets", "opened_at")


def _load(database: Database, directory: Path, name: str, moment: str) -> int:
    schema, rows = directory / "schema.sql", directory / f"{name}.jsonl"
    if not (schema.is_file() and rows.is_file()):
        raise ConfigError(f"The demo's rows are not in {directory}. Run the demo from a clone of the repository.")
    records = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    for record in records:
        record[moment] = datetime.fromisoformat(record[moment])
        if database.dialect == "postgresql" and record.get("text"):
            record["text"] = record["text"].replace("\x00", "")  # Postgres has no NUL in text
    statements = re.sub(r"--.*", "", schema.read_text(encoding="utf-8")).split(";")
    with database.engine.begin() as connection:
        for statement in statements:
            if statement.strip():
                connection.execute(sa.text(statement))
        table = sa.Table(name, sa.MetaData(), autoload_with=connection)
        known = set(connection.execute(sa.select(table.c.id)).scalars())
        new = [record for record in records if record["id"] not in known]
        if new:
            connection.execute(table.insert(), new)
    return len(new)


def load_csv(
    database: Database, file: Path, key: str, text: str, encoding: str = "utf-8-sig", gold: str | None = None
) -> tuple[str, int]:
    """Load a CSV file with a header into a table of its name, replacing it. Return the table's name and its rows.

    Raises:
        SourceError: the file is missing or empty, is not in the encoding, has lines with another number of fields than
            the header, lacks a column, or has a key that is empty or stands twice; the message names the line. Or the
            table of its name is not from a CSV file.
    """
    header, lines = _read_csv(file, encoding)
    for column in (key, text, gold):
        if column is not None and column not in header:
            raise SourceError(f"{file} has no column {column!r}. {did_you_mean(column, header)}")
    position, seen = header.index(key), {}
    for number, values in lines:
        value = values[position]
        if not value.strip():
            raise SourceError(f"{file}, line {number}: the key {key!r} is empty. Give every row a key.")
        if value in seen:
            raise SourceError(f"{file}, line {number}: the key {key}={value!r} stands in line {seen[value]} too.")
        seen[value] = number
    name = _table_name(file)
    columns = [sa.Column(column, sa.Text, primary_key=column == key) for column in header]
    table = sa.Table(name, sa.MetaData(), *columns)
    with database.engine.begin() as connection:
        _check_replaceable(connection, name, file)
        table.drop(connection, checkfirst=True)
        table.create(connection)
        if lines:
            connection.execute(table.insert(), [dict(zip(header, values, strict=True)) for _, values in lines])
    return name, len(lines)


def _table_name(file: Path) -> str:
    """Return a file's name as the name of a table and of a Dagster group, which has no letters but a to z."""
    letters = normalize("NFKD", file.stem).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9_]+", "_", letters).strip("_")
    return f"csv_{name or 'rows'}" if not name or name.startswith("sqlite_") else name


def _check_replaceable(connection: sa.Connection, name: str, file: Path) -> None:
    """Raise a SourceError if a table's name is one of this package's own, or the table is not from a CSV file."""
    inspector = sa.inspect(connection)
    is_own = name.startswith("llm_")
    if not is_own and inspector.has_table(name):
        # Those from a file have texts only, and answers have numbers too.
        is_text = all(isinstance(column["type"], sa.Text) for column in inspector.get_columns(name))
        is_own = not is_text or name in inspector.get_view_names()
    if is_own:
        raise SourceError(f"{file} would replace the table {name!r}, which this package writes. Rename the file.")


def _read_csv(file: Path, encoding: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header and, for each row, the line it begins on and its values."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}.") from None
    try:
        text = data.decode(encoding)
    except LookupError:
        raise SourceError(
            f"There is no encoding {encoding!r}. Write a name such as utf-8, cp1252 or gb18030."
        ) from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(
            f"{file}, line {line}: byte 0x{data[error.start]:02x} is not {encoding.removesuffix('-sig')}. Save the "
            "file as UTF-8, or say what it is in: ENCODING=cp1252 (--encoding cp1252)."
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""))
    lines: list[tuple[int, list[str]]] = []
    header = next(reader, None)
    if not header:
        raise SourceError(f"{file} is empty. Its first line must name the columns.")
    folded = [name.lower() for name in header]  # databases take Text and text for one column
    for name in header:
        if not name.strip() or folded.count(name.lower()) > 1:
            raise SourceError(
                f"{file}, line 1: the column name {name!r} is empty or stands twice. Name every column once."
            )
    end = reader.line_num
    for values in reader:
        begin, end = end + 1, reader.line_num
        if values and len(values) != len(header):
            raise SourceError(f"{file}, line {begin}: {len(values)} fields, but the header has {len(header)}.")
        if values:
            lines.append((begin, values))
    return header, lines
