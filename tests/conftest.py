"""Databases for tests: a fresh SQLite file or a fresh database on a real Postgres."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from tests.postgres import PostgresServer
from tests.tables.shop import Shop

pytest_plugins = ["tests.engine_fixtures", "tests.engines.ray_fixtures"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One Postgres server for all tests; started when the first one needs it."""
    with PostgresServer() as server:
        yield server


class FreshDatabases:
    """Makes databases. One is dropped when the next is made: at once would mean to wait for its sessions to end."""

    def __init__(self, server: PostgresServer) -> None:
        connection = psycopg2.connect(server.url().replace("+psycopg2", ""))
        connection.autocommit = True
        self._cursor = connection.cursor()
        self._used: list[str] = []

    def make(self) -> str:
        name = f"test_{secrets.token_hex(4)}"
        self._cursor.execute(f"CREATE DATABASE {name} TEMPLATE template1")
        while self._used:
            self._cursor.execute(f"DROP DATABASE {self._used.pop()} WITH (FORCE)")
        return name

    def give_back(self, name: str) -> None:
        self._used.append(name)


@pytest.fixture(scope="session")
def fresh_databases(postgres: PostgresServer) -> FreshDatabases:
    return FreshDatabases(postgres)


@pytest.fixture
def postgres_url(postgres: PostgresServer, fresh_databases: FreshDatabases) -> Iterator[str]:
    """The URL of an empty database, for one test."""
    name = fresh_databases.make()
    yield postgres.url(name)
    fresh_databases.give_back(name)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'test.db'}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database: the test runs once on SQLite and once on Postgres."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    """A database with an empty table `reviews`: the test runs once on SQLite and once on Postgres."""
    shop = Shop(database_url)
    yield shop
    shop.database.close()
