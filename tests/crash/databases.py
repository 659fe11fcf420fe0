"""The two databases that a crash test needs, on SQLite or on a Postgres of its own: one to crash, one to compare."""

import sqlite3
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from tests.postgres import PostgresServer


class Place(Protocol):
    """A kind of database."""

    name: str
    kinds: tuple[str, ...]
    """What can be killed."""

    def create(self, database: str) -> str:
        """Make a database and return its URL."""
        ...

    def locks(self, database: str) -> list[str]:
        """Return the locks of partitions that are held in a database, and its open transactions."""
        ...

    def kill(self) -> None:
        """Kill the server, if there is one."""
        ...

    def start(self) -> None:
        """Start the server again."""
        ...


class SqlitePlace:
    name: str = "SQLite"
    kinds: tuple[str, ...] = ("worker", "engine", "sigterm", "second")

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def create(self, database: str) -> str:
        return f"sqlite:///{self.directory / database}.db"

    def locks(self, database: str) -> list[str]:
        held = []
        for path in self.directory.glob(f"{database}.db-*.lock"):
            try:
                with FileLock(path, blocking=False):
                    pass
            except Timeout:
                held.append(path.name)
        connection = sqlite3.connect(self.directory / f"{database}.db", timeout=0, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            [(verdict,)] = connection.execute("PRAGMA integrity_check")
        except sqlite3.OperationalError as error:
            return [*held, str(error)]
        finally:
            connection.close()
        return held if verdict == "ok" else [*held, verdict]

    def kill(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        raise NotImplementedError


class PostgresPlace:
    name: str = "Postgres"
    kinds: tuple[str, ...] = ("worker", "engine", "sigterm", "server")

    def __init__(self, server: PostgresServer) -> None:
        self.server = server

    def create(self, database: str) -> str:
        self.server.execute(f"CREATE DATABASE {database}")
        return self.server.url(database)

    def locks(self, database: str) -> list[str]:
        query = f"""
            SELECT 'advisory lock of ' || pid FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
            WHERE locktype = 'advisory' AND datname = '{database}'
            UNION ALL
            SELECT 'transaction of ' || pid FROM pg_stat_activity
            WHERE datname = '{database}' AND state LIKE 'idle in transaction%'
        """
        return self.server.execute(query).splitlines()

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()
