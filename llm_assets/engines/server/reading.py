"""What the answers of all servers have: choices, and the tokens that they count."""

from collections.abc import Sequence
from typing import Any

from llm_assets.records import Usage


class UnreadableAnswerError(ValueError):
    """An answer lacks what was asked for. Its message says what, and what to set."""


def choices_of(answer: Any, wanted: int) -> list[Any]:
    """Return the choices of an answer.

    Raises:
        UnreadableAnswerError: they are not as many as were asked for.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    found = len(choices) if isinstance(choices, list) else 0
    if not isinstance(choices, list) or found != wanted:
        raise UnreadableAnswerError(
            f"The server's answer has {found} choices, and {wanted} were asked for (n). It has to be a server that "
            "gives them all: look at urls and api, and leave `candidates` of a Summarize task at 1 if it cannot."
        )
    return choices


def usage_of(answers: Sequence[Any]) -> Usage:
    """Return the tokens that answers count, whatever else is wrong with them."""
    usages = [_dict(_dict(answer).get("usage")) for answer in answers]
    prompt = sum(_count(usage.get("prompt_tokens")) for usage in usages)
    cached = sum(_count(_dict(usage.get("prompt_tokens_details")).get("cached_tokens")) for usage in usages)
    return Usage(prompt, min(cached, prompt), sum(_count(usage.get("completion_tokens")) for usage in usages))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    return max(value, 0) if isinstance(value, int) else 0
