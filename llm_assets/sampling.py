"""vLLM's sampling parameters by their vLLM names, checked without importing vLLM."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llm_assets.errors import ConfigError, did_you_mean

REMOVED = {
    "guided_choice": "a Classify task, or `choice` on a Generate task",
    "guided_json": "an Extract task",
    "guided_regex": "`regex` on a Generate task",
    "guided_grammar": "`grammar` on a Generate task",
    "guided_decoding": "an Extract task, or `regex`, `grammar` or `choice` on a Generate task",
    "response_format": "an Extract task",
    "best_of": "`candidates` on a Summarize task",
    "use_beam_search": "`beam_width` on a Summarize task",
    "logits_processors": "the engine argument `logits_processors`",
}
"""Parameters that vLLM no longer has, with what takes their place here."""

SET_BY_TASK = {
    "structured_outputs": "the task sets it from its schema, regex, grammar or choice",
    "n": "set `candidates` on a Summarize task",
    "logprob_token_ids": "a Classify task sets it from its labels",
    "prompt_logprob_token_ids": "prompts are not scored; a Classify task scores its labels",
    "prompt_logprob_start": "prompts are not scored; a Classify task scores its labels",
    "prompt_logprobs": "prompts are not scored; a Classify task scores its labels",
    "output_kind": "answers are stored when they are finished",
    "stream_interval": "answers are stored when they are finished",
    "flat_logprobs": "the engine chooses how log-probabilities travel",
    "detokenize": "answers are stored as text",
    "skip_clone": "it is internal to vLLM",
    "output_text_buffer_length": "it is internal to vLLM",
    "routed_experts_prompt_start": "it is for debugging mixture-of-experts models",
    "trace_decode_token_ids": "it replaces the model's answer",
}
"""Parameters that exist in vLLM and are not a task's to set, with the reason."""


NonEmpty = Annotated[str, Field(min_length=1)]


class RepetitionDetection(BaseModel):
    """vLLM's `RepetitionDetectionParams`: end an answer that repeats itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_pattern_size: int = Field(ge=1, description="Longest repeated pattern, in tokens.")
    min_pattern_size: int = Field(default=0, ge=0, description="Shortest repeated pattern, in tokens; 0 means 1.")
    min_count: int = Field(ge=2, description="How often the pattern must repeat.")

    @model_validator(mode="after")
    def _sizes_agree(self) -> "RepetitionDetection":
        if self.min_pattern_size > self.max_pattern_size:
            raise ConfigError(
                f"min_pattern_size ({self.min_pattern_size}) is more than max_pattern_size ({self.max_pattern_size})."
            )
        return self


class Sampling(BaseModel):
    """How tokens are chosen. Only what is set here is handed to vLLM, whose defaults apply otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(
        default=0.0, ge=0, le=100, description="Randomness; 0 takes the likeliest token (greedy)."
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Sample from the likeliest tokens of this total probability."
    )
    top_k: int = Field(default=0, ge=-1, description="Sample from the k likeliest tokens; 0 or -1 means all.")
    min_p: float = Field(
        default=0.0, ge=0, le=1, description="Drop tokens below this share of the likeliest one's probability."
    )
    # vLLM takes -1 for no seed at all, and its engine dies of one that has no place in 64 bits.
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1, description="Seed of the random choices of each row.")
    max_tokens: int | None = Field(
        default=None, ge=1, description="Most tokens generated; None takes the task's default."
    )
    min_tokens: int = Field(default=0, ge=0, description="Fewest tokens before the answer may end.")
    presence_penalty: float = Field(
        default=0.0, ge=-2, le=2, description="Penalty on tokens the answer already contains."
    )
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2, description="Penalty that grows with a token's count.")
    repetition_penalty: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="Penalty on tokens of prompt and answer; 1 is none."
    )
    stop: NonEmpty | list[NonEmpty] | None = Field(
        default=None, description="Text that ends the answer; it is not part of it."
    )
    stop_token_ids: list[int] | None = Field(default=None, description="Token ids that end the answer.")
    ignore_eos: bool = Field(default=False, description="Go on after the end-of-text token.")
    bad_words: list[NonEmpty] | None = Field(default=None, description="Words that are never generated.")
    include_stop_str_in_output: bool = Field(default=False, description="Keep the stop text in the answer.")
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        default=None, description="Log-probabilities of the k likeliest tokens at each step."
    )
    logit_bias: dict[int, float] | None = Field(default=None, description="Added to the logits of these token ids.")
    allowed_token_ids: list[int] | None = Field(default=None, description="Only these token ids may be generated.")
    skip_special_tokens: bool = Field(default=True, description="Leave special tokens out of the answer's text.")
    spaces_between_special_tokens: bool = Field(default=True, description="Put spaces between special tokens.")
    thinking_token_budget: int | None = Field(
        default=None,
        ge=-1,
        description="Most tokens of a reasoning model's thoughts; needs the engine's reasoning_config.",
    )
    repetition_detection: RepetitionDetection | None = Field(
        default=None, description="End answers that repeat themselves."
    )
    skip_reading_prefix_cache: bool | None = Field(
        default=None, description="Compute the prompt anew for these requests."
    )
    watermarking: bool = Field(default=True, description="Apply the engine's watermark, if it is configured with one.")
    extra_args: dict[str, Any] | None = Field(default=None, description="Arguments of custom vLLM plugins.")

    @model_validator(mode="before")
    @classmethod
    def _explain_unknown_names(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name in data:
                if name in REMOVED:
                    raise ConfigError(
                        f"Sampling parameter {name!r} was removed from vLLM. Use {REMOVED[name]} instead."
                    )
                if name in SET_BY_TASK:
                    raise ConfigError(f"Sampling parameter {name!r} is not set on a task: {SET_BY_TASK[name]}.")
                if name not in cls.model_fields:
                    raise ConfigError(f"Unknown sampling parameter {name!r}. {did_you_mean(name, cls.model_fields)}")
        return data

    @model_validator(mode="after")
    def _bounds_agree(self) -> "Sampling":
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ConfigError(f"min_tokens ({self.min_tokens}) is more than max_tokens ({self.max_tokens}).")
        return self

    @property
    def is_greedy(self) -> bool:
        """Whether the same prompt gives the same answer each time."""
        return self.temperature == 0

    def arguments(self, **defaults: object) -> dict[str, object]:
        """Return vLLM's keyword arguments: what was set here, over the caller's defaults, over temperature 0."""
        chosen = self.model_dump(exclude_unset=True, exclude_none=True)
        return {"temperature": 0.0, **defaults, **chosen}
