"""An edited task against its stored answers: how many rows would be answered otherwise."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from random import Random

from llm_assets.errors import ConfigError
from llm_assets.inspection.answers import answer_columns, category_column, content
from llm_assets.inspection.preview import ask_variants, engine_of
from llm_assets.inspection.reading import read_only_store
from llm_assets.inspection.variants import Variant
from llm_assets.pipeline import Pipeline
from llm_assets.prompts.text import content_hash
from llm_assets.records import Answer, Failure, Key

Z_95 = 1.959964
"""The standard normal deviate that leaves 2.5 % on either side."""


@dataclass(frozen=True, slots=True)
class Flip:
    """A row that is answered otherwise than it was."""

    key: Key
    text: str
    old: Mapping[str, object]
    new: Answer | Failure


@dataclass(frozen=True, slots=True)
class Canary:
    """Rows asked again and compared with their stored answers."""

    variant: Variant
    table: str
    compared: int
    flips: tuple[Flip, ...]
    failed: int
    """Flips that are failures: there was an answer, and now there is none."""
    changed: int
    """Rows left out because their text is another one now, or they are gone."""
    by_column: Mapping[str, int]
    """Flips in each column of the answer, failures apart."""
    categories: Mapping[tuple[str, str], int]
    """For answers that are one of a few values: rows by the old and the new one; empty for all others."""
    low: float
    high: float
    """The 95 % confidence interval of the share of flips, after Wilson."""

    @property
    def rate(self) -> float:
        """The share of the compared rows that are answered otherwise."""
        return len(self.flips) / self.compared if self.compared else 0.0


def canary(
    pipeline: Pipeline, variant: Variant, count: int, seed: int, partition_keys: Sequence[str] | None = None
) -> Canary:
    """Ask again about rows that have an answer to an earlier form of the task, and compare.

    Args:
        pipeline: A read-only pipeline.
        variant: The task as it is now, or with other settings.
        count: Rows to compare, chosen at random.
        seed: The same rows for the same seed.
        partition_keys: Only answers of these partitions.

    Raises:
        ConfigError: there are no stored answers, or all are the task's own as it is.
    """
    store, task = read_only_store(pipeline), variant.task
    fingerprint = task.fingerprint(engine_of(pipeline, variant).identity, pipeline.layouts[task.name])
    total = store.count_answers(task.name, partition_keys, fingerprint)
    table = store.table_name(task.name)
    if not total:
        raise ConfigError(_nothing(table, store.count_answers(task.name, partition_keys)))
    positions = Random(seed).sample(range(total), min(count, total))
    stored = {}
    keys = store.answered_keys(task.name, positions, partition_keys, fingerprint)
    for start in range(0, len(keys), 1000):
        stored |= store.answers(task.name, keys[start : start + 1000])
    texts: dict[Key, str] = {}
    for row in pipeline.source.rows(keys).values():
        text = task.template.render(row.values)
        if content_hash(text) == stored[row.key]["content_hash"]:
            texts[row.key] = text
    if not texts:
        raise ConfigError(
            f"None of the {len(keys):,} answers of {table} that were chosen is about a text that stands in the source "
            "now, so there is nothing to compare. Materialize the asset with the task as it was before the edit."
        )
    [asked] = ask_variants(pipeline, [variant], list(texts.values()))
    names = store.existing_columns(
        task.name, [column for column in task.columns if column.name in answer_columns(task)]
    )
    category = category_column(task)
    flips: list[Flip] = []
    by_column: Counter[str] = Counter()
    categories: Counter[tuple[str, str]] = Counter()
    for (key, text), outcome in zip(texts.items(), [item.outcome for item in asked], strict=True):
        old = content(task, stored[key], names)
        new = None if isinstance(outcome, Failure) else content(task, outcome.columns, names)
        if category in names:
            assert category is not None
            categories[str(old[category]), "failed" if new is None else str(new[category])] += 1
        if new == old:
            continue
        flips.append(Flip(key, text, old, outcome))
        if new is not None:
            by_column.update(name for name in names if new[name] != old[name])
    low, high = wilson(len(flips), len(texts))
    failed = sum(isinstance(flip.new, Failure) for flip in flips)
    changed = len(keys) - len(texts)
    return Canary(variant, table, len(texts), tuple(flips), failed, changed, by_column, categories, low, high)


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share: Wilson's, which holds for few rows and for shares near 0 and 1.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if not total:
        return 0.0, 1.0
    share, z2 = hits / total, Z_95**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z_95 * sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _nothing(table: str, stored: int) -> str:
    if stored:
        return (
            f"All {stored:,} stored answers of {table} are of the task as it is now, so there is no edit to compare. "
            "Edit the task, or try an edit with --vary, such as --vary max_tokens=64."
        )
    return (
        f"There are no stored answers in {table} to compare with. Materialize the asset with the task as it is before "
        "the edit, then edit it and ask for the canary; or look at some answers without: leave out --canary."
    )
