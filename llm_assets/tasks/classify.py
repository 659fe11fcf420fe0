"""Choose one label for each text, with the probability of every label."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from llm_assets.errors import ConfigError
from llm_assets.prompts import Layout, Tokenizer
from llm_assets.records import Column, Completion, Failure
from llm_assets.tasks.base import Task
from llm_assets.tasks.scoring import ScoringPlan


class Classify(Task):
    """Give each text one of some labels.

    The labels are scored, not decoded. `scores` holds, for every label, the model's probability of that label given
    that it answers with one of them: at each token where labels part, the probabilities of the tokens that continue a
    label, divided by their sum; a label's probability is the product along its tokens. They sum to 1. This is the
    distribution that decoding with a choice constraint samples from at temperature 1, but that such decoding may spell
    a label in any tokens ("b", "ad"), and here each label has just those that the tokenizer gives it.

    The tokens of a host that takes messages (`ServerEngine` with api="chat") are not known beforehand: it answers, and
    says what else could have stood at each place. A token that several labels begin with stays undecided where its own
    answer did not go on with it. That counts in the sum that probabilities are divided by and for no label, so `scores`
    sum to less than 1. Where it could make another label the likeliest, the row fails.

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
            Column(
                "scores", "json", "Every label with its probability; they sum to 1, less what a chat host left open."
            ),
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


class ClassifyPlan(ScoringPlan):
    """Scores the labels."""

    task: Classify

    def __init__(self, task: Classify, tokenizer: Tokenizer, max_model_len: int, layout: Layout) -> None:
        super().__init__(task, tokenizer, max_model_len, layout, task.label_names, "label")

    def read(self, completions: Sequence[Completion]) -> tuple[dict[str, object], str] | Failure:
        found = self.probabilities(completions)
        if isinstance(found, Failure):
            return found
        probabilities = dict(zip(self.task.label_names, found, strict=True))
        # Ties go to the label that stands first.
        ranked = sorted(found, reverse=True)
        label = max(probabilities, key=lambda name: probabilities[name])
        columns = {
            "label": label,
            "confidence": probabilities[label],
            "margin": ranked[0] - ranked[1],
            "scores": probabilities,
        }
        return columns, "stop"
