"""The errors this package raises on purpose. Each says what was wrong, with the value, and what would be right."""

import difflib
from collections.abc import Iterable

from pydantic import ValidationError


class LLMAssetsError(Exception):
    """Base class: an error whose message is meant for the person who configures or runs a pipeline."""


class ConfigError(LLMAssetsError, ValueError):
    """A setting that cannot work: a task, an engine argument, a sampling parameter, a partition key."""


class ModelError(LLMAssetsError):
    """A model or tokenizer that cannot be loaded."""


class DatabaseError(LLMAssetsError):
    """A database that cannot be reached, opened or written."""


class SourceError(LLMAssetsError):
    """A source table that cannot be read as configured: missing columns, no key, duplicate keys."""


class OutputTableError(LLMAssetsError):
    """An output table that exists with columns other than the ones this package writes."""


class EngineError(LLMAssetsError):
    """The engine as a whole failed, not one row; what was committed stays."""


class AccountingError(LLMAssetsError):
    """An engine lost, doubled or invented a request. This is a defect, never a bad row."""


class FailureThresholdError(LLMAssetsError):
    """More rows failed than the pipeline accepts."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return a sentence that names the closest valid name, or lists the valid ones."""
    names = sorted(valid)
    if not names:
        return "There are none."
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"Did you mean {close[0]!r}? Valid: {', '.join(names)}."
    return f"Valid: {', '.join(names)}."


def validation_message(error: ValidationError) -> str:
    """Return what pydantic found wrong, one line for each setting: where it stands, and why it cannot be so."""
    lines = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        reason = item["msg"].removeprefix("Value error, ")
        lines.append(f"{place}: {reason}" if place else reason)
    return "\n".join(lines)
