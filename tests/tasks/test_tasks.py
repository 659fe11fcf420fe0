"""What all tasks share: settings, fingerprints, prompts that fit."""

import json
from datetime import date

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from llm_assets.engines import DummyEngine
from llm_assets.errors import ConfigError
from llm_assets.prompts import ByteTokenizer
from llm_assets.records import Answer, Completion, Failure, FailureKind, GenerateText, Request, ScoreTokens
from llm_assets.tasks import AnyTask, Classify, Example, Extract, Generate, Summarize, load_tasks

SCHEMA = {"type": "object", "properties": {"stars": {"type": "integer"}}, "required": ["stars"]}
FROM_YAML = TypeAdapter(AnyTask)

TASKS = [
    Classify(name="mood", labels=["good", "bad"]),
    Classify(name="mood", labels=["positive", "positively", "negative"]),
    Extract(name="facts", schema=SCHEMA),
    Summarize(name="summary"),
    Summarize(name="summary", candidates=3),
    Summarize(name="summary", beam_width=2),
    Generate(name="note", instruction="Say something."),
    Generate(name="note", instruction="Say a letter.", regex="[a-z]", sampling={"logprobs": 2}),
]
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.type}-{task.fingerprint('')[:4]}")


def ask(task, engine, text):
    """Put one text through a task and an engine, as the pipeline does."""
    plan = task.plan(engine.tokenizer, engine.max_model_len)
    (token_ids,) = engine.tokenizer.encode_literal([text])
    requests = [Request(n, prompt, what) for n, (prompt, what) in enumerate(plan.requests(token_ids))]
    completions = {completion.id: completion for completion in engine.run(requests)}
    return plan.answer([completions[request.id] for request in requests])


@every_task
def test_an_engines_answer_has_the_columns_that_the_task_declares(task):
    answer = ask(task, DummyEngine(), "A good film.")
    assert isinstance(answer, Answer)
    assert set(answer.columns) == {column.name for column in task.columns}
    json.dumps(answer.columns)


# The same task in YAML and in Python.


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("{type: classify, name: mood, labels: [good, bad]}", Classify(name="mood", labels=("good", "bad"))),
        (
            """
            type: classify
            name: mood
            instruction: How does the writer feel?
            text: "{title}\\n{text}"
            labels:
              good: liked it
              bad: did not
            examples:
              - {text: Great., answer: good}
            too_long: fail
            max_text_tokens: 50
            """,
            Classify(
                name="mood",
                instruction="How does the writer feel?",
                text="{title}\n{text}",
                labels={"good": "liked it", "bad": "did not"},
                examples=(Example(text="Great.", answer="good"),),
                too_long="fail",
                max_text_tokens=50,
            ),
        ),
        (
            """
            type: extract
            name: facts
            schema: {type: object, properties: {stars: {type: integer}}, required: [stars]}
            examples:
              - {text: Four stars., answer: {stars: 4}}
            """,
            Extract(name="facts", schema=SCHEMA, examples=(Example(text="Four stars.", answer='{"stars": 4}'),)),
        ),
        (
            "{type: extract, name: facts, schema: 'llm_assets.sampling:RepetitionDetection'}",
            Extract(name="facts", schema="llm_assets.sampling:RepetitionDetection"),
        ),
        (
            "{type: summarize, name: summary, max_words: 12, candidates: 3, sampling: {temperature: 0.5, seed: 1}}",
            Summarize(name="summary", max_words=12, candidates=3, sampling={"temperature": 0.5, "seed": 1}),
        ),
        (
            "{type: generate, name: note, instruction: Answer., choice: ['yes', 'no']}",
            Generate(name="note", instruction="Answer.", choice=("yes", "no")),
        ),
    ],
    ids=["classify", "classify-all", "extract", "extract-by-path", "summarize", "generate"],
)
def test_a_task_in_yaml_equals_the_one_in_python(text, task):
    from_yaml = FROM_YAML.validate_python(yaml.safe_load(text))
    assert from_yaml == task
    assert from_yaml.fingerprint("model") == task.fingerprint("model")
    assert from_yaml.messages() == task.messages()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"type": "translate", "name": "a"}, "'translate' found using 'type' does not match any of the expected tags"),
        ({"name": "a", "labels": ["a", "b"]}, "Unable to extract tag"),
        ({"type": "classify", "name": "a", "label": ["a", "b"]}, "label"),
        ({"type": "summarize", "name": "a", "sampling": {"temprature": 1}}, "Did you mean 'temperature'"),
        (
            {"type": "generate", "name": "a", "instruction": "b", "sampling": {"min_tokens": 129}},
            "sampling.min_tokens is 129, and an answer has at most 128 tokens. Raise sampling.max_tokens.",
        ),
        ({"type": "extract", "name": "a", "schema": SCHEMA, "sampling": {"min_tokens": 257}}, "at most 256 tokens"),
        ({"type": "summarize", "name": "a", "max_words": 9, "sampling": {"min_tokens": 28}}, "at most 27 tokens"),
        ({"type": "summarize", "name": "a", "beam_width": 2, "length_penalty": float("inf")}, "length_penalty"),
        ({"type": "summarize", "name": "a", "too_long": "drop"}, "'cut' or 'fail'"),
        ({"type": "summarize", "name": "a", "max_text_tokens": 0}, "max_text_tokens"),
        ({"type": "summarize", "name": "a", "text": "no column"}, "names no column"),
        ({"type": "summarize", "name": "a", "examples": [{"text": "x"}]}, "answer"),
        ({"type": "summarize", "name": "a", "examples": [{"text": "x", "answer": "y", "why": "z"}]}, "why"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(values, reason):
    with pytest.raises(ValidationError, match=reason):
        FROM_YAML.validate_python(values)


def test_an_answer_may_have_to_be_as_long_as_it_may_be():
    Generate(name="a", instruction="b", sampling={"min_tokens": 128})
    Summarize(name="a", max_words=9, sampling={"min_tokens": 50, "max_tokens": 50})


@pytest.mark.parametrize("name", ["", "Mood", "mood-1", "1mood", "mood ", "möd", "_mood", "a;drop", "mood\n"])
def test_a_name_that_is_no_plain_identifier_is_refused(name):
    with pytest.raises(ValidationError, match="must be lower-case letters, digits and _"):
        Summarize(name=name)


# Fingerprints.

BASE = {
    "name": "mood",
    "instruction": "How?",
    "text": "{text}",
    "labels": ["good", "bad"],
    "examples": [{"text": "Great.", "answer": "good"}],
}


@pytest.mark.parametrize(
    "changed",
    [
        {"instruction": "How exactly?"},
        {"text": "{title} {text}"},
        {"labels": ["bad", "good"]},
        {"labels": ["good", "bad", "mixed"]},
        {"labels": {"good": "", "bad": ""}},
        {"labels": {"good": "liked it", "bad": ""}},
        {"labels": {"bad": "", "good": ""}},
        {"examples": []},
        {"examples": [{"text": "Great!", "answer": "good"}]},
        {"examples": [{"text": "Great.", "answer": "bad"}]},
        {"too_long": "fail"},
        {"max_text_tokens": 50},
    ],
    ids=str,
)
def test_the_fingerprint_changes_with_all_that_an_answer_depends_on(changed):
    assert Classify(**{**BASE, **changed}).fingerprint("model") != Classify(**BASE).fingerprint("model")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Summarize(name="a"), Summarize(name="a", max_words=31)),
        (Summarize(name="a"), Summarize(name="a", sampling={"max_tokens": 50})),
        (Summarize(name="a"), Summarize(name="a", sampling={"temperature": 0.1})),
        (Summarize(name="a", sampling={"seed": 1}), Summarize(name="a", sampling={"seed": 2})),
        (Summarize(name="a", candidates=2), Summarize(name="a", candidates=3)),
        (Summarize(name="a", beam_width=2), Summarize(name="a", beam_width=3)),
        (Summarize(name="a", beam_width=2), Summarize(name="a", beam_width=2, length_penalty=2.0)),
        (Generate(name="a", instruction="x"), Generate(name="a", instruction="x", regex="a")),
        (Generate(name="a", instruction="x", grammar="a"), Generate(name="a", instruction="x", regex="a")),
        (Extract(name="a", schema=SCHEMA), Extract(name="a", schema={**SCHEMA, "required": []})),
        (
            Generate(name="a", instruction="Summarize the text. State only what it says.\nUse at most 30 words."),
            Summarize(name="a"),
        ),
    ],
)
def test_tasks_that_ask_differently_have_different_fingerprints(one, other):
    assert one.fingerprint("model") != other.fingerprint("model")


def test_the_fingerprint_changes_with_the_model():
    task = Classify(**BASE)
    assert task.fingerprint("one") != task.fingerprint("other")


def test_a_name_and_where_answers_are_reused_are_no_part_of_the_fingerprint():
    assert Classify(**BASE).fingerprint("m") == Classify(**{**BASE, "name": "x"}).fingerprint("m")
    assert Summarize(name="a").fingerprint("m") == Summarize(name="b", reuse_sampled=True).fingerprint("m")


def test_a_default_written_out_leaves_the_fingerprint_as_it_is():
    written = Summarize(name="a", max_words=30, text="{text}", too_long="cut", sampling={"temperature": 0.0})
    assert written.fingerprint("m") == Summarize(name="a").fingerprint("m")


def test_a_fingerprint_never_changes_unless_it_is_meant_to():
    # Stored in users' tables: another value has every row of every table asked again. Raise PROMPT_VERSION for that.
    assert Classify(**BASE).fingerprint("model") == "1f5b9fd014441f9b04e3ef2b766f3ccb"
    assert Extract(name="facts", schema=SCHEMA).fingerprint("model") == "7712489ad53b66be8273533892532ec7"


# Prompts that fit.


def answer_tokens(ask):
    match ask:
        case ScoreTokens():
            return 1
        case GenerateText():
            return ask.sampling["max_tokens"]
    return ask.max_tokens


@every_task
@pytest.mark.parametrize("length", [0, 10, 2000, 100_000])
def test_prompt_and_answer_together_always_fit_the_model(task, length):
    plan = task.plan(ByteTokenizer(), 700)
    sizes = [len(prompt) + answer_tokens(ask) for prompt, ask in plan.requests([65] * length)]
    assert max(sizes) <= 700
    if length > 700:
        assert max(sizes) == 700


def test_a_text_that_is_too_long_is_cut_in_the_middle_with_a_mark():
    task = Summarize(name="a", max_text_tokens=21)
    (prompt, _), *_ = task.plan(ByteTokenizer(), 5000).requests([*b"The beginning. The middle. The end."])
    assert "The beg [...] he end." in ByteTokenizer().decode(prompt)


@pytest.mark.parametrize(
    ("too_long", "length", "expected"), [("fail", 21, True), ("fail", 20, False), ("cut", 21, False)]
)
def test_a_text_is_too_long_only_beyond_the_limit_and_if_the_task_says_so(too_long, length, expected):
    plan = Summarize(name="a", max_text_tokens=20, too_long=too_long).plan(ByteTokenizer(), 5000)
    assert plan.is_too_long([65] * length) is expected


def test_a_limit_beyond_what_the_model_reads_gives_way_to_it():
    plan = Summarize(name="a", max_text_tokens=10**6, too_long="fail").plan(ByteTokenizer(), 700)
    assert plan.max_text_tokens < 700
    assert plan.is_too_long([65] * 700)


def test_examples_stand_between_the_instruction_and_the_row():
    messages = Classify(**BASE).messages()
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert [message["content"] for message in messages[1:]] == ["Great.", "good", "{{ROW_TEXT}}"]


@every_task
def test_an_engines_error_is_the_rows_failure(task):
    plan = task.plan(ByteTokenizer(), 5000)
    error = Completion(0, error="It broke.", error_kind=FailureKind.ENGINE_ERROR)
    assert plan.answer([error] * len(plan.queries)) == Failure(FailureKind.ENGINE_ERROR, "It broke.")


def test_only_an_engine_error_may_pass_next_time():
    assert [kind for kind in FailureKind if kind.may_pass_next_time] == [FailureKind.ENGINE_ERROR]


def test_tasks_are_loaded_from_a_yaml_file(tmp_path):
    file = tmp_path / "tasks.yaml"
    file.write_text(
        "- {type: classify, name: mood, labels: [good, bad]}\n- {type: summarize, name: gist, max_words: 9}\n"
    )
    assert load_tasks(file) == [Classify(name="mood", labels=("good", "bad")), Summarize(name="gist", max_words=9)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "- {type: classify, name: mood, labels: [good, good]}",
            "0.classify: Task 'mood': label 'good' is given 2 times",
        ),
        (
            "- {type: clasify, name: mood}",
            "'clasify' found using 'type' does not match any of the expected tags: 'classify'",
        ),
        ("- {type: generate, name: a, instruction: b, sampling: {best_of: 3}}", "'best_of' was removed from vLLM"),
        (
            "- {type: extract, name: a, schema: {type: object, properties: {no: {type: string}}}}",
            "0.extract.schema: The JSON schema's $.properties has the key False",
        ),
        ("- {type: summarize, name: gist, words: 9}", "0.summarize.words: Extra inputs are not permitted"),
        ("- [", "is no valid YAML"),
    ],
)
def test_a_task_in_yaml_that_cannot_be_is_named_with_its_place(tmp_path, text, message):
    file = tmp_path / "tasks.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_tasks(file)
    assert message in str(caught.value)
    assert "tasks.yaml" in str(caught.value)


def test_an_examples_answer_that_is_no_json_is_refused():
    with pytest.raises(ValidationError, match=r"The answer {'c': datetime.date\(2026, 1, 31\)} is no JSON"):
        Example.model_validate({"text": "b", "answer": {"c": date(2026, 1, 31)}})


def test_a_copy_of_a_task_derives_everything_from_its_own_settings():
    task = Extract(name="facts", schema={"type": "object", "properties": {"a": {"type": "string"}}})
    assert (task.template.columns, list(task.json_schema["properties"])) == (("text",), ["a"])
    schema = {"type": "object", "properties": {"b": {"type": "string"}}}
    copy = task.model_copy(update={"text": "{title}", "answer_schema": schema})
    assert (copy.template.columns, list(copy.json_schema["properties"])) == (("title",), ["b"])
