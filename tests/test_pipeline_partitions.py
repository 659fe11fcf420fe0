"""Several partitions in one run: they share the engine's queue, and each is brought to its own end."""

import time

import pytest

from llm_assets.errors import AccountingError, EngineError
from llm_assets.pipeline import PartitionResult
from llm_assets.records import FailureKind
from llm_assets.tables.source import CHUNK_ROWS
from llm_assets.tasks import Task
from tests.tables.shop import (
    NOTE,
    SENTIMENT,
    FaultyEngine,
    RecordingEngine,
    Shop,
    SlowEngine,
    changed,
    day,
    only,
    outcomes,
)

DAYS = ["monday", "tuesday", "wednesday"]
IN_FLIGHT = [1, 10_000]


def run_days(shop: Shop, *tasks: Task, days: list[str] = DAYS, **arguments: object) -> dict[str, PartitionResult]:
    """Run some days in one run and return what was done by day, in the order in which they came to their end."""
    pipeline = shop.pipeline(*tasks, column="day", **arguments)
    run_id = f"run-{len(shop.rows('SELECT DISTINCT run_id FROM llm_throughput')) + 1}"
    results = list(pipeline.run_all([day(name) for name in days], run_id))
    assert len(results) == len(days)
    return {result.partition_key: result for result in results}


@pytest.mark.parametrize("in_flight", IN_FLIGHT)
def test_every_row_of_every_partition_is_accounted_for(shop: Shop, in_flight: int) -> None:
    shop.add(["a", "b", None], day="monday")
    shop.add(["c", "", "d", "e"], first_id=4, day="wednesday")
    engine = SlowEngine(in_flight)
    results = run_days(shop, SENTIMENT, NOTE, engine=engine)
    assert (engine.loads, engine.runs) == (1, 1)
    for task in ("sentiment", "note"):
        counts = {name: outcomes(result.counts[task]) for name, result in results.items()}
        assert counts == {"monday": (2, 0, 0, 1), "tuesday": (0, 0, 0, 0), "wednesday": (3, 0, 0, 1)}
    found = shop.rows("SELECT id, partition_key FROM reviews_sentiment ORDER BY id")
    assert found == [(1, "monday"), (2, "monday"), (4, "wednesday"), (6, "wednesday"), (7, "wednesday")]


@pytest.mark.parametrize("in_flight", IN_FLIGHT)
def test_equal_texts_of_several_partitions_are_asked_once(shop: Shop, in_flight: int) -> None:
    shop.add(["same", "x"], day="monday")
    shop.add(["y", "same"], first_id=3, day="tuesday")
    shop.add(["same", "same"], first_id=5, day="wednesday")
    engine = SlowEngine(in_flight)
    results = run_days(shop, engine=engine)
    assert sorted(engine.texts) == ["same", "x", "y"]
    assert {name: outcomes(only(result)) for name, result in results.items()} == {
        "monday": (2, 0, 0, 0),
        "tuesday": (1, 1, 0, 0),
        "wednesday": (0, 2, 0, 0),
    }
    assert only(results["wednesday"]).prompt_tokens == 0
    assert shop.column("SELECT COUNT(DISTINCT confidence) FROM reviews_sentiment WHERE id IN (1, 4, 5, 6)") == [1]


@pytest.mark.parametrize("in_flight", IN_FLIGHT)
def test_a_question_that_fails_fails_in_every_partition_that_waits_for_it(shop: Shop, in_flight: int) -> None:
    for number, name in enumerate(DAYS):
        shop.add(["bad"], first_id=number, day=name)

    class Failing(SlowEngine, FaultyEngine):
        def __init__(self) -> None:
            FaultyEngine.__init__(self, errors={"bad": FailureKind.REFUSED_REQUEST})
            self.in_flight = in_flight

    results = run_days(shop, engine=Failing())
    assert {name: outcomes(only(result)) for name, result in results.items()} == dict.fromkeys(DAYS, (0, 0, 0, 1))
    found = shop.rows("SELECT row_key, partition_key, attempts FROM llm_failures ORDER BY row_key")
    assert found == [(str(number), name, 1) for number, name in enumerate(DAYS)]


@pytest.mark.parametrize("in_flight", [1, 2500])
def test_partitions_longer_than_a_chunk_lose_nothing(shop: Shop, in_flight: int) -> None:
    for number, name in enumerate(DAYS):
        texts = [f"{i % (CHUNK_ROWS + number)}" for i in range(CHUNK_ROWS + 7)]
        shop.add(texts, first_id=number * 10_000, day=name)
    engine = SlowEngine(in_flight)
    results = run_days(shop, engine=engine)
    assert len(engine.texts) == len(set(engine.texts)) == CHUNK_ROWS + 2
    assert [only(result).rows_done for result in results.values()] == [CHUNK_ROWS + 7] * 3
    assert shop.column("SELECT COUNT(*) FROM reviews_sentiment") == [3 * (CHUNK_ROWS + 7)]
    again = RecordingEngine()
    assert all(only(result).rows_skipped == CHUNK_ROWS + 7 for result in run_days(shop, engine=again).values())
    assert again.loads == 0


def test_a_partition_is_complete_in_the_tables_when_its_result_comes(shop: Shop) -> None:
    for number, name in enumerate(DAYS):
        shop.add([f"{name} {i}" for i in range(5)], first_id=10 * number, day=name)
    pipeline = shop.pipeline(engine=SlowEngine(4), column="day", commit_rows=1000)
    for number, result in enumerate(pipeline.run_all([day(name) for name in DAYS], "run"), start=1):
        stored = f"SELECT COUNT(*) FROM reviews_sentiment WHERE partition_key = '{result.partition_key}'"
        assert shop.column(stored) == [5]
        assert shop.column("SELECT COUNT(*) FROM llm_throughput WHERE status = 'complete'") == [number]


def test_a_partition_without_questions_does_not_wait_for_the_others(shop: Shop) -> None:
    shop.add(["a", "b"], day="monday")
    shop.add(["c"], first_id=3, day="tuesday")
    run_days(shop, days=["monday"])
    results = run_days(shop, days=["tuesday", "monday"], engine=SlowEngine(1))
    assert {name: outcomes(only(result)) for name, result in results.items()} == {
        "tuesday": (1, 0, 0, 0),
        "monday": (0, 0, 2, 0),
    }


def test_deleted_rows_are_removed_from_every_partition(shop: Shop) -> None:
    for number, name in enumerate(DAYS):
        shop.add([f"{name} {i}" for i in range(4)], first_id=10 * number, day=name)
    run_days(shop)
    shop.execute("DELETE FROM reviews WHERE id IN (1, 10, 11)")
    results = run_days(shop)
    assert [only(results[name]).rows_removed for name in DAYS] == [1, 2, 0]
    assert shop.column("SELECT id FROM reviews_sentiment ORDER BY id") == [0, 2, 3, 12, 13, 20, 21, 22, 23]


@pytest.mark.parametrize("days", [["monday", "tuesday"], ["tuesday", "monday"]], ids=["old first", "new first"])
@pytest.mark.parametrize("in_flight", IN_FLIGHT)
@pytest.mark.parametrize("task", [NOTE, changed(NOTE, sampling={"temperature": 0.8})], ids=["reusable", "sampled"])
def test_a_row_that_moved_within_a_run_has_one_answer_in_its_new_partition(
    shop: Shop, task: Task, days: list[str], in_flight: int
) -> None:
    shop.add(["stays", "moves"], day="monday")
    shop.add(["other"], first_id=3, day="tuesday")
    run_days(shop, task, days=days)
    shop.execute("UPDATE reviews SET day = 'tuesday' WHERE id = 2", "INSERT INTO reviews VALUES (4, 'monday', 'new')")
    results = run_days(shop, task, days=days, engine=SlowEngine(in_flight))
    assert only(results["tuesday"]).rows_done == 2
    found = shop.rows("SELECT id, partition_key FROM reviews_note ORDER BY id")
    assert found == [(1, "monday"), (2, "tuesday"), (3, "tuesday"), (4, "monday")]


def test_partitions_that_were_complete_when_the_engine_died_stay_complete(shop: Shop) -> None:
    for number, name in enumerate(DAYS):
        shop.add([f"{name} {i}" for i in range(4)], first_id=10 * number, day=name)
    with pytest.raises(EngineError, match="the engine died"):
        run_days(shop, engine=FaultyEngine(stop_at="wednesday 2"), max_engine_deaths=0)
    found = shop.rows("SELECT partition_key, status, rows_answered FROM llm_throughput ORDER BY partition_key")
    assert found == [("monday", "complete", 4), ("tuesday", "complete", 4), ("wednesday", "running", 2)]
    engine = RecordingEngine()
    results = run_days(shop, engine=engine)
    assert set(engine.texts) <= {f"wednesday {i}" for i in range(4)}
    assert [only(results[name]).rows_skipped for name in DAYS[:2]] == [4, 4]
    assert shop.column("SELECT COUNT(*) FROM reviews_sentiment") == [12]


@pytest.mark.parametrize("fault", ["lose", "double"])
def test_a_lost_or_doubled_completion_of_a_later_partition_is_an_error(shop: Shop, fault: str) -> None:
    for number, name in enumerate(DAYS):
        shop.add([name], first_id=number, day=name)
    with pytest.raises(AccountingError):
        run_days(shop, engine=FaultyEngine(**{fault: {"tuesday"}}))


@pytest.mark.parametrize("in_flight", IN_FLIGHT)
def test_throughput_of_partitions_adds_up_to_the_run(shop: Shop, in_flight: int) -> None:
    for number, name in enumerate(DAYS):
        shop.add([f"{name} {i}" for i in range(20 * number)], first_id=100 * number, day=name)
    began = time.perf_counter()
    results = run_days(shop, SENTIMENT, NOTE, engine=SlowEngine(in_flight))
    wall = time.perf_counter() - began
    totals = shop.rows("SELECT task, SUM(output_tokens), SUM(rows_answered) FROM llm_throughput GROUP BY task")
    stored = {task: (tokens, rows) for task, tokens, rows in totals}
    for task in ("sentiment", "note"):
        assert stored[task] == shop.rows(f"SELECT SUM(output_tokens), COUNT(*) FROM reviews_{task}")[0]
    seconds = [sum(result.seconds.values()) for result in results.values()]
    assert 0 < sum(seconds) <= wall
    assert all(value >= 0 for result in results.values() for value in result.seconds.values())
