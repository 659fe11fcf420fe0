"""Databases for tests: a fresh SQLite file or a fresh database on a real Postgres."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import PostgresServer
from tests.tables.shop import Shop

pytest_plugins = ["tests.engine_fixtures"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One Postgres server for all tests; started when the first one needs it."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer, finished_databases: list[str]) -> Iterator[str]:
    """The URL of an empty database. It is dropped when the next test has its own: at once would mean to wait."""
    name = f"test_{secrets.token_hex(4)}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE template1")
    while finished_databases:
        postgres.execute(f"DROP DATABASE {finished_databases.pop()} WITH (FORCE)")
    yield postgres.url(name)
    finished_databases.append(name)


@pytest.fixture(scope="session")
def finished_databases() -> list[str]:
    """Databases whose test is over."""
    return []


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
