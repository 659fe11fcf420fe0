"""A few kills of each kind, with the dummy engine. `make crash` does many more, and vLLM too."""

from pathlib import Path

import pytest

from tests.crash.crash import Crash, Plan
from tests.crash.databases import PostgresPlace, SqlitePlace
from tests.postgres import PostgresServer

PLAN = Plan(rows=150, kills=4, questions=(10, 60), seconds_share=0.0, seconds_most=2.0, answer_seconds=0.005)


def check(place: SqlitePlace | PostgresPlace, directory: Path) -> None:
    report = Crash(place.name, place, PLAN, 1, directory, print).run()
    assert report.wrong == []
    assert sorted(report.again) == sorted(place.kinds)
    assert (report.lost, report.doubled) == (0, 0)
    assert report.lives > 2


def test_a_run_on_sqlite_that_is_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    check(SqlitePlace(tmp_path), tmp_path)


@pytest.mark.skipif("sys.platform != 'linux'", reason="the wheel with Postgres is for Linux")
def test_a_run_on_postgres_that_is_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    with PostgresServer(durable=True) as server:
        check(PostgresPlace(server), tmp_path)
