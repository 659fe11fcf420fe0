"""What a run would do, as data."""

from dataclasses import dataclass

from llm_assets.inspection.estimate import Bin
from llm_assets.inspection.forecast import TimeForecast
from llm_assets.inspection.layouts import LayoutChoice
from llm_assets.prompts import Layout


@dataclass(frozen=True, slots=True)
class RowTexts:
    """The texts of one template over all rows, in tokens."""

    template: str
    tasks: tuple[str, ...]
    rows: int
    empty: int
    sampled: int
    """Distinct texts whose tokens were counted; the histogram and the quantiles are scaled from them."""
    bins: tuple[Bin, ...]
    median: int
    p95: int
    longest_bytes: int


@dataclass(frozen=True, slots=True)
class TaskForecast:
    """What a run would do with one task's rows.

    `rows` are `to_ask`, `duplicates`, `reused`, `skipped`, `empty`, `failed_before`, `too_long_failed` and `left`.
    Tokens are those of the rows to ask.
    """

    task: str
    table: str
    table_exists: bool
    layout: Layout
    rows: int
    to_ask: int
    duplicates: int
    """Rows with the same text as another row that is to be asked, whose answer they take."""
    reused: int
    """Rows that take an answer from the ledger."""
    skipped: int
    empty: int
    failed_before: int
    """Failures that are not asked again."""
    left: int
    """Rows that a run which asks only failed rows leaves alone."""
    too_long_failed: int
    too_long_cut: int
    """Rows whose text is cut; they are among those to ask."""
    too_long_is_exact: bool
    max_text_tokens: int
    prompt_tokens: int
    computed_tokens: int
    """Prompt tokens that the prefix cache will not have."""
    output_tokens: int | None
    """None if the task has no stored answers whose length could be taken."""
    most_output_tokens: int

    @property
    def failing(self) -> int:
        """Rows that will end as failures without being asked."""
        return self.empty + self.failed_before + self.too_long_failed


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a run over some partitions would do."""

    source: str
    partitions: tuple[str, ...] | None
    """Their keys; None for all rows, or those of every partition."""
    every_partition: tuple[str, ...] | None
    """Which partitions there are, in words, if it is every one of them; None else."""
    rows: int
    in_no_partition: int
    """Rows of the source that no run asks about, where it is every partition; they are not among `rows`."""
    model: str
    revision: str
    texts: tuple[RowTexts, ...]
    layouts: tuple[LayoutChoice, ...]
    tasks: tuple[TaskForecast, ...]
    times: tuple[TimeForecast, ...]
    limits: tuple[str, ...]
    """Limits of the settings at which a run would stop before all is asked."""
    refusal: str | None
    """Why a run would refuse to begin."""
