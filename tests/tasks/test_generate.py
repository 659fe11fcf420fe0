import pytest
from pydantic import ValidationError

from llm_assets.engines.dummy import ByteTokenizer, DummyEngine
from llm_assets.records import Candidate, Completion, Constraint, FailureKind, GenerateText, Request
from llm_assets.tasks import Generate


def generate(**arguments):
    return Generate(name="note", instruction="Say something.", **arguments)


def answer(text, finish_reason="stop", **arguments):
    candidate = Candidate(text, (1, 2), finish_reason, (-0.1, -0.1))
    return generate(**arguments).plan(ByteTokenizer(), 5000).answer([Completion(0, (candidate,))])


@pytest.mark.parametrize(
    ("arguments", "constraint"),
    [
        ({}, None),
        ({"regex": "[a-z]+"}, Constraint("regex", "[a-z]+")),
        ({"grammar": 'root ::= "a"'}, Constraint("grammar", 'root ::= "a"')),
        ({"choice": ["yes", "no"]}, Constraint("choice", ("yes", "no"))),
    ],
)
def test_the_constraint_goes_to_the_engine(arguments, constraint):
    task = generate(**arguments)
    (query,) = task.plan(ByteTokenizer(), 5000).queries
    assert task.constraint == constraint
    assert query.ask == GenerateText({"temperature": 0.0, "max_tokens": 128, "logprobs": 0}, constraint)


@pytest.mark.parametrize(
    "arguments",
    [
        {"regex": "a", "choice": ["a"]},
        {"regex": "a", "grammar": "a"},
        {"grammar": "a", "choice": ["a"]},
        {"regex": "a", "grammar": "a", "choice": ["a"]},
    ],
)
def test_an_answer_has_one_constraint(arguments):
    with pytest.raises(ValidationError, match="are given; an answer has one constraint"):
        generate(**arguments)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [({"instruction": ""}, "instruction"), ({}, "instruction"), ({"instruction": "x", "choice": []}, "choice")],
)
def test_an_empty_instruction_or_choice_is_refused(arguments, field):
    with pytest.raises(ValidationError, match=field):
        Generate(name="note", **arguments)


def test_the_model_is_told_the_choices():
    assert generate().system_message() == "Say something."
    assert generate(choice=["yes", "no"]).system_message() == "Say something.\nAnswer with exactly one of: yes, no."


def test_free_text_loses_the_white_space_around_it_and_a_constrained_answer_does_not():
    assert answer(" a \n").columns["answer"] == "a"
    assert answer(" a \n", regex=r"\s*a\s*").columns["answer"] == " a \n"


def test_a_constrained_answer_that_was_cut_off_is_a_failure_and_free_text_is_not():
    assert answer("ab", "length", regex="[a-z]{9}").kind is FailureKind.TRUNCATED
    assert answer("ab", "length").columns["answer"] == "ab"


def test_free_text_without_a_word_is_a_failure_and_an_empty_match_is_not():
    assert answer("  ").kind is FailureKind.EMPTY_ANSWER
    assert answer("", regex="a*").columns["answer"] == ""


def test_without_confidence_no_log_probabilities_are_asked_for():
    plan = generate(confidence=False).plan(ByteTokenizer(), 5000)
    (query,) = plan.queries
    assert query.ask == GenerateText({"temperature": 0.0, "max_tokens": 128})
    [completion] = DummyEngine().run([Request(0, plan.prompt.build([1]), query.ask)])
    assert plan.answer([completion]).columns["confidence"] is None
