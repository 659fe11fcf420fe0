"""Engines that die: started again, with the row that kills them found and the others answered."""

from collections.abc import Iterable, Iterator

import pytest

from llm_assets.errors import EngineError
from llm_assets.records import Completion, Request
from tests.tables.shop import NOTE, SENTIMENT, RecordingEngine, Shop, only, outcomes


class MortalEngine(RecordingEngine):
    """Holds requests in flight as vLLM does, and dies when one of the deadly texts is among them, or at some requests.

    Args:
        deadly: Texts that kill it.
        dies_at: Requests, counted from 1, at which it dies whatever they are.
        in_flight: Requests it takes before it finishes the first.
    """

    def __init__(self, deadly: Iterable[str] = (), dies_at: Iterable[int] = (), in_flight: int = 20) -> None:
        super().__init__()
        self.deadly, self.dies_at, self.in_flight = set(deadly), set(dies_at), in_flight
        self.taken = self.deaths = 0

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        self.runs += 1
        pending, held, exhausted = iter(requests), list[Request](), False
        while held or not exhausted:
            while not exhausted and len(held) < self.in_flight:
                request = next(pending, None)
                if request is None:
                    exhausted = True
                    break
                held.append(request)
                self.taken += 1
                if self.taken in self.dies_at:
                    self.die("a cosmic ray")
            if any(self.text_of(request) in self.deadly for request in held):
                self.die("a row")
            if held:
                yield self.ask(held.pop(0))

    def die(self, reason: str) -> None:
        self.deaths += 1
        raise EngineError(f"died of {reason}")


def test_a_death_of_chance_costs_only_another_start(shop: Shop) -> None:
    shop.add([f"text {i:02}" for i in range(50)])
    engine = MortalEngine(dies_at=[30])
    assert outcomes(only(shop.run(engine=engine))) == (50, 0, 0, 0)
    assert engine.deaths == 1
    assert shop.column("SELECT COUNT(*) FROM llm_failures") == [0]
    # What it had finished before is not asked again.
    assert len(engine.texts) == len(set(engine.texts)) == 50


@pytest.mark.parametrize("place", [0, 7, 8, 33, 49])
def test_a_row_that_kills_the_engine_fails_as_poison_and_the_others_go_on(shop: Shop, place: int) -> None:
    shop.add([f"text {i:02}" for i in range(50)])
    engine = MortalEngine(deadly=[f"text {place:02}"])
    assert outcomes(only(shop.run(NOTE, engine=engine))) == (49, 0, 0, 1)
    [(key, kind, message)] = shop.rows("SELECT row_key, kind, message FROM llm_failures")
    assert (key, kind) == (str(place + 1), "poison")
    assert message == "The engine died on this row again, when it had no other: died of a row"
    assert engine.deaths == 3


def test_two_poisonous_rows_are_both_found(shop: Shop) -> None:
    shop.add([f"text {i:02}" for i in range(50)])
    engine = MortalEngine(deadly=["text 03", "text 04"])
    assert outcomes(only(shop.run(engine=engine))) == (48, 0, 0, 2)
    assert shop.column("SELECT row_key FROM llm_failures ORDER BY row_key") == ["4", "5"]


def test_a_row_alone_in_the_engine_is_poison_at_its_second_death(shop: Shop) -> None:
    shop.add(["deadly"])
    engine = MortalEngine(deadly=["deadly"])
    assert outcomes(only(shop.run(engine=engine))) == (0, 0, 0, 1)
    assert engine.deaths == 2


def test_a_poisonous_row_is_asked_again_only_when_it_changed_or_someone_asks_for_it(shop: Shop) -> None:
    shop.add(["deadly", "fine"])
    shop.run(engine=MortalEngine(deadly=["deadly"]))
    engine = RecordingEngine()
    assert outcomes(only(shop.run(engine=engine))) == (0, 0, 1, 1)
    assert engine.loads == 0
    assert outcomes(only(shop.run(engine=engine, only_failed=True, failure_kinds=["poison"]))) == (1, 0, 1, 0)
    assert shop.column("SELECT COUNT(*) FROM llm_failures") == [0]


def test_tasks_of_one_row_that_kills_the_engine_fail_each(shop: Shop) -> None:
    shop.add(["deadly", "fine", "good"])
    result = shop.run(SENTIMENT, NOTE, engine=MortalEngine(deadly=["deadly"]))
    assert {name: outcomes(counts) for name, counts in result.counts.items()} == {
        "sentiment": (2, 0, 0, 1),
        "note": (2, 0, 0, 1),
    }


def test_an_engine_that_always_dies_ends_the_run_with_what_it_did_kept(shop: Shop) -> None:
    shop.add([f"text {i:02}" for i in range(50)])
    engine = MortalEngine(dies_at=range(31, 1000), in_flight=1)
    with pytest.raises(
        EngineError, match=r"^The engine died 4 times in this run. The last time: died of a cosmic ray$"
    ):
        shop.run(engine=engine, max_engine_deaths=3)
    assert shop.column("SELECT COUNT(*) FROM reviews_sentiment") == [30]
    engine = RecordingEngine()
    assert only(shop.run(engine=engine)).rows_skipped == 30


def test_rows_with_the_text_of_a_poisonous_row_fail_with_it(shop: Shop) -> None:
    shop.add(["deadly", "fine", "deadly"])
    engine = MortalEngine(deadly=["deadly"])
    assert outcomes(only(shop.run(engine=engine))) == (1, 0, 0, 2)
    assert engine.deaths <= 3
