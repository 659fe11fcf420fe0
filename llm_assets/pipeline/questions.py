"""What a run keeps in its hands: partitions on their way, rows that wait, and the questions asked about them."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime

from llm_assets.pipeline.accounting import Counts
from llm_assets.records import Completion, Key, Partition
from llm_assets.tasks import Task


@dataclass(slots=True, eq=False)
class Slice:
    """One partition on its way through the run."""

    partition: Partition
    counts: dict[str, Counts]
    started_at: datetime
    open_rows: int = 0
    """Rows in the engine's hands, counted once for each task."""
    rows_seen: int = 0
    """Rows that were read and compared."""
    is_read: bool = False
    limit: str | None = None
    """The limit of the run that was reached before its end."""
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
    texts: Sequence[str] = ()
    token_ids: Future[list[list[int]]] | None = None
    is_last: bool = False


def side_by_side(questions: Sequence[Question], tasks: Sequence[Task]) -> list[Question]:
    """Return questions in the order of their rows, those of one row next to each other in the order of the tasks."""
    order = {task.name: index for index, task in enumerate(tasks)}
    place = {key: index for index, key in enumerate(dict.fromkeys(question.rows[0].key for question in questions))}
    return sorted(questions, key=lambda question: (place[question.rows[0].key], order[question.task.name]))
