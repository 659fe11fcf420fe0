"""Read typed fields out of each text."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, datetime
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_serializer, field_validator, model_validator

from llm_assets.errors import ConfigError
from llm_assets.json_schema import (
    MAX_ITEMS,
    MAX_STRING_LENGTH,
    bounded,
    check_size,
    describe,
    import_model,
    resolve,
    schema_columns,
)
from llm_assets.prompts import Layout, TextTokenizer, Tokenizer
from llm_assets.records import Candidate, Column, Completion, Constraint, Failure, FailureKind, GenerateText
from llm_assets.tasks.answer_check import is_kept, schema_check
from llm_assets.tasks.base import (
    PROVENANCE_COLUMNS,
    Example,
    GenerationPlan,
    GenerationTask,
    Plan,
    Query,
    generation_columns,
    truncated,
)
from llm_assets.tasks.choice import Value, only_choice
from llm_assets.tasks.property_order import untold_orders
from llm_assets.tasks.scoring import ScoringPlan

DEFAULT_MAX_TOKENS = 256

MAX_SCORED_VALUES = 50
"""Values of a choice that are scored; it can take a request for each. Of more, one is generated."""

SCORED_CONFIDENCE = Column(
    "confidence", "number", "The model's probability of this value, given that it answers with one that is allowed."
)

LONE_SURROGATES = re.compile(r"[\ud800-\udfff]")

_PLAIN_TYPES: dict[str, type] = {"text": str, "boolean": bool}
"""Of columns that hold nothing else, and whose values are not read from another type."""

AnswerModel = type[BaseModel]
SchemaSource = AnswerModel | dict[str, Any] | str


class Extract(GenerationTask):
    """Read the fields of a schema out of each text; every top-level property becomes a typed column.

    The answer is generated under the schema as a constraint, so it parses; nested objects and lists are stored as JSON.
    A string or list without a bound gets one (200 characters, 16 items), because a model can otherwise fill the whole
    token limit with it. A pydantic model's own validators run on the answer; what they refuse is a failure.

    Where all that is asked for is one of some values (one required property: an enum, a Literal or a boolean), nothing
    is generated: the values are scored as the labels of a `Classify`, and `confidence` is the chosen one's probability.
    With sampling parameters of your own one is generated all the same, and by a host that takes messages.
    """

    type: Literal["extract"] = "extract"
    answer_schema: SchemaSource = Field(
        alias="schema",
        description="A pydantic model, its path as package.module:Class, or a JSON schema. A string that sets no bound "
        f"has at most {MAX_STRING_LENGTH} characters and a list {MAX_ITEMS} items; for more, write "
        "Field(max_length=...), or maxLength and maxItems in a JSON schema.",
    )

    @field_serializer("answer_schema")
    def _as_json_schema(self, _: object) -> dict[str, Any]:
        return self.json_schema

    @field_validator("answer_schema")
    @classmethod
    def _is_a_schema(cls, schema: SchemaSource) -> SchemaSource:
        # Here already, so that the error has the schema's line.
        if isinstance(schema, dict):
            check_size(schema)
        return schema

    @model_validator(mode="after")
    def _limits_agree(self) -> "Extract":
        self.sampling_arguments(DEFAULT_MAX_TOKENS)
        return self

    @model_validator(mode="after")
    def _columns_can_stand_in_a_table(self) -> "Extract":
        columns = schema_columns(self.json_schema)
        names = [column.name.lower() for column in columns]  # SQLite's column names have no case
        for column in columns:
            if not column.name.strip() or names.count(column.name.lower()) > 1:
                raise ConfigError(
                    f"Task {self.name!r}: the property {column.name!r} is empty, or another one differs from it in "
                    "case only. Each becomes a column; give it a name of its own."
                )
            taken = {*PROVENANCE_COLUMNS, *(c.name for c in generation_columns(self.sampling))}
            if column.name.lower() in taken:
                raise ConfigError(
                    f"Task {self.name!r}: the property {column.name!r} has the name of a column that every answer has. "
                    f"Rename it; taken are {', '.join(sorted(taken))}."
                )
            if len(column.name.encode()) > 63:
                raise ConfigError(
                    f"Task {self.name!r}: the property {column.name!r} is too long for a column (63 bytes)."
                )
        check = schema_check(self.json_schema)
        for example in self.examples:
            shown = f"Task {self.name!r}: the example {example.text[:40]!r} has the answer {example.answer!r}"
            try:
                json.loads(example.answer)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{shown}, which is no JSON: {error}.") from None
            read = _fields(self.answer_model, columns, example.answer, check)
            if isinstance(read, Failure):
                raise ConfigError(f"{shown}. {read.message}")
        return self

    @cached_property
    def answer_model(self) -> AnswerModel | None:
        """The pydantic model of an answer, when the schema was given as one."""
        if isinstance(self.answer_schema, str):
            return import_model(self.answer_schema)
        return None if isinstance(self.answer_schema, dict) else self.answer_schema

    @cached_property
    def written_schema(self) -> dict[str, Any]:
        """The JSON schema of what a model makes of an answer: its serializers may write other types than it reads."""
        assert self.answer_model is not None
        return self.answer_model.model_json_schema(mode="serialization")

    @cached_property
    def json_schema(self) -> dict[str, Any]:
        """The JSON schema that constrains the answer."""
        if self.answer_model is not None:
            schema = self.answer_model.model_json_schema()
            read, written = _property_names(schema), _property_names(self.written_schema)
            if read != written:
                raise ConfigError(
                    f"Task {self.name!r}: {self.answer_model.__name__} reads its fields by other names "
                    f"({', '.join(read)}) than it writes them ({', '.join(written)}). "
                    "Use `alias`, which is both."
                )
            return bounded(schema)
        assert isinstance(self.answer_schema, dict)
        return bounded(self.answer_schema)

    @cached_property
    def fields(self) -> tuple[Column, ...]:
        """The columns of the properties."""
        columns = schema_columns(self.json_schema)
        if self.answer_model is None:
            return columns
        types = {column.name: column.type for column in schema_columns(self.written_schema)}
        # A JSON column holds whatever is written.
        return tuple(c if c.type == "json" else replace(c, type=types[c.name]) for c in columns)

    @cached_property
    def choice(self) -> tuple[str, list[Value]] | None:
        """The property and its values, where the values are scored and nothing is generated."""
        found = only_choice(self.json_schema)
        if found is None or self.sampling.model_dump(exclude_defaults=True):
            return None
        return found if 2 <= len(found[1]) <= MAX_SCORED_VALUES else None

    @property
    def columns(self) -> tuple[Column, ...]:
        own = (SCORED_CONFIDENCE,) if self.choice else generation_columns(self.sampling)
        return (*self.fields, *own)

    @property
    def constraint(self) -> Constraint | None:
        return None if self.choice else self._schema_constraint

    @property
    def _schema_constraint(self) -> Constraint:
        return Constraint("json", json.dumps(self.json_schema, ensure_ascii=False))

    def settings(self) -> dict[str, object]:
        settings = super().settings()
        if self.choice:
            settings["scored"] = True  # so that answers that were generated are not taken for scored ones
        if orders := untold_orders(self.json_schema):
            settings["property_order"] = orders
        return settings

    def system_message(self) -> str:
        instruction = self.instruction or "Extract the facts that the text states."
        return f"{instruction}\nAnswer with JSON that has these fields:\n{describe(self.json_schema)}"

    def example_answer(self, example: Example) -> str:
        # As the constraint allows it, so that the model continues in that form.
        return json.dumps(json.loads(example.answer), ensure_ascii=False)

    def plan(self, tokenizer: Tokenizer, max_model_len: int, layout: Layout = "instruction_first") -> Plan:
        if self.choice and not isinstance(tokenizer, TextTokenizer):
            return ChoicePlan(self, tokenizer, max_model_len, layout)
        sampling = self.sampling_arguments(DEFAULT_MAX_TOKENS)
        query = Query(GenerateText(sampling, self._schema_constraint))
        return ExtractPlan(self, tokenizer, max_model_len, [query], layout)


class ExtractPlan(GenerationPlan):
    """Generates JSON under the schema and reads it as columns."""

    task: Extract

    def parse(self, candidate: Candidate) -> dict[str, object] | Failure:
        if candidate.finish_reason == "length":
            return truncated(self.task, candidate)
        return _fields(self.task.answer_model, self.task.fields, candidate.text, self._check)

    @cached_property
    def _check(self) -> Callable[[Any], None] | None:
        """Raises a ValueError if an answer does not fit the schema."""
        schema = self.task.answer_schema
        if not isinstance(schema, dict):
            return None  # a model has a say itself
        if isinstance(self.tokenizer, TextTokenizer):
            return schema_check(self.task.json_schema)  # nobody knows what a host keeps to, our bounds included
        # It costs up to a millisecond for each answer, so not where the constraint does the same.
        return None if is_kept(self.task.json_schema) else schema_check(schema)


class ChoicePlan(ScoringPlan):
    """Scores whole answers, one for each value, spaced as vLLM's constraint would have them written."""

    task: Extract

    def __init__(self, task: Extract, tokenizer: Tokenizer, max_model_len: int, layout: Layout) -> None:
        assert task.choice is not None
        name, values = task.choice
        answers = [json.dumps({name: value}, ensure_ascii=False) for value in values]
        super().__init__(task, tokenizer, max_model_len, layout, answers, "answer")

    def read(self, completions: Sequence[Completion]) -> tuple[dict[str, object], str] | Failure:
        found = self.probabilities(completions)
        if isinstance(found, Failure):
            return found
        best = found.index(max(found))  # ties go to the value that stands first
        columns = _fields(self.task.answer_model, self.task.fields, self.answers[best])
        return columns if isinstance(columns, Failure) else ({**columns, "confidence": found[best]}, "stop")


def _property_names(schema: dict[str, Any]) -> list[str]:
    return list(resolve(schema, schema).get("properties", {}))


def _fields(
    model: AnswerModel | None, columns: Sequence[Column], text: str, check: Callable[[Any], None] | None = None
) -> dict[str, object] | Failure:
    """Read an answer as columns, or say why it cannot be."""
    try:
        fields = json.loads(text, parse_float=_finite, parse_constant=_finite)
        if check is not None:
            check(fields)
        if model is not None:
            fields = _through_model(model, fields)
        if not isinstance(fields, dict):
            raise ValueError(f"expected an object, got {type(fields).__name__}")
        return {column.name: _value(fields.get(column.name), column) for column in columns}
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        reason = str(error)
    return Failure(FailureKind.INVALID_JSON, f"The answer does not fit the schema: {reason}.", text)


def _through_model(model: AnswerModel, fields: Any) -> Any:
    """What a pydantic model makes of an answer."""
    # As JSON, in which a strict model too takes a text for a date, and which holds no lone surrogates.
    text = LONE_SURROGATES.sub("\ufffd", json.dumps(fields, ensure_ascii=False))
    try:
        written = model.model_validate_json(text).model_dump(mode="json", by_alias=True)
        json.dumps(written, allow_nan=False)  # of a number with hundreds of digits, pydantic makes infinity
        return written
    except ValidationError:
        raise
    except Exception as error:  # a user's own validators may raise anything
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text} is out of range")
    return number


def _value(value: Any, column: Column) -> object:
    """Give a JSON value its column's Python type."""
    if value is None:
        return None
    if not isinstance(value, _PLAIN_TYPES.get(column.type, object)):
        raise ValueError(f"{column.name} is {value!r:.100}, which is no {column.type}")
    match column.type:
        case "integer" if not -(2**63) <= value < 2**63:
            raise ValueError(f"{column.name} is {value}, which no integer column holds")
        case "number":
            return float(value)
        case "date":
            return date.fromisoformat(value)
        case "datetime":
            return datetime.fromisoformat(value)
        case _:
            return value
