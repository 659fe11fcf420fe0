"""A connection to a database, with errors that a person can act on and no password in any of them."""

import functools
import sqlite3
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from llm_assets.errors import ConfigError, DatabaseAwayError, DatabaseError
from llm_assets.secrets import is_secret_parameter, masked_logger, remember

OUTPUT_DIALECTS = ("sqlite", "postgresql")

RETRY_SECONDS = 60.0
"""How long a run waits for a database that is away: as long as a restart or a failover takes."""

PASSING_STATES = ("08", "40001", "40P01", "53300", "55P03", "57P")
"""Beginnings of the SQLSTATE codes of what passes: a lost connection, a serialization failure, a deadlock, too many
connections, a lock that is taken, a server that shuts down or starts."""

LASTING_REFUSALS = ("authentication failed", "no password supplied", "does not exist", "permission denied")
"""What a server says, without a code, to a connection that it will not take the next time either."""

KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""A server whose machine is gone is noticed after a minute, not after the operating system's two hours."""

logger = masked_logger(__name__)


class Database:
    """A database by its SQLAlchemy URL. Nothing is connected before the first use.

    Raises:
        ConfigError: the URL does not parse, or its driver is not installed. To try again would not help.
    """

    def __init__(self, url: str) -> None:
        try:
            self._url = make_url(url)
            # An unescaped @ in a password leaves its end in the host, in the database, or in a port that is no number.
            if self._url.password and "@" in f"{self._url.host}{self._url.database}":
                raise ValueError
        except (ArgumentError, ValueError):
            # The text itself may hold a password.
            raise ConfigError(
                "The database URL does not parse. Write dialect://user:password@host:port/database, for example "
                "postgresql://me@localhost/shop or sqlite:///shop.db; escape special characters in a password."
            ) from None
        self.url = url
        hidden = {name: "hidden" for name in self._url.query if is_secret_parameter(name)}
        self.has_secret = bool(self._url.password or hidden)
        self.name = self._url.update_query_dict(hidden).render_as_string(hide_password=True)
        # A password that is also the name of something hides nothing, and would mask that name in every message.
        names = (None, "", self._url.username, self._url.host, self._url.database)
        for secret in (self._url.password, *(value for name in hidden for value in self._url.normalized_query[name])):
            if secret not in names:
                remember(str(secret))

    @cached_property
    def engine(self) -> sa.Engine:
        """The SQLAlchemy engine."""
        arguments = {"connect_timeout": 15, **KEEPALIVES} if self.dialect == "postgresql" else {}
        if self.dialect == "sqlite":
            arguments = {"timeout": 60}
        try:
            # Many rows in one message: psycopg2's own executemany sends one and waits, for each row.
            batched = {"executemany_mode": "values_plus_batch"} if self._is_psycopg2 else {}
            engine = sa.create_engine(
                self._url, connect_args=arguments, pool_pre_ping=True, hide_parameters=True, **batched
            )
        except (NoSuchModuleError, ImportError) as error:
            raise ConfigError(
                f"The driver of {self.name} is not installed: {error}. For Postgres install llm_assets[postgres]."
            ) from None
        if self.dialect == "sqlite":
            event.listen(engine, "connect", _configure_sqlite)
        elif self._is_psycopg2:
            event.listen(engine, "connect", _configure_psycopg2)
        return engine

    @property
    def _is_psycopg2(self) -> bool:
        return self.dialect == "postgresql" and self._url.get_driver_name() == "psycopg2"

    @property
    def dialect(self) -> str:
        """The database's kind: sqlite, postgresql, ..."""
        return self._url.get_backend_name()

    @property
    def file(self) -> Path | None:
        """The file of a SQLite database, also of one by a `file:` URI; None for one in memory and any other kind."""
        path, query = self._url.database or "", self._url.query
        if self.dialect != "sqlite":
            return None
        if path.startswith("file:") and "uri" in query:
            in_memory = query.get("mode") == "memory" or query.get("vfs") == "memdb"
            path = "" if in_memory else unquote(urlsplit(path).path)
        return Path(path).expanduser() if path and not path.startswith(":") else None

    @property
    def is_absent(self) -> bool:
        """Whether this is a SQLite file that does not exist: to connect would make it."""
        return self.file is not None and not self.file.exists()

    def is_same(self, other: "Database") -> bool:
        """Return whether another URL leads to the same database, whoever connects and by which driver."""
        return self._place == other._place

    @property
    def _place(self) -> tuple[object, ...]:
        if self.file is not None:
            return self.dialect, self.file.resolve()
        port = self._url.port or (5432 if self.dialect == "postgresql" else None)
        return self.dialect, self._url.host, port, self._url.database

    def check_exists(self) -> None:
        """Connect once, as `check`, and make no SQLite file where there is none.

        Raises:
            DatabaseError: there is no such file, or the database cannot be reached.
        """
        if self.is_absent:
            raise DatabaseError(f"There is no database {self.name}. Check the path.")
        self.check()

    def check(self) -> None:
        """Connect once.

        Raises:
            DatabaseError: the database cannot be reached, with its address and the reason.
        """
        if self.file is not None and not self.file.parent.is_dir():
            raise DatabaseError(
                f"The directory of the database {self.name} does not exist. Make it, or change the path."
            )
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

    def close(self) -> None:
        """Give back every connection."""
        if "engine" in self.__dict__:
            self.engine.dispose()


def reason_of(error: DBAPIError) -> str:
    """Return what the driver said, on one line, without the statement and its values."""
    return " ".join(str(error.orig).split())


class _HasDatabase(Protocol):
    @property
    def database(self) -> Database: ...


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Owner = TypeVar("Owner", bound=_HasDatabase)


def retried(
    method: Callable[Concatenate[Owner, Arguments], Result],
) -> Callable[Concatenate[Owner, Arguments], Result]:
    """Call a method again while its database is away or another transaction stands in its way.

    For methods of one transaction, or of several that do no harm when they are repeated.

    Raises:
        DatabaseError: the database refused.
        DatabaseAwayError: it was away for longer than `RETRY_SECONDS`.
        sqlalchemy.exc.DataError: the database cannot hold a value.
    """

    @functools.wraps(method)
    def call(self: Owner, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        deadline, wait = None, 0.1
        while True:
            try:
                return method(self, *args, **kwargs)
            except DataError:
                raise
            except DBAPIError as error:
                deadline = deadline or time.monotonic() + RETRY_SECONDS
                if not passes(error) or time.monotonic() > deadline:
                    kind = DatabaseAwayError if passes(error) else DatabaseError
                    raise kind(
                        f"The database {self.database.name} failed: {reason_of(error)}. What was committed stays; when "
                        "the cause is mended, run again, and only the rest is asked."
                    ) from error
                logger.warning("%s: %s. Trying again in %.1f s.", self.database.name, reason_of(error), wait)
            time.sleep(wait)
            wait = min(2 * wait, 5.0)

    return call


def passes(error: DBAPIError) -> bool:
    """Return whether the same statement may succeed a little later."""
    reason = reason_of(error)
    if error.connection_invalidated or "database is locked" in reason:
        return True
    state = getattr(error.orig, "pgcode", None)
    if state is not None:
        return str(state).startswith(PASSING_STATES)
    # Postgres' driver has no code for a connection that it could not make.
    lost = isinstance(error, InterfaceError) or (
        isinstance(error, OperationalError) and type(error.orig).__module__.startswith("psycopg")
    )
    return lost and not any(words in reason for words in LASTING_REFUSALS)


def _configure_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")
    # One row with a broken byte must not stop the reading of all the others.
    connection.text_factory = lambda data: data.decode("utf-8", "replace")


def _configure_psycopg2(connection: Any, _: object) -> None:
    """Read dates and times that Python cannot hold, such as 44 BC and infinity, as Postgres writes them."""
    from psycopg2 import extensions

    def lenient(reader: Any) -> Any:
        def read(value: Any, cursor: Any) -> object:
            if value in ("infinity", "-infinity"):  # to psycopg2 the last and the first day that Python has
                return value
            try:
                return reader(value, cursor)
            except (ValueError, OverflowError):
                return value

        return read

    for reader in (extensions.PYDATE, extensions.PYDATETIME, extensions.PYDATETIMETZ):
        extensions.register_type(extensions.new_type(reader.values, reader.name, lenient(reader)), connection)
