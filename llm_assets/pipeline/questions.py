"""What a run keeps in its hands: partitions on their way, rows that wait, and the questions asked about them."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

from llm_assets.errors import LLMAssetsError
from llm_assets.pipeline.accounting import Counts
from llm_assets.pipeline.layout import common_beginning
from llm_assets.records import Completion, Key, Partition
from llm_assets.tasks import Task

WORTH_SORTING = 0.2
"""Rows are sorted by their texts if so large a share of all characters is the beginning of the text before."""

TOKENIZED_TOGETHER = 64
"""Texts that are tokenised in one call: few, so that the engine gets the first of a run soon."""

NEAR_THE_END = 1000
"""Rows are asked longest text first when no more than so many come after them."""


@dataclass(slots=True, eq=False)
class Slice:
    """One partition on its way through the run."""

    partition: Partition
    counts: dict[str, Counts]
    started_at: datetime
    rows: int = 0
    """Its rows, as counted when the run began."""
    open_rows: int = 0
    """Rows in the engine's hands, counted once for each task."""
    rows_seen: int = 0
    """Rows that were read and compared."""
    is_read: bool = False
    is_finished: bool = False
    limit: str | None = None
    """The limit of the run that was reached before its end."""
    error: LLMAssetsError | None = None
    """Why it failed."""
    failures: Counter[str] = field(default_factory=Counter)
    """Failures of its rows by kind, counted once for each task."""
    tokens: int = 0
    """Tokens since seconds were last shared out among the partitions."""
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))


@dataclass(frozen=True, slots=True)
class OpenRow:
    """A row that waits for an answer, with the attempts it has behind it."""

    slice: Slice
    key: Key
    attempts: int


@dataclass(slots=True, eq=False)
class Question:
    """One text that a task is asked about, for one row or for several with the same text."""

    task: Task
    text: str
    hash: str
    rows: list[OpenRow]
    is_second_try: bool = False
    """Whether the answer was cut off and is now given more room."""
    completions: dict[int, Completion] = field(default_factory=dict)

    @property
    def name(self) -> tuple[str, str]:
        """The task and the text's hash: questions of the same name have the same answer."""
        return self.task.name, self.hash


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of a partition that were read together, with the questions about them, and their texts being tokenised.

    The last chunk of a partition is empty.
    """

    slice: Slice
    questions: int = 0
    token_ids: Sequence[Future[dict[str, list[int]]]] = ()
    """The tokens of each text, some texts after others, in the order in which the questions are asked."""
    is_last: bool = False


def side_by_side(questions: Sequence[Question], tasks: Sequence[Task]) -> list[list[Question]]:
    """Return the questions of each row, in the order of the tasks; rows keep their order."""
    order = {task.name: index for index, task in enumerate(tasks)}
    rows: dict[Key, list[Question]] = {}
    for question in questions:
        rows.setdefault(question.rows[0].key, []).append(question)
    return [sorted(row, key=lambda question: order[question.task.name]) for row in rows.values()]


def best_order(rows: Sequence[list[Question]], rows_after: int) -> list[list[Question]]:
    """Return the rows of a chunk, which so many rows come after, in the order in which they are best asked.

    Rows whose texts begin alike become neighbours, so that the later ones find the beginning in the engine's prefix
    cache however small that is. Near the end of a run rows are asked longest text first: where long texts have long
    answers, the engine does not end with a few of them. Otherwise rows keep their order.
    """
    by_text = sorted(rows, key=lambda row: row[0].text)
    texts = [row[0].text for row in by_text]
    shared = sum(common_beginning(text, other) for text, other in pairwise(texts))
    if shared >= WORTH_SORTING * sum(map(len, texts)):
        return by_text
    return sorted(rows, key=lambda row: -len(row[0].text)) if rows_after <= NEAR_THE_END else list(rows)
