"""Choose one label for each text, with the probability of every label."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from llm_assets.errors import ConfigError
from llm_assets.prompts import Layout, Tokenizer
from llm_assets.records import Column, Completion, Failure, FailureKind, ScoreTokens
from llm_assets.tasks.base import Plan, Query, Task

MAX_SCORED_TOKENS = 128
"""Tokens that one request can score; vLLM's limit."""


class Classify(Task):
    """Give each text one of some labels.

    The labels are scored, not decoded. `scores` holds, for every label, the model's probability of that label given
    that it answers with one of them: at each token where labels part, the probabilities of the tokens that continue a
    label, divided by their sum; a label's probability is the product along its tokens. They sum to 1. This is the
    distribution that decoding with a choice constraint samples from at temperature 1, but that such decoding may spell
    a label in any tokens ("b", "ad"), and here each label has just those that the tokenizer gives it.

    `confidence` is the probability of the chosen label, and `margin` its distance to the next one. Neither is the
    probability that the label is right: models are often surer than they should be. Compare with labelled rows.
    """

    type: Literal["classify"] = "classify"
    labels: tuple[str, ...] | dict[str, str] = Field(
        description="The labels; or each label with a description of when it applies."
    )

    @model_validator(mode="after")
    def _labels_differ(self) -> "Classify":
        names = self.label_names
        for name in names:
            if not name.strip() or name != name.strip():
                raise ConfigError(
                    f"Task {self.name!r}: label {name!r} is empty or has white space around it. Remove it."
                )
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"Task {self.name!r}: label {name!r} is given {names.count(name)} times. Keep one.")
        if len(names) < 2:
            raise ConfigError(f"Task {self.name!r}: needs two labels or more, got {list(names)}.")
        for example in self.examples:
            if example.answer not in names:
                raise ConfigError(
                    f"Task {self.name!r}: the example {example.text[:40]!r} has the answer {example.answer!r}, "
                    f"which is no label. Labels: {', '.join(names)}."
                )
        changed = sorted(self.sampling.model_fields_set)
        if changed:
            raise ConfigError(
                f"Task {self.name!r}: labels are scored, not sampled, so sampling parameters have no effect: "
                f"{', '.join(changed)}. Remove them, or use a Generate task with `choice` to sample labels."
            )
        return self

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels in their order."""
        return tuple(self.labels)

    @property
    def columns(self) -> tuple[Column, ...]:
        return (
            Column("label", "text", f"The likeliest label: {', '.join(self.label_names)}."),
            Column(
                "confidence", "number", "The model's probability of this label, given that it answers with a label."
            ),
            Column("margin", "number", "Confidence less the probability of the second likeliest label."),
            Column("scores", "json", "Every label with its probability; they sum to 1."),
        )

    def settings(self) -> dict[str, object]:
        # A dict's order is lost in canonical JSON, but the model sees the labels in their order.
        return {**super().settings(), "label_order": list(self.label_names)}

    def system_message(self) -> str:
        lines = [self.instruction or "Classify the text."]
        if isinstance(self.labels, dict):
            lines += [f"- {label}: {description}" for label, description in self.labels.items()]
        return "\n".join([*lines, f"Answer with exactly one of: {', '.join(self.label_names)}."])

    def plan(self, tokenizer: Tokenizer, max_model_len: int, layout: Layout = "instruction_first") -> "ClassifyPlan":
        return ClassifyPlan(self, tokenizer, max_model_len, layout)


@dataclass(frozen=True, slots=True)
class Branch:
    """A place where labels part: the tokens before it, and for each way on its token ids and the labels beyond it.

    A way on has several token ids only where a label ends and the model has several tokens to end with.
    """

    path: tuple[int, ...]
    ways: tuple[tuple[tuple[int, ...], frozenset[int]], ...]


def label_branches(labels: Sequence[Sequence[int]], end_token_ids: Sequence[int]) -> list[Branch]:
    """Return the branches of the trie of some token sequences; shared runs of tokens need no question.

    A label that is the beginning of another ends there, with one of `end_token_ids`.
    """
    branches: list[Branch] = []

    def walk(path: tuple[int, ...], members: list[int]) -> None:
        if len(members) < 2:
            return
        depth = len(path)
        ways: dict[tuple[int, ...], list[int]] = {}
        for member in members:
            ends = len(labels[member]) == depth
            ways.setdefault(tuple(end_token_ids) if ends else (labels[member][depth],), []).append(member)
        if len(ways) > 1:
            branches.append(Branch(path, tuple((ids, frozenset(below)) for ids, below in ways.items())))
        for ids, below in ways.items():
            if ids != tuple(end_token_ids):
                walk((*path, *ids), below)

    walk((), list(range(len(labels))))
    return branches


class ClassifyPlan(Plan):
    """Scores the labels: one request for each place where they part, all of them side by side."""

    task: Classify

    def __init__(self, task: Classify, tokenizer: Tokenizer, max_model_len: int, layout: Layout) -> None:
        encoded = tokenizer.encode_literal(task.label_names)
        for index, ids in enumerate(encoded):
            if not ids or encoded.index(ids) != index:
                raise ConfigError(
                    f"Task {task.name!r}: to this model's tokenizer the label {task.label_names[index]!r} is the same "
                    f"as {task.label_names[encoded.index(ids)]!r}. Choose labels with different words."
                )
        self.branches = label_branches(encoded, tokenizer.end_token_ids)
        queries = []
        self._branch_of: list[int] = []
        """The branch that each query belongs to: one with very many ways on takes several queries."""
        for number, branch in enumerate(self.branches):
            token_ids = [token_id for ids, _ in branch.ways for token_id in ids]
            for start in range(0, len(token_ids), MAX_SCORED_TOKENS):
                scored = tuple(token_ids[start : start + MAX_SCORED_TOKENS])
                queries.append(Query(ScoreTokens(scored), branch.path))
                self._branch_of.append(number)
        super().__init__(task, tokenizer, max_model_len, queries, layout)

    def read(self, completions: Sequence[Completion]) -> tuple[dict[str, object], str] | Failure:
        labels = self.task.label_names
        logs = [0.0] * len(labels)
        scores: list[dict[int, float]] = [{} for _ in self.branches]
        for number, completion in zip(self._branch_of, completions, strict=True):
            scores[number].update(completion.scores)
        for branch, found in zip(self.branches, scores, strict=True):
            ways = [log_sum_exp([found.get(i, -math.inf) for i in ids]) for ids, _ in branch.ways]
            total = log_sum_exp(ways)
            if not math.isfinite(total):
                return Failure(
                    FailureKind.ENGINE_ERROR,
                    f"No label's next token has a finite log-probability: {found}.",
                )
            for way, (_, below) in zip(ways, branch.ways, strict=True):
                for index in below:
                    logs[index] += way - total
        probabilities = {label: math.exp(log) for label, log in zip(labels, logs, strict=True)}
        # Ties go to the label that stands first.
        ranked = sorted(probabilities.values(), reverse=True)
        label = max(probabilities, key=lambda name: probabilities[name])
        columns = {
            "label": label,
            "confidence": probabilities[label],
            "margin": ranked[0] - ranked[1],
            "scores": probabilities,
        }
        return columns, "stop"


def log_sum_exp(logs: Sequence[float]) -> float:
    """Return log(sum(exp(x))) without overflow; minus infinity for nothing."""
    peak = max(logs, default=-math.inf)
    if not math.isfinite(peak):
        return peak
    return peak + math.log(math.fsum(math.exp(value - peak) for value in logs))
