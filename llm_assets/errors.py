"""The errors this package raises on purpose. Each says what was wrong, with the value, and what would be right."""

import difflib
from collections.abc import Iterable
from unicodedata import category

from pydantic import ValidationError

from llm_assets.secrets import masked

MANY_NAMES = 50
"""So many names are listed beside the one that was meant; vLLM's engine has hundreds of arguments."""


class LLMAssetsError(Exception):
    """Base class: an error whose message is meant for the person who configures or runs a pipeline.

    Messages quote libraries, databases and rows, and end in logs, terminals and Dagster's UI. So secrets are masked in
    them and control characters replaced.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(masked(value)) if isinstance(value, str) else value for value in args))


class ConfigError(LLMAssetsError, ValueError):
    """A setting that cannot work: a task, an engine argument, a sampling parameter, a partition key."""


class ModelError(LLMAssetsError):
    """A model or tokenizer that cannot be loaded."""


class DatabaseError(LLMAssetsError):
    """A database that cannot be reached, opened or written."""


class DatabaseAwayError(DatabaseError):
    """A database that was away for longer than a run waits for it."""


class SourceError(LLMAssetsError):
    """A source table that cannot be read as configured: missing columns, no key, duplicate keys."""


class OutputTableError(LLMAssetsError):
    """An output table that exists with columns other than the ones this package writes."""


class EngineError(LLMAssetsError):
    """The engine as a whole failed, not one row; what was committed stays."""


class EngineFaultError(EngineError):
    """An engine elsewhere that is there, and has nothing but errors for every request: none of them is to blame."""


class EngineAwayError(EngineError):
    """An engine elsewhere that did not answer for longer than a run waits for it."""


class AccountingError(LLMAssetsError):
    """An engine lost, doubled or invented a request. This is a defect, never a bad row."""


class FailureThresholdError(LLMAssetsError):
    """More rows failed than the pipeline accepts."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return a sentence that names the closest valid name, and lists the valid ones unless they are very many."""
    names = sorted(valid)
    if not names:
        return "There are none."
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        if len(names) > MANY_NAMES:
            return f"Did you mean {close[0]!r}?"
        return f"Did you mean {close[0]!r}? Valid: {', '.join(names)}."
    return f"Valid: {', '.join(names)}."


def validation_message(error: ValidationError) -> str:
    """Return what pydantic found wrong, one line for each setting: where it stands, and why it cannot be so."""
    lines = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        reason = item["msg"].removeprefix("Value error, ")
        lines.append(f"{place}: {reason}" if place else reason)
    return printable(masked("\n".join(lines)))


def printable(text: str) -> str:
    """Return text in which nothing acts on a terminal: no escapes, control characters or changes of direction.

    Lines, tabs and spaces of every width stay. All else that has no shape of its own becomes U+FFFD.
    """
    return "".join(
        character if character.isprintable() or character in "\n\t" or category(character) == "Zs" else "\ufffd"
        for character in text.replace("\r\n", "\n")
    )
