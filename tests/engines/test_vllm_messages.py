"""Answers as text."""

import pytest

from llm_assets.engines.vllm.messages import beam_completion, completion
from llm_assets.prompts import ChatTokenizer
from llm_assets.records import BeamSearch, GenerateText, Request, Usage
from tests.prompts.test_tokenizer import unigram_tokenizer


def test_an_answer_keeps_the_space_that_decoding_by_itself_would_drop():
    from vllm.outputs import CompletionOutput, RequestOutput

    tokenizer = ChatTokenizer(unigram_tokenizer(prepend_scheme="always"))
    prompt, answer = tokenizer.encode_literal(["ab"])[0], tokenizer.encode_literal([" cd ef"])[0]
    assert tokenizer.decode(answer) == "cd ef"
    end = tokenizer.end_token_ids[0]
    for ids, reason in [(answer, "length"), ([*answer, end], "stop")]:
        item = CompletionOutput(0, "", ids, None, None, finish_reason=reason)
        output = RequestOutput("0", None, prompt, None, [item], finished=True)
        [candidate] = completion(Request(0, prompt, GenerateText({})), output, tokenizer).candidates
        assert (candidate.text, candidate.token_ids) == (" cd ef", tuple(ids))


def beam(prompt, token_ids, logprobs):
    """A sequence as vLLM's beam search returns it."""
    from vllm.entrypoints.generate.beam_search.utils import BeamSearchSequence
    from vllm.logprobs import Logprob

    steps = [{token_id: Logprob(value)} for token_id, value in zip(token_ids, logprobs, strict=True)]
    return BeamSearchSequence(None, [*prompt, *token_ids], steps, cum_logprob=sum(logprobs))


@pytest.fixture(scope="module")
def two_ends():
    """A tokenizer with an end token of its own, 2, and a model's other one, 1."""
    return ChatTokenizer(unigram_tokenizer(), end_token_ids=[1])


@pytest.mark.parametrize("end", [1, 2])
def test_beams_end_with_the_turn_and_what_was_searched_beyond_it_is_left_out(two_ends, end):
    prompt, answer, more = two_ends.encode_literal(["ab", "cd", "zzz"])
    found = beam(prompt, [*answer, end, *more], [-0.5] * (len(answer) + 1 + len(more)))
    request = Request(0, prompt, BeamSearch(2, 9))
    [candidate] = beam_completion(request, [found], two_ends).candidates
    assert (candidate.text, candidate.finish_reason) == (two_ends.decode(answer), "stop")
    assert candidate.token_ids == (*answer, end)
    assert candidate.logprobs == (-0.5,) * len(candidate.token_ids)


def test_a_beam_without_an_end_is_cut_off_and_has_no_control_tokens_in_its_text(two_ends):
    prompt, answer = two_ends.encode_literal(["ab", "cd"])
    unknown = 0
    found = beam(prompt, [*answer, unknown], [-0.5] * (len(answer) + 1))
    completed = beam_completion(Request(0, prompt, BeamSearch(2, 9)), [found], two_ends)
    [candidate] = completed.candidates
    assert (candidate.text, candidate.finish_reason) == (two_ends.decode(answer), "length")
    assert completed.usage == Usage(len(prompt), output=len(answer) + 1)


def test_the_best_beam_is_the_one_that_is_best_up_to_its_end(two_ends):
    prompt, first, second = two_ends.encode_literal(["ab", "cd", "ef"])
    # The second is likelier as an answer, and continues with what is less likely.
    beams = [
        beam(prompt, [*first, 2], [-0.5] * (len(first) + 1)),
        beam(prompt, [*second, 1, *first], [-0.25] * (len(second) + 1) + [-3.0] * len(first)),
    ]
    request = Request(0, prompt, BeamSearch(2, 9))
    for order in (beams, beams[::-1]):
        assert beam_completion(request, order, two_ends).candidates[0].text == two_ends.decode(second)
    [candidate] = beam_completion(request, beams[:1], two_ends).candidates
    assert candidate.text == two_ends.decode(first)
