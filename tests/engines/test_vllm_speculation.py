"""Speculative decoding changes no answer, whatever stands side by side in a run."""

import sys

import pytest

from benchmarks.common import demo_texts
from llm_assets.engines import VllmEngine
from llm_assets.engines.vllm.hardware import is_cpu_build
from llm_assets.records import BeamSearch, GenerateText, Request, ScoreTokens
from llm_assets.sampling import Sampling
from llm_assets.tasks import Classify, Summarize
from tests.engine_fixtures import LOGPROB_TOLERANCE, smollm2_settings

pytestmark = pytest.mark.timeout(300)

NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}
TASKS = (
    Classify(name="mood", labels=["good", "bad"]),
    Classify(name="kind", labels=["good film", "good film indeed", "bad"]),
    Summarize(name="summary", sampling=Sampling(max_tokens=16)),
)
CACHED = list(range(1000, 1064))
"""Whole blocks of the prefix cache: a prompt of these and one token more has one token to compute."""


@pytest.fixture(scope="module")
def requests(vllm_engine: VllmEngine) -> list[Request]:
    tokenizer, length = vllm_engine.tokenizer, vllm_engine.max_model_len
    plans = [task.plan(tokenizer, length) for task in TASKS]
    texts = tokenizer.encode_literal(demo_texts(5))
    asked = [question for text in texts for plan in plans for question in plan.requests(text)]
    asked += [([*CACHED, 500 + number], ScoreTokens((504, 476, 28))) for number in range(4)]
    asked += [(text, GenerateText({"temperature": 0.0, "max_tokens": 12, "logprobs": 3})) for text in texts]
    asked += [(texts[0], BeamSearch(beam_width=2, max_tokens=3))]
    return [Request(number, prompt, ask) for number, (prompt, ask) in enumerate(asked)]


@pytest.fixture(scope="module")
def expected(vllm_engine: VllmEngine, requests):
    """The answers without speculation. This engine makes room for the other one."""
    found = {completion.id: completion for completion in vllm_engine.run(requests)}
    vllm_engine.close()
    return found


@pytest.fixture(scope="module")
def speculating(expected, smollm2, vllm):
    engine = VllmEngine(smollm2_settings(smollm2, speculative_config=NGRAM))
    with pytest.MonkeyPatch.context() as patch:
        # As where no other engine was loaded before.
        patch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
        vllm.envs.disable_envs_cache()
        yield engine
        engine.close()
    vllm.envs.disable_envs_cache()


@pytest.mark.parametrize("most", [None, 3])
def test_labels_scores_and_texts_are_those_of_a_run_without(speculating, requests, expected, monkeypatch, most) -> None:
    monkeypatch.setattr(speculating.settings, "max_in_flight", most)
    found = {completion.id: completion for completion in speculating.run(requests)}
    assert sorted(found) == sorted(expected) == list(range(len(requests)))
    for number, answer in found.items():
        assert answer.error is None
        assert answer.scores.keys() == expected[number].scores.keys()
        assert answer.scores == pytest.approx(dict(expected[number].scores), abs=LOGPROB_TOLERANCE)
        for own, other in zip(answer.candidates, expected[number].candidates, strict=True):
            assert own.token_ids == other.token_ids
            assert own.logprobs == pytest.approx(other.logprobs, abs=LOGPROB_TOLERANCE)
            assert [top.keys() for top in own.top_logprobs] == [top.keys() for top in other.top_logprobs]


def test_a_kind_of_request_that_waits_for_the_other_takes_no_more_than_as_many_places(
    speculating, requests, monkeypatch
) -> None:
    monkeypatch.setattr(speculating.settings, "max_in_flight", 3)
    pulled = 0

    def counted():
        nonlocal pulled
        for request in requests:
            pulled += 1
            yield request

    for answered, _ in enumerate(speculating.run(counted())):
        assert pulled - answered <= 6


@pytest.mark.skipif(not is_cpu_build(), reason="With a GPU, vLLM always has a process of its own.")
def test_this_process_can_load_another_model_afterwards(speculating, requests) -> None:
    assert len(list(speculating.run(requests[:3]))) == 3
    assert "numba" not in sys.modules  # beside which the CPU build loads none
