"""The protocol between the pipeline and whatever generates text."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from llm_assets.prompts import Tokenizer
from llm_assets.records import Completion, Constraint, EngineInfo, Request


class Engine(Protocol):
    """A stream of requests in, a stream of completions out. Only `load` and `run` load the model."""

    @property
    def identity(self) -> str:
        """What the answers depend on: the model and its revision. Part of every fingerprint; never loads the model."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, without its weights."""
        ...

    @property
    def max_model_len(self) -> int:
        """The most tokens of prompt and answer together."""
        ...

    @property
    def cache_block(self) -> int:
        """Tokens in a block of the prefix cache, which holds whole blocks only; 0 without a cache."""
        ...

    @property
    def info(self) -> EngineInfo:
        """What the answers came from, for the tables."""
        ...

    @property
    def idle_seconds(self) -> float:
        """Seconds, of all runs so far, in which the loaded engine had nothing to compute though a run went on."""
        ...

    def check(self, constraint: Constraint) -> None:
        """Raise a ConfigError if the constraint cannot be enforced, before the model is loaded."""
        ...

    def load(self) -> None:
        """Load the model if it is not loaded; `run` does so by itself."""
        ...

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Pull requests as places come free, and yield each one's completion as it finishes, in any order.

        A request that cannot be answered is a completion with an error; what stops the whole engine is raised as an
        EngineError. Closing the iterator drops what is in flight.
        """
        ...

    def close(self) -> None:
        """Free the model's memory. A later `run` loads it again."""
        ...
