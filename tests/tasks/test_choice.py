"""Schemas that ask for one of some values: scored, not generated."""

import json
import math
from enum import Enum, IntEnum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator

from llm_assets.engines import DummyEngine
from llm_assets.prompts import ByteTokenizer
from llm_assets.records import Answer, Failure, FailureKind, GenerateText, Request, ScoreTokens
from llm_assets.tasks import Extract
from llm_assets.tasks.choice import only_choice
from llm_assets.tasks.extract import MAX_SCORED_VALUES, ChoicePlan


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class Stars(IntEnum):
    ONE = 1
    TWO = 2


def model(kind: Any, **field: Any) -> dict[str, Any]:
    return create_model("Answer", value=(kind, Field(**field))).model_json_schema()


def obj(value: object, **more: object) -> dict[str, Any]:
    return {"type": "object", "properties": {"value": value}, "required": ["value"], **more}


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        (model(Mood), ["good", "bad"]),
        (model(Mood, description="How it is."), ["good", "bad"]),
        (model(Stars), [1, 2]),
        (model(bool), [True, False]),
        (model(Literal["a", 1, True]), ["a", 1, True]),
        (model(Literal["a"] | bool), ["a", True, False]),
        (model(Mood | Stars), ["good", "bad", 1, 2]),
        (model(Literal["a"]), ["a"]),
        (obj({"enum": [1, True, "1", 1]}), [1, True, "1"]),
        (obj({"const": "a"}, additionalProperties=False), ["a"]),
    ],
    ids=str,
)
def test_a_closed_choice_is_seen(schema, values) -> None:
    name, found = only_choice(schema) or ("", [])
    assert name == "value"
    assert list(map(json.dumps, found)) == list(map(json.dumps, values))


LOOP = {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"const": 1}]}}, **obj({"$ref": "#/$defs/a"})}


@pytest.mark.parametrize(
    "schema",
    [
        model(str),
        model(int),
        model(Mood | None),
        model(Mood | str),
        model(list[Mood]),
        model(Mood, default="good"),
        obj({"enum": ["a", None]}),
        obj({"enum": [1.0, 2.0]}),
        obj({"enum": ["a", ["b"]]}),
        obj({"enum": ["a", 1], "type": "string"}),
        obj({"enum": ["a", "b"], "type": ["string", "null"]}),
        obj({"enum": ["a", "bcd"], "maxLength": 2}),
        obj({"enum": ["a", "b"], "const": "b"}),
        obj({"enum": ["a", "b"]}, additionalProperties=True),
        obj({"enum": ["a", "b"]}, required=[]),
        obj({"enum": ["a", "b"]}, required=["value", "other"]),
        obj({"enum": ["a", "b"]}, minProperties=1),
        obj(True),
        {**obj({"enum": ["a", "b"]}), "properties": {"value": {"enum": ["a", "b"]}, "other": {"type": "string"}}},
        LOOP,
    ],
    ids=str,
)
def test_what_leaves_anything_else_open_is_none(schema) -> None:
    assert only_choice(schema) is None


MOOD = Extract(name="mood", schema=obj({"enum": ["good", "bad", "not so bad"], "title": "How it is."}))


def ask(task, engine, text):
    plan = task.plan(engine.tokenizer, engine.max_model_len)
    [ids] = engine.tokenizer.encode_literal([text])
    requests = [Request(n, prompt, what) for n, (prompt, what) in enumerate(plan.requests(ids))]
    completions = sorted(engine.run(requests), key=lambda completion: completion.id)
    return plan, completions, plan.answer(completions)


def test_the_columns_are_those_of_a_generated_answer() -> None:
    generated = Extract(name="mood", schema=MOOD.answer_schema, sampling={"max_tokens": 20})
    assert [(c.name, c.type) for c in MOOD.columns] == [(c.name, c.type) for c in generated.columns]
    assert (MOOD.constraint is None, generated.constraint is None) == (True, False)


def test_a_value_is_asked_for_where_the_answers_part_and_nowhere_else() -> None:
    plan = MOOD.plan(ByteTokenizer(), 5000)
    asked = [(bytes(query.answer_prefix), query.ask) for query in plan.queries]
    assert asked == [(b'{"value": "', ScoreTokens((*b"gbn",)))]
    plan = Extract(name="x", schema=obj({"enum": ["1", 1, True, 10]})).plan(ByteTokenizer(), 5000)
    asked = [(bytes(query.answer_prefix), query.ask) for query in plan.queries]
    assert asked == [(b'{"value": ', ScoreTokens((*b'"1t',))), (b'{"value": 1', ScoreTokens((*b"}0",)))]


def test_the_likeliest_value_is_the_answer_with_its_probability() -> None:
    plan, completions, answer = ask(MOOD, DummyEngine(), "Fine.")
    assert isinstance(plan, ChoicePlan)
    assert isinstance(answer, Answer)
    found = plan.probabilities(completions)
    assert not isinstance(found, Failure)
    assert math.fsum(found) == pytest.approx(1, abs=1e-9)
    assert answer.columns == {"value": ["good", "bad", "not so bad"][found.index(max(found))], "confidence": max(found)}
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0.5}, {"logprobs": 1}, {"max_tokens": 9}, {"logit_bias": {5: 1.0}}], ids=str
)
def test_with_sampling_parameters_of_its_own_a_value_is_generated(sampling) -> None:
    task = Extract(name="mood", schema=MOOD.answer_schema, sampling=sampling)
    [query] = task.plan(ByteTokenizer(), 5000).queries
    assert isinstance(query.ask, GenerateText)


@pytest.mark.parametrize(("count", "scored"), [(1, False), (2, True), (MAX_SCORED_VALUES, True), (51, False)])
def test_one_value_and_very_many_are_generated(count, scored) -> None:
    task = Extract(name="x", schema=obj({"enum": [f"value {i}" for i in range(count)]}))
    assert isinstance(task.plan(ByteTokenizer(), 5000), ChoicePlan) is scored


def test_scored_answers_are_not_taken_for_generated_ones() -> None:
    assert MOOD.settings()["scored"] is True
    assert "scored" not in Extract(name="x", schema=obj({"type": "string"})).settings()
    written = Extract(name="mood", schema=MOOD.answer_schema, sampling={"temperature": 0.0})
    assert written.fingerprint("m") == MOOD.fingerprint("m")


class Strict(BaseModel):
    value: Literal["good", "bad"]

    @field_validator("value")
    @classmethod
    def _nothing_is_that_good(cls, value: str) -> str:
        raise ValueError(f"nothing is {value}")


def test_a_models_validators_run_on_the_chosen_value() -> None:
    *_, failure = ask(Extract(name="x", schema=Strict), DummyEngine(), "Fine.")
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.INVALID_JSON
    assert "nothing is " in failure.message
    assert json.loads(failure.raw_output or "")["value"] in ("good", "bad")


def test_a_strict_model_takes_the_chosen_value() -> None:
    strict = create_model("Answer", __config__=ConfigDict(strict=True), value=(Mood, ...))
    *_, answer = ask(Extract(name="x", schema=strict), DummyEngine(), "Fine.")
    assert isinstance(answer, Answer)
    assert answer.columns["value"] in ("good", "bad")


# The real model.

SENTIMENT = Extract(
    name="sentiment",
    instruction="Is the review positive or negative?",
    schema=obj({"enum": ["positive", "negative"]}),
    examples=[
        {"text": "A joy to use.", "answer": {"value": "positive"}},
        {"text": "It broke at once.", "answer": {"value": "negative"}},
    ],
)
STARS = Extract(name="stars", instruction="How many stars?", schema=model(Literal[1, 2, 3, 4, 5, 10]))
GOOD = Extract(name="good", instruction="Is the writer content?", schema=model(bool))
REVIEWS = [
    "The lamp is bright, sturdy and lovely. I am delighted with it.",
    "The kettle leaked on the first day and the shop was rude. Terrible.",
    "A wonderful chair, I sit in it every day.",
    "The worst radio I ever heard. Send it back.",
    "Arrived late, works well.",
    "Rubbish.",
    "My children love this game and so do I.",
    "It smells of fish and the lid does not close.",
]


@pytest.mark.parametrize("task", [SENTIMENT, STARS, GOOD], ids=lambda task: task.name)
def test_vllm_gives_the_value_that_decoding_under_the_constraint_gives(vllm_engine, task) -> None:
    generated = Extract(**{**task.model_dump(by_alias=True), "sampling": {"max_tokens": 40}})
    same = 0
    for review in REVIEWS:
        plan, completions, scored = ask(task, vllm_engine, review)
        _, [decoding], decoded = ask(generated, vllm_engine, review)
        assert isinstance(plan, ChoicePlan)
        assert decoding.candidates[0].text in plan.answers  # the very form, spaces and all
        assert isinstance(scored, Answer)
        assert isinstance(decoded, Answer)
        assert math.fsum(plan.probabilities(completions)) == pytest.approx(1, abs=1e-9)
        same += scored.columns["value"] == decoded.columns["value"]
    assert same >= len(REVIEWS) - 1
