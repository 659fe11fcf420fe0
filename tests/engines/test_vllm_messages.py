"""Answers as text."""

from llm_assets.engines.vllm.messages import completion
from llm_assets.prompts import ChatTokenizer
from llm_assets.records import GenerateText, Request
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
