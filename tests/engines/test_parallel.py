"""Several copies or parts of a model in one run, on several GPUs or on one: here each is a process on the CPU."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import contextmanager

import psutil
import pytest

from llm_assets.engines import VllmEngine
from llm_assets.errors import ConfigError, EngineError, ModelError
from llm_assets.records import BeamSearch, Constraint, FailureKind, GenerateText, Request, ScoreTokens
from tests.engine_fixtures import LOGPROB_TOLERANCE, MAX_MODEL_LEN, smollm2_settings

PREFIX = [1, 504, 7742, 506, 3714, 2496, 42] * 10
SCORES = ScoreTokens((504, 476, 28))
COPY = "EngineCore"


def score(number: int) -> Request:
    return Request(number, [*PREFIX, 500 + number], SCORES)


@pytest.fixture(scope="module")
def whole(vllm_engine):
    """The scores by one copy in this process, which answers before the variables of other engines are set."""
    return {done.id: dict(done.scores) for done in vllm_engine.run(score(number) for number in range(8))}


def parallel_engine(model, **settings: int) -> VllmEngine:
    return VllmEngine(smollm2_settings(model, **settings))


@pytest.fixture(scope="module")
def elsewhere(whole):
    """Processes of other engines."""
    return processes(COPY)


@pytest.fixture(scope="module", params=["data_parallel_size", "copies_per_gpu"])
def two_copies(request, elsewhere, smollm2, vllm):
    with in_own_processes(vllm):
        engine = parallel_engine(smollm2, **{request.param: 2}, max_in_flight=16)
        yield engine
        engine.close()


@contextmanager
def in_own_processes(vllm):
    """Have vLLM compute in processes of its own, as where no other engine was loaded before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
        vllm.envs.disable_envs_cache()
        yield


def test_two_copies_share_the_rows_and_give_the_answers_of_one(two_copies, whole, elsewhere):
    requests = [score(number) for number in range(200)]
    found = {done.id: done for done in two_copies.run(requests)}
    assert sorted(found) == list(range(200))
    assert not any(done.error for done in found.values())
    assert len(processes(COPY, elsewhere)) == 2
    for number, scores in whole.items():
        assert found[number].scores == pytest.approx(scores, abs=LOGPROB_TOLERANCE)


def test_the_queue_is_filled_as_places_come_free_and_no_further(two_copies):
    pulled: list[int] = []

    def requests():
        for number in range(50):
            pulled.append(number)
            yield score(number)

    most = 0
    for done, _ in enumerate(two_copies.run(requests())):
        most = max(most, len(pulled) - done)
    assert len(pulled) == 50
    assert most <= 17


def idle_while_this_process_is_busy(engine: VllmEngine, requests: list[Request]) -> float:
    """The idle seconds of a run whose outputs are left lying for a while, when there are more requests to hand over."""
    before = engine.idle_seconds
    for done, _ in enumerate(engine.run(requests)):
        if done == 1:
            time.sleep(3)
    return engine.idle_seconds - before


def test_copies_that_wait_for_this_process_are_idle(two_copies, monkeypatch):
    monkeypatch.setattr(two_copies.settings, "max_in_flight", 6)
    assert idle_while_this_process_is_busy(two_copies, [score(number) for number in range(24)]) >= 1


def test_text_under_a_constraint_comes_with_its_log_probabilities(two_copies):
    ask = GenerateText({"temperature": 0.0, "max_tokens": 8, "logprobs": 0}, Constraint("regex", "[a-c]{3}"))
    [done] = two_copies.run([Request(7, PREFIX, ask)])
    [candidate] = done.candidates
    assert len(candidate.text) == 3
    assert set(candidate.text) <= set("abc")
    assert len(candidate.logprobs) == len(candidate.token_ids)


def test_what_vllm_refuses_does_not_stop_the_others(two_copies):
    bad = Request(1, [1] * (MAX_MODEL_LEN + 5), ScoreTokens((504,)))
    found = {done.id: done for done in two_copies.run([score(0), bad, score(2)])}
    assert found[1].error_kind is FailureKind.REFUSED_REQUEST
    assert (found[0].error, found[2].error) == (None, None)


def test_beam_search_takes_one_copy_or_is_refused_with_what_to_set(two_copies):
    requests = [Request(1, PREFIX, BeamSearch(2, 4)), score(2)]
    found = {done.id: done for done in two_copies.run(requests)}
    assert found[2].error is None
    if two_copies.settings.data_parallel_size == 1:
        assert found[1].candidates
        assert two_copies.llm.generate("The capital of France is", use_tqdm=False)
        assert [done.id for done in two_copies.run([score(3)])] == [3]
        return
    assert found[1].error_kind is FailureKind.REFUSED_REQUEST
    assert "set data_parallel_size to 1" in str(found[1].error)
    with pytest.raises(ConfigError, match="Set data_parallel_size to 1"):
        _ = two_copies.llm


def test_questions_about_a_row_find_it_in_the_cache_of_the_copy_that_computed_it(two_copies):
    rows = [[*range(1000 + row, 1070 + row)] for row in range(32)]
    asked = [(row, [*rows[row], 500 + task]) for row in range(len(rows)) for task in range(3)]
    requests = [Request(number, prompt, SCORES, row) for number, (row, prompt) in enumerate(asked)]
    cached = [done.usage.cached for done in two_copies.run(requests)]
    assert sum(tokens >= 64 for tokens in cached) == len(rows) * 2


def test_a_run_that_was_left_leaves_nothing_for_the_next(two_copies):
    run = two_copies.run(score(number) for number in range(40))
    next(run)
    run.close()
    assert sorted(done.id for done in two_copies.run([score(100), score(101)])) == [100, 101]


def test_a_copy_that_is_killed_stops_the_run_and_the_next_one_loads_both_again(two_copies, elsewhere):
    run = two_copies.run(score(number) for number in range(2000))
    next(run)
    os.kill(processes(COPY, elsewhere)[-1].pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="vLLM stopped"):
        for _ in run:
            pass
    assert not processes(COPY, elsewhere)
    assert [done.id for done in two_copies.run([score(5)])] == [5]


def test_copies_in_this_process_are_refused_with_what_to_set(smollm2, monkeypatch, vllm):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    vllm.envs.disable_envs_cache()
    engine = parallel_engine(smollm2, copies_per_gpu=2)
    with pytest.raises(ModelError, match="VLLM_ENABLE_V1_MULTIPROCESSING to 1"):
        engine.load()


def test_the_parts_of_a_model_give_the_answers_of_the_whole_and_leave_no_process(smollm2, whole, vllm, monkeypatch):
    requests = [score(number) for number in range(8)]
    # By itself vLLM takes one processor socket for each part. It parts this model's 9 attention heads.
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    # In this process it would, when it ends, take vLLM's groups from the engine that it is compared with.
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    vllm.envs.disable_envs_cache()
    before = psutil.Process().children(recursive=True)
    engine = parallel_engine(smollm2, tensor_parallel_size=3, max_in_flight=4)
    try:
        parts = {done.id: done.scores for done in engine.run(requests)}
        assert parts.keys() == whole.keys()
        for id, scores in whole.items():
            assert parts[id] == pytest.approx(scores, abs=LOGPROB_TOLERANCE)
        assert len(processes("VLLM::", before)) >= 3
        assert processes("processes.py", before)
        assert idle_while_this_process_is_busy(engine, requests) >= 1
    finally:
        engine.close()
    assert not processes("VLLM::", before)
    assert not processes("processes.py", before)


def processes(name: str, others: Sequence[psutil.Process] = ()) -> list[psutil.Process]:
    """The living processes of this one with a name, without some that another engine may have."""
    found = [child for child in psutil.Process().children(recursive=True) if child not in others]
    return [child for child in found if child.status() != psutil.STATUS_ZOMBIE and name in " ".join(child.cmdline())]
