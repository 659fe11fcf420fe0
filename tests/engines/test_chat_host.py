"""Hosts that take messages and answer with less, or other, than they were asked for: real HTTP, through a pipeline."""

import math

import pytest
from aiohttp import web

from llm_assets.engines import ServerEngine, ServerSettings
from llm_assets.tasks import Classify, Extract, Generate, Summarize
from tests.engines.odd_servers import OddServer
from tests.tables.shop import Shop, only, outcomes

pytestmark = pytest.mark.timeout(120)

USAGE = {"prompt_tokens": 50, "completion_tokens": 5}
PRICES = {"prompt": 1000.0, "output": 1000.0}
CALL = 0.055
"""What a call costs."""

PICK = Generate(name="pick", instruction="Good or bad?", choice=("good", "bad"), confidence=False)
GIST = Generate(name="gist", instruction="Say something.")
FREE = Generate(name="free", instruction="Say something.", confidence=False)
BEST = Summarize(name="best", candidates=2)
LIKELIEST = Generate(name="likeliest", instruction="Say something.", sampling={"logprobs": 2})
MOOD = Classify(name="mood", labels=("yes", "no"))
STARS = Extract(
    name="stars",
    confidence=False,
    schema={
        "type": "object",
        "properties": {"stars": {"type": "integer", "maximum": 5}, "mood": {"enum": ["good", "bad"]}},
        "required": ["stars", "mood"],
    },
)


def said(content, finish_reason="stop", **more):
    """An answer with one choice."""
    message = {"role": "assistant", "content": content}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason, **more}], "usage": USAGE}


def token(text, probability, *others):
    """A token of an answer, and the likeliest ones in its place."""
    both = [(text, probability), *others]
    top = [{"token": name, "logprob": math.log(value)} for name, value in both]
    return {**top[0], "top_logprobs": top}


def spelled(*steps, finish_reason="stop"):
    """An answer with the log-probabilities of its tokens."""
    text = "".join(step["token"] for step in steps)
    return said(text, finish_reason, logprobs={"content": list(steps)})


@pytest.fixture
def host():
    """A host that answers every request with `host.reply`, and keeps what it was asked in `host.bodies`."""

    async def answer(server, request, body):
        server.bodies.append(body)
        return web.json_response(server.reply)

    with OddServer(answer) as server:
        server.bodies = []
        yield server


@pytest.fixture
def engine(host):
    urls = [f"{host.url}/v1"]
    engine = ServerEngine(ServerSettings(urls=urls, model="m", api="chat", max_model_len=9000, prices=PRICES))
    yield engine
    engine.close()


@pytest.fixture
def ask(host, engine, shop: Shop):
    """Asks a task about some rows, and returns what became of them."""
    shop.add(["A film", "A play", "A book"])

    def ask(task, reply, **settings):
        host.reply = reply
        return only(shop.run(task, engine=engine, **settings))

    return ask


def failures(shop):
    return sorted(set(shop.rows("SELECT kind, message FROM llm_failures")))


# Answers without what was asked for


@pytest.mark.parametrize(
    ("task", "reply", "message"),
    [
        (GIST, {"choices": [], "usage": USAGE}, "has 0 choices, and 1 were asked for (n)"),
        (MOOD, {"choices": [], "usage": USAGE}, "has 0 choices, and 1 were asked for (n)"),
        (BEST, said("Fine."), "has 1 choices, and 2 were asked for (n)"),
        (FREE, said(None), "has no text: message.content is 'None'"),
        (FREE, said([{"type": "text", "text": "Fine."}]), "has no text: message.content is "),
        (BEST, {**said("Fine."), "choices": 2 * said("Fine.")["choices"]}, "no log-probabilities. Leave `candidates`"),
        (LIKELIEST, said("Fine."), "no log-probabilities"),
        (LIKELIEST, said("Fine.", logprobs={"content": [{"token": "Fine.", "logprob": -1}]}), "has no top_logprobs"),
        (MOOD, said("yes"), "has no top_logprobs, by which labels are scored"),
        (MOOD, said("yes", logprobs={"content": [{"token": "yes", "logprob": -1}]}), "has no top_logprobs"),
        (FREE, {**said("Fine."), "choices": ["Fine."]}, "has another form (AttributeError"),
    ],
)
def test_an_answer_that_lacks_something_fails_its_row_and_says_what_is_missing(shop, ask, task, reply, message):
    counts = ask(task, reply)
    assert outcomes(counts) == (0, 0, 0, 3)
    [(kind, found)] = failures(shop)
    assert kind == "engine_error"
    assert message in found
    assert (counts.prompt_tokens, counts.output_tokens) == (150, 15)


def test_without_log_probabilities_an_answer_has_no_confidence(shop, ask):
    assert outcomes(ask(GIST, said("Fine."))) == (3, 0, 0, 0)
    assert shop.rows("SELECT DISTINCT answer, confidence FROM reviews_gist") == [("Fine.", None)]


@pytest.mark.parametrize("usage", [None, [], {"prompt_tokens": "many", "prompt_tokens_details": 3}])
def test_an_answer_with_odd_counts_of_tokens_is_an_answer(ask, usage):
    counts = ask(FREE, {**said("Fine."), "usage": usage})
    assert outcomes(counts) == (3, 0, 0, 0)
    assert counts.prompt_tokens == 0


@pytest.mark.parametrize(
    ("reason", "kind"), [("content_filter", "refused_request"), ("error", "engine_error"), ("no_room", "engine_error")]
)
def test_an_answer_that_ended_oddly_fails_and_is_asked_again_unless_the_host_refused_it(shop, ask, reason, kind):
    counts = ask(FREE, said("Fi", reason))
    assert outcomes(counts) == (0, 0, 0, 3)
    assert failures(shop) == [(kind, f"The host ended the answer with {reason!r}.")]
    assert counts.output_tokens == 15


def test_an_answer_may_end_with_another_word_for_it(shop, ask):
    assert outcomes(ask(FREE, said("Fine.", "eos"))) == (3, 0, 0, 0)
    assert shop.rows("SELECT DISTINCT answer FROM reviews_free") == [("Fine.",)]


@pytest.mark.parametrize(
    "steps",
    [
        [token('{"', 0.9), token("answer", 0.99), token('":"', 0.9), token("good", 0.5), token('"}', 0.9)],
        [token('{"answer": "', 0.9), token("go", 0.25), token("od", 1.0), token('"', 0.9), token("}", 0.9)],
        [token('{"answer"', 0.9), token(': "good', 0.5), token('"}', 0.9)],
    ],
)
def test_the_confidence_of_a_choice_is_that_of_its_own_tokens(shop, ask, steps):
    sure = PICK.model_copy(update={"confidence": True})
    assert outcomes(ask(sure, spelled(*steps))) == (3, 0, 0, 0)
    [(found, confidence)] = shop.rows("SELECT DISTINCT answer, confidence FROM reviews_pick")
    assert (found, confidence) == ("good", pytest.approx(0.5))


def test_a_key_need_not_have_the_right_to_list_models(host, ask):
    host.models_status = 403
    assert outcomes(ask(FREE, said("Fine."))) == (3, 0, 0, 0)


def test_a_model_that_only_thought_until_its_limit_is_cut_off(shop, ask):
    ask(PICK, said(None, "length"))
    [(kind, message)] = failures(shop)
    assert (kind, "Raise sampling.max_tokens" in message) == ("truncated", True)


@pytest.mark.parametrize(
    ("task", "reply"), [(MOOD, said("yes")), (PICK, said("banana")), (GIST, {"choices": [], "usage": USAGE})]
)
def test_answers_that_cannot_be_used_cost_money_and_end_a_run_all_the_same(shop, ask, task, reply):
    counts = ask(task, reply)
    assert counts.rows_failed == 3
    [cost] = shop.column("SELECT cost FROM llm_throughput")
    assert cost == pytest.approx(3 * CALL)
    shop.execute("DELETE FROM llm_failures", "DELETE FROM llm_throughput")
    limit = 20 * CALL
    shop.add([f"Film {number}" for number in range(100)], first_id=10)
    limited = ask(task, reply, max_cost=limit)
    assert 0 < limited.rows_failed <= 20
    assert limited.rows_left == 103 - limited.rows_failed
    assert shop.column("SELECT cost FROM llm_throughput")[0] <= limit


# Answers that are none of what they may be


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("I would say banana", "'I would say banana'"),
        ('{"answer": "banana"}', "'banana'"),
        ('{"answer": 5}', "5"),
        ('{"answer": null}', "null"),
        ('["good"]', "good"),
    ],
)
def test_a_choice_that_is_none_fails_its_row_with_what_was_said(shop, ask, text, shown):
    assert outcomes(ask(PICK, said(text))) == (0, 0, 0, 3)
    [(kind, message)] = failures(shop)
    assert kind == "invalid_json"
    assert message.startswith("The answer is none of 'good', 'bad': ")
    assert shown in message


@pytest.mark.parametrize("text", ['{"answer": "good"}', "good"])
def test_a_choice_may_come_with_or_without_its_json(shop, ask, text):
    assert outcomes(ask(PICK, said(text))) == (3, 0, 0, 0)
    assert set(shop.column("SELECT answer FROM reviews_pick")) == {"good"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"stars": 9, "mood": "good"}', "stars: 9 is greater than the maximum of 5"),
        ('{"stars": 4, "mood": "banana"}', "mood: 'banana' is not one of ['good', 'bad']"),
        ('{"stars": 4}', "answer: 'mood' is a required property"),
        ("Four stars.", "Expecting value"),
    ],
)
def test_json_that_does_not_fit_its_schema_fails_its_row(shop, ask, text, message):
    assert outcomes(ask(STARS, said(text))) == (0, 0, 0, 3)
    [(kind, found)] = failures(shop)
    assert kind == "invalid_json"
    assert message in found
    assert set(shop.column("SELECT raw_output FROM llm_failures")) == {text}


def test_json_that_fits_is_stored(shop, ask):
    assert outcomes(ask(STARS, said('{"stars": 4, "mood": "good"}'))) == (3, 0, 0, 0)
    assert set(shop.rows("SELECT stars, mood FROM reviews_stars")) == {(4, "good")}


def test_a_pattern_that_python_does_not_read_is_left_to_the_host(shop, ask):
    schema = {"type": "object", "properties": {"code": {"type": "string", "pattern": r"^\p{Lu}+$"}}}
    assert outcomes(ask(Extract(name="code", schema=schema, confidence=False), said('{"code": "AB"}'))) == (3, 0, 0, 0)


def test_one_value_out_of_some_is_asked_for_as_json(host, shop, ask):
    schema = {"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"]}
    task = Extract(name="mood", schema=schema, confidence=False)
    assert outcomes(ask(task, said('{"mood":"bad"}'))) == (3, 0, 0, 0)
    assert set(shop.column("SELECT mood FROM reviews_mood")) == {"bad"}
    assert host.bodies[0]["response_format"]["json_schema"]["schema"]["properties"]["mood"] == {"enum": ["good", "bad"]}


def test_the_host_is_told_the_variables_of_its_chat_template(host, shop, engine):
    shop.add(["A film"])
    host.reply = said("Short.")
    variables = {"enable_thinking": False}
    other = ServerEngine(engine.settings.model_copy(update={"chat_template_kwargs": variables}))
    try:
        assert outcomes(only(shop.run(Summarize(name="short", confidence=False), engine=other))) == (1, 0, 0, 0)
    finally:
        other.close()
    assert [body["chat_template_kwargs"] for body in host.bodies] == [variables]
    assert other.identity != engine.identity


# Labels


def labels(*names):
    return Classify(name="mood", labels=names)


BILLS = labels("billing question", "billing dispute", "praise")


@pytest.mark.parametrize(
    ("task", "reply", "scores"),
    [
        # What several labels begin with counts for none of them, and takes from the confidence.
        (BILLS, spelled(token("praise", 0.97, ("bill", 0.02), ("The", 0.01))), {"praise": 0.97 / 0.99}),
        # The host's own answer goes on, so it is known which one it is.
        (
            BILLS,
            spelled(
                token("bill", 0.9, ("praise", 0.06), ("billing", 0.02)),
                token("ing", 1.0),
                token(" dispute", 0.75, (" question", 0.25)),
            ),
            {"billing dispute": 0.9 * 0.75 / 0.98, "billing question": 0.9 * 0.25 / 0.98, "praise": 0.06 / 0.98},
        ),
        (
            labels("not relevant", "notable"),
            spelled(token("not", 0.97, ("note", 0.001), ("nota", 0.0001)), token(" relevant", 0.9, ("able", 0.1))),
            {"not relevant": 0.873 / 0.9701, "notable": (0.097 + 0.0001) / 0.9701},
        ),
        # A label that another begins with ends where the host ended, or where another word begins.
        (labels("1", "10"), spelled(token("1", 0.8, ("10", 0.2))), {"1": 0.8, "10": 0.2}),
        (
            labels("good", "good enough"),
            spelled(token("good", 0.8, ("bad", 0.2)), token("<|im_end|>", 0.6, (" enough", 0.3), (".", 0.1))),
            {"good": 0.7, "good enough": 0.3},
        ),
        # Words that only begin like a label are none, and neither are tokens that are no beginning at all.
        (labels("no", "yes"), spelled(token("No", 0.4, ("Nothing", 0.3), ("Yes", 0.2), ("**", 0.1))), {"no": 2 / 3}),
        (labels("tech", "praise"), spelled(token("The", 0.7, ("praise", 0.2), ("tec", 0.1))), {"tech": 1 / 3}),
        # White space before an answer and a full stop behind it do not matter.
        (labels("yes", "no"), spelled(token("\n", 0.9, ("no", 0.1)), token("yes", 1.0), token(".", 1.0)), {"yes": 0.9}),
        # Case tells labels apart only where nothing else does.
        (labels("US", "us"), spelled(token("US", 0.6, ("us", 0.4))), {"US": 0.6, "us": 0.4}),
        (labels("Ärger", "Freude"), spelled(token("ärger", 0.6, ("freude", 0.4))), {"Ärger": 0.6}),
        # Tokens can be parts of characters.
        (
            labels("好", "坏"),
            spelled(
                {**token("\\xe5\\xa5", 0.6, ("坏", 0.4)), "bytes": [0xE5, 0xA5]},
                {**token("\\xbd", 1.0), "bytes": [0xBD]},
            ),
            {"好": 0.6, "坏": 0.4},
        ),
    ],
)
def test_a_label_has_the_probability_of_what_the_host_says_and_could_have_said(shop, ask, task, reply, scores):
    assert outcomes(ask(task, reply)) == (3, 0, 0, 0)
    with shop.database.engine.connect() as connection:
        stored = connection.execute(shop.table("reviews_mood").select()).mappings().first()
    assert {name: stored["scores"][name] for name in scores} == pytest.approx(scores)
    assert stored["scores"][stored["label"]] == stored["confidence"] == max(stored["scores"].values())


@pytest.mark.parametrize(
    ("task", "reply", "message"),
    [
        (
            BILLS,
            spelled(token("bill", 0.97, ("praise", 0.02), ("billing d", 0.001)), finish_reason="length"),
            "98% is that of tokens with which several of them begin, too much to tell which is the likeliest. These "
            "begin alike: 'billing question', 'billing dispute'. Choose others, which begin with different words.",
        ),
        (
            labels("not relevant", "notable"),
            spelled(token("not", 0.97, ("note", 0.001), ("nota", 0.0001)), finish_reason="length"),
            "These begin alike: 'not relevant', 'notable'",
        ),
        (
            labels("yes", "no"),
            spelled(token("\n", 0.9, ("no", 0.1)), finish_reason="length"),
            "The model began with white space",
        ),
        (labels("yes", "no"), spelled(token("Perhaps", 1.0)), "No label's next token has a finite log-probability"),
    ],
)
def test_a_label_that_could_be_another_one_fails_its_row(shop, ask, task, reply, message):
    assert outcomes(ask(task, reply)) == (0, 0, 0, 3)
    [(kind, found)] = failures(shop)
    assert kind == "engine_error"
    assert message in found


@pytest.mark.parametrize(
    ("task", "tokens"), [(labels("yes", "no"), 1), (BILLS, len("billing q")), (labels("1", "2", "10"), 2)]
)
def test_as_many_tokens_are_asked_for_as_tell_the_labels_apart(host, ask, task, tokens):
    ask(task, spelled(token("praise", 1.0)))
    assert len(host.bodies) == 3  # one call for each row, however many labels
    assert {body["max_tokens"] for body in host.bodies} == {tokens}


def test_more_labels_than_vllm_scores_at_once_are_one_call(host, shop, ask):
    counts = ask(
        labels(*(f"label {number}" for number in range(300))), spelled(token("label 29", 0.9), token("7", 0.9))
    )
    assert outcomes(counts) == (3, 0, 0, 0)
    assert len(host.bodies) == 3
    assert set(shop.column("SELECT label FROM reviews_mood")) == {"label 297"}
