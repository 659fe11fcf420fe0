"""The data that flows through the pipeline. Frozen, and independent of everything else in this package."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

Key = tuple[object, ...]
"""The values of a row's key columns, in the order of the key."""


class FailureKind(StrEnum):
    """Why a row has no answer."""

    EMPTY_TEXT = "empty_text"
    TOO_LONG = "too_long"
    INVALID_JSON = "invalid_json"
    TRUNCATED = "truncated"
    EMPTY_ANSWER = "empty_answer"
    REFUSED_REQUEST = "refused_request"
    UNSTORABLE = "unstorable"
    ENGINE_ERROR = "engine_error"
    POISON = "poison"

    @property
    def may_pass_next_time(self) -> bool:
        """Whether asking the same question again can end differently."""
        return self is FailureKind.ENGINE_ERROR


@dataclass(frozen=True, slots=True)
class Equals:
    """The rows whose column has a value, written as text whatever the column's type."""

    column: str
    value: str


@dataclass(frozen=True, slots=True)
class Within:
    """The rows whose column holds a time from `start` (inclusive) to `end` (exclusive), both aware of their zone."""

    column: str
    start: datetime
    end: datetime

    @property
    def instants(self) -> tuple[float, float]:
        """Start and end, to be compared: two times of one zone are compared by its clock, which may be turned back."""
        return self.start.timestamp(), self.end.timestamp()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Within):
            return NotImplemented
        return (self.column, self.instants) == (other.column, other.instants)

    def __hash__(self) -> int:
        return hash((self.column, self.instants))


@dataclass(frozen=True, slots=True)
class OneOf:
    """The rows whose column has one of some values, written as text; of no values, no rows."""

    column: str
    values: tuple[str, ...]


Condition = Equals | Within | OneOf
"""What a partition says of one column. A row whose column is NULL meets none."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One slice of a source table: the rows that meet every condition. Without one it is the whole table."""

    key: str = "all"
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the source: its key and the columns that the tasks' text templates name."""

    key: Key
    values: Mapping[str, object]


ColumnType = Literal["text", "integer", "number", "boolean", "date", "datetime", "json"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a task's answers. `comment` is written into the database."""

    name: str
    type: ColumnType
    comment: str


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer must match. `value` is a JSON schema (as JSON text), a regular expression or a grammar."""

    kind: Literal["json", "regex", "grammar", "choice"]
    value: str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScoreTokens:
    """Ask for the log-probabilities of some next tokens.

    An engine that cannot score a token by itself generates up to `most_tokens` to find out.
    """

    token_ids: tuple[int, ...]
    most_tokens: int = 1


@dataclass(frozen=True, slots=True)
class GenerateText:
    """Ask for generated text. `sampling` holds vLLM sampling parameters by their vLLM names."""

    sampling: Mapping[str, object]
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class BeamSearch:
    """Ask for the best of the texts that beam search finds."""

    beam_width: int
    max_tokens: int
    length_penalty: float = 1.0


Ask = ScoreTokens | GenerateText | BeamSearch
"""What is asked of a model after a prompt."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question to an engine. `id` is unique within a call of `Engine.run`.

    Those that follow upon each other and are about one row have the same number as `row`: whoever computed the row for
    one of them has it in the prefix cache for the others. Without a number, nothing is said about it.
    """

    id: int
    prompt_token_ids: list[int]
    ask: Ask
    row: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One generated text.

    `logprobs` are natural logarithms, one for each generated token. `top_logprobs`, where they were asked for, are the
    likeliest tokens at each step by token id.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[Mapping[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of a request. `cached` counts those of the prompt that came from the prefix cache."""

    prompt: int = 0
    cached: int = 0
    output: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine says to one request: candidates, or scores by token id, or an error.

    `scores` are natural-log probabilities over the whole vocabulary, before any constraint. `undecided` is that of what
    several of the scored tokens begin with, so that nobody knows which of them it would have become.
    """

    id: int
    candidates: tuple[Candidate, ...] = ()
    scores: Mapping[int, float] = field(default_factory=dict)
    undecided: float = -math.inf
    usage: Usage = Usage()
    error: str | None = None
    error_kind: FailureKind = FailureKind.ENGINE_ERROR


@dataclass(frozen=True, slots=True)
class Answer:
    """A task's answer to one text: its columns, and what it cost."""

    columns: Mapping[str, object]
    prompt_tokens: int
    output_tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one row has no answer. `raw_output` is what the model said, if it said anything."""

    kind: FailureKind
    message: str
    raw_output: str | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """What tokens cost, in money per million: those of prompts, those of them that were cached, and generated ones."""

    prompt: float
    cached: float
    output: float
    currency: str = "USD"

    def cost(self, prompt: int, cached: int, output: int) -> float:
        """Return what some tokens cost; `prompt` counts the cached ones too."""
        return ((prompt - cached) * self.prompt + cached * self.cached + output * self.output) / 1e6


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What answers came from: `model` and `revision` name the weights, `device` the hardware, `gpus` how many of it.

    `gpus` is None without a GPU, before the model is loaded, and where nobody knows. `prices` are what its tokens cost,
    if they cost anything. `most_scored` is how many tokens one call of a server scores, if that is limited: to score
    more takes several, each with the whole prompt.
    """

    engine: str
    model: str
    revision: str
    device: str = ""
    peak_memory_bytes: int | None = None
    gpus: int | None = None
    prices: Prices | None = None
    most_scored: int | None = None
