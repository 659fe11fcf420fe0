"""A connection to a database, with errors that a person can act on and no password in any of them."""

import sqlite3
from functools import cached_property
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from llm_assets.errors import DatabaseError

OUTPUT_DIALECTS = ("sqlite", "postgresql")

SECRET_WORDS = ("pass", "pwd", "secret", "token", "odbc_connect")
"""A parameter in a URL whose name contains one of these is not shown."""


class Database:
    """A database by its SQLAlchemy URL. Nothing is connected before the first use.

    Raises:
        DatabaseError: the URL does not parse, or its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            self._url = make_url(url)
            # An unescaped @ in a password leaves its end in the host, in the database, or in a port that is no number.
            if self._url.password and "@" in f"{self._url.host}{self._url.database}":
                raise ValueError
        except (ArgumentError, ValueError):
            # The text itself may hold a password.
            raise DatabaseError(
                "The database URL does not parse. Write dialect://user:password@host:port/database, for example "
                "postgresql://me@localhost/shop or sqlite:///shop.db; escape special characters in a password."
            ) from None
        self.url = url
        hidden = {name: "hidden" for name in self._url.query if any(word in name.lower() for word in SECRET_WORDS)}
        self.name = self._url.update_query_dict(hidden).render_as_string(hide_password=True)

    @cached_property
    def engine(self) -> sa.Engine:
        """The SQLAlchemy engine."""
        arguments = {"connect_timeout": 15} if self.dialect == "postgresql" else {}
        if self.dialect == "sqlite":
            arguments = {"timeout": 60}
        try:
            engine = sa.create_engine(self._url, connect_args=arguments, pool_pre_ping=True)
        except (NoSuchModuleError, ImportError) as error:
            raise DatabaseError(
                f"The driver of {self.name} is not installed: {error}. For Postgres install llm_assets[postgres]."
            ) from None
        if self.dialect == "sqlite":
            event.listen(engine, "connect", _configure_sqlite)
        return engine

    @property
    def dialect(self) -> str:
        """The database's kind: sqlite, postgresql, ..."""
        return self._url.get_backend_name()

    def check(self) -> None:
        """Connect once.

        Raises:
            DatabaseError: the database cannot be reached, with its address and the reason.
        """
        if self.dialect == "sqlite" and self._url.database and not self._url.database.startswith((":", "file:")):
            self._check_sqlite_directory(self._url.database)
        try:
            with self.engine.connect():
                pass
        except DBAPIError as error:
            reason = reason_of(error)
            fix = "Check that it is running and that host, port and database name are right."
            if self.dialect == "sqlite":
                fix = "Check that the path is right and names a SQLite database."
            if "no password supplied" in reason or "password authentication failed" in reason:
                fix = "Give the password in the URL's environment variable, or in PGPASSWORD or ~/.pgpass."
            raise DatabaseError(f"The database {self.name} cannot be opened: {reason}. {fix}") from None

    def check_writable(self) -> None:
        """Make sure that a SQLite file can be written, and that its readers and its writer do not wait for each other.

        Raises:
            DatabaseError: the file cannot be written.
        """
        if self.dialect != "sqlite":
            return
        try:
            with self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                connection.exec_driver_sql("BEGIN IMMEDIATE")
        except DBAPIError as error:
            raise DatabaseError(
                f"The database {self.name} cannot be written: {reason_of(error)}. Allow it, or write the answers to "
                "another one."
            ) from None

    def _check_sqlite_directory(self, path: str) -> None:
        if not Path(path).expanduser().parent.is_dir():
            raise DatabaseError(
                f"The directory of the database {self.name} does not exist. Make it, or change the path."
            )

    def close(self) -> None:
        """Give back every connection."""
        if "engine" in self.__dict__:
            self.engine.dispose()


def reason_of(error: DBAPIError) -> str:
    """Return what the driver said, on one line, without the statement and its values."""
    return " ".join(str(error.orig).split())


def _configure_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")
    # One row with a broken byte must not stop the reading of all the others.
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
