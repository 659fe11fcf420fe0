import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llm_assets.errors import ConfigError
from llm_assets.prompts import ByteTokenizer
from llm_assets.records import Completion, Failure, FailureKind, Usage
from llm_assets.tasks import Classify
from llm_assets.tasks.scoring import MAX_SCORED_TOKENS, label_branches

END = 257


class TwoEndsTokenizer(ByteTokenizer):
    """A model with two tokens to end an answer, like many chat models."""

    end_token_ids = (257, 300)


class LowerCaseTokenizer(ByteTokenizer):
    def encode_literal(self, texts):
        return super().encode_literal([text.lower() for text in texts])


def plan_of(labels, tokenizer=None):
    return Classify(name="mood", labels=labels).plan(tokenizer or ByteTokenizer(), 1000)


def answer(plan, logprob):
    """The answer of a model that gives `logprob(path, token)` to a token after some tokens of an answer."""
    return plan.answer(
        [
            Completion(0, scores={i: logprob(query.answer_prefix, i) for i in query.ask.token_ids})
            for query in plan.queries
        ]
    )


def scores_of(labels, logprob, tokenizer=None):
    return answer(plan_of(labels, tokenizer), logprob).columns["scores"]


def by_first_letter(**probabilities):
    return lambda path, token: math.log(probabilities[chr(token)])


# Which questions are asked.


@pytest.mark.parametrize(
    ("labels", "branches"),
    [
        # Different first tokens: one question.
        (["ab", "cd"], [((), [(97,), (99,)])]),
        # Shared first tokens are no question; the labels part at the third.
        (["aab", "aac"], [((97, 97), [(98,), (99,)])]),
        # A label that begins another: at its end, the end token or going on.
        (["a", "ab"], [((97,), [(END,), (98,)])]),
        (["a", "ab", "c"], [((), [(97,), (99,)]), ((97,), [(END,), (98,)])]),
        (["a", "ab", "abc"], [((97,), [(END,), (98,)]), ((97, 98), [(END,), (99,)])]),
        (["ax", "ay", "bx", "by"], [((), [(97,), (98,)]), ((97,), [(120,), (121,)]), ((98,), [(120,), (121,)])]),
    ],
)
def test_labels_are_asked_about_where_they_part(labels, branches):
    found = label_branches(ByteTokenizer().encode_literal(labels), (END,))
    assert [(branch.path, [ids for ids, _ in branch.ways]) for branch in found] == branches


def test_a_label_that_begins_another_ends_with_any_of_the_models_end_tokens():
    (branch,) = label_branches([[1], [1, 2]], (8, 9))
    assert branch.ways == (((8, 9), frozenset({0})), ((2,), frozenset({1})))


def test_a_branch_knows_the_labels_beyond_each_way():
    first, second = label_branches([[1, 2], [3], [1, 4]], (9,))
    assert first.ways == (((1,), frozenset({0, 2})), ((3,), frozenset({1})))
    assert second.ways == (((2,), frozenset({0})), ((4,), frozenset({2})))


def test_the_question_comes_after_the_tokens_that_labels_share():
    plan = plan_of(["positive", "positively", "negative"])
    token_ids = ByteTokenizer().encode_literal(["Good."])[0]
    prompt = plan.prompt.build(token_ids)
    (first, _), (second, ask) = plan.requests(token_ids)
    assert first == prompt
    assert second == [*prompt, *b"positive"]
    assert set(ask.token_ids) == {END, ord("l")}


# What the scores say.


def test_probabilities_are_relative_to_the_labels():
    logprob = by_first_letter(p=0.06, n=0.03, m=0.01)
    assert scores_of(["pos", "neg", "mixed"], logprob) == pytest.approx({"pos": 0.6, "neg": 0.3, "mixed": 0.1})


def test_a_label_that_begins_another_has_the_share_of_the_end_token():
    def logprob(path, token):
        return math.log({(END, True): 0.3, (ord("b"), True): 0.1}.get((token, path == (97,)), 0.5))

    assert scores_of(["a", "ab"], logprob) == pytest.approx({"a": 0.75, "ab": 0.25})


def test_the_probabilities_of_several_end_tokens_add_up():
    def logprob(path, token):
        return math.log({257: 0.2, 300: 0.4, ord("b"): 0.2}[token])

    assert scores_of(["a", "ab"], logprob, TwoEndsTokenizer()) == pytest.approx({"a": 0.75, "ab": 0.25})


def brute_force(labels, ends, logprob):
    """Each label's probability when every token must continue a label: the product along it, step by step."""
    spelled = {label: (*label.encode(), "end") for label in labels}

    def weight(path, step):
        return sum(math.exp(logprob(path, token)) for token in (ends if step == "end" else [step]))

    probabilities = {}
    for label, steps in spelled.items():
        probability = 1.0
        for depth, step in enumerate(steps):
            path = steps[:depth]
            allowed = {other[depth] for other in spelled.values() if other[:depth] == path}
            probability *= weight(path, step) / sum(weight(path, way) for way in allowed)
        probabilities[label] = probability
    return probabilities


@settings(deadline=None, max_examples=500)
@given(
    labels=st.lists(st.text("abc", min_size=1, max_size=4), min_size=2, max_size=8, unique=True),
    tokenizer=st.sampled_from([ByteTokenizer(), TwoEndsTokenizer()]),
    seed=st.integers(0, 10**6),
)
def test_scores_are_the_probabilities_of_decoding_that_must_continue_a_label(labels, tokenizer, seed):
    def logprob(path, token):
        return random.Random(f"{seed} {path} {token}").uniform(-12, 0)

    scores = scores_of(labels, logprob, tokenizer)
    assert list(scores) == labels
    assert math.fsum(scores.values()) == pytest.approx(1, abs=1e-9)
    assert scores == pytest.approx(brute_force(labels, tokenizer.end_token_ids, logprob), abs=1e-9)


def test_very_unlikely_labels_are_told_apart():
    logprob = {ord("a"): -2000.0, ord("b"): -2001.0}
    scores = scores_of(["a", "b"], lambda path, token: logprob[token])
    assert scores == pytest.approx({"a": 1 / (1 + math.exp(-1)), "b": 1 / (1 + math.e)})


def test_a_label_that_the_engine_gave_no_score_is_impossible():
    plan = plan_of(["a", "b"])
    columns = plan.answer([Completion(0, scores={ord("b"): -1.0})]).columns
    assert columns == {"label": "b", "confidence": 1.0, "margin": 1.0, "scores": {"a": 0.0, "b": 1.0}}


@pytest.mark.parametrize("scores", [{}, {97: -math.inf, 98: -math.inf}, {97: math.nan, 98: -1.0}])
def test_without_any_finite_score_the_row_fails_and_may_be_asked_again(scores):
    failure = plan_of(["a", "b"]).answer([Completion(0, scores=scores)])
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.ENGINE_ERROR


def test_confidence_is_the_labels_probability_and_margin_its_distance_to_the_next():
    columns = answer(plan_of(["a", "b", "c"]), by_first_letter(a=0.3, b=0.5, c=0.2)).columns
    assert columns["label"] == "b"
    assert columns["confidence"] == pytest.approx(0.5)
    assert columns["margin"] == pytest.approx(0.2)


@pytest.mark.parametrize("labels", [["a", "b", "c"], ["c", "b", "a"]])
def test_a_tie_goes_to_the_label_that_stands_first(labels):
    columns = answer(plan_of(labels), by_first_letter(a=0.2, b=0.2, c=0.2)).columns
    assert (columns["label"], columns["margin"]) == (labels[0], 0)


def test_an_error_of_any_question_is_the_rows_failure():
    plan = plan_of(["a", "ab", "c"])
    fine = Completion(0, scores=dict.fromkeys(plan.queries[0].ask.token_ids, -1.0))
    failure = plan.answer([fine, Completion(1, error="Too long.", error_kind=FailureKind.REFUSED_REQUEST)])
    assert failure == Failure(FailureKind.REFUSED_REQUEST, "Too long.")


def test_the_tokens_of_all_questions_are_counted():
    plan = plan_of(["a", "ab", "c"])
    completions = [
        Completion(n, scores=dict.fromkeys(query.ask.token_ids, -1.0), usage=Usage(prompt=10 + n, output=1))
        for n, query in enumerate(plan.queries)
    ]
    done = plan.answer(completions)
    assert (done.prompt_tokens, done.output_tokens, done.finish_reason) == (21, 2, "stop")


def test_more_labels_than_one_request_can_score_take_several():
    # Labels that all differ in their first byte, which is this tokenizer's first token.
    labels = [chr(c) for c in range(33, 127)]
    labels += [chr(64 * k + 33) for k in range(2, 32)] + [chr(4096 * k + 33) for k in range(1, 16)]
    assert len({label.encode()[0] for label in labels}) == len(labels) > MAX_SCORED_TOKENS
    plan = plan_of(labels)
    asked = [query.ask.token_ids for query in plan.queries]
    assert max(map(len, asked)) <= MAX_SCORED_TOKENS
    assert sorted(token for ids in asked for token in ids) == sorted(label.encode()[0] for label in labels)
    rng = random.Random(1)
    weights = {label.encode()[0]: rng.random() for label in labels}
    scores = answer(plan, lambda path, token: math.log(weights[token])).columns["scores"]
    total = sum(weights.values())
    assert scores == pytest.approx({label: weights[label.encode()[0]] / total for label in labels})


def test_vllm_scores_as_many_tokens_at_a_time_as_we_think(vllm):
    assert vllm.sampling_params.MAX_LOGPROB_TOKEN_IDS == MAX_SCORED_TOKENS


# What is refused, and what the model is told.


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"labels": ["a", "b", "a"]}, "label 'a' is given 2 times"),
        ({"labels": ["a", ""]}, "label '' is empty"),
        ({"labels": ["a", "  "]}, "label '  ' is empty"),
        ({"labels": ["a", " b"]}, "label ' b' is empty or has white space around it"),
        ({"labels": ["a", "b\n"]}, "white space around it"),
        ({"labels": ["a"]}, "needs two labels or more, got \\['a'\\]"),
        ({"labels": []}, "needs two labels or more, got \\[\\]"),
        ({"labels": {"a": "one"}}, "needs two labels or more"),
        ({"labels": ["a", 1]}, "labels"),
        ({"labels": "ab"}, "labels"),
        (
            {"labels": ["a", "b"], "examples": [{"text": "Fine.", "answer": "c"}]},
            "the example 'Fine.' has the answer 'c', which is no label. Labels: a, b",
        ),
        ({"labels": ["a", "b"], "sampling": {"temperature": 0.5}}, "no effect: temperature"),
        ({"labels": ["a", "b"], "sampling": {"temperature": 0}}, "no effect: temperature"),
        ({"labels": ["a", "b"], "colour": "red"}, "colour"),
    ],
)
def test_labels_that_cannot_work_are_refused(arguments, reason):
    with pytest.raises(ValidationError, match=reason):
        Classify(name="mood", **arguments)


def test_labels_that_are_the_same_to_the_models_tokenizer_are_refused():
    with pytest.raises(ConfigError, match="the label 'GOOD' is the same as 'good'"):
        plan_of(["good", "bad", "GOOD"], LowerCaseTokenizer())


def test_labels_that_leave_no_room_for_a_text_are_refused():
    with pytest.raises(ConfigError, match="leave no room for a text in the model's 1000"):
        plan_of(["a" * 1000, "b"])


def test_the_model_is_told_the_labels_and_when_they_apply():
    labels = {"good": "The writer liked it.", "bad": "The writer did not."}
    task = Classify(name="mood", instruction="How does the writer feel?", labels=labels)
    assert task.system_message().splitlines() == [
        "How does the writer feel?",
        "- good: The writer liked it.",
        "- bad: The writer did not.",
        "Answer with exactly one of: good, bad.",
    ]
    assert Classify(name="mood", labels=["good", "bad"]).system_message().endswith("exactly one of: good, bad.")


def test_the_answer_has_the_columns_that_the_task_declares():
    task = Classify(name="mood", labels=["a", "b"])
    columns = answer(task.plan(ByteTokenizer(), 1000), by_first_letter(a=0.5, b=0.4)).columns
    assert list(columns) == [column.name for column in task.columns] == ["label", "confidence", "margin", "scores"]
