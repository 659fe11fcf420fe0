import math

import pytest
from pydantic import ValidationError

from llm_assets.prompts import ByteTokenizer
from llm_assets.records import BeamSearch, Candidate, Completion, FailureKind, GenerateText
from llm_assets.tasks import Summarize


def ask_of(**arguments):
    """What a task asks of the engine."""
    (query,) = Summarize(name="summary", **arguments).plan(ByteTokenizer(), 5000).queries
    return query.ask


def answer(*candidates, **arguments):
    return Summarize(name="summary", **arguments).plan(ByteTokenizer(), 5000).answer([Completion(0, candidates)])


@pytest.mark.parametrize(
    ("arguments", "ask"),
    [
        ({}, GenerateText({"temperature": 0.0, "max_tokens": 90, "logprobs": 0})),
        ({"max_words": 10}, GenerateText({"temperature": 0.0, "max_tokens": 30, "logprobs": 0})),
        ({"sampling": {"max_tokens": 7}}, GenerateText({"temperature": 0.0, "max_tokens": 7, "logprobs": 0})),
        ({"candidates": 4}, GenerateText({"temperature": 0.7, "max_tokens": 90, "logprobs": 0, "n": 4})),
        (
            {"candidates": 4, "sampling": {"temperature": 0.3, "logprobs": 2}},
            GenerateText({"temperature": 0.3, "max_tokens": 90, "logprobs": 2, "n": 4}),
        ),
        ({"beam_width": 3}, BeamSearch(3, 90, 1.0)),
        (
            {"beam_width": 3, "length_penalty": 1.2, "sampling": {"max_tokens": 9}},
            BeamSearch(3, 9, 1.2),
        ),
    ],
)
def test_each_strategy_asks_for_its_own(arguments, ask):
    assert ask_of(**arguments) == ask


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"candidates": 3, "beam_width": 2}, r"set candidates \(3\) or beam_width \(2\)"),
        ({"candidates": 3, "sampling": {"temperature": 0}}, "3 candidates at temperature 0 would all be equal"),
        ({"beam_width": 2, "sampling": {"temperature": 0.5, "top_p": 0.9}}, "temperature, top_p would have no effect"),
        ({"candidates": 3, "confidence": False}, "the likeliest of 3 candidates is chosen by its log-prob"),
        ({"beam_width": 1}, "beam_width"),
        ({"beam_width": 11}, "beam_width"),
        ({"candidates": 0}, "candidates"),
        ({"candidates": 65}, "candidates"),
        ({"max_words": 0}, "max_words"),
    ],
)
def test_strategies_that_exclude_each_other_are_refused(arguments, reason):
    with pytest.raises(ValidationError, match=reason):
        Summarize(name="summary", **arguments)


def test_the_candidate_with_the_highest_mean_log_probability_is_kept():
    short = Candidate("Short.", (1, 2), "stop", (-0.5, -0.7))
    likely = Candidate("Likely and long.", (1, 2, 3, 4), "stop", (-0.5, -0.5, -0.5, -0.5))
    unlikely = Candidate("Unlikely.", (1,), "stop", (-2.0,))
    kept = answer(short, likely, unlikely, candidates=3)
    # The short one's sum (-1.2) is above the long one's (-2.0): only the mean chooses the long one.
    assert kept.columns == {"summary": "Likely and long.", "confidence": pytest.approx(math.exp(-0.5))}


def test_of_equal_candidates_the_first_is_kept():
    same = [Candidate(text, (1,), "stop", (-0.5,)) for text in ("first", "second")]
    assert answer(*same, candidates=2).columns["summary"] == "first"


def test_white_space_around_a_summary_is_dropped():
    assert answer(Candidate("\n A film. ", (1,), "stop", (-0.1,))).columns["summary"] == "A film."


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_answer_without_a_word_is_a_failure(text):
    failure = answer(Candidate(text, (1,), "stop", (-0.1,)))
    assert (failure.kind, failure.raw_output) == (FailureKind.EMPTY_ANSWER, text)


def test_a_summary_that_was_cut_off_is_kept_and_marked():
    kept = answer(Candidate("A film about", (1, 2, 3), "length", (-0.1,) * 3))
    assert (kept.columns["summary"], kept.finish_reason) == ("A film about", "length")


class ThinkingTokenizer(ByteTokenizer):
    """Of a reasoning model: the end of its thoughts is one token, and its template may begin them."""

    end_of_thoughts = 999

    def __init__(self, begun: bool) -> None:
        self.begun = begun

    def render(self, messages):
        return super().render(messages) + ("<think>\n" if self.begun else "")

    def encode_markup(self, text):
        return [self.end_of_thoughts] if text == "</think>" else super().encode_markup(text)


@pytest.mark.parametrize("begun", [False, True])
def test_a_reasoning_models_thoughts_are_no_part_of_its_answer(begun):
    plan = Summarize(name="summary").plan(ThinkingTokenizer(begun), 5000)
    thoughts = ("" if begun else "<think>\n") + "What would they want?\n</think>\n\n"
    logprobs = (-3.0, -3.0, -3.0, -0.1)
    said = Candidate(
        thoughts + "They ask for </think>.", (1, 2, ThinkingTokenizer.end_of_thoughts, 3), "stop", logprobs
    )
    found = plan.answer([Completion(0, (said,))])
    assert found.columns == {"summary": "They ask for </think>.", "confidence": pytest.approx(math.exp(-0.1))}


@pytest.mark.parametrize("begun", [False, True])
def test_thoughts_without_an_answer_are_a_failure(begun):
    plan = Summarize(name="summary").plan(ThinkingTokenizer(begun), 5000)
    said = Candidate("What would they" if begun else "<think>\nWhat would they", (1, 2), "length", (-0.1, -0.1))
    failure = plan.answer([Completion(0, (said,))])
    assert failure.kind is FailureKind.TRUNCATED
    assert "was still thinking after 2 tokens" in failure.message
    assert "{'enable_thinking': False}" in failure.message


def test_what_a_model_that_does_not_think_says_of_thoughts_is_its_answer():
    said = "The text explains what <think> and </think> are."
    assert answer(Candidate(said, (1,), "stop", (-0.1,))).columns["summary"] == said


def test_rounding_cannot_raise_confidence_above_1():
    assert answer(Candidate("Sure.", (1,), "stop", (1e-7,))).columns["confidence"] == 1.0


def test_the_model_is_told_how_many_words_to_use():
    assert Summarize(name="summary", max_words=12).system_message() == (
        "Summarize the text. State only what it says.\nUse at most 12 words."
    )


@pytest.mark.parametrize(
    ("arguments", "reusable"),
    [
        ({}, True),
        ({"beam_width": 2}, True),
        ({"candidates": 2}, False),
        ({"sampling": {"temperature": 0.5}}, False),
        ({"candidates": 2, "reuse_sampled": True}, True),
        ({"sampling": {"temperature": 0.5}, "reuse_sampled": True}, True),
    ],
)
def test_only_answers_without_chance_serve_for_equal_texts_unless_told_otherwise(arguments, reusable):
    assert Summarize(name="summary", **arguments).reusable is reusable
