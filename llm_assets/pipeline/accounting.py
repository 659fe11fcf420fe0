"""What became of the rows, how far a run is, and where its seconds went."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime

from llm_assets.errors import FailureThresholdError
from llm_assets.records import EngineInfo, Prices
from llm_assets.secrets import masked

STAGES = ("read", "prompt", "generate", "write")
"""What the seconds of a partition are spent on. Loading the model counts apart."""


@dataclass(slots=True)
class Counts:
    """What became of the rows of one task and partition. Every row of the partition is one of the next five."""

    rows_read: int = 0
    rows_answered: int = 0
    rows_reused: int = 0
    rows_skipped: int = 0
    rows_failed: int = 0
    rows_left: int = 0
    rows_removed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    layout: str = "instruction_first"
    """What the prompts begin with."""
    expected_tokens: int = 0
    """Prompt tokens that, counted beforehand, the questions leave to compute; see `computed_tokens`."""

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens that were computed: those that the prefix cache did not have."""
        return self.prompt_tokens - self.cached_tokens

    def cost(self, prices: Prices | None) -> float | None:
        """Return what the tokens cost; None without prices."""
        return prices and prices.cost(self.prompt_tokens, self.cached_tokens, self.output_tokens)

    @property
    def rows_done(self) -> int:
        """Rows that have found their outcome, if only to be left for another run."""
        return self.rows_answered + self.rows_reused + self.rows_skipped + self.rows_failed + self.rows_left


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
    """What a run did to one partition, by task.

    `seconds` are by stage, and under `idle` those in which the engine had nothing to compute. `status` is running,
    complete, failed, or limit: the run reached `limit`, such as max_rows=1000, before the partition's end.
    """

    partition_key: str
    counts: Mapping[str, Counts]
    seconds: Mapping[str, float]
    started_at: datetime
    finished_at: datetime
    status: str
    limit: str | None = None

    @property
    def seconds_total(self) -> float:
        """The seconds of all stages; loading is not among them, and idle time overlaps them."""
        return sum(self.seconds.get(stage, 0.0) for stage in STAGES)

    def throughput_rows(self, run_id: str, source: str, engine: EngineInfo) -> list[dict[str, object]]:
        """Return the partition's rows of `llm_throughput`, one for each task."""
        seconds = {f"seconds_{stage}": self.seconds.get(stage, 0.0) for stage in STAGES}
        total = self.seconds_total
        rows: list[dict[str, object]] = []
        for task, counts in self.counts.items():
            asked, tokens = counts.rows_answered, counts.prompt_tokens + counts.output_tokens
            rows.append(
                {
                    "run_id": run_id,
                    "source": source,
                    "task": task,
                    "partition_key": self.partition_key,
                    "status": self.status,
                    "started_at": self.started_at,
                    "finished_at": self.finished_at,
                    **asdict(counts),
                    **seconds,
                    "seconds_total": total,
                    "seconds_idle": self.seconds.get("idle", 0.0),
                    "seconds_load": self.seconds.get("load", 0.0),
                    "rows_per_second": asked / total if asked and total else None,
                    "tokens_per_second": tokens / total if tokens and total else None,
                    "tokens_per_second_per_gpu": tokens / total / engine.gpus
                    if tokens and total and engine.gpus
                    else None,
                    "cost": counts.cost(engine.prices),
                    "currency": engine.prices and engine.prices.currency,
                    **{
                        key: masked(value) if isinstance(value, str) else value
                        for key, value in asdict(engine).items()
                        if key not in ("prices", "most_scored")
                    },
                }
            )
        return rows


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


def check_failures(failures: Counter[str], tried: int, max_share: float | None, max_rows: int | None) -> None:
    """Compare a partition's failures by kind, of all rows that were `tried`, with what its settings accept.

    Raises:
        FailureThresholdError: there are more.
    """
    failed = failures.total()
    limits = []
    if max_share is not None and failed > max_share * tried:
        limits.append(f"max_failed_share={max_share:g}")
    if max_rows is not None and failed > max_rows:
        limits.append(f"max_failed_rows={max_rows}")
    if limits:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in failures.most_common())
        raise FailureThresholdError(
            f"{failed} of {tried} answers failed ({kinds}), more than {' and '.join(limits)} accepts. "
            "All other answers are in their tables; llm_failures has the reasons."
        )
