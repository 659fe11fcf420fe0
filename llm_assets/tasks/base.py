"""What every task has: settings, a fingerprint, and a plan from texts to requests and from completions to answers."""

import hashlib
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from llm_assets.errors import ConfigError
from llm_assets.prompts import ChatPrompt, Layout, Message, TextTemplate, Tokenizer, fit
from llm_assets.prompts.template import ROW_TEXT
from llm_assets.records import (
    Answer,
    Ask,
    BeamSearch,
    Candidate,
    Column,
    Completion,
    Constraint,
    Failure,
    FailureKind,
    GenerateText,
    ScoreTokens,
)
from llm_assets.sampling import Sampling
from llm_assets.tasks.thoughts import THOUGHTS_BEGIN, THOUGHTS_END, still_thinking, without_thoughts

PROMPT_VERSION = 1
"""Part of every fingerprint. Raise it when the same task would be asked with other words."""

PROVENANCE_COLUMNS = (
    "model",
    "fingerprint",
    "content_hash",
    "prompt_tokens",
    "output_tokens",
    "finish_reason",
    "run_id",
    "answered_at",
    "partition_key",
)
"""The columns that say how an answer came to be. A task's own columns cannot have these names."""

CUT_MARKER = " [...] "

ROW_BEGINS, ROW_ENDS = "Text:\n", "\n\n-----\nTask:\n\n"


class Example(BaseModel):
    """A text with the answer that is right for it, shown to the model before each row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(description="A text as it could stand in a row.")
    answer: str = Field(description="The right answer to it; for JSON, the values themselves may be given.")

    @field_validator("answer", mode="before", json_schema_input_type=Any)
    @classmethod
    def _values_become_json(cls, answer: object) -> object:
        try:
            return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"The answer {str(answer)[:200]} is no JSON: {error}. Write days and times in quotes."
            ) from None


@dataclass(frozen=True, slots=True)
class Query:
    """One request to make about a text: what to ask, after which tokens of an answer."""

    ask: Ask
    answer_prefix: tuple[int, ...] = ()


class Plan(ABC):
    """A task made ready for one tokenizer: the tokenised prompt and the queries that each text needs.

    Raises:
        ConfigError: the shared part of the prompt and the longest answer leave no room for a text.
    """

    def __init__(
        self, task: "Task", tokenizer: Tokenizer, max_model_len: int, queries: Sequence[Query], layout: Layout
    ) -> None:
        self.task = task
        self.tokenizer = tokenizer
        self.layout: Layout = layout
        aligned = task.align_prompt and layout == "instruction_first"
        self.prompt = ChatPrompt(tokenizer, task.messages(layout), aligned)
        self.queries = tuple(queries)
        room = max_model_len - self.prompt.shared_tokens - max(self._answer_tokens(query) for query in queries)
        if room < 1:
            raise ConfigError(
                f"Task {task.name!r}: instruction and examples take {self.prompt.shared_tokens} tokens and leave no "
                f"room for a text in the model's {max_model_len}. Shorten them, or raise max_model_len."
            )
        self.max_text_tokens = min(room, task.max_text_tokens or room)
        self.cut_tokens = self.max_text_tokens
        """The tokens that a longer text is cut to: fewer, where tasks that share a row cut it alike."""
        self._marker = tokenizer.encode_literal([CUT_MARKER])[0]

    @staticmethod
    def _answer_tokens(query: Query) -> int:
        match query.ask:
            case ScoreTokens(most_tokens=limit) | BeamSearch(max_tokens=limit):
                pass
            case GenerateText(sampling=sampling):
                limit = int(str(sampling["max_tokens"]))
        return len(query.answer_prefix) + limit

    def requests(self, text_token_ids: list[int], room: int = 1) -> list[tuple[list[int], Ask]]:
        """Return the prompts of one text with what to ask after each, in the order of `queries`.

        A generated answer may have `room` times the tokens that the task allows.
        """
        prompt = self.prompt.build(fit(text_token_ids, self.cut_tokens, self._marker))
        return [([*prompt, *query.answer_prefix], _with_room(query.ask, room)) for query in self.queries]

    def is_too_long(self, text_token_ids: list[int]) -> bool:
        """Whether the text must be failed, because it does not fit and the task does not cut."""
        return self.task.too_long == "fail" and len(text_token_ids) > self.max_text_tokens

    def answer(self, completions: Sequence[Completion]) -> Answer | Failure:
        """Turn the completions of one text, in the order of `queries`, into its answer or the reason there is none."""
        for completion in completions:
            if completion.error is not None:
                return Failure(completion.error_kind, completion.error)
        read = self.read(completions)
        if isinstance(read, Failure):
            return read
        columns, finish_reason = read
        return Answer(
            columns=columns,
            prompt_tokens=sum(completion.usage.prompt for completion in completions),
            output_tokens=sum(completion.usage.output for completion in completions),
            finish_reason=finish_reason,
        )

    @abstractmethod
    def read(self, completions: Sequence[Completion]) -> tuple[dict[str, object], str] | Failure:
        """Return the task's columns and the finish reason, or why there is no answer."""


def _with_room(ask: Ask, room: int) -> Ask:
    if room == 1 or not isinstance(ask, GenerateText):
        return ask
    return replace(ask, sampling={**ask.sampling, "max_tokens": room * int(str(ask.sampling["max_tokens"]))})


class Task(BaseModel, ABC):
    """A question asked about every row of a table. Subclasses say which columns its answer has."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: str = Field(description="Names the asset, the output table's ending and the task in every table.")
    instruction: str = Field(default="", description="What the model is to do, in your words.")
    text: str = Field(default="{text}", description="The text asked about: a template over the columns of the row.")
    examples: tuple[Example, ...] = Field(default=(), description="Texts with right answers, shown before each row.")
    sampling: Sampling = Field(default_factory=Sampling, description="vLLM sampling parameters, by their vLLM names.")
    too_long: Literal["cut", "fail"] = Field(
        default="cut", description="A text too long for the model: cut it in the middle, or fail the row."
    )
    max_text_tokens: int | None = Field(default=None, ge=1, description="Treat longer texts as too long.")
    align_prompt: bool = Field(
        default=False,
        description="Fill the instruction up with # to a whole block of the prefix cache: fewer tokens for each row.",
    )
    reuse_sampled: bool = Field(default=False, description="Reuse answers for equal texts though sampling is random.")

    @field_validator("name")
    @classmethod
    def _name_is_an_identifier(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ConfigError(f"Task name {name!r} must be lower-case letters, digits and _, and begin with a letter.")
        return name

    @field_validator("text")
    @classmethod
    def _text_is_a_template(cls, text: str) -> str:
        TextTemplate(text)
        return text

    @cached_property
    def template(self) -> TextTemplate:
        """The parsed text template."""
        return TextTemplate(self.text)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copy = super().model_copy(update=update, deep=deep)
        values = vars(copy)
        for name in values.keys() - type(copy).model_fields.keys():
            del values[name]  # what was derived from the original's settings
        return copy

    @property
    def reusable(self) -> bool:
        """Whether an answer may serve for another row with the same text."""
        return self.reuse_sampled or self.sampling.is_greedy

    @property
    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """The columns of an answer."""

    @abstractmethod
    def system_message(self) -> str:
        """What the model is told before it sees a text."""

    @abstractmethod
    def plan(self, tokenizer: Tokenizer, max_model_len: int, layout: Layout = "instruction_first") -> Plan:
        """Make the task ready for a tokenizer and a model that reads `max_model_len` tokens."""

    @property
    def constraint(self) -> Constraint | None:
        """What a generated answer must match."""
        return None

    def example_answer(self, example: Example) -> str:
        """An example's answer in the very form that the model is to give."""
        return example.answer

    def messages(self, layout: Layout = "instruction_first") -> list[Message]:
        """The chat that is sent for every row, with `ROW_TEXT` where the row's text goes."""
        if layout == "row_first":
            return [{"role": "user", "content": self._row_first()}]
        messages: list[Message] = [{"role": "system", "content": self.system_message()}]
        for example in self.examples:
            messages.append({"role": "user", "content": example.text})
            messages.append({"role": "assistant", "content": self.example_answer(example)})
        return [*messages, {"role": "user", "content": ROW_TEXT}]

    def _row_first(self) -> str:
        """One message in which everything up to the end of the row's text is the same for every task."""
        parts = [self.system_message()]
        if self.examples:
            shown = [f"Text: {example.text}\nAnswer: {self.example_answer(example)}" for example in self.examples]
            parts += ["Examples, with other texts:", *shown]
        parts.append("Now give the answer for the text at the beginning, above the line of dashes.")
        return f"{ROW_BEGINS}{ROW_TEXT}{ROW_ENDS}" + "\n\n".join(parts)

    def settings(self) -> dict[str, object]:
        """Everything that an answer depends on, as JSON values."""
        return self.model_dump(mode="json", exclude={"name", "reuse_sampled"}, exclude_defaults=True)

    def fingerprint(self, identity: str, layout: Layout = "instruction_first") -> str:
        """Return the hash of all that an answer depends on besides the text; `identity` names the model's weights."""
        parts = [PROMPT_VERSION, type(self).__name__, self.settings(), self.messages(layout), identity]
        canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]


CONFIDENCE = Column(
    "confidence",
    "number",
    "exp(mean log-probability) of the answer's tokens: the model's average probability of the words it chose.",
)
LOGPROBS = Column("logprobs", "json", "For each token: its text, its log-probability, and the likeliest tokens' own.")


class GenerationTask(Task):
    """A task whose answer is generated text."""

    confidence: bool = Field(
        default=True, description="Ask for log-probabilities, which the confidence is made of; 5 to 22 % slower."
    )

    def sampling_arguments(self, max_tokens: int, **defaults: object) -> dict[str, object]:
        """Return vLLM's keyword arguments for one answer.

        Args:
            max_tokens: The most tokens of an answer, where the task's sampling does not say.
            defaults: What else holds where the task's sampling does not say.

        Raises:
            ConfigError: an answer must have more tokens than it may.
        """
        most = self.sampling.max_tokens or max_tokens
        if self.sampling.min_tokens > most:
            raise ConfigError(
                f"Task {self.name!r}: sampling.min_tokens is {self.sampling.min_tokens}, and an answer has at most "
                f"{most} tokens. Raise sampling.max_tokens."
            )
        logprobs = {"logprobs": 0} if self.confidence else {}
        return self.sampling.arguments(max_tokens=max_tokens, **logprobs, **defaults)


class GenerationPlan(Plan):
    """A plan of one query whose answer is generated text."""

    def read(self, completions: Sequence[Completion]) -> tuple[dict[str, object], str] | Failure:
        best = best_candidate(completions[0])
        if self.task.constraint is None:
            answered = without_thoughts(best, self._begins_in_thoughts, self.tokenizer.encode_markup(THOUGHTS_END))
            if answered is None:
                return still_thinking(self.task.name, best)
            best = answered
        columns = self.parse(best)
        if isinstance(columns, Failure):
            return columns
        if self.task.sampling.logprobs:
            columns["logprobs"] = [
                {
                    "token": self.tokenizer.decode([token_id]),
                    "logprob": logprob,
                    "top": self._likeliest(top),
                }
                for token_id, logprob, top in zip(best.token_ids, best.logprobs, best.top_logprobs, strict=True)
            ]
        return {**columns, "confidence": confidence(best)}, best.finish_reason

    @cached_property
    def _begins_in_thoughts(self) -> bool:
        """Whether the chat template itself opens the thoughts."""
        return self.tokenizer.decode(self.prompt.suffix).rstrip().endswith(THOUGHTS_BEGIN)

    def _likeliest(self, top: Mapping[int, float]) -> dict[str, float]:
        """Return log-probabilities by text, the best of those that share one, as parts of characters do."""
        found: dict[str, float] = {}
        for token_id, value in top.items():
            text = self.tokenizer.decode([token_id])
            found[text] = max(value, found.get(text, value))
        return found

    @abstractmethod
    def parse(self, candidate: Candidate) -> dict[str, object] | Failure:
        """Return the task's own columns, without the confidence."""


def generation_columns(sampling: Sampling) -> tuple[Column, ...]:
    """The columns that every generated answer has."""
    return (CONFIDENCE, LOGPROBS) if sampling.logprobs else (CONFIDENCE,)


def best_candidate(completion: Completion) -> Candidate:
    """Return the candidate whose tokens are the likeliest on average, of which the answer is read."""
    return max(completion.candidates, key=mean_logprob)


def mean_logprob(candidate: Candidate) -> float:
    """Return the mean natural-log probability of the candidate's tokens; minus infinity when it has none."""
    return math.fsum(candidate.logprobs) / len(candidate.logprobs) if candidate.logprobs else -math.inf


def confidence(candidate: Candidate) -> float | None:
    """Return exp(mean log-probability), the geometric mean of the tokens' probabilities, from 0 to 1.

    None where the log-probabilities were not asked for.
    """
    return min(math.exp(mean_logprob(candidate)), 1.0) if candidate.logprobs else None


def truncated(task: Task, candidate: Candidate) -> Failure:
    """The failure of an answer that ran into its token limit."""
    return Failure(
        FailureKind.TRUNCATED,
        f"The answer was not finished after {len(candidate.token_ids)} tokens. Raise sampling.max_tokens of task "
        f"{task.name!r}, or allow a shorter answer.",
        candidate.text,
    )


def check_tasks(tasks: Sequence[Task]) -> None:
    """Raise a ConfigError if there is no task, or if two have one name."""
    if not tasks:
        raise ConfigError("There is no task. Say what to ask: classify, extract, summarize or generate.")
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"Two tasks are named {name!r}. Each task has an output table; give them different names."
            )
