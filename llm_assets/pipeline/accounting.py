"""What became of the rows, how far a run is, and where its seconds went."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime


@dataclass(slots=True)
class Counts:
    """What became of the rows of one task and partition. Every row read is one of the next four."""

    rows_read: int = 0
    rows_answered: int = 0
    rows_reused: int = 0
    rows_skipped: int = 0
    rows_failed: int = 0
    rows_removed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    @property
    def rows_done(self) -> int:
        """Rows that have found their outcome."""
        return self.rows_answered + self.rows_reused + self.rows_skipped + self.rows_failed


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. Rows count once for each task; `seconds` are since the run began to ask."""

    rows_done: int
    rows_total: int
    partitions_done: int
    partitions_total: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Rows that found their outcome per second."""
        return self.rows_done / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the run is done at this pace; None before the first row."""
        return (self.rows_total - self.rows_done) / self.rows_per_second if self.rows_done else None


@dataclass(frozen=True, slots=True)
class PartitionResult:
    """What a run did to one partition, by task. `seconds` are by stage."""

    partition_key: str
    counts: Mapping[str, Counts]
    seconds: Mapping[str, float]
    started_at: datetime
    finished_at: datetime


ProgressListener = Callable[[Progress], None]


class Stopwatch:
    """Seconds by stage. A stage inside another one does not count for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._stages: list[str] = []
        self._since = time.perf_counter()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._turn()
        self._stages.append(stage)
        try:
            yield
        finally:
            self._turn()
            self._stages.pop()

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._stages:
            self.seconds[self._stages[-1]] += now - self._since
        self._since = now
