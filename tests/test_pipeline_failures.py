"""Rows that have no answer, engines that fail, and what is kept: on SQLite and on Postgres."""

from dataclasses import replace

import pytest

from llm_assets.errors import AccountingError, EngineError, FailureThresholdError
from llm_assets.pipeline import MAX_ATTEMPTS
from llm_assets.records import Completion, FailureKind, GenerateText, Request
from llm_assets.sampling import Sampling
from llm_assets.tasks import Extract
from tests.tables.shop import NOTE, SENTIMENT, FaultyEngine, RecordingEngine, Shop, changed, day, only, outcomes

DETERMINISTIC = [kind for kind in FailureKind if not kind.may_pass_next_time]


@pytest.mark.parametrize("text", [None, "", " \t\n\u3000"], ids=["NULL", "empty", "blank"])
def test_a_row_without_text_fails_without_a_question(shop: Shop, text: str | None) -> None:
    shop.add([text])
    engine = RecordingEngine()
    assert only(shop.run(engine=engine)).rows_failed == 1
    assert engine.loads == 0
    [(kind, message)] = shop.rows("SELECT kind, message FROM llm_failures")
    assert kind == "empty_text"
    assert message == "The text (text) is NULL, empty or white space, so there is nothing to ask about."


def test_a_text_that_is_too_long_fails_or_is_cut(shop: Shop) -> None:
    shop.add(["short", "long " * 100])
    fail = changed(NOTE, name="fail", too_long="fail", max_text_tokens=50)
    cut = changed(NOTE, name="cut", max_text_tokens=50)
    engine = RecordingEngine()
    result = shop.run(fail, cut, engine=engine)
    assert outcomes(result.counts["fail"]) == (1, 0, 0, 1)
    assert outcomes(result.counts["cut"]) == (2, 0, 0, 0)
    [(key, kind, message)] = shop.rows("SELECT row_key, kind, message FROM llm_failures")
    assert (key, kind) == ("2", "too_long")
    assert "499 tokens" in message
    assert "limit is 50" in message
    assert sorted(len(text) for text in engine.texts) == [5, 5, 50]


def test_equal_texts_that_are_too_long_all_fail(shop: Shop) -> None:
    shop.add(["long " * 100] * 3)
    task = changed(NOTE, too_long="fail", max_text_tokens=50)
    assert outcomes(only(shop.run(task))) == (0, 0, 0, 3)


def test_a_failing_row_that_works_again_leaves_the_failures(shop: Shop) -> None:
    shop.add(["a", "b"])
    shop.run(NOTE, engine=FaultyEngine(errors={"a": FailureKind.ENGINE_ERROR}))
    assert shop.column("SELECT row_key FROM llm_failures") == ["1"]
    engine = RecordingEngine()
    assert outcomes(only(shop.run(NOTE, engine=engine))) == (1, 0, 1, 0)
    assert engine.texts == ["a"]
    assert shop.rows("SELECT * FROM llm_failures") == []


def test_no_row_stands_in_answers_and_failures_though_the_run_stops(shop: Shop) -> None:
    shop.add(["a", "b"])
    shop.run(NOTE, engine=FaultyEngine(errors=dict.fromkeys("ab", FailureKind.ENGINE_ERROR)))
    with pytest.raises(EngineError):
        shop.run(NOTE, engine=FaultyEngine(stop_at="b"), commit_rows=1, max_engine_deaths=0)
    assert shop.column("SELECT id FROM reviews_note") == [1]
    assert shop.column("SELECT row_key FROM llm_failures") == ["2"]


def test_failures_of_other_partitions_stay(shop: Shop) -> None:
    shop.add([None], day="monday")
    shop.add([None], first_id=2, day="tuesday")
    for name in ("monday", "tuesday", "monday"):
        shop.run(column="day", partition=day(name))
    found = shop.rows("SELECT row_key, run_id FROM llm_failures ORDER BY row_key")
    assert found == [("1", "run-3"), ("2", "run-2")]


def test_an_answer_of_one_task_leaves_the_failure_of_another(shop: Shop) -> None:
    shop.add(["a"])
    shop.run(SENTIMENT, NOTE, engine=FaultyEngine(answers={"a": ""}))
    assert shop.column("SELECT task FROM llm_failures") == ["note"]


def test_an_engine_error_is_tried_again_until_the_attempts_are_spent(shop: Shop) -> None:
    shop.add(["a", "a"])
    engine = FaultyEngine(errors={"a": FailureKind.ENGINE_ERROR})
    attempts = []
    for _ in range(MAX_ATTEMPTS + 2):
        assert only(shop.run(NOTE, engine=engine)).rows_failed == 2
        attempts.append(shop.column("SELECT attempts FROM llm_failures"))
    assert attempts == [[1, 1], [2, 2], [3, 3], [3, 3], [3, 3]]
    assert engine.loads == MAX_ATTEMPTS


def test_a_changed_text_gets_new_attempts(shop: Shop) -> None:
    shop.add(["a"])
    engine = FaultyEngine(errors={"a": FailureKind.ENGINE_ERROR})
    for _ in range(MAX_ATTEMPTS):
        shop.run(NOTE, engine=engine)
    shop.execute("UPDATE reviews SET text = 'b'")
    assert only(shop.run(NOTE, engine=engine)).rows_answered == 1


@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_a_failure_that_would_come_again_is_not_asked_again(shop: Shop, kind: FailureKind) -> None:
    shop.add(["a"])
    engine = FaultyEngine(errors={"a": kind})
    for _ in range(3):
        assert only(shop.run(NOTE, engine=engine)).rows_failed == 1
    # An answer that was cut off is asked for twice in the run, with more room, and then no more.
    assert engine.texts == ["a"] * (2 if kind is FailureKind.TRUNCATED else 1)
    assert shop.rows("SELECT kind, attempts, run_id FROM llm_failures") == [(str(kind), 1, "run-3")]


def test_what_the_model_said_stands_with_the_failure(shop: Shop) -> None:
    shop.add(["bad json", "cut off"])
    task = Extract(name="facts", schema={"type": "object", "properties": {"price": {"type": "number"}}})
    shop.run(task, engine=FaultyEngine(answers={"bad json": '{"price":'}, cut_off={"cut off"}))
    found = {key: (kind, raw) for key, kind, raw in shop.rows("SELECT row_key, kind, raw_output FROM llm_failures")}
    assert found["1"] == ("invalid_json", '{"price":')
    assert found["2"][0] == "truncated"
    assert found["2"][1].startswith("{")


def test_what_was_committed_before_the_engine_died_is_not_asked_again(shop: Shop) -> None:
    shop.add([f"text {i:02}" for i in range(50)])
    with pytest.raises(EngineError, match="the engine died"):
        shop.run(engine=FaultyEngine(stop_at="text 35"), max_engine_deaths=0)
    assert shop.column("SELECT id FROM reviews_sentiment ORDER BY id") == list(range(1, 36))
    engine = RecordingEngine()
    assert outcomes(only(shop.run(engine=engine))) == (15, 0, 35, 0)
    assert engine.texts == [f"text {i:02}" for i in range(35, 50)]


def test_answers_are_committed_while_the_engine_runs(shop: Shop) -> None:
    shop.add([f"text {i}" for i in range(30)])
    stored = []

    class Looking(RecordingEngine):
        def run(self, requests):
            for completion in super().run(requests):
                stored.append(shop.column("SELECT COUNT(*) FROM reviews_sentiment")[0])
                yield completion

    shop.run(engine=Looking(), commit_rows=10)
    assert stored == [0] * 10 + [10] * 10 + [20] * 10


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"lose": {"b"}}, r"without answering 1 request"),
        ({"double": {"b"}}, r"answered request 1, which was not asked or answered before"),
    ],
    ids=["lost", "doubled"],
)
def test_a_lost_or_doubled_completion_is_an_error(shop: Shop, fault: dict[str, set[str]], message: str) -> None:
    shop.add(["a", "b", "c"])
    with pytest.raises(AccountingError, match=message):
        shop.run(engine=FaultyEngine(**fault))


def test_an_invented_completion_is_an_error(shop: Shop) -> None:
    class Inventing(RecordingEngine):
        def run(self, requests):
            for completion in super().run(requests):
                yield replace(completion, id=completion.id + 7)

    shop.add(["a"])
    with pytest.raises(AccountingError, match="answered request 7"):
        shop.run(engine=Inventing())


PRICE = Extract(
    name="price",
    schema={"type": "object", "properties": {"price": {"type": "integer"}}, "required": ["price"]},
    sampling=Sampling(max_tokens=10),
)


class NarrowEngine(RecordingEngine):
    """Cuts off what it was not given `tokens` tokens for."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    def answer(self, request: Request) -> Completion:
        completion = super().answer(request)
        assert isinstance(request.ask, GenerateText)
        if request.ask.sampling["max_tokens"] >= self.tokens:
            return completion
        cut = tuple(replace(item, text=item.text[:5], finish_reason="length") for item in completion.candidates)
        return replace(completion, candidates=cut)


def test_an_answer_that_was_cut_off_gets_more_room_once(shop: Shop) -> None:
    shop.add(["a", "a", "b"])
    engine = NarrowEngine(40)
    counts = only(shop.run(PRICE, engine=engine))
    assert outcomes(counts) == (2, 1, 0, 0)
    assert sorted(engine.texts) == ["a", "a", "b", "b"]
    assert shop.column("SELECT count(*) FROM reviews_price WHERE price IS NOT NULL") == [3]


def test_an_answer_that_is_cut_off_with_more_room_too_fails(shop: Shop) -> None:
    shop.add(["a"])
    engine = NarrowEngine(41)
    assert only(shop.run(PRICE, engine=engine)).rows_failed == 1
    assert engine.texts == ["a", "a"]
    [(kind, raw_output, attempts)] = shop.rows("SELECT kind, raw_output, attempts FROM llm_failures")
    assert (kind, len(raw_output), attempts) == ("truncated", 5, 1)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_failed_share": 0.4}, "max_failed_share=0.4"),
        ({"max_failed_rows": 1}, "max_failed_rows=1"),
        ({"max_failed_share": 0.0, "max_failed_rows": 0}, "max_failed_share=0 and max_failed_rows=0"),
    ],
)
def test_a_run_fails_when_more_failed_than_is_accepted_and_keeps_its_answers(
    shop: Shop, settings: dict[str, float], named: str
) -> None:
    shop.add(["a", "", None, "b"])
    with pytest.raises(FailureThresholdError) as caught:
        shop.run(NOTE, **settings)
    assert f"2 of 4 answers failed (empty_text: 2), more than {named} accepts" in str(caught.value)
    assert shop.column("SELECT count(*) FROM reviews_note") == [2]
    assert shop.column("SELECT count(*) FROM llm_throughput") == [1]


@pytest.mark.parametrize("settings", [{}, {"max_failed_share": 0.5}, {"max_failed_rows": 2}])
def test_a_run_succeeds_when_no_more_failed_than_is_accepted(shop: Shop, settings: dict[str, float]) -> None:
    shop.add(["a", "", None, "b"])
    assert only(shop.run(NOTE, **settings)).rows_failed == 2
