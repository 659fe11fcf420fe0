"""Databases that cannot be used say so, with the fix and without any password."""

import contextlib
import os
import socket
import sqlite3
import traceback
from pathlib import Path

import pytest

from llm_assets.errors import ConfigError, DatabaseError, LLMAssetsError, SourceError
from llm_assets.pipeline import Pipeline
from llm_assets.records import Partition
from llm_assets.tables import Database, Source, SourceTable, Store, run_locks
from tests.postgres import PostgresServer
from tests.tables.shop import SENTIMENT, RecordingEngine, Shop, only

SECRET = "hunter2"


def fail_to_open(url: str, error: type[LLMAssetsError] = DatabaseError) -> str:
    """Build a pipeline on a database that cannot be used; return all that is said about it."""
    engine = RecordingEngine()

    def build() -> Pipeline:
        database = Database(url)
        return Pipeline(Source(table="reviews"), [SENTIMENT], engine, database, database)

    with pytest.raises(error) as caught:
        build()
    assert (engine.loads, engine.runs) == (0, 0)
    said = "".join(traceback.format_exception(caught.value, chain=True))
    shown = said.replace(url, "")
    assert SECRET not in shown
    return str(caught.value)


@pytest.fixture
def no_password_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", os.devnull)


def test_a_database_that_is_down_is_named_with_its_port() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    message = fail_to_open(f"postgresql+psycopg2://me:{SECRET}@127.0.0.1:{port}/shop")
    assert f"postgresql+psycopg2://me:***@127.0.0.1:{port}/shop cannot be opened" in message
    assert "Connection refused" in message
    assert "Check that it is running and that host, port and database name are right." in message


def test_a_database_that_does_not_exist_is_named(postgres: PostgresServer) -> None:
    assert 'database "shopp" does not exist' in fail_to_open(postgres.url("shopp"))


@pytest.mark.usefixtures("no_password_elsewhere")
def test_a_password_that_is_not_given_is_asked_for(postgres: PostgresServer) -> None:
    message = fail_to_open(f"postgresql+psycopg2://postgres@127.0.0.1:{postgres.port}/postgres")
    assert "no password supplied" in message
    assert "Give the password in the URL's environment variable, or in PGPASSWORD or ~/.pgpass." in message
    assert postgres.password not in message


@pytest.mark.usefixtures("no_password_elsewhere")
def test_a_wrong_password_is_not_repeated(postgres: PostgresServer) -> None:
    message = fail_to_open(postgres.url(password=SECRET))
    assert 'password authentication failed for user "postgres"' in message
    assert "Give the password" in message


@pytest.mark.usefixtures("no_password_elsewhere")
def test_a_password_in_the_query_of_a_url_is_not_repeated(postgres: PostgresServer) -> None:
    message = fail_to_open(
        f"postgresql+psycopg2://postgres@127.0.0.1:{postgres.port}/postgres?password={SECRET}&application_name=shop"
    )
    assert "password authentication failed" in message
    assert "application_name=shop" in message


def test_a_sqlite_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    message = fail_to_open(f"sqlite:///{tmp_path}/missing/shop.db")
    assert f"The directory of the database sqlite:///{tmp_path}/missing/shop.db does not exist. Make it" in message


def test_a_sqlite_path_that_is_a_directory_is_named(tmp_path: Path) -> None:
    message = fail_to_open(f"sqlite:///{tmp_path}")
    assert f"{tmp_path} cannot be opened: unable to open database file" in message


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough for SQLite to look at its header " * 10)
    message = fail_to_open(f"sqlite:///{path}")
    assert f"{path} cannot be opened: file is not a database" in message


@pytest.mark.parametrize(
    "url",
    [
        f"me:{SECRET}@localhost/shop",
        f"postgresql//me:{SECRET}@localhost/shop",
        f"postgresql://me:{SECRET}@localhost:port/shop",
        f"postgresql://me:p@ss:{SECRET}@localhost/shop",
        f"postgresql://me:p@{SECRET}@localhost/shop",
        f"postgresql://me:p@ss/{SECRET}@localhost/shop",
        "",
    ],
)
def test_a_url_that_does_not_parse_is_not_repeated(url: str) -> None:
    message = fail_to_open(url, ConfigError)
    assert "does not parse. Write dialect://user:password@host:port/database, for example" in message
    assert "escape special characters in a password" in message


@pytest.mark.parametrize("url", [f"nosuchsql://me:{SECRET}@h/shop", f"postgresql+pg8000://me:{SECRET}@h/shop"])
def test_a_driver_that_is_not_installed_is_named(url: str) -> None:
    message = fail_to_open(url, ConfigError)
    assert f"The driver of {url.replace(SECRET, '***')} is not installed" in message


def test_a_source_in_sqlite_is_not_changed_and_may_be_read_only(tmp_path: Path) -> None:
    path = tmp_path / "source.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE reviews (id INTEGER PRIMARY KEY, text TEXT); INSERT INTO reviews VALUES (1, 'a')"
        )
    before = path.read_bytes()
    source = Database(f"sqlite:///file:{path}?mode=ro&uri=true")
    answers = Database(f"sqlite:///{tmp_path}/answers.db")
    for database in (source, Database(f"sqlite:///{path}")):
        pipeline = Pipeline(Source(table="reviews"), [SENTIMENT], RecordingEngine(), database, answers)
        assert only(pipeline.run(Partition(), "run")).rows_done == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize("uri", ["file:{}", "file://{}", "file://localhost{}"])
def test_a_sqlite_file_is_one_and_locked_as_one_by_path_and_by_uri(tmp_path: Path, uri: str) -> None:
    path = tmp_path / "my 100%.db"
    by_path = Database(f"sqlite:///{path}")
    by_uri = Database(f"sqlite:///{uri.format(str(path).replace('%', '%25').replace(' ', '%20'))}?uri=true")
    by_uri.check()
    assert path.exists()
    assert by_uri.file == by_path.file
    assert by_uri.is_same(by_path)
    first, second = run_locks(by_uri), run_locks(by_path)
    assert first.acquire(["reviews_sentiment monday"])
    assert not second.acquire(["reviews_sentiment monday"])
    first.close()
    assert second.acquire(["reviews_sentiment monday"])
    second.close()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true", "sqlite:///file:x?mode=memory&uri=1"]
)
def test_a_database_in_memory_has_no_file(url: str) -> None:
    assert Database(url).file is None


def test_an_output_database_that_is_read_only_is_named(tmp_path: Path) -> None:
    Shop(f"sqlite:///{tmp_path}/shop.db").database.close()
    engine = RecordingEngine()
    database = Database(f"sqlite:///file:{tmp_path}/shop.db?mode=ro&uri=true")
    with pytest.raises(
        DatabaseError, match=r"shop.db\?mode=ro&uri=true cannot be written: attempt to write a readonly"
    ):
        Pipeline(Source(table="reviews"), [SENTIMENT], engine, database, database)
    assert engine.loads == 0


def test_a_role_that_may_not_make_tables_is_told_so(postgres: PostgresServer, postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute("DROP ROLE IF EXISTS reader", f"CREATE ROLE reader LOGIN PASSWORD '{SECRET}'")
    message = fail_to_open(postgres.url(postgres_url.rpartition("/")[2], "reader", SECRET))
    assert "The output tables cannot be made in postgresql+psycopg2://reader:***@127.0.0.1" in message
    assert "permission denied for schema public" in message


def test_a_role_that_may_not_read_the_source_is_told_so(postgres: PostgresServer, postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute("DROP ROLE IF EXISTS reader", f"CREATE ROLE reader LOGIN PASSWORD '{SECRET}'")
    source = Database(postgres.url(postgres_url.rpartition("/")[2], "reader", SECRET))
    engine = RecordingEngine()
    pipeline = Pipeline(Source(table="reviews"), [SENTIMENT], engine, source, shop.database)
    with pytest.raises(
        SourceError, match=r"partition 'all' cannot be read: permission denied for table reviews. Check"
    ):
        pipeline.run(Partition(), "run")
    assert engine.loads == 0


def test_answers_go_to_sqlite_or_postgres_only(sqlite_url: str) -> None:
    shop = Shop(sqlite_url)
    source = SourceTable(shop.database, Source(table="reviews"), ["text"])
    with pytest.raises(
        ConfigError, match=r"mysql://me:\*\*\*@h/shop: its kind is 'mysql'. Write them to one of sqlite"
    ):
        Store(Database(f"mysql://me:{SECRET}@h/shop"), source, [])


def test_the_name_of_a_database_hides_its_password() -> None:
    database = Database(f"postgresql://me:{SECRET}@db.example/shop?sslpassword={SECRET}&sslmode=require")
    assert database.name == "postgresql://me:***@db.example/shop?sslmode=require&sslpassword=hidden"


def test_a_special_character_in_a_password_is_escaped_and_works(postgres: PostgresServer) -> None:
    postgres.execute("CREATE ROLE special LOGIN PASSWORD 'p@s:s/w%rd'")
    Database(postgres.url(user="special", password="p%40s%3As%2Fw%25rd")).check()
