"""What a run does to one partition, on SQLite and on Postgres."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from llm_assets.engines import DummyEngine
from llm_assets.errors import ConfigError
from llm_assets.pipeline import Progress
from llm_assets.pipeline.questions import TOKENIZED_TOGETHER
from llm_assets.records import Completion, EngineInfo, FailureKind, Partition, Request
from llm_assets.tables import Batch, Source, Store
from llm_assets.tables.source_table import CHUNK_ROWS
from llm_assets.tasks import Extract, Summarize, Task
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

SAMPLED = changed(NOTE, sampling={"temperature": 0.8})


def test_every_row_read_is_answered_reused_skipped_or_failed(shop: Shop) -> None:
    shop.add(["known"])
    shop.run()
    shop.add(["new", "twice", "twice", None, "broken"], first_id=2)
    engine = FaultyEngine(errors={"broken": FailureKind.ENGINE_ERROR})
    counts = only(shop.run(engine=engine))
    assert counts.rows_read == 6
    assert outcomes(counts) == (2, 1, 1, 2)
    assert shop.column("SELECT id FROM reviews_sentiment ORDER BY id") == [1, 2, 3, 4]
    assert shop.column("SELECT row_key FROM llm_failures ORDER BY row_key") == ["5", "6"]


def test_every_task_accounts_for_every_row(shop: Shop) -> None:
    shop.add(["a", "b", "", "b"])
    engine = FaultyEngine(answers={"a": "  "})
    result = shop.run(SENTIMENT, NOTE, engine=engine)
    assert outcomes(result.counts["sentiment"]) == (2, 1, 0, 1)
    assert outcomes(result.counts["note"]) == (1, 1, 0, 2)
    assert all(counts.rows_read == 4 for counts in result.counts.values())


def test_a_second_run_asks_nothing_and_never_touches_the_engine(shop: Shop) -> None:
    shop.add(["a", "b", "b", None])
    shop.run(SENTIMENT, NOTE)
    before = shop.rows("SELECT * FROM reviews_sentiment ORDER BY id")
    engine = RecordingEngine()
    result = shop.run(SENTIMENT, NOTE, engine=engine)
    assert (engine.loads, engine.runs) == (0, 0)
    assert all(outcomes(counts) == (0, 0, 3, 1) for counts in result.counts.values())
    assert shop.rows("SELECT * FROM reviews_sentiment ORDER BY id") == before


def test_the_model_is_loaded_once_for_a_run(shop: Shop) -> None:
    shop.add([f"text {i}" for i in range(CHUNK_ROWS + 1)])
    engine = RecordingEngine()
    shop.run(engine=engine)
    assert (engine.loads, engine.runs) == (1, 1)


def test_an_empty_partition_is_done_without_the_engine(shop: Shop) -> None:
    engine = RecordingEngine()
    assert only(shop.run(engine=engine)).rows_read == 0
    assert engine.loads == 0
    assert shop.rows("SELECT rows_read, tokens_per_second FROM llm_throughput") == [(0, None)]


def test_a_changed_text_is_asked_again_and_alone(shop: Shop) -> None:
    shop.add(["old", "same"])
    shop.run()
    shop.execute("UPDATE reviews SET text = 'changed' WHERE id = 1")
    engine = RecordingEngine()
    counts = only(shop.run(engine=engine))
    assert engine.texts == ["changed"]
    assert outcomes(counts) == (1, 0, 1, 0)
    assert shop.rows("SELECT id, run_id FROM reviews_sentiment ORDER BY id") == [(1, "run-2"), (2, "run-1")]


def test_a_text_that_becomes_empty_loses_its_answer(shop: Shop) -> None:
    shop.add(["a"])
    shop.run()
    shop.execute("UPDATE reviews SET text = NULL")
    assert only(shop.run()).rows_failed == 1
    assert shop.rows("SELECT * FROM reviews_sentiment") == []


def test_answers_and_failures_of_deleted_rows_are_removed(shop: Shop) -> None:
    shop.add(["a", "b", None, None])
    shop.run()
    shop.execute("DELETE FROM reviews WHERE id IN (1, 3)")
    counts = only(shop.run())
    assert counts.rows_removed == 1
    assert shop.column("SELECT id FROM reviews_sentiment") == [2]
    assert shop.column("SELECT row_key FROM llm_failures") == ["4"]


def test_deletions_reach_past_the_first_chunk(shop: Shop) -> None:
    shop.add([f"text {i}" for i in range(2 * CHUNK_ROWS + 2)])
    shop.run()
    shop.execute(f"DELETE FROM reviews WHERE id % 2 = 0 OR id > {2 * CHUNK_ROWS}")
    counts = only(shop.run())
    assert (counts.rows_skipped, counts.rows_removed) == (CHUNK_ROWS, CHUNK_ROWS + 2)
    assert shop.column("SELECT id FROM reviews_sentiment ORDER BY id") == list(range(1, 2 * CHUNK_ROWS, 2))


def test_answers_of_other_partitions_stay(shop: Shop) -> None:
    shop.add(["a", "b"], day="monday")
    shop.add(["c", "d"], first_id=3, day="tuesday")
    for name in ("monday", "tuesday"):
        shop.run(column="day", partition=day(name))
    shop.execute("DELETE FROM reviews WHERE id IN (1, 3)")
    assert only(shop.run(column="day", partition=day("monday"))).rows_removed == 1
    assert shop.column("SELECT id FROM reviews_sentiment ORDER BY id") == [2, 3, 4]


def test_a_row_that_moved_to_another_partition_keeps_its_answer(shop: Shop) -> None:
    shop.add(["a", "b"], day="monday")
    shop.run(column="day", partition=day("monday"))
    shop.execute("UPDATE reviews SET day = 'tuesday' WHERE id = 1")
    engine = RecordingEngine()
    moved = only(shop.run(column="day", partition=day("tuesday"), engine=engine))
    left = only(shop.run(column="day", partition=day("monday"), engine=engine))
    assert outcomes(moved) == (0, 0, 1, 0)
    assert left.rows_removed == 0
    assert engine.loads == 0
    found = shop.rows("SELECT id, partition_key, run_id FROM reviews_sentiment ORDER BY id")
    assert found == [(1, "tuesday", "run-1"), (2, "monday", "run-1")]


def test_a_row_that_moved_is_there_again_when_its_old_partition_ran_first(shop: Shop) -> None:
    shop.add(["a"], day="monday")
    shop.run(column="day", partition=day("monday"))
    shop.execute("UPDATE reviews SET day = 'tuesday'")
    engine = RecordingEngine()
    assert only(shop.run(column="day", partition=day("monday"), engine=engine)).rows_removed == 1
    assert only(shop.run(column="day", partition=day("tuesday"), engine=engine)).rows_reused == 1
    assert engine.loads == 0
    assert shop.rows("SELECT id, partition_key FROM reviews_sentiment") == [(1, "tuesday")]


@pytest.mark.parametrize(
    "change",
    [
        {"instruction": "Say something else."},
        {"text": "Review: {text}"},
        {"max_text_tokens": 7},
        {"sampling": {"top_k": 3}},
        {"choice": ("good", "bad")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_task_makes_its_answers_stale(shop: Shop, change: dict[str, object]) -> None:
    shop.add(["a", "b"])
    shop.run(NOTE)
    engine = RecordingEngine()
    assert outcomes(only(shop.run(changed(NOTE, **change), engine=engine))) == (2, 0, 0, 0)
    assert len(engine.texts) == 2


def test_another_model_makes_answers_stale(shop: Shop) -> None:
    shop.add(["a"])
    shop.run(engine=DummyEngine(identity="first"))
    assert only(shop.run(engine=DummyEngine(identity="second"))).rows_answered == 1
    assert shop.column("SELECT model FROM reviews_sentiment") == ["second"]


def test_an_earlier_task_finds_its_answers_in_the_ledger(shop: Shop) -> None:
    shop.add(["a"])
    shop.run(NOTE)
    shop.run(changed(NOTE, instruction="Say something else."))
    engine = RecordingEngine()
    assert only(shop.run(NOTE, engine=engine)).rows_reused == 1
    assert engine.loads == 0


@pytest.mark.parametrize("in_flight", [1, 700])
def test_equal_texts_are_asked_once_in_a_run(shop: Shop, in_flight: int) -> None:
    total = 2 * CHUNK_ROWS + 100
    shop.add([f"text {i % 3}" for i in range(total)])
    engine = SlowEngine(in_flight)
    counts = only(shop.run(engine=engine, commit_rows=50))
    assert sorted(engine.texts) == ["text 0", "text 1", "text 2"]
    assert outcomes(counts) == (3, total - 3, 0, 0)
    assert shop.column("SELECT COUNT(DISTINCT confidence) FROM reviews_sentiment") == [3]
    assert shop.column("SELECT COUNT(*) FROM reviews_sentiment") == [total]


def test_a_text_of_many_rows_is_written_in_pieces(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, write = [], Store.write

    def noted(store: Store, batch: Batch, *more: Any) -> None:
        sizes.append(len(batch))
        write(store, batch, *more)

    monkeypatch.setattr(Store, "write", noted)
    shop.add(["same"] * 500)
    assert outcomes(only(shop.run(engine=SlowEngine(in_flight=1000), commit_rows=50))) == (1, 499, 0, 0)
    assert max(sizes) <= 50


@pytest.mark.parametrize("in_flight", [1, 10_000])
def test_equal_texts_are_asked_once_in_a_full_refresh(shop: Shop, in_flight: int) -> None:
    total = CHUNK_ROWS + 100
    shop.add([f"text {i % 3}" for i in range(total)])
    shop.run()
    engine = SlowEngine(in_flight)
    counts = only(shop.run(engine=engine, full_refresh=True))
    assert sorted(engine.texts) == ["text 0", "text 1", "text 2"]
    assert outcomes(counts) == (3, total - 3, 0, 0)


@pytest.mark.parametrize("in_flight", [1, 400])
def test_equal_texts_are_asked_once_though_rows_are_compared_before_their_turn(
    shop: Shop, in_flight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_assets.tables.source_table.CHUNK_ROWS", 100)
    shop.add([f"text {i % 90 + i // 350}" for i in range(1000)])
    engine = SlowEngine(in_flight)
    counts = only(shop.run(engine=engine, commit_rows=10))
    assert sorted(engine.texts) == sorted({f"text {i % 90 + i // 350}" for i in range(1000)})
    assert outcomes(counts) == (len(engine.texts), 1000 - len(engine.texts), 0, 0)


def test_the_next_rows_are_tokenised_while_the_engine_has_the_ones_before(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_assets.tables.source_table.CHUNK_ROWS", 10)
    shop.add([f"text {i}" for i in range(40)])
    second_chunk = threading.Event()

    class Waiting(RecordingEngine):
        def ask(self, request: Request) -> Completion:
            assert second_chunk.wait(60)
            return super().ask(request)

    engine = Waiting()
    encode = engine.tokenizer.encode_literal

    def noted(texts: Sequence[str]) -> list[list[int]]:
        if "text 10" in texts:
            second_chunk.set()
        return encode(texts)

    monkeypatch.setattr(engine.tokenizer, "encode_literal", noted)
    assert outcomes(only(shop.run(NOTE, engine=engine))) == (40, 0, 0, 0)


def test_the_first_rows_are_asked_before_all_that_were_read_with_them_are_tokenised(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text {i}" for i in range(TOKENIZED_TOGETHER + 1)]
    shop.add(texts)
    asked, tokenized = threading.Event(), set[str]()

    class Noting(RecordingEngine):
        def ask(self, request: Request) -> Completion:
            asked.set()
            return super().ask(request)

    engine = Noting()
    encode = engine.tokenizer.encode_literal

    def waiting(some: Sequence[str]) -> list[list[int]]:
        tokenized.update(some)
        if tokenized.issuperset(texts):
            assert asked.wait(60)
        return encode(some)

    monkeypatch.setattr(engine.tokenizer, "encode_literal", waiting)
    assert outcomes(only(shop.run(NOTE, engine=engine))) == (len(texts), 0, 0, 0)


def test_equal_texts_are_asked_once_across_partitions(shop: Shop) -> None:
    shop.add(["same", "only monday"], day="monday")
    shop.add(["same", "only tuesday"], first_id=3, day="tuesday")
    engine = RecordingEngine()
    shop.run(column="day", partition=day("monday"), engine=engine)
    counts = only(shop.run(column="day", partition=day("tuesday"), engine=engine))
    assert sorted(engine.texts) == ["only monday", "only tuesday", "same"]
    assert outcomes(counts) == (1, 1, 0, 0)
    [first, second] = shop.rows("SELECT label, confidence, margin FROM reviews_sentiment WHERE id IN (1, 3)")
    assert first == second


@pytest.mark.parametrize(
    "task", [SAMPLED, Summarize(name="note", candidates=2)], ids=["temperature", "several candidates"]
)
def test_sampled_answers_are_not_reused(shop: Shop, task: Task) -> None:
    shop.add(["same", "same"], day="monday")
    shop.add(["same"], first_id=3, day="tuesday")
    engine = RecordingEngine()
    for name in ("monday", "tuesday"):
        shop.run(task, column="day", partition=day(name), engine=engine)
    assert engine.texts == ["same"] * 3
    assert shop.rows("SELECT * FROM llm_answers") == []


def test_sampled_answers_are_reused_with_reuse_sampled(shop: Shop) -> None:
    shop.add(["same", "same"])
    engine = RecordingEngine()
    counts = only(shop.run(changed(SAMPLED, reuse_sampled=True), engine=engine))
    assert outcomes(counts) == (1, 1, 0, 0)


def test_sampled_answers_are_kept_from_run_to_run(shop: Shop) -> None:
    shop.add(["same", "same"])
    shop.run(SAMPLED)
    assert only(shop.run(SAMPLED)).rows_skipped == 2


def test_full_refresh_asks_every_row_again(shop: Shop) -> None:
    shop.add(["a", "b", "fails"])
    kind = FailureKind.REFUSED_REQUEST
    shop.run(NOTE, engine=FaultyEngine(errors={"fails": kind}))
    engine = RecordingEngine()
    assert outcomes(only(shop.run(NOTE, engine=engine, full_refresh=True))) == (3, 0, 0, 0)
    assert sorted(engine.texts) == ["a", "b", "fails"]
    assert set(shop.column("SELECT run_id FROM reviews_note")) == {"run-2"}
    assert shop.rows("SELECT * FROM llm_failures") == []


def test_the_throughput_row_agrees_with_the_result_and_itself(shop: Shop) -> None:
    shop.add(["a", "b", "b", None])
    result = shop.run(SENTIMENT, NOTE)
    table = shop.table("llm_throughput")
    with shop.database.engine.connect() as connection:
        found = {row.task: row for row in connection.execute(table.select())}
    assert set(found) == {"sentiment", "note"}
    for task, row in found.items():
        counts = result.counts[task]
        assert (row.run_id, row.source, row.partition_key) == ("run-1", "reviews", "all")
        assert row.rows_read == row.rows_answered + row.rows_reused + row.rows_skipped + row.rows_failed == 4
        assert (row.rows_answered, row.rows_reused, row.rows_failed) == (2, 1, 1)
        assert (row.prompt_tokens, row.output_tokens) == (counts.prompt_tokens, counts.output_tokens)
        assert 0 == row.cached_tokens < row.prompt_tokens
        stages = row.seconds_read + row.seconds_prompt + row.seconds_generate + row.seconds_write
        assert row.seconds_total == pytest.approx(stages)
        assert row.seconds_idle == 0
        assert row.rows_per_second == pytest.approx(2 / row.seconds_total)
        tokens = row.prompt_tokens + row.output_tokens
        assert row.tokens_per_second == pytest.approx(tokens / row.seconds_total)
        assert (row.gpus, row.tokens_per_second_per_gpu) == (None, None)
        assert row.finished_at >= row.started_at
        assert (row.engine, row.model, row.device) == ("dummy", "dummy", "none")
    stored = shop.rows("SELECT SUM(output_tokens), SUM(prompt_tokens) FROM reviews_note WHERE id < 3")
    assert stored == [(found["note"].output_tokens, found["note"].prompt_tokens)]


def test_the_speed_of_several_gpus_is_also_told_for_each(shop: Shop) -> None:
    class EngineOfFour(DummyEngine):
        @property
        def info(self) -> EngineInfo:
            return replace(super().info, gpus=4)

    shop.add(["a", "b"])
    shop.run(NOTE, engine=EngineOfFour())
    [(gpus, all_of_them, each)] = shop.rows(
        "SELECT gpus, tokens_per_second, tokens_per_second_per_gpu FROM llm_throughput"
    )
    assert gpus == 4
    assert each == pytest.approx(all_of_them / 4)


def test_a_listener_hears_of_progress_up_to_the_last_row(shop: Shop) -> None:
    shop.add(["a", "b", "b", None])
    heard: list[Progress] = []
    shop.pipeline(SENTIMENT, NOTE, commit_rows=1).run(Partition(), "run-1", listener=heard.append)
    done = [progress.rows_done for progress in heard]
    assert done == sorted(done)
    assert {(progress.rows_total, progress.partitions_total) for progress in heard} == {(8, 1)}
    assert (heard[-1].rows_done, heard[-1].partitions_done, heard[-1].seconds_left) == (8, 1, 0.0)


def test_two_tasks_of_the_same_name_are_refused(shop: Shop) -> None:
    engine = RecordingEngine()
    with pytest.raises(ConfigError, match=r"Two tasks are named 'note'. Each task has an output table; give them"):
        shop.pipeline(NOTE, Summarize(name="note"), engine=engine)
    assert engine.loads == 0


@pytest.mark.parametrize("name", ["id", "ID"])
def test_a_task_column_with_the_name_of_a_key_column_is_refused(shop: Shop, name: str) -> None:
    task = Extract(name="facts", schema={"type": "object", "properties": {name: {"type": "integer"}}})
    with pytest.raises(ConfigError, match=f"Task 'facts' has the column '{name}', which is a key column of the source"):
        shop.pipeline(task)


@pytest.mark.parametrize("name", ["run_id", "Model", "partition_key"])
def test_a_key_column_with_a_name_this_package_writes_is_refused(shop: Shop, name: str) -> None:
    shop.execute(f'CREATE TABLE t ("{name}" TEXT PRIMARY KEY, text TEXT)')
    with pytest.raises(ConfigError, match=f"The key column '{name}' of 't' has the name of a column that every answer"):
        shop.pipeline(source=Source(table="t"))
