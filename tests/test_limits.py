"""Limits of a run: it stops well, keeps everything, and says what is left."""

import time
from dataclasses import replace

import pytest
from pydantic import ValidationError

from llm_assets.errors import ConfigError, FailureThresholdError
from llm_assets.pipeline import PipelineSettings
from llm_assets.pipeline.limits import Limits
from llm_assets.records import Completion, EngineInfo, FailureKind, Prices, Request, ScoreTokens
from llm_assets.tables.source_table import CHUNK_ROWS
from llm_assets.tasks import Extract
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

FACTS = Extract(name="facts", schema={"type": "object", "properties": {"price": {"type": "number"}}})
SHORT_NOTE = changed(NOTE, sampling={"max_tokens": 20})


class LateEngine(SlowEngine):
    """Takes a while for each request."""

    def __init__(self, in_flight: int, seconds: float) -> None:
        super().__init__(in_flight)
        self.seconds = seconds

    def ask(self, request: Request):
        time.sleep(self.seconds)
        return super().ask(request)


def left(shop: Shop) -> list[tuple]:
    return shop.rows(
        "SELECT run_id, status, rows_answered, rows_left FROM llm_throughput ORDER BY run_id, partition_key"
    )


def test_max_rows_is_not_passed_and_the_next_run_goes_on(shop: Shop) -> None:
    shop.add([f"text {i}" for i in range(10)])
    result = shop.run(max_rows=4)
    assert (outcomes(only(result)), only(result).rows_left, result.limit) == ((4, 0, 0, 0), 6, "max_rows=4")
    assert only(shop.run(max_rows=4)).rows_left == 2
    assert outcomes(only(shop.run(max_rows=4))) == (2, 0, 8, 0)
    assert left(shop) == [("run-1", "limit", 4, 6), ("run-2", "limit", 4, 2), ("run-3", "complete", 2, 0)]


def test_rows_without_a_question_do_not_count_against_the_limit(shop: Shop) -> None:
    shop.add(["a", "b", None, "a", "c", "d"])
    result = only(shop.run(max_rows=2))
    assert (outcomes(result), result.rows_left) == ((2, 1, 0, 1), 2)


def test_each_tasks_question_about_a_row_counts(shop: Shop) -> None:
    shop.add(["a", "b", "c"])
    result = shop.run(SENTIMENT, NOTE, max_rows=4)
    assert {name: outcomes(counts)[0] for name, counts in result.counts.items()} == {"sentiment": 2, "note": 2}


@pytest.mark.parametrize("in_flight", [1, 5])
def test_max_tokens_is_never_passed(shop: Shop, in_flight: int) -> None:
    shop.add([f"text {i}" for i in range(10)])
    free = only(shop.run(SHORT_NOTE))
    each = (free.prompt_tokens + free.output_tokens) // 10
    shop.execute("DELETE FROM reviews_note", "DELETE FROM llm_answers")
    limit = 4 * each + 25
    counts = only(shop.run(SHORT_NOTE, engine=SlowEngine(in_flight), max_tokens=limit))
    assert 0 < counts.prompt_tokens + counts.output_tokens <= limit
    assert counts.rows_answered + counts.rows_left == 10
    assert counts.rows_answered >= 3


class PricedEngine(SlowEngine):
    """Has some requests in flight, and costs money."""

    prices = Prices(prompt=2.0, cached=1.0, output=10.0, currency="EUR")

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, prices=self.prices)


def test_a_request_that_takes_several_calls_is_counted_with_all_its_prompts() -> None:
    request = Request(0, [1] * 100, ScoreTokens(tuple(range(40))))
    info = EngineInfo("server", "m", "", prices=Prices(1.0, 1.0, 1.0), most_scored=19)
    for name, enough, less in (("max_tokens", 303, 302), ("max_cost", 303.5e-6, 302.5e-6)):
        assert Limits(PipelineSettings(**{name: enough}), info).admit([request])
        assert not Limits(PipelineSettings(**{name: less}), info).admit([request])


def test_a_run_says_what_it_cost(shop: Shop) -> None:
    shop.add([f"text {i}" for i in range(10)])
    counts = only(shop.run(SHORT_NOTE, engine=PricedEngine(3)))
    uncached = counts.prompt_tokens - counts.cached_tokens
    cost = (2 * uncached + counts.cached_tokens + 10 * counts.output_tokens) / 1e6
    assert shop.rows("SELECT cost, currency FROM llm_throughput") == [(pytest.approx(cost), "EUR")]
    shop.run(SHORT_NOTE, full_refresh=True)
    assert shop.rows("SELECT cost, currency FROM llm_throughput WHERE run_id = 'run-2'") == [(None, None)]


@pytest.mark.parametrize("in_flight", [1, 5])
def test_max_cost_is_never_passed_and_the_next_run_goes_on(shop: Shop, in_flight: int) -> None:
    shop.add([f"text {i}" for i in range(10)])
    shop.run(SHORT_NOTE, engine=PricedEngine(1))
    [free] = shop.column("SELECT cost FROM llm_throughput")
    shop.execute("DELETE FROM reviews_note", "DELETE FROM llm_answers", "DELETE FROM llm_throughput")
    limit = 0.6 * free
    result = shop.run(SHORT_NOTE, engine=PricedEngine(in_flight), max_cost=limit)
    [spent] = shop.column("SELECT cost FROM llm_throughput")
    assert 0 < spent <= limit
    counts = only(result)
    assert counts.rows_answered + counts.rows_left == 10
    assert counts.rows_answered >= 3
    assert result.limit == f"max_cost={limit:g}"
    assert only(shop.run(SHORT_NOTE)).rows_answered == counts.rows_left


def test_max_cost_without_prices_is_refused_before_anything_is_asked(shop: Shop) -> None:
    shop.add(["a"])
    engine = RecordingEngine()
    with pytest.raises(ConfigError, match=r"max_cost is 5, and the engine has no prices"):
        shop.pipeline(engine=engine, max_cost=5)
    assert engine.loads == 0


def test_max_seconds_ends_a_run_that_would_take_longer(shop: Shop) -> None:
    shop.add([f"text {i}" for i in range(CHUNK_ROWS + 200)])
    counts = only(shop.run(engine=LateEngine(8, 0.01), max_seconds=1.5, commit_seconds=0.1))
    assert counts.rows_answered > 10
    assert counts.rows_left > 100
    assert counts.rows_read == CHUNK_ROWS + 200
    assert shop.column("SELECT COUNT(*) FROM reviews_sentiment") == [counts.rows_answered]
    again = only(shop.run())
    assert outcomes(again) == (counts.rows_left, 0, counts.rows_answered, 0)


def test_a_request_in_flight_at_the_end_of_the_time_is_left(shop: Shop) -> None:
    shop.add(["a", "b", "c"])
    started = time.monotonic()
    counts = only(shop.run(engine=LateEngine(1, 0.7), max_seconds=1.0))
    assert time.monotonic() - started < 10
    assert counts.rows_left >= 1
    assert outcomes(only(shop.run()))[0] == counts.rows_left


def test_partitions_that_were_not_begun_are_left_whole(shop: Shop) -> None:
    for number, name in enumerate(("monday", "tuesday", "wednesday")):
        shop.add([f"{name} {i}" for i in range(5)], first_id=10 * number, day=name)
    pipeline = shop.pipeline(engine=LateEngine(1, 0.3), column="day", max_seconds=0.8)
    results = {
        r.partition_key: only(r) for r in pipeline.run_all([day(d) for d in ("monday", "tuesday", "wednesday")], "run")
    }
    assert results["wednesday"].rows_left == 5
    assert sum(counts.rows_answered + counts.rows_left for counts in results.values()) == 15


def test_failures_and_answers_of_rows_that_were_left_still_stand(shop: Shop) -> None:
    shop.add(["a", "b", "c"])
    shop.run(NOTE, engine=FaultyEngine(errors={"c": FailureKind.ENGINE_ERROR}))
    shop.execute("UPDATE reviews SET text = 'new' WHERE id = 1")
    shop.run(NOTE, max_rows=1)
    assert shop.column("SELECT row_key FROM llm_failures") == ["3"]
    assert shop.column("SELECT id FROM reviews_note ORDER BY id") == [1, 2]


def test_a_cut_off_answer_whose_second_try_does_not_fit_is_left(shop: Shop) -> None:
    short = changed(FACTS, sampling={"max_tokens": 20})
    shop.add(["one"])
    prompt = only(shop.run(short)).prompt_tokens
    shop.add(["cut"], first_id=2)
    counts = only(shop.run(short, engine=FaultyEngine(cut_off={"cut"}), max_tokens=2 * prompt + 60))
    assert (outcomes(counts), counts.rows_left) == ((0, 0, 1, 0), 1)
    assert shop.column("SELECT COUNT(*) FROM llm_failures") == [0]


class CutOffEngine(SlowEngine):
    """Cuts off the first answer to each text, and takes a while for the second."""

    def __init__(self, in_flight: int, seconds: float = 0.0) -> None:
        super().__init__(in_flight)
        self.seconds = seconds
        self._asked: set[str] = set()

    def answer(self, request: Request) -> Completion:
        completion, text = super().answer(request), self.text_of(request)
        if text in self._asked:
            time.sleep(self.seconds)
            return completion
        self._asked.add(text)
        cut = tuple(replace(candidate, finish_reason="length") for candidate in completion.candidates)
        return replace(completion, candidates=cut)


@pytest.mark.parametrize("limits", [{"max_rows": 3}, {"max_tokens": 1500}])
def test_rows_that_need_a_second_try_do_not_keep_runs_from_getting_on(shop: Shop, limits: dict[str, int]) -> None:
    short = changed(FACTS, sampling={"max_tokens": 20})
    shop.add([f"row {number}" for number in range(9)])
    answered = 0
    for _ in range(9):
        answered += only(shop.run(short, engine=CutOffEngine(1), **limits)).rows_answered
    assert answered == 9


def test_second_tries_that_the_time_is_too_short_for_are_left(shop: Shop) -> None:
    shop.add([f"text {i}" for i in range(6)])
    counts = only(shop.run(FACTS, engine=CutOffEngine(1, 0.4), max_seconds=1.0))
    assert counts.rows_answered + counts.rows_left == 6
    assert counts.rows_answered >= 1
    assert counts.rows_left >= 1
    assert left(shop) == [("run-1", "limit", counts.rows_answered, counts.rows_left)]
    assert outcomes(only(shop.run(FACTS))) == (counts.rows_left, 0, counts.rows_answered, 0)


def test_second_tries_do_not_wait_for_the_end_of_the_run(shop: Shop) -> None:
    rows = 3 * CHUNK_ROWS
    shop.add([f"text {i:05}" for i in range(rows)])
    engine = CutOffEngine(1)
    assert outcomes(only(shop.run(FACTS, engine=engine))) == (rows, 0, 0, 0)
    assert len(engine.texts) == 2 * rows
    assert engine.texts.index(engine.texts[0], 1) < 2 * CHUNK_ROWS


def test_rows_that_were_left_do_not_thin_the_share_of_failures(shop: Shop) -> None:
    shop.add(["bad", "good", *(f"text {i}" for i in range(98))])
    engine = FaultyEngine(errors={"bad": FailureKind.ENGINE_ERROR})
    with pytest.raises(FailureThresholdError, match=r"^1 of 2 answers failed"):
        shop.run(NOTE, engine=engine, max_rows=2, max_failed_share=0.4)


@pytest.mark.parametrize("kinds", [(), ("engine_error",)])
def test_only_failed_asks_failed_rows_whatever_their_attempts(shop: Shop, kinds: tuple[str, ...]) -> None:
    shop.add(["a", "bad", "worse", None])
    errors = {"bad": FailureKind.ENGINE_ERROR, "worse": FailureKind.REFUSED_REQUEST}
    for _ in range(5):
        shop.run(NOTE, engine=FaultyEngine(errors=errors))
    shop.add(["new"], first_id=10)
    engine = RecordingEngine()
    counts = only(shop.run(NOTE, engine=engine, only_failed=True, failure_kinds=kinds))
    assert sorted(engine.texts) == (["bad"] if kinds else ["bad", "worse"])
    assert (outcomes(counts), counts.rows_left) == ((2, 0, 1, 1) if not kinds else (1, 0, 1, 2), 1)
    kept = ["3", "4"] if kinds else ["4"]
    assert shop.column("SELECT row_key FROM llm_failures ORDER BY row_key") == kept
    assert outcomes(only(shop.run(NOTE)))[0] == 1


@pytest.mark.parametrize("changed_task", [False, True])
def test_a_failed_row_that_only_failed_passes_over_is_asked_later_if_it_has_changed(
    shop: Shop, changed_task: bool
) -> None:
    shop.add(["bad", "other"])
    shop.run(NOTE, engine=FaultyEngine(errors={"bad": FailureKind.INVALID_JSON}))
    task = changed(NOTE, instruction="Say more.") if changed_task else NOTE
    if not changed_task:
        shop.execute("UPDATE reviews SET text = 'good' WHERE id = 1")
    shop.run(task, only_failed=True, failure_kinds=("engine_error",))
    assert shop.column("SELECT kind FROM llm_failures") == ["invalid_json"]
    engine = RecordingEngine()
    shop.run(task, engine=engine)
    assert sorted(engine.texts) == (["bad", "other"] if changed_task else ["good"])
    assert shop.column("SELECT COUNT(*) FROM llm_failures") == [0]


def test_failure_kinds_are_checked() -> None:
    with pytest.raises(ValidationError, match=r"There is no failure kind 'truncate'\. Did you mean 'truncated'"):
        PipelineSettings(only_failed=True, failure_kinds=("truncate",))
    with pytest.raises(ValidationError, match="set only_failed too"):
        PipelineSettings(failure_kinds=("truncated",))
    with pytest.raises(ValidationError, match="set one of them"):
        PipelineSettings(only_failed=True, full_refresh=True)


def test_answers_of_rows_that_are_gone_can_be_kept(shop: Shop) -> None:
    shop.add(["a", "b"])
    shop.run(keep_removed=True)
    shop.execute("DELETE FROM reviews WHERE id = 1")
    assert only(shop.run(keep_removed=True)).rows_removed == 0
    assert shop.column("SELECT id FROM reviews_sentiment ORDER BY id") == [1, 2]
    assert only(shop.run()).rows_removed == 1


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_an_answer_that_cannot_be_stored_counts_as_failed_alone(sqlite_url: str, temperature: float) -> None:
    times = {"type": "object", "properties": {"when": {"type": "string", "format": "date-time"}}}
    task = Extract(name="facts", schema=times, sampling={"temperature": temperature})
    shop = Shop(sqlite_url)
    shop.add(["early", "late"])
    early, late = '{"when":"0001-01-01T00:00:00+05:00"}', '{"when":"2020-01-01T00:00:00Z"}'
    counts = only(shop.run(task, engine=FaultyEngine(answers={"early": early, "late": late})))
    assert outcomes(counts) == (1, 0, 0, 1)
    assert shop.column("SELECT kind FROM llm_failures") == ["unstorable"]
    shop.database.close()


def test_an_answer_that_the_database_cannot_hold_fails_alone(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.add(["a", "b", "c"])
    shop.run(NOTE)
    shop.execute(
        "DELETE FROM reviews_note",
        "DELETE FROM llm_answers",
        "CREATE FUNCTION no_b() RETURNS trigger AS $$ BEGIN "
        "IF NEW.id = 2 THEN RAISE EXCEPTION USING ERRCODE = '22003', MESSAGE = 'too big'; END IF; RETURN NEW; "
        "END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER no_b BEFORE INSERT ON reviews_note FOR EACH ROW EXECUTE FUNCTION no_b()",
    )
    counts = only(shop.run(NOTE))
    assert outcomes(counts) == (2, 0, 0, 1)
    [(key, kind, message)] = shop.rows("SELECT row_key, kind, message FROM llm_failures")
    assert (key, kind) == ("2", "unstorable")
    assert message.startswith("The database cannot hold the answer: too big")
    assert shop.column("SELECT id FROM reviews_note ORDER BY id") == [1, 3]
    shop.database.close()
