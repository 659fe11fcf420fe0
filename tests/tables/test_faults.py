"""Databases that break, go away or fill up in the middle of a run."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from llm_assets.errors import DatabaseAwayError, DatabaseError
from llm_assets.records import Completion, Request
from llm_assets.tables import Database, run_locks
from llm_assets.tables import database as database_module
from tests.postgres import PostgresServer
from tests.tables.shop import RecordingEngine, Shop, only, outcomes

ROWS = 60


class InterruptedEngine(RecordingEngine):
    """Does something at one of its requests."""

    def __init__(self, at: int, action: Callable[[], object]) -> None:
        super().__init__()
        self.at, self.action = at, action

    def ask(self, request: Request) -> Completion:
        if len(self.texts) == self.at:
            self.action()
        return super().ask(request)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of the test's own, which it may kill."""
    with PostgresServer(durable=True) as server:
        yield server


def filled(shop: Shop) -> Shop:
    shop.add([f"text {i:02}" for i in range(ROWS)])
    return shop


def assert_all_answered_once(shop: Shop, *engines: RecordingEngine, again: int = 0) -> None:
    assert shop.column("SELECT id FROM reviews_sentiment ORDER BY id") == list(range(1, ROWS + 1))
    texts = [text for engine in engines for text in engine.texts]
    assert set(texts) == {f"text {i:02}" for i in range(ROWS)}
    assert len(texts) <= ROWS + again


def test_a_run_goes_on_when_postgres_was_killed_and_started_again(server: PostgresServer) -> None:
    shop = filled(Shop(server.url()))
    thread = threading.Thread(target=lambda: (time.sleep(1), server.start()))

    def crash() -> None:
        server.kill()
        thread.start()

    engine = InterruptedEngine(33, crash)
    result = shop.run(engine=engine, commit_rows=10)
    thread.join()
    assert outcomes(only(result)) == (ROWS, 0, 0, 0)
    assert_all_answered_once(shop, engine)
    shop.database.close()


def test_a_run_goes_on_when_its_connections_are_cut(postgres_url: str) -> None:
    shop = filled(Shop(postgres_url))

    def cut() -> None:
        with Database(postgres_url).engine.connect() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    engine = InterruptedEngine(33, cut)
    assert outcomes(only(shop.run(engine=engine, commit_rows=10))) == (ROWS, 0, 0, 0)
    assert_all_answered_once(shop, engine)
    shop.database.close()


def test_a_database_that_stays_away_ends_the_run_and_keeps_what_was_committed(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "RETRY_SECONDS", 1.0)
    shop = filled(Shop(server.url()))
    engine = InterruptedEngine(33, server.kill)
    with pytest.raises(DatabaseAwayError, match=r"postgres:\*\*\*@.* failed: .*What was committed stays.*run again"):
        shop.run(engine=engine, commit_rows=10)
    server.start()
    assert shop.column("SELECT COUNT(*) FROM reviews_sentiment") == [30]
    again = RecordingEngine()
    assert outcomes(only(shop.run(engine=again))) == (ROWS - 30, 0, 30, 0)
    assert_all_answered_once(shop, engine, again, again=10)
    shop.database.close()


def test_a_full_disk_ends_the_run_with_the_reason_and_the_next_one_asks_the_rest(sqlite_url: str) -> None:
    shop = Shop(sqlite_url)
    shop.add([f"text {i:03}" for i in range(500)])
    pages: list[int] = []

    @event.listens_for(shop.database.engine, "checkout")
    def limit(connection, _record, _proxy) -> None:
        if pages:
            connection.execute(f"PRAGMA max_page_count = {pages[0]}")

    engine = InterruptedEngine(33, lambda: pages.extend(shop.column("PRAGMA page_count")))
    with pytest.raises(DatabaseError, match=r"failed: database or disk is full\. What was committed stays"):
        shop.run(engine=engine, commit_rows=10)
    shop.database.close()
    shop = Shop(sqlite_url, make=False)
    [kept] = shop.column("SELECT COUNT(*) FROM reviews_sentiment")
    assert 30 <= kept < 500
    assert outcomes(only(shop.run())) == (500 - kept, 0, kept, 0)
    shop.database.close()


def test_a_right_that_is_taken_away_ends_the_run_with_the_reason(server: PostgresServer) -> None:
    owner = filled(Shop(server.url()))
    owner.run()
    owner.execute(
        "CREATE ROLE llm_writer LOGIN PASSWORD 'x'",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO llm_writer",
        "UPDATE reviews SET text = text || ' new'",
    )
    shop = Shop(server.url("postgres", "llm_writer", "x"), make=False)
    engine = InterruptedEngine(33, lambda: owner.execute("REVOKE INSERT, UPDATE ON reviews_sentiment FROM llm_writer"))
    started = time.monotonic()
    with pytest.raises(DatabaseError, match="permission denied for table reviews_sentiment"):
        shop.run(engine=engine, commit_rows=10)
    assert time.monotonic() - started < 30  # not tried for a minute
    owner.execute("GRANT ALL ON reviews_sentiment TO llm_writer")
    assert only(shop.run()).rows_skipped == 30
    shop.database.close()
    owner.database.close()


def test_a_partition_is_locked_by_one_run_at_a_time(database_url: str) -> None:
    databases = Database(database_url), Database(database_url)
    first, second = map(run_locks, databases)
    assert first.acquire(["reviews_note monday", "reviews_sentiment monday"])
    assert not second.acquire(["reviews_sentiment monday", "reviews_facts monday"])
    # The one that it could have had was not kept.
    assert first.acquire(["reviews_facts monday"])
    first.release(["reviews_note monday", "reviews_sentiment monday", "reviews_facts monday"])
    assert second.acquire(["reviews_sentiment monday", "reviews_facts monday"])
    second.close()
    assert first.acquire(["reviews_facts monday"])
    first.close()
    for database in databases:
        database.close()


def test_partitions_of_one_table_are_locked_apart_in_postgres(postgres_url: str) -> None:
    databases = Database(postgres_url), Database(postgres_url)
    first, second = map(run_locks, databases)
    assert first.acquire(["reviews_note monday"])
    assert second.acquire(["reviews_note tuesday"])
    for locks, database in zip((first, second), databases, strict=True):
        locks.close()
        database.close()


def test_locks_are_taken_again_after_an_interrupt_in_the_middle_of_a_statement(postgres_url: str) -> None:
    databases = [Database(postgres_url) for _ in range(2)]
    first, second = map(run_locks, databases)
    assert first.acquire(["a"])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for act in (first.confirm, lambda: first.acquire(["b"])):
        event.listen(databases[0].engine, "do_execute", interrupt)
        with pytest.raises(KeyboardInterrupt):
            act()
        event.remove(databases[0].engine, "do_execute", interrupt)
        first.confirm()
        assert not second.acquire(["a"])
    for locks, database in zip((first, second), databases, strict=True):
        locks.close()
        database.close()


def test_locks_are_taken_again_after_the_connection_was_lost(postgres_url: str) -> None:
    databases = Database(postgres_url), Database(postgres_url)
    first, second = map(run_locks, databases)
    assert first.acquire(["reviews_note monday"])
    with databases[1].engine.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert second.acquire(["reviews_note monday"])
    threading.Timer(1.0, second.close).start()
    first.confirm()
    assert not second.acquire(["reviews_note monday"])
    for locks, database in zip((first, second), databases, strict=True):
        locks.close()
        database.close()


def test_no_session_of_a_finished_run_holds_a_lock(postgres_url: str) -> None:
    shop = filled(Shop(postgres_url))
    shop.run()
    assert shop.column("SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory'") == [0]
    assert sa.inspect(shop.database.engine).has_table("reviews_sentiment")
    shop.database.close()
