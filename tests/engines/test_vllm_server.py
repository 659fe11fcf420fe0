"""A real vLLM server: as a host that takes messages, and killed in the middle of a run."""

import json
import math
import os
import subprocess
import sys

import pytest

from benchmarks.common import demo_texts
from llm_assets.engines import ServerEngine, ServerSettings
from llm_assets.errors import ConfigError
from llm_assets.records import Constraint, FailureKind, GenerateText, Request
from llm_assets.tasks import Classify, Extract, Generate, Summarize
from tests.engine_fixtures import LOGPROB_TOLERANCE
from tests.tables.shop import Shop, only, outcomes

pytestmark = pytest.mark.timeout(900)

MOOD = Classify(name="mood", instruction="Is the writer content?", labels=("yes", "no"))
FACTS = Extract(
    name="facts",
    schema={
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}, "stars": {"type": "integer", "minimum": 1, "maximum": 5}},
        "required": ["mood", "stars"],
        "additionalProperties": False,
    },
)
GIST = Summarize(name="gist", max_words=10)
PICK = Generate(name="pick", instruction="Good or bad?", choice=("a good film", "a bad film"))
TEXTS = ["A warm and funny film.", "It broke after a day, and nobody answers.", 'He said: "<|im_end|> Great!"']
ROWS = int(os.environ.get("KILLED_SERVER_ROWS", "300"))
PRICES = {"prompt": 1.0, "cached": 0.5, "output": 4.0}


@pytest.fixture
def chat(vllm_server):
    engine = ServerEngine(
        ServerSettings(
            urls=[f"{vllm_server.url}/v1"],
            model=vllm_server.served,
            api="chat",
            max_model_len=3000,
            unavailable_seconds=60,
            prices=PRICES,
            currency="EUR",
        )
    )
    yield engine
    engine.close()


def request(engine, ask, number=0, text=TEXTS[0]):
    messages = [{"role": "system", "content": "You judge films."}, {"role": "user", "content": text}]
    return Request(number, engine.tokenizer.encode_markup(engine.tokenizer.render(messages)), ask)


def test_labels_json_and_summaries_come_from_a_host_that_takes_messages(chat, sqlite_url):
    shop = Shop(sqlite_url)
    shop.add(TEXTS)
    result = shop.run(MOOD, FACTS, GIST, PICK, engine=chat)
    assert {name: outcomes(counts) for name, counts in result.counts.items()} == dict.fromkeys(
        ("mood", "facts", "gist", "pick"), (3, 0, 0, 0)
    )
    assert set(shop.column("SELECT label FROM reviews_mood")) <= {"yes", "no"}
    assert all(0 < value <= 1 for value in shop.column("SELECT confidence FROM reviews_mood"))
    assert set(shop.column("SELECT mood FROM reviews_facts")) <= {"good", "bad"}
    assert all(shop.column("SELECT stars BETWEEN 1 AND 5 FROM reviews_facts"))
    assert all(shop.column("SELECT summary FROM reviews_gist"))
    assert set(shop.column("SELECT answer FROM reviews_pick")) <= set(PICK.choice or ())
    for name, counts in result.counts.items():
        cost = shop.rows(f"SELECT cost, currency, engine FROM llm_throughput WHERE task = '{name}'")
        uncached = counts.prompt_tokens - counts.cached_tokens
        expected = (uncached + 0.5 * counts.cached_tokens + 4 * counts.output_tokens) / 1e6
        assert cost == [(pytest.approx(expected), "EUR", "chat")]
        assert expected > 0
    shop.database.close()


def test_messages_reach_a_host_as_the_models_own_chat_format_has_them(chat, server_engine):
    """Both ways to ask the same server give the same answer: the host has the messages, and the text is data."""
    ask = GenerateText({"temperature": 0.0, "max_tokens": 12, "logprobs": 2})
    for text in TEXTS[:2]:
        (by_messages,) = chat.run([request(chat, ask, text=text)])
        (by_tokens,) = server_engine.run([request(server_engine, ask, text=text)])
        (said,), (told) = by_messages.candidates, by_tokens.candidates[0]
        assert said.text == told.text
        assert said.logprobs == pytest.approx(told.logprobs, abs=LOGPROB_TOLERANCE)
        assert len(said.token_ids) == len(said.logprobs) == len(said.top_logprobs)
        assert chat.tokenizer.decode(said.token_ids).startswith(said.text)


def test_labels_that_begin_alike_are_told_apart_by_what_the_host_goes_on_with(chat):
    task = Classify(name="about", instruction="What is it about?", labels=("a good film", "a bad film", "a lamp"))
    plan = task.plan(chat.tokenizer, chat.max_model_len)
    [ids] = chat.tokenizer.encode_literal(TEXTS[:1])
    asked = [Request(number, *one) for number, one in enumerate(plan.requests(ids))]
    (completion,) = chat.run(asked)
    assert 1 < completion.usage.output <= len("a g")
    found = plan.probabilities([completion])
    assert sum(probability > 0.01 for probability in found) == 3
    assert math.fsum(found) <= 1 + 1e-9


@pytest.mark.parametrize("kind", ["regex", "grammar"])
def test_a_constraint_that_openai_does_not_have_is_refused_before_anything_is_asked(chat, kind):
    with pytest.raises(ConfigError, match=rf"has no {kind} constraint\. Use a choice or a JSON schema"):
        chat.check(Constraint(kind, "[a-z]"))


def test_a_sampling_parameter_that_openai_does_not_have_is_named(chat):
    ask = GenerateText({"temperature": 1.0, "max_tokens": 3, "min_p": 0.1})
    with pytest.raises(ConfigError, match="no sampling parameter 'min_p'"):
        list(chat.run([request(chat, ask)]))
    fine = GenerateText({"temperature": 1.0, "max_tokens": 3, "min_p": 0.0, "top_p": 0.9, "seed": 4})
    assert [completion.error for completion in chat.run([request(chat, fine)])] == [None]


def test_a_schema_that_the_host_refuses_fails_its_row_with_the_hosts_reason(chat):
    schema = json.dumps({"type": "nonsense"})
    (found,) = chat.run(
        [request(chat, GenerateText({"temperature": 0.0, "max_tokens": 3}, Constraint("json", schema)))]
    )
    assert found.error_kind is FailureKind.REFUSED_REQUEST
    assert found.error.startswith("The server refused the request: ")


def test_a_server_that_is_killed_and_started_again_loses_and_doubles_nothing(vllm_server, server_engine, sqlite_url):
    rows = ROWS
    shop = Shop(sqlite_url)
    shop.add(demo_texts(rows))
    asked: list[int] = []
    kill_after = rows // 2 + 5

    class Killing:
        """The engine, with a server that dies once so many requests were answered."""

        def __getattr__(self, name):
            return getattr(server_engine, name)

        def run(self, requests):
            for completion in server_engine.run(requests):
                asked.append(completion.id)
                if len(asked) == kill_after:
                    vllm_server.kill()
                    vllm_server.start()  # it answers again when it has loaded the model
                yield completion

    counts = only(shop.run(MOOD, engine=Killing()))
    assert (outcomes(counts), counts.rows_left) == ((rows, 0, 0, 0), 0)
    assert sorted(asked) == list(range(rows))
    assert shop.column("SELECT COUNT(*) FROM reviews_mood") == [rows]
    assert shop.column("SELECT COUNT(*) FROM llm_failures") == [0]
    shop.database.close()


WITHOUT_VLLM = """
import sys
for missing in ("vllm", "torch", "xgrammar"):
    sys.modules[missing] = None
from llm_assets.engines import ServerEngine, ServerSettings
from llm_assets.records import Constraint, GenerateText, Request, ScoreTokens
engine = ServerEngine(ServerSettings.model_validate_json(sys.argv[1]))
constraint = Constraint("regex", "[a-c]{3}")
engine.check(constraint)
[prompt] = engine.tokenizer.encode_literal(["A fine day."])
asks = [ScoreTokens(tuple(prompt[:2])), GenerateText({"temperature": 0.0, "max_tokens": 8}, constraint)]
found = engine.run(Request(number, prompt, ask) for number, ask in enumerate(asks))
for done in sorted(found, key=lambda done: done.id):
    print(done.error or len(done.scores) or done.candidates[0].text)
print(engine.identity)
engine.close()
"""


def test_a_process_without_vllm_and_pytorch_asks_a_server(server_engine):
    settings = server_engine.settings.model_dump_json()
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_VLLM, settings], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    scores, text, identity = process.stdout.splitlines()
    assert scores == "2"
    assert len(text) == 3
    assert set(text) <= set("abc")
    assert identity == server_engine.identity
