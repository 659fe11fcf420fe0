"""The probabilities of labels, from the tokens that a host answered with and those it could have answered with."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class Beginning(NamedTuple):
    """What an answer can begin with, and how likely that is; `is_whole` if the answer ends there."""

    text: bytes
    logprob: float
    is_whole: bool


def label_scores(
    steps: Sequence[Mapping[str, Any]], is_finished: bool, labels: Sequence[str]
) -> tuple[list[float], float]:
    """Return each label's log-probability, and that of what several of them begin with.

    A beginning counts for the one label that it can still become, or that stands there already. Case tells labels apart
    only if nothing else does.

    Args:
        steps: For each token of the answer its log-probability, and the likeliest tokens in its place.
        is_finished: Whether the host ended the answer by itself.
        labels: What the answer can be.
    """
    fold = len({label.lower() for label in labels}) == len(labels)
    texts = [_bytes(label.lower() if fold else label) for label in labels]
    masses: list[list[float]] = [[] for _ in labels]
    undecided: list[float] = []
    for beginning in _beginnings(steps, is_finished):
        text = beginning.text.lstrip()
        if fold:
            text = text.decode("utf-8", "surrogateescape").lower().encode("utf-8", "surrogateescape")
        found = _meant(text, beginning.is_whole, texts)
        if len(found) == 1:
            masses[found[0]].append(beginning.logprob)
        elif found:
            undecided.append(beginning.logprob)
    return [_total(mass) for mass in masses], _total(undecided)


def _beginnings(steps: Sequence[Mapping[str, Any]], is_finished: bool) -> Iterator[Beginning]:
    """The answer that was given, and for each of its tokens the answers that would have gone another way there."""
    said, logprob = b"", 0.0
    for place, step in enumerate(steps):
        token, is_skipped = step["token"], False
        for other in step["top_logprobs"]:
            if other["token"] == token and not is_skipped:
                is_skipped = True  # the answer itself goes on
            elif _is_an_end(other["token"]):
                yield Beginning(said, logprob + other["logprob"], True)
            else:
                yield Beginning(said + _text(other), logprob + other["logprob"], False)
        logprob += step["logprob"]
        if not (is_finished and place == len(steps) - 1 and _is_an_end(token)):
            said += _text(step)
    yield Beginning(said, logprob, is_finished)


def _meant(text: bytes, is_whole: bool, labels: Sequence[bytes]) -> list[int]:
    """The labels that a text can become; if there is none, the longest one that it begins with."""
    if not is_whole and (found := [number for number, label in enumerate(labels) if label.startswith(text)]):
        return found
    begun = [number for number, label in enumerate(labels) if text.startswith(label) and _ends(text[len(label) :])]
    return [max(begun, key=lambda number: len(labels[number]))] if begun else []


def _ends(rest: bytes) -> bool:
    """Whether a word is over where the rest of the text begins: "no." is the label "no", and "nothing" is not."""
    after = rest.decode("utf-8", "replace")[:1]
    return not (after.isalnum() or after in tuple("-_'\ufffd"))


def _is_an_end(token: str) -> bool:
    """Whether a token is one that ends an answer: hosts write it as nothing, or in angle brackets."""
    return not token or (token.startswith("<") and token.endswith(">"))


def _text(item: Mapping[str, Any]) -> bytes:
    """The bytes of a token, which can be a part of a character."""
    return bytes(item["bytes"]) if item.get("bytes") else _bytes(item["token"])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _total(logprobs: Sequence[float]) -> float:
    total = math.fsum(math.exp(min(value, 0.0)) for value in logprobs)
    return min(math.log(total), 0.0) if total else -math.inf
