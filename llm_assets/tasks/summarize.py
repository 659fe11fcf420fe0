"""Write a short summary of each text."""

from typing import Literal

from pydantic import Field, model_validator

from llm_assets.errors import ConfigError
from llm_assets.prompts import Layout, Tokenizer
from llm_assets.records import BeamSearch, Candidate, Column, Failure, FailureKind, GenerateText
from llm_assets.tasks.base import GenerationPlan, GenerationTask, Query, generation_columns

CANDIDATE_TEMPERATURE = 0.7
TOKENS_PER_WORD = 3
"""Generous for English (about 1.3), enough for languages whose words take several tokens."""


class Summarize(GenerationTask):
    """Summarize each text in a sentence or a few.

    The summary is greedy by default. With `candidates` several are sampled and the one whose tokens have the highest
    mean log-probability is kept. With `beam_width` it is the best that beam search finds.
    """

    type: Literal["summarize"] = "summarize"
    max_words: int = Field(default=30, ge=1, description="Words the model is told to use at most.")
    candidates: int = Field(default=1, ge=1, le=64, description="Summaries to sample, of which the likeliest is kept.")
    beam_width: int | None = Field(default=None, ge=2, le=10, description="Search with this many beams.")
    length_penalty: float = Field(
        default=1.0, allow_inf_nan=False, description="With beams: above 1 favours longer summaries."
    )

    @model_validator(mode="after")
    def _one_strategy(self) -> "Summarize":
        if self.beam_width and self.candidates > 1:
            raise ConfigError(
                f"Task {self.name!r}: set candidates ({self.candidates}) or beam_width ({self.beam_width})."
            )
        if self.candidates > 1 and "temperature" in self.sampling.model_fields_set and self.sampling.is_greedy:
            raise ConfigError(
                f"Task {self.name!r}: {self.candidates} candidates at temperature 0 would all be equal. Raise it, or "
                "leave it out."
            )
        if self.candidates > 1 and not self.confidence:
            raise ConfigError(
                f"Task {self.name!r}: the likeliest of {self.candidates} candidates is chosen by its "
                "log-probabilities. Leave confidence=True, or candidates=1."
            )
        unused = self.sampling.model_fields_set - {"max_tokens"}
        if self.beam_width and unused:
            raise ConfigError(
                f"Task {self.name!r}: beam search does not sample; {', '.join(sorted(unused))} would have no effect."
            )
        return self

    @model_validator(mode="after")
    def _limits_agree(self) -> "Summarize":
        self.sampling_arguments(self._max_tokens)
        return self

    @property
    def _max_tokens(self) -> int:
        return self.sampling.max_tokens or self.max_words * TOKENS_PER_WORD

    @property
    def reusable(self) -> bool:
        return self.reuse_sampled or (self.sampling.is_greedy and self.candidates == 1)

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("summary", "text", "The summary."), *generation_columns(self.sampling))

    def system_message(self) -> str:
        instruction = self.instruction or "Summarize the text. State only what it says."
        return f"{instruction}\nUse at most {self.max_words} words."

    def plan(self, tokenizer: Tokenizer, max_model_len: int, layout: Layout = "instruction_first") -> "SummarizePlan":
        limit = self._max_tokens
        if self.beam_width:
            ask = BeamSearch(self.beam_width, limit, self.length_penalty)
        else:
            several = {"n": self.candidates, "temperature": CANDIDATE_TEMPERATURE} if self.candidates > 1 else {}
            ask = GenerateText(self.sampling_arguments(limit, **several))
        return SummarizePlan(self, tokenizer, max_model_len, [Query(ask)], layout)


class SummarizePlan(GenerationPlan):
    """Generates the summary, or several to choose from."""

    def parse(self, candidate: Candidate) -> dict[str, object] | Failure:
        summary = candidate.text.strip()
        if not summary:
            return Failure(FailureKind.EMPTY_ANSWER, "The model ended its answer without a word.", candidate.text)
        return {"summary": summary}
