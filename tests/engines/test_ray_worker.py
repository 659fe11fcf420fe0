"""What a replica does with calls that come late, or in another order: no Ray, but the engine's thread is a real one."""

import pickle
import threading
from collections.abc import Iterable, Iterator

import pytest

from llm_assets.engines import DummyEngine, DummySettings
from llm_assets.engines.ray.worker import Worker
from llm_assets.records import Completion, Request, ScoreTokens

pytestmark = pytest.mark.timeout(60)

ASK = ScoreTokens((7, 8))


class Counting(DummyEngine):
    """Counts how often it was run, and waits at a request with the token 1 until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0
        self.is_asked, self.goes_on = threading.Event(), threading.Event()

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        self.runs += 1
        for request in requests:
            if request.prompt_token_ids == [1]:
                self.is_asked.set()
                assert self.goes_on.wait(30)
            yield self.answer(request)


@pytest.fixture
def engine() -> Counting:
    return Counting()


@pytest.fixture
def worker(engine: Counting) -> Iterator[Worker]:
    worker = Worker(lambda _: engine, DummySettings(), {})
    worker.load()
    yield worker
    engine.goes_on.set()
    worker.close()


def exchange(worker: Worker, run: int, *asked: Request, wait: bool = True) -> list[int]:
    reply = worker.exchange(run, pickle.dumps(asked), wait, wait)
    assert reply.error is None
    return [completion.id for completion in pickle.loads(reply.completions)]


def request(number: int, token: int = 9) -> Request:
    return Request(number, [token], ASK)


@pytest.mark.parametrize("has_begun", [True, False])
def test_requests_of_a_run_that_has_ended_are_not_asked(worker: Worker, engine: Counting, has_begun: bool) -> None:
    if has_begun:
        worker.begin(1)
    worker.end(1)
    assert exchange(worker, 1, request(1), request(2)) == []
    worker.load()  # the engine's thread has nothing else to do
    worker.begin(1)
    assert exchange(worker, 1, request(3)) == []
    assert exchange(worker, 2, request(4)) == [4]
    assert engine.runs == 1


def test_requests_of_a_run_are_not_answered_in_the_next_one(worker: Worker) -> None:
    worker.begin(2)
    assert exchange(worker, 1, request(5), request(6), wait=False) == []
    assert exchange(worker, 2, request(5)) == [5]


def test_a_call_that_waits_for_one_run_does_not_get_the_answers_of_the_next(worker: Worker, engine: Counting) -> None:
    late: list[int] = []
    waiting = threading.Thread(target=lambda: late.extend(exchange(worker, 1, request(1, token=1))))
    waiting.start()
    assert engine.is_asked.wait(30)
    with worker._changed:  # both wait for this lock, so that the next run has an answer before the first call wakes up
        worker.begin(2)
        worker._done.append(Completion(2))
        worker._left = 1
    waiting.join(30)
    assert not waiting.is_alive()
    assert late == []
    assert exchange(worker, 2, wait=False) == [2]
    worker.end(2)
