"""Answers of a vLLM server that lack what was asked for: one request fails with the reason, and its tokens count."""

import pytest
from aiohttp import web

from llm_assets.engines import ServerEngine, ServerSettings
from llm_assets.records import FailureKind, GenerateText, Request, ScoreTokens, Usage
from tests.engines.odd_servers import OddServer, answer

pytestmark = pytest.mark.timeout(120)

WRITE = GenerateText({"temperature": 0.0, "max_tokens": 1, "logprobs": 0})
LIKELIEST = GenerateText({"temperature": 0.0, "max_tokens": 1, "logprobs": 2})
THREE = GenerateText({"temperature": 0.5, "max_tokens": 1, "n": 3})
SCORE = ScoreTokens((7, 8))
TOP = [{"token": "token_id:7", "logprob": -0.5}]
CHOICE = {
    "index": 0,
    "token_ids": [7],
    "finish_reason": "length",
    "logprobs": {"content": [{**TOP[0], "top_logprobs": TOP}]},
}


@pytest.mark.parametrize(
    ("ask", "choices", "message"),
    [
        (WRITE, [], "has 0 choices, and 1 were asked for"),
        (WRITE, [CHOICE, CHOICE], "has 2 choices, and 1 were asked for"),
        (THREE, [CHOICE], "has 1 choices, and 3 were asked for"),
        (WRITE, [{**CHOICE, "token_ids": None}], "has no token_ids"),
        (WRITE, [{**CHOICE, "logprobs": None}], "has 0 log-probabilities for 1 tokens"),
        (LIKELIEST, [{**CHOICE, "logprobs": {"content": []}}], "has 0 log-probabilities for 1 tokens"),
        (LIKELIEST, [{**CHOICE, "logprobs": {"content": TOP}}], "has another form (KeyError: 'top_logprobs')"),
        (WRITE, [{**CHOICE, "token_ids": [-7]}], "has another form (OverflowError"),
        (SCORE, [], "has 0 choices"),
        (SCORE, [{**CHOICE, "logprobs": None}], "has no log-probability of token 7"),
        (SCORE, [CHOICE], "has no log-probability of token 8"),
    ],
)
def test_an_answer_that_lacks_something_fails_alone_and_its_tokens_count(smollm2, ask, choices, message):
    async def odd(server, request, body):
        if body["token_ids"] != [5]:
            return answer(body)
        return web.json_response({"choices": choices, "usage": {"prompt_tokens": 40, "completion_tokens": 2}})

    with OddServer(odd) as server:
        settings = {"max_model_len": 2048, "weights": str(smollm2), "model": "model"}
        engine = ServerEngine(ServerSettings(urls=[server.url], **settings))
        found = {done.id: done for done in engine.run([Request(0, [5], ask), Request(1, [5, 6], WRITE)])}
        engine.close()
    assert message in found[0].error
    assert found[0].error_kind is FailureKind.ENGINE_ERROR
    assert found[0].usage == Usage(40, 0, 2)
    assert found[1].error is None
