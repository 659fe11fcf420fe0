"""A task tried on some rows, in one way or in several, side by side."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import fmean

from llm_assets.engines import Engine
from llm_assets.engines.other_model import with_model
from llm_assets.inspection.answers import content
from llm_assets.inspection.asking import Asked, ask, plan_for
from llm_assets.inspection.variants import Variant
from llm_assets.pipeline import Pipeline
from llm_assets.records import Answer, Failure, Key, Row


@dataclass(frozen=True, slots=True)
class Column:
    """How one variant did over all rows. Means are over the rows that it answered; None if it answered none."""

    variant: Variant
    failed: int
    confidence: float | None
    prompt_tokens: float | None
    output_tokens: float | None


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """A row with what came of it, one outcome for each variant."""

    key: Key
    text: str
    outcomes: tuple[Answer | Failure, ...]
    differs: bool
    """Whether the variants do not all say the same."""


@dataclass(frozen=True, slots=True)
class Preview:
    """Some rows with their answers in each variant."""

    rows: tuple[PreviewRow, ...]
    columns: tuple[Column, ...]

    @property
    def differing(self) -> int:
        """Rows in which the variants do not all say the same."""
        return sum(row.differs for row in self.rows)


def preview(pipeline: Pipeline, variants: Sequence[Variant], rows: Sequence[Row]) -> Preview:
    """Ask about some rows in each variant and return the answers. Nothing is written, and no answer is reused.

    Models are loaded one after another, each once, and never two at a time. Only the pipeline's own, where no other is
    asked, stays loaded.
    """
    texts = [variants[0].task.template.render(row.values) for row in rows]
    outcomes = [[asked.outcome for asked in some] for some in ask_variants(pipeline, variants, texts)]
    found = []
    for number, (row, text) in enumerate(zip(rows, texts, strict=True)):
        own = tuple(some[number] for some in outcomes)
        said = [_said(variant, outcome) for variant, outcome in zip(variants, own, strict=True)]
        found.append(PreviewRow(row.key, text, own, any(other != said[0] for other in said[1:])))
    columns = tuple(_column(variant, some) for variant, some in zip(variants, outcomes, strict=True))
    return Preview(tuple(found), columns)


def ask_variants(pipeline: Pipeline, variants: Sequence[Variant], texts: Sequence[str]) -> list[list[Asked]]:
    """Ask about some texts in each variant; return what came of each, in the order of the variants."""
    engines = {variant.model: engine_of(pipeline, variant) for variant in variants}
    found: dict[int, list[Asked]] = {}
    with ExitStack() as closing:
        for engine in engines.values():
            if len(engines) > 1 or engine is not pipeline.engine:
                closing.callback(engine.close)
        # Everything that can be wrong is found before the first model is loaded.
        plans = [plan_for(pipeline, variant.task, engines[variant.model]) for variant in variants]
        for model, engine in engines.items():
            for number, variant in enumerate(variants):
                if variant.model == model:
                    found[number] = ask(plans[number], engine, texts)
            if len(engines) > 1:
                engine.close()
    return [found[number] for number in range(len(variants))]


def engine_of(pipeline: Pipeline, variant: Variant) -> Engine:
    """Return the engine that a variant is asked with, not loaded."""
    return pipeline.engine if variant.model is None else with_model(pipeline.engine, variant.model)


def _said(variant: Variant, outcome: Answer | Failure) -> object:
    return outcome.kind if isinstance(outcome, Failure) else content(variant.task, outcome.columns)


def _column(variant: Variant, outcomes: Sequence[Answer | Failure]) -> Column:
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    sure = [value for answer in answers if isinstance(value := answer.columns.get("confidence"), float)]
    return Column(
        variant,
        len(outcomes) - len(answers),
        fmean(sure) if sure else None,
        fmean([answer.prompt_tokens for answer in answers]) if answers else None,
        fmean([answer.output_tokens for answer in answers]) if answers else None,
    )
