"""The tasks that are measured: with a long instruction for short rows, and three with shorter ones to ask together."""

import json
from typing import Any

from llm_assets.prompts import ChatPrompt, Tokenizer
from llm_assets.sampling import Sampling
from llm_assets.tasks import Classify, Example, Extract, Summarize, Task

SHARED_TOKENS = range(230, 271)
"""Prompt tokens that are the same for every row, in the three long tasks."""

JSON_TOKENS = 176
TEXT_TOKENS = 64
SUMMARY_TOKENS = 32

MOODS = ("positive", "negative", "neutral", "mixed")

# None is cut off, so none is asked twice: each character that a pattern allows is one token at most.
FIELDS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "item": {"type": "string", "pattern": "^[a-z]{3,30}$", "description": "what it is about, one word"},
        "mood": {"enum": list(MOODS), "description": "how the writer feels"},
        "stars": {"enum": [1, 2, 3, 4, 5], "description": "the rating that the text amounts to"},
        "reply": {"type": "boolean", "description": "whether the writer waits for a reply"},
    },
    "required": ["item", "mood", "stars", "reply"],
    "additionalProperties": False,
}

# With random weights, which rarely end a string before its longest, an answer has about 85 tokens.
LONG_FIELDS: dict[str, Any] = {
    **FIELDS,
    "properties": {
        "order": {"type": "string", "pattern": "^[0-9]{6,40}$", "description": "order number, or 000000"},
        **FIELDS["properties"],
    },
    "required": ["order", *FIELDS["required"]],
}
LONGEST_ANSWER = json.dumps({"order": "7" * 40, "item": "a" * 30, "mood": "positive", "stars": 5, "reply": False})

LONG_CHOICE = Classify(
    name="intent",
    instruction="You read messages that customers of a shop for household goods have written: reviews of what they "
    "bought, and letters to the support team. Decide what the message as a whole is. Judge what the writer says about "
    "the goods and the shop, not how politely it is said, and take the last word as decisive when the message changes "
    "its mind on the way.",
    labels={
        "positive": "the writer is content with the goods or the service and would buy again",
        "negative": "something is broken, late, missing or not as described, or the writer is annoyed",
        "neutral": "a plain question or a notice, without praise and without blame",
        "mixed": "praise and blame in about equal parts",
    },
    examples=(
        Example(text="Stopped charging after a week and nobody answers my emails.", answer="negative"),
        Example(text="Does exactly what it should, and it looks lovely.", answer="positive"),
        Example(text="Does the drill come with a charger, or do I have to buy one?", answer="neutral"),
    ),
)
LONG_EXTRACT = Extract(
    name="facts",
    instruction="You read messages that customers of a shop for household goods have written. Note what each one "
    "states, and nothing that it does not. Give five stars to praise and one to anger.",
    schema=LONG_FIELDS,
    sampling=Sampling(max_tokens=JSON_TOKENS),
    examples=(
        Example(
            text="Stopped charging after a week and nobody answers my emails.",
            answer=json.dumps({"order": "000000", "item": "charger", "mood": "negative", "stars": 1, "reply": True}),
        ),
        Example(
            text="Does exactly what it should, and it looks lovely on the shelf.",
            answer=json.dumps({"order": "000000", "item": "lamp", "mood": "positive", "stars": 5, "reply": False}),
        ),
    ),
)
# Answers of one length, so that all sides do equal work; with random weights some would end at once.
LONG_TEXT = Summarize(
    name="summary",
    instruction="You read messages that customers of a shop for household goods have written: reviews of what they "
    "bought, and letters to the support team. Summarize the message for the colleague who answers it. Say first what "
    "it is about, then what is wrong or good, and last what the writer wants. State only what the message says. Leave "
    "out greetings, names, order numbers and prices. Write plain English whatever language the message is in, in "
    "whole sentences, without a heading or a list, and do not address the writer. When the message has no point, "
    "say so in a few words.",
    max_words=40,
    sampling=Sampling(max_tokens=TEXT_TOKENS, ignore_eos=True, skip_special_tokens=False),
    examples=(
        Example(
            text="The zip of the blue jacket broke on day two. I wrote twice and nobody answered. I want my money.",
            answer="A blue jacket's zip broke on the second day. The customer had no reply and wants a refund.",
        ),
        Example(
            text="Lovely lamp! It arrived a day early and the light is warm.",
            answer="A lamp arrived early. The customer likes its warm light and asks for nothing.",
        ),
    ),
)

THREE: tuple[Task, ...] = (
    Classify(
        name="mood",
        instruction="Decide how the writer of the customer's message feels about the goods and the shop.",
        labels={
            "positive": "content, and would buy again",
            "negative": "something is broken, late or missing, or the writer is annoyed",
            "neutral": "a plain question or a notice",
            "mixed": "praise and blame in about equal parts",
        },
        examples=(Example(text="Does the drill come with a charger, or do I have to buy one?", answer="neutral"),),
    ),
    Extract(
        name="facts",
        instruction="Note what the customer's message states. Name the item in one English word. Give five stars to "
        "plain praise and one to plain anger.",
        schema=FIELDS,
        sampling=Sampling(max_tokens=JSON_TOKENS),
    ),
    Summarize(
        name="summary",
        instruction="Summarize the customer's message for the colleague who answers it. Say first what it is about, "
        "then what is wrong or good, and last what the writer wants. State only what the message says. Leave out "
        "greetings, names, order numbers and prices. Write plain English, without a heading or a list.",
        max_words=20,
        sampling=Sampling(max_tokens=SUMMARY_TOKENS, ignore_eos=True, skip_special_tokens=False),
        examples=(
            Example(
                text="The zip of the blue jacket broke on day two. I want my money.",
                answer="A jacket's zip broke on the second day; the customer wants a refund.",
            ),
        ),
    ),
)

BRIEF: tuple[Task, ...] = (
    Classify(name="mood", instruction="How does the writer feel?", labels=MOODS),
    Extract(
        name="facts",
        instruction="Note what the message states.",
        schema={
            "type": "object",
            "properties": {"item": FIELDS["properties"]["item"], "stars": FIELDS["properties"]["stars"]},
            "required": ["item", "stars"],
            "additionalProperties": False,
        },
        sampling=Sampling(max_tokens=JSON_TOKENS),
    ),
    Summarize(
        name="summary",
        instruction="Summarize the message for a colleague.",
        max_words=20,
        sampling=Sampling(max_tokens=SUMMARY_TOKENS, ignore_eos=True, skip_special_tokens=False),
    ),
)
"""Three tasks with instructions of a line or two."""


def shared_tokens(task: Task, tokenizer: Tokenizer) -> int:
    """Return how many tokens of a task's prompts are the same for every row."""
    return ChatPrompt(tokenizer, task.messages()).shared_tokens


def check_shared(task: Task, tokenizer: Tokenizer) -> int:
    """Return the same, or raise if it is not about 250."""
    tokens = shared_tokens(task, tokenizer)
    assert tokens in SHARED_TOKENS, f"{task.name} shares {tokens} tokens, not {SHARED_TOKENS}"
    return tokens
