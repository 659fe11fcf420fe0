"""Write free or constrained text about each row."""

from typing import Literal

from pydantic import Field, model_validator

from llm_assets.errors import ConfigError
from llm_assets.prompts import Layout, Tokenizer
from llm_assets.records import Candidate, Column, Constraint, Failure, FailureKind, GenerateText
from llm_assets.tasks.base import GenerationPlan, GenerationTask, Query, generation_columns, truncated

DEFAULT_MAX_TOKENS = 128


class Generate(GenerationTask):
    """Ask for text: free, or such that it matches a regular expression, a grammar or one of some choices."""

    type: Literal["generate"] = "generate"
    instruction: str = Field(min_length=1, description="What the model is to do, in your words.")
    regex: str | None = Field(default=None, description="A regular expression that the whole answer matches.")
    grammar: str | None = Field(default=None, description="An EBNF or Lark grammar that the answer is derived from.")
    choice: tuple[str, ...] | None = Field(default=None, min_length=1, description="The possible answers.")

    @model_validator(mode="after")
    def _limits_agree(self) -> "Generate":
        self.sampling_arguments(DEFAULT_MAX_TOKENS)
        return self

    @model_validator(mode="after")
    def _one_constraint(self) -> "Generate":
        given = [name for name in ("regex", "grammar", "choice") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"Task {self.name!r}: {' and '.join(given)} are given; an answer has one constraint.")
        return self

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("answer", "text", "The answer."), *generation_columns(self.sampling))

    @property
    def constraint(self) -> Constraint | None:
        if self.regex is not None:
            return Constraint("regex", self.regex)
        if self.grammar is not None:
            return Constraint("grammar", self.grammar)
        return None if self.choice is None else Constraint("choice", self.choice)

    def system_message(self) -> str:
        if self.choice is None:
            return self.instruction
        return f"{self.instruction}\nAnswer with exactly one of: {', '.join(self.choice)}."

    def plan(self, tokenizer: Tokenizer, max_model_len: int, layout: Layout = "instruction_first") -> "GeneratePlan":
        sampling = self.sampling_arguments(DEFAULT_MAX_TOKENS)
        query = Query(GenerateText(sampling, self.constraint))
        return GeneratePlan(self, tokenizer, max_model_len, [query], layout)


class GeneratePlan(GenerationPlan):
    """Generates the answer. A constrained one that was cut off does not match, and is a failure."""

    task: Generate

    def parse(self, candidate: Candidate) -> dict[str, object] | Failure:
        if self.task.constraint is not None:
            if candidate.finish_reason == "length":
                return truncated(self.task, candidate)
            choice = self.task.choice
            if choice is not None and candidate.text not in choice:  # of a host that ignores what it is told
                message = f"The answer is none of {', '.join(map(repr, choice))[:200]}: {candidate.text[:200]!r}."
                return Failure(FailureKind.INVALID_JSON, message, candidate.text)
            return {"answer": candidate.text}
        answer = candidate.text.strip()
        if not answer:
            return Failure(FailureKind.EMPTY_ANSWER, "The model ended its answer without a word.", candidate.text)
        return {"answer": answer}
