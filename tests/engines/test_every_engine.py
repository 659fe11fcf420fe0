"""What every engine must do, whatever it is: one suite, run against each of them."""

import json
import math
import re
from collections.abc import Iterator
from itertools import count

import pytest

from benchmarks.common import demo_texts
from llm_assets.engines import DummyEngine
from llm_assets.prompts import ChatPrompt
from llm_assets.records import BeamSearch, Constraint, FailureKind, GenerateText, Request, ScoreTokens
from llm_assets.tasks import Classify

pytestmark = pytest.mark.timeout(900)

ENGINES = ("dummy", "vllm", "server", "ray_dummy", "ray_vllm")
"""Each is a fixture `<name>_engine`."""

LANGUAGE_MODELS = ("vllm", "server", "ray_vllm")
"""Those that have SmolLM2 behind them: their answers are the same."""

BEAMS = ("dummy", "vllm", "ray_dummy", "ray_vllm")
"""Those that search with beams. The others refuse."""

MOOD = Classify(name="mood", instruction="Is the writer content?", labels=("positive", "negative", "neutral"))
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "stars": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["mood", "stars"],
    "additionalProperties": False,
}
MOST_PULLED = 2048
"""No engine holds more requests than this at a time, with the settings of its fixture."""

SAME_LABELS = 0.99
SCORE_TOLERANCE = 1e-2


@pytest.fixture(scope="session")
def dummy_engine() -> DummyEngine:
    return DummyEngine()


@pytest.fixture(params=ENGINES)
def name(request):
    return request.param


@pytest.fixture
def engine(name, request):
    return request.getfixturevalue(f"{name}_engine")


def prompt_of(engine, text):
    tokenizer = engine.tokenizer
    messages = [{"role": "system", "content": "You judge films."}, {"role": "user", "content": text}]
    return tokenizer.encode_markup(tokenizer.render(messages))


def generate(constraint=None, **sampling):
    return GenerateText({"temperature": 0.0, "max_tokens": 24, "logprobs": 0, **sampling}, constraint)


def ask(engine, *asks, text="A warm and funny film."):
    """The completions of some asks about texts that differ, in the order of the asks."""
    requests = [Request(number, prompt_of(engine, f"{text} ({number})"), ask) for number, ask in enumerate(asks)]
    return sorted(engine.run(requests), key=lambda completion: completion.id)


def one_text(engine, constraint=None, **sampling):
    (completion,) = ask(engine, generate(constraint, **sampling))
    assert completion.error is None
    (candidate,) = completion.candidates
    return candidate.text


def test_each_request_is_answered_exactly_once(engine):
    asks = [generate(max_tokens=2), ScoreTokens((65, 66, 67)), generate(Constraint("choice", ("good", "bad")))] * 20
    requests = [Request(7 + 3 * n, prompt_of(engine, f"Film {n}"), ask) for n, ask in enumerate(asks)]
    found = [completion.id for completion in engine.run(iter(requests))]
    assert sorted(found) == [request.id for request in requests]


def test_a_run_without_requests_ends(engine):
    assert list(engine.run([])) == []


def test_only_so_many_requests_are_taken_as_there_are_places(engine):
    pulled = 0

    def endless() -> Iterator[Request]:
        nonlocal pulled
        for number in count():
            pulled += 1
            yield Request(number, prompt_of(engine, f"Film {number}"), ScoreTokens((65, 66)))

    stream = engine.run(endless())
    for received in range(1, 6):
        next(stream)
        assert pulled <= received + MOST_PULLED
    stream.close()


def test_a_run_that_was_closed_in_the_middle_leaves_nothing_behind(engine):
    for _ in range(2):
        stream = engine.run([Request(n, prompt_of(engine, f"Film {n}"), generate(max_tokens=20)) for n in range(30)])
        next(stream)
        stream.close()
    again = [Request(1000 + n, prompt_of(engine, f"Other film {n}"), generate(max_tokens=2)) for n in range(5)]
    assert sorted(completion.id for completion in engine.run(again)) == [1000, 1001, 1002, 1003, 1004]


def test_an_error_of_whoever_asks_is_passed_on_and_the_engine_can_be_asked_again(engine):
    def failing() -> Iterator[Request]:
        yield Request(0, prompt_of(engine, "A film"), generate(max_tokens=2))
        raise RuntimeError("the source is gone")

    with pytest.raises(RuntimeError, match="the source is gone"):
        list(engine.run(failing()))
    assert [completion.error for completion in ask(engine, generate(max_tokens=2))] == [None]


def test_a_request_that_is_refused_does_not_stop_the_others(engine, name):
    if name.endswith("dummy"):
        pytest.skip("it refuses nothing")
    too_long = Request(1, [100] * (engine.max_model_len + 1), generate())
    fine = [Request(number, prompt_of(engine, f"Film {number}"), generate(max_tokens=2)) for number in (0, 2)]
    found = {completion.id: completion for completion in engine.run([fine[0], too_long, fine[1]])}
    assert (found[0].error, found[2].error) == (None, None)
    assert found[1].error_kind is FailureKind.REFUSED_REQUEST
    assert str(engine.max_model_len) in (found[1].error or "")


def test_json_follows_its_schema(engine):
    constraint = Constraint("json", json.dumps(SCHEMA))
    engine.check(constraint)
    answer = json.loads(one_text(engine, constraint, max_tokens=60))
    assert answer["mood"] in ("good", "bad")
    assert answer["stars"] in range(1, 6)
    assert answer.keys() == {"mood", "stars"}


def test_a_choice_is_one_of_the_choices(engine):
    constraint = Constraint("choice", ("a good film", "a bad film"))
    engine.check(constraint)
    assert one_text(engine, constraint) in constraint.value


def test_a_regular_expression_holds(engine):
    constraint = Constraint("regex", "[a-c]{3}-[0-9]{2}")
    engine.check(constraint)
    assert re.fullmatch(str(constraint.value), one_text(engine, constraint))


def test_a_grammar_holds(engine):
    constraint = Constraint("grammar", 'root ::= ("good" | "bad") ":" [1-5]')
    engine.check(constraint)
    assert re.fullmatch("(good|bad):[1-5]", one_text(engine, constraint))


@pytest.mark.parametrize("number", [2, 19, 20, 60, 128])
def test_scores_are_log_probabilities_of_just_the_tokens_that_were_asked_for(engine, number):
    token_ids = tuple(range(30, 30 + number))
    (completion,) = ask(engine, ScoreTokens(token_ids))
    assert completion.error is None
    assert set(token_ids) <= completion.scores.keys()
    assert all(value <= 0 for value in completion.scores.values())
    assert 0 < sum(math.exp(completion.scores[token_id]) for token_id in token_ids) <= 1 + 1e-6


def test_each_token_of_an_answer_has_a_log_probability(engine):
    (completion,) = ask(engine, generate(max_tokens=6))
    (candidate,) = completion.candidates
    assert len(candidate.logprobs) == len(candidate.token_ids) > 0
    assert all(value <= 0 for value in candidate.logprobs)
    assert candidate.top_logprobs == ()


def test_the_likeliest_tokens_are_given_also_beside_requests_that_score(engine, name):
    asks = [ScoreTokens((65, 66)), generate(max_tokens=3, logprobs=3), ScoreTokens((67, 68, 69))] * 4
    for completion in ask(engine, *asks):
        assert completion.error is None
        for candidate in completion.candidates:
            assert len(candidate.top_logprobs) == len(candidate.token_ids)
            for token_id, logprob, top in zip(
                candidate.token_ids, candidate.logprobs, candidate.top_logprobs, strict=True
            ):
                assert top[token_id] == logprob
                assert name.endswith("dummy") or len(top) in (3, 4)
                # Greedy: the token is the likeliest one.
                assert logprob == max(top.values())


def test_several_candidates_come_together(engine):
    (completion,) = ask(engine, generate(n=3, temperature=0.9, seed=7, max_tokens=5))
    assert len(completion.candidates) == 3
    assert completion.usage.output == sum(len(candidate.token_ids) for candidate in completion.candidates)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "seed": 3}], ids=["greedy", "seed"])
def test_the_same_question_has_the_same_answer(engine, sampling):
    first, second = (one_text(engine, max_tokens=8, **sampling) for _ in range(2))
    assert first == second != ""


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(engine, name):
    if name.endswith("dummy"):
        pytest.skip("its answers are not generated")
    free = one_text(engine, max_tokens=16)
    stop = free.split()[2]
    stopped = one_text(engine, max_tokens=16, stop=[stop])
    assert stopped == free.partition(stop)[0]
    assert one_text(engine, max_tokens=16, stop=stop, include_stop_str_in_output=True) == stopped + stop


def test_beam_search_is_done_or_refused_with_what_would_do_it(engine, name):
    beams, fine = ask(engine, BeamSearch(beam_width=2, max_tokens=3), generate(max_tokens=2))
    assert fine.error is None
    if name in BEAMS:
        assert beams.error is None
        assert len(beams.candidates) == 1
    else:
        assert beams.error_kind is FailureKind.REFUSED_REQUEST
        assert "engine inside the run" in (beams.error or "")


def test_tokens_are_counted(engine):
    prompt = prompt_of(engine, "A film whose tokens are counted")
    (completion,) = engine.run([Request(0, prompt, generate(max_tokens=4))])
    (candidate,) = completion.candidates
    assert (completion.usage.prompt, completion.usage.output) == (len(prompt), len(candidate.token_ids))
    assert 0 <= completion.usage.cached <= len(prompt)


def test_the_second_of_two_equal_prompts_comes_out_of_the_cache(engine, name):
    if name.endswith("dummy"):
        pytest.skip("it computes nothing")
    prompt = prompt_of(engine, "A film that is long enough for a block of the cache. " * 8)
    list(engine.run([Request(0, prompt, ScoreTokens((65, 66)))]))
    (again,) = engine.run([Request(0, prompt, ScoreTokens((65, 66)))])
    assert engine.cache_block > 0
    assert again.usage.cached > 0
    assert again.usage.cached % engine.cache_block == 0


def test_an_engine_that_was_closed_can_be_asked_again(engine, name):
    if name == "vllm":
        pytest.skip("another load; test_vllm_engine.py has it")
    engine.close()
    assert [completion.error for completion in ask(engine, generate(max_tokens=2))] == [None]


# The same answers


@pytest.fixture(scope="session")
def scored(request):
    """For each engine: what it says to the labels of sixty of the demo's texts, by text."""
    found = {}
    for name in LANGUAGE_MODELS:
        engine = request.getfixturevalue(f"{name}_engine")
        plan = MOOD.plan(engine.tokenizer, engine.max_model_len)
        prompt = ChatPrompt(engine.tokenizer, MOOD.messages())
        texts = demo_texts(60)
        requests = []
        for ids in engine.tokenizer.encode_literal(texts):
            for query in plan.queries:
                requests.append(Request(len(requests), [*prompt.build(ids), *query.answer_prefix], query.ask))
        completions = sorted(engine.run(requests), key=lambda completion: completion.id)
        each = len(plan.queries)
        found[name] = {
            text: plan.probabilities(completions[each * number : each * (number + 1)])
            for number, text in enumerate(texts)
        }
    return found


@pytest.mark.parametrize("other", LANGUAGE_MODELS[1:])
def test_engines_with_the_same_weights_give_the_same_labels(scored, other):
    differing = []
    for text, own in scored["vllm"].items():
        best, second = sorted(own, reverse=True)[:2]
        if own.index(best) != scored[other][text].index(max(scored[other][text])):
            differing.append(f"margin {best - second:.4f}: {text[:60]!r}")
    assert len(differing) <= (1 - SAME_LABELS) * len(scored["vllm"]), "\n".join(differing)
    gaps = [
        abs(mine - theirs)
        for text, own in scored["vllm"].items()
        for mine, theirs in zip(own, scored[other][text], strict=True)
    ]
    assert max(gaps) < SCORE_TOLERANCE


@pytest.mark.parametrize("other", LANGUAGE_MODELS[1:])
def test_engines_with_the_same_weights_share_their_answers(request, other):
    own, its = request.getfixturevalue("vllm_engine"), request.getfixturevalue(f"{other}_engine")
    assert own.identity == its.identity
    assert (own.info.model, own.info.revision) == (its.info.model, its.info.revision)
    assert own.max_model_len == its.max_model_len


@pytest.mark.parametrize("other", LANGUAGE_MODELS[1:])
@pytest.mark.parametrize(
    "constraint", [None, Constraint("json", json.dumps(SCHEMA)), Constraint("regex", "[a-z]{4,9}")], ids=str
)
def test_engines_with_the_same_weights_write_the_same_text(request, other, constraint):
    texts = [one_text(request.getfixturevalue(f"{n}_engine"), constraint, max_tokens=40) for n in ("vllm", other)]
    assert texts[0] == texts[1]
