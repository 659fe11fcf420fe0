"""Several partitions in one run: they share the engine's queue, and each is brought to its own end."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from llm_assets.errors import (
    AccountingError,
    DatabaseAwayError,
    DatabaseError,
    EngineError,
    FailureThresholdError,
    LLMAssetsError,
    SourceError,
)
from llm_assets.pipeline import PartitionResult
from llm_assets.pipeline.failed import failing_alone
from llm_assets.pipeline.questions import Slice
from llm_assets.records import FailureKind
from llm_assets.tables import Source
from llm_assets.tables.source_table import CHUNK_ROWS
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


def run_days(shop: Shop, *tasks: Task, days: list[str] = DAYS, **arguments: Any) -> dict[str, PartitionResult]:
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


def run_and_fail(
    shop: Shop, error: type[LLMAssetsError], *tasks: Task, days: Sequence[str] = DAYS, **arguments: Any
) -> tuple[list[str], str]:
    """Run some days, of which some fail; return those that came to their end, sorted, and the error's message."""
    done = []
    results = shop.pipeline(*tasks, column="day", **arguments).run_all([day(name) for name in days], "run")
    with pytest.raises(LLMAssetsError) as caught:
        done.extend(result.partition_key for result in results)
    assert type(caught.value) is error
    return sorted(done), str(caught.value)


def test_a_partition_whose_key_is_not_unique_does_not_stop_the_others(shop: Shop) -> None:
    shop.execute("CREATE TABLE loose (id INTEGER, day TEXT, text TEXT)")
    rows = [(1, "monday"), (2, "tuesday"), (2, "tuesday"), (None, "wednesday"), (4, "thursday")]
    shop.insert("loose", [{"id": id, "day": name, "text": f"{name} {id}"} for id, name in rows])
    engine = RecordingEngine()
    source = Source(table="loose", key=("id",))
    done, message = run_and_fail(shop, SourceError, engine=engine, source=source, days=[*DAYS, "thursday"])
    assert done == ["monday", "thursday"]
    assert engine.texts == ["monday 1", "thursday 4"]
    first, tuesday, wednesday = message.splitlines()
    assert first == "2 of 4 partitions failed. What the others have is complete."
    assert tuesday.startswith("tuesday: Table 'loose': the key (id) is not unique: id=2 stands in several rows")
    assert wednesday.startswith("wednesday: Table 'loose': the key column 'id' is NULL in some rows")
    found = dict(shop.rows("SELECT partition_key, status FROM llm_throughput"))
    assert found == {"monday": "complete", "tuesday": "failed", "wednesday": "failed", "thursday": "complete"}


def test_two_partitions_with_one_key_do_not_overwrite_each_others_answers(shop: Shop) -> None:
    shop.execute("CREATE TABLE loose (id INTEGER, day TEXT, text TEXT)")
    rows = [(1, "monday"), (2, "monday"), (1, "tuesday"), (3, "tuesday")]
    shop.insert("loose", [{"id": id, "day": name, "text": f"{name} {id}"} for id, name in rows])
    source = Source(table="loose", key=("id",))
    shop.run(NOTE, source=source, column="day", partition=day("monday"))
    with pytest.raises(SourceError, match=r"not unique: id=1 stands in several rows of several partitions"):
        shop.run(NOTE, source=source, column="day", partition=day("tuesday"))
    assert shop.rows("SELECT id, partition_key FROM loose_note ORDER BY id") == [(1, "monday"), (2, "monday")]
    # A row that only moves has its key for itself.
    shop.execute("UPDATE loose SET id = 4 WHERE text = 'monday 1'", "UPDATE loose SET day = 'tuesday' WHERE id = 2")
    counts = only(shop.run(NOTE, source=source, column="day", partition=day("tuesday")))
    assert outcomes(counts) == (2, 0, 1, 0)


def test_a_partition_that_cannot_be_read_to_its_end_keeps_what_was_answered(shop: Shop) -> None:
    read = "CASE text WHEN 'boom' THEN json(text) ELSE text END"
    if shop.database.dialect == "postgresql":
        # What costs so much, Postgres computes for the rows of a page and no others.
        body = "BEGIN IF t = 'boom' THEN RAISE division_by_zero; END IF; RETURN t; END"
        shop.execute(f"CREATE FUNCTION dear(t TEXT) RETURNS TEXT LANGUAGE plpgsql STABLE COST 100000 AS $${body}$$")
        read = "dear(text)"
    shop.execute(f"CREATE VIEW odd AS SELECT id, day, {read} AS text FROM reviews")
    shop.add(["a"], first_id=-1, day="monday")
    shop.add([*(f"{i}" for i in range(CHUNK_ROWS)), "boom"], day="tuesday")
    shop.add(["b"], first_id=10_000, day="wednesday")
    source = Source(table="odd", key=("id",))
    error = SourceError if shop.database.dialect == "postgresql" else DatabaseError
    done, message = run_and_fail(shop, error, engine=SlowEngine(10), source=source)
    assert done == ["monday", "wednesday"]
    assert message.startswith("1 of 3 partitions failed. What the others have is complete.\ntuesday: ")
    found = shop.rows("SELECT partition_key, COUNT(*) FROM odd_sentiment GROUP BY partition_key ORDER BY 1")
    assert found == [("monday", 1), ("tuesday", CHUNK_ROWS), ("wednesday", 1)]
    found = shop.rows("SELECT partition_key, status FROM llm_throughput ORDER BY partition_key")
    assert found == [("monday", "complete"), ("tuesday", "failed"), ("wednesday", "complete")]

    shop.execute("UPDATE reviews SET text = 'mended' WHERE text = 'boom'")
    engine = RecordingEngine()
    run_days(shop, days=["tuesday"], engine=engine, source=source)
    assert engine.texts == ["mended"]


REFUSE_TO_DELETE = {
    "sqlite": [
        "CREATE TRIGGER keep BEFORE DELETE ON reviews_sentiment WHEN OLD.partition_key = 'tuesday' "
        "BEGIN SELECT RAISE(ABORT, 'kept for the audit'); END"
    ],
    "postgresql": [
        "CREATE FUNCTION keep() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'kept for the audit'; END $$ "
        "LANGUAGE plpgsql",
        "CREATE TRIGGER keep BEFORE DELETE ON reviews_sentiment FOR EACH ROW "
        "WHEN (OLD.partition_key = 'tuesday') EXECUTE FUNCTION keep()",
    ],
}


def test_a_partition_whose_old_answers_cannot_be_removed_fails_alone(shop: Shop) -> None:
    for number, name in enumerate(DAYS):
        shop.add([f"{name} {i}" for i in range(2)], first_id=10 * number, day=name)
    run_days(shop)
    shop.execute(*REFUSE_TO_DELETE[shop.database.dialect])
    shop.execute("DELETE FROM reviews WHERE id IN (0, 10, 20)")
    done, message = run_and_fail(shop, DatabaseError)
    assert done == ["monday", "wednesday"]
    assert "kept for the audit" in message
    assert shop.column("SELECT id FROM reviews_sentiment ORDER BY id") == [1, 10, 11, 21]


@pytest.mark.parametrize("settings", [{"max_failed_share": 0.4}, {"max_failed_rows": 1}])
def test_failures_are_counted_for_each_partition(shop: Shop, settings: dict[str, Any]) -> None:
    for number, name in enumerate(DAYS):
        texts = [f"{name} {i}" for i in range(3)]
        shop.add([*texts[: 2 - number % 2], *[None] * (1 + number % 2)], first_id=10 * number, day=name)
    done, message = run_and_fail(shop, FailureThresholdError, NOTE, engine=SlowEngine(10), **settings)
    assert done == ["monday", "wednesday"]
    assert "tuesday: 2 of 3 answers failed (empty_text: 2), more than max_failed_" in message
    assert shop.column("SELECT COUNT(*) FROM reviews_note") == [5]
    assert shop.column("SELECT COUNT(*) FROM llm_failures") == [4]


def test_partitions_that_fail_for_different_reasons_are_all_named(shop: Shop) -> None:
    shop.execute("CREATE TABLE loose (id INTEGER, day TEXT, text TEXT)")
    rows = [(None, "monday", "a"), (2, "tuesday", None), (3, "wednesday", "c")]
    shop.insert("loose", [dict(zip(("id", "day", "text"), row, strict=True)) for row in rows])
    source = Source(table="loose", key=("id",))
    done, message = run_and_fail(shop, LLMAssetsError, source=source, max_failed_rows=0)
    assert done == ["wednesday"]
    assert [line.partition(":")[0] for line in message.splitlines()[1:]] == ["monday", "tuesday"]


def test_when_every_partition_fails_the_engine_is_not_loaded(shop: Shop) -> None:
    shop.execute("CREATE TABLE loose (id INTEGER, day TEXT, text TEXT)")
    shop.insert("loose", [{"id": None, "day": name, "text": name} for name in DAYS])
    engine = RecordingEngine()
    done, message = run_and_fail(shop, SourceError, engine=engine, source=Source(table="loose", key=("id",)))
    assert (done, engine.loads) == ([], 0)
    assert message.startswith("3 of 3 partitions failed")


def test_a_failed_partition_is_free_for_another_run_while_the_rest_goes_on(shop: Shop) -> None:
    if shop.database.dialect == "sqlite":
        pytest.skip("SQLite's locks are on tables: another run waits for the end of this one anyway")
    for number, name in enumerate(DAYS):
        shop.add([None if name == "monday" else f"{name} {i}" for i in range(2)], first_id=10 * number, day=name)
    results = shop.pipeline(column="day", max_failed_rows=0).run_all([day(name) for name in DAYS], "first")
    assert next(results).partition_key == "tuesday"
    shop.execute("UPDATE reviews SET text = 'mended' WHERE day = 'monday'")
    assert only(shop.run(column="day", partition=day("monday"))).rows_answered == 1
    with pytest.raises(FailureThresholdError, match="1 of 3 partitions failed"):
        list(results)


def test_labels_edited_while_a_run_goes_on_are_asked_by_the_next_one(shop: Shop) -> None:
    """A run keeps the task that it began with, and its answers say so."""
    for number, name in enumerate(DAYS):
        shop.add([f"{name} {i}" for i in range(2)], first_id=10 * number, day=name)
    edited = changed(SENTIMENT, labels=("positive", "negative", "mixed"))
    running = shop.pipeline(SENTIMENT, column="day", commit_rows=1).run_all([day(name) for name in DAYS], "old")
    assert next(running).partition_key == "monday"
    if shop.database.dialect == "postgresql":  # SQLite's locks are on tables
        run_days(shop, edited, days=["monday"])
    list(running)

    fingerprints = shop.rows("SELECT DISTINCT partition_key, fingerprint FROM reviews_sentiment ORDER BY 1")
    old = dict(fingerprints)["tuesday"]
    assert (dict(fingerprints)["monday"] == old) == (shop.database.dialect == "sqlite")
    engine = RecordingEngine()
    run_days(shop, edited, engine=engine)
    stale = DAYS if shop.database.dialect == "sqlite" else DAYS[1:]
    assert engine.texts == [f"{name} {i}" for name in stale for i in range(2)]
    [fingerprint] = shop.column("SELECT DISTINCT fingerprint FROM reviews_sentiment")
    assert fingerprint != old


def test_a_database_that_is_away_ends_the_run_and_not_a_partition() -> None:
    part = Slice(day("monday"), {}, datetime.now(UTC))
    with pytest.raises(DatabaseAwayError), failing_alone(part):
        raise DatabaseAwayError("gone")
    with failing_alone(part):
        raise DatabaseError("refused")
    assert isinstance(part.error, DatabaseError)
