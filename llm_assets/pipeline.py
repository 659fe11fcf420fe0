"""Run one partition of one table for a set of tasks: read, compare, ask, parse, write."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import chain

from pydantic import BaseModel, ConfigDict, Field

from llm_assets.engines import Engine
from llm_assets.errors import AccountingError, ConfigError
from llm_assets.prompts.text import content_hash
from llm_assets.records import Answer, Completion, Failure, FailureKind, Key, Partition, Request, Row
from llm_assets.tables import AnswerToWrite, Batch, Database, FailureToWrite, Output, Source, SourceTable, Store
from llm_assets.tasks import PROVENANCE_COLUMNS, Plan, Task

MAX_ATTEMPTS = 3
"""How often a row is asked in vain, when asking again may help."""


class PipelineSettings(BaseModel):
    """How rows are worked through."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    commit_rows: int = Field(default=200, ge=1, description="Commit when this many answers are ready ...")
    commit_seconds: float = Field(default=5.0, gt=0, description="... or when this many seconds have passed.")
    full_refresh: bool = Field(default=False, description="Ask about every row again, answered or not.")
    output_schema: str | None = Field(default=None, description="Database schema of the output tables.")


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


class Pipeline:
    """A source table, its tasks, and the engine and output tables they share. Checked before any model is loaded.

    Raises:
        LLMAssetsError: a setting, a database, the source or an output table is not as it must be.
    """

    def __init__(
        self,
        source: Source,
        tasks: Sequence[Task],
        engine: Engine,
        source_database: Database,
        output_database: Database,
        partition_column: str | None = None,
        settings: PipelineSettings | None = None,
    ) -> None:
        names = [task.name for task in tasks]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"Two tasks are named {name!r}. Each task has an output table; give them different names."
                )
        self.tasks = tuple(tasks)
        self.engine = engine
        self.settings = settings or PipelineSettings()
        for database in dict.fromkeys((source_database, output_database)):
            database.check()
        columns = dict.fromkeys(column for task in tasks for column in task.template.columns)
        self.source = SourceTable(source_database, source, tuple(columns), partition_column)
        for name in self.source.key_columns:
            if name.lower() in PROVENANCE_COLUMNS:
                raise ConfigError(
                    f"The key column {name!r} of {source.name!r} has the name of a column that every answer has. Give "
                    f"it another name in a view, and read that. Taken are {', '.join(PROVENANCE_COLUMNS)}."
                )
        outputs = [
            Output(task.name, output_table_name(source, task), task.columns, f"{type(task).__name__} of {source.name}.")
            for task in tasks
        ]
        self.store = Store(output_database, self.source, outputs, self.settings.output_schema)
        self.store.prepare()
        self.fingerprints = {task.name: task.fingerprint(engine.identity) for task in tasks}
        self._plans: dict[str, Plan] | None = None

    def plans(self) -> dict[str, Plan]:
        """Return the tasks made ready for the engine's model, by name; made once, without loading the model."""
        if self._plans is None:
            for task in self.tasks:
                if task.constraint is not None:
                    self.engine.check(task.constraint)
            length = self.engine.max_model_len
            self._plans = {task.name: task.plan(self.engine.tokenizer, length) for task in self.tasks}
        return self._plans

    def run(self, partition: Partition, run_id: str, listener: ProgressListener | None = None) -> PartitionResult:
        """Bring one partition's answers up to date; see `run_all`."""
        [result] = self.run_all([partition], run_id, listener)
        return result

    def run_all(
        self, partitions: Sequence[Partition], run_id: str, listener: ProgressListener | None = None
    ) -> Iterator[PartitionResult]:
        """Bring partitions' answers up to date and yield what was done to each as it is complete.

        All partitions share one queue of the engine, which is loaded only if a row must be asked. Answers are committed
        while it runs; whatever stops the run, they stay.

        Raises:
            SourceError: a key in a partition is NULL or stands twice.
            AccountingError: the engine lost, doubled or invented a request.
        """
        return _Run(self, partitions, run_id, listener).results()


def output_table_name(source: Source, task: Task) -> str:
    """Return the name of a task's output table."""
    return f"{source.output_prefix}_{task.name}"


@dataclass(slots=True, eq=False)
class _Slice:
    """One partition on its way through the run."""

    partition: Partition
    counts: dict[str, Counts]
    started_at: datetime
    open_rows: int = 0
    """Rows in the engine's hands, counted once for each task."""
    is_read: bool = False
    tokens: int = 0
    """Tokens since seconds were last shared out among the partitions."""
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))


@dataclass(frozen=True, slots=True)
class _Row:
    """A row that waits for an answer, with the attempts it has behind it."""

    slice: _Slice
    key: Key
    attempts: int


@dataclass(slots=True, eq=False)
class _Question:
    """One text that a task is asked about, for one row or for several with the same text."""

    task: Task
    text: str
    hash: str
    rows: list[_Row]
    completions: dict[int, Completion] = field(default_factory=dict)


class _Run:
    """The state of one run over some partitions."""

    def __init__(
        self, pipeline: Pipeline, partitions: Sequence[Partition], run_id: str, listener: ProgressListener | None
    ) -> None:
        self.pipeline = pipeline
        self.run_id = run_id
        self.listener = listener
        self.settings = pipeline.settings
        self.store = pipeline.store
        self.tasks = pipeline.tasks
        self.started_at = datetime.now(UTC)
        self.slices = [
            _Slice(part, {task.name: Counts() for task in self.tasks}, self.started_at) for part in partitions
        ]
        self.watch = Stopwatch()
        self.batch = Batch()
        self._started = self._committed = time.monotonic()
        self._total = self._done = 0
        self._shared: dict[str, float] = defaultdict(float)
        """Seconds by stage that have been shared out among the partitions."""
        self._ready: list[_Slice] = []
        self._complete = 0
        self._next_id = 0
        self._pending: dict[int, tuple[_Question, int]] = {}
        self._asked: dict[tuple[str, str], _Question] = {}
        """Questions in flight whose answer may serve for other rows, by task and content hash."""
        self._recent: dict[tuple[str, str], Answer] = {}
        """Answers since the last look into the ledger."""

    def results(self) -> Iterator[PartitionResult]:
        with self.watch("read"):
            for part in self.slices:
                self.pipeline.source.check_key(part.partition)
                self._total += self.pipeline.source.count(part.partition) * len(self.tasks)
        self._started = time.monotonic()
        requests = self._requests()
        first = next(requests, None)
        if first is not None:
            with self.watch("load"):
                self.pipeline.engine.load()
            self._pending[first.id][0].rows[0].slice.seconds["load"] = self.watch.seconds.pop("load")
            stream = self.pipeline.engine.run(chain([first], requests))
            while (completion := self._wait(stream)) is not None:
                self._receive(completion)
                yield from self._finish_ready()
        if self._pending:
            raise AccountingError(f"The engine ended without answering {len(self._pending)} requests.")
        yield from self._finish_ready()

    def _wait(self, stream: Iterator[Completion]) -> Completion | None:
        with self.watch("generate"):
            return next(stream, None)

    def _requests(self) -> Iterator[Request]:
        """Read the partitions one after another and yield a request for everything that must be asked."""
        for part in self.slices:
            part.started_at = datetime.now(UTC)
            rows_of_chunks = self.pipeline.source.read(part.partition)
            while True:
                with self.watch("read"):
                    rows = next(rows_of_chunks, None)
                if rows is None:
                    break
                # What was answered so far must be in the ledger before the next look into it.
                self._commit()
                self._recent.clear()
                with self.watch("read"):
                    questions = [question for task in self.tasks for question in self._compare(part, task, rows)]
                self._report()
                if questions:
                    yield from self._ask(questions)
            part.is_read = True
            if not part.open_rows:
                self._ready.append(part)

    def _finish_ready(self) -> Iterator[PartitionResult]:
        """Bring those partitions to their end that have been read and have no row in flight."""
        while self._ready:
            yield self._finish(self._ready.pop(0))

    def _finish(self, part: _Slice) -> PartitionResult:
        self._commit()
        partition = part.partition
        with self.watch("write"):
            for name, counts in part.counts.items():
                counts.rows_removed = self.store.remove_missing(
                    name, partition.key, lambda keys: self.pipeline.source.present(partition, keys)
                )
                self.store.remove_old_failures(name, partition.key, self.run_id)
        for name, counts in part.counts.items():
            if counts.rows_done != counts.rows_read:
                raise AccountingError(
                    f"Task {name!r}, partition {partition.key!r}: {counts.rows_read} rows were read, "
                    f"{counts.rows_done} accounted for."
                )
        self._share_seconds(part)
        result = PartitionResult(partition.key, part.counts, dict(part.seconds), part.started_at, datetime.now(UTC))
        self.store.write_throughput(self._throughput_rows(result))
        self._complete += 1
        self._report()
        return result

    def _share_seconds(self, finished: _Slice) -> None:
        """Share the seconds since the last partition was finished among those that had tokens computed."""
        total = sum(part.tokens for part in self.slices)
        for stage, seconds in self.watch.seconds.items():
            fresh = seconds - self._shared[stage]
            self._shared[stage] = seconds
            for part in self.slices:
                if part.tokens:
                    part.seconds[stage] += fresh * part.tokens / total
            if not total:
                finished.seconds[stage] += fresh
        for part in self.slices:
            part.tokens = 0

    def _compare(self, part: _Slice, task: Task, rows: Sequence[Row]) -> list[_Question]:
        """Find out what is known about some rows; return what must be asked."""
        counts, fingerprint = part.counts[task.name], self.pipeline.fingerprints[task.name]
        counts.rows_read += len(rows)
        texts = [task.template.render(row.values) for row in rows]
        hashes = [content_hash(text) for text in texts]
        keys = [row.key for row in rows]
        refresh = self.settings.full_refresh
        answered = self.store.answered(task.name, keys)
        failed = self.store.failed(task.name, keys)
        # A refresh takes from the ledger only what it has itself written.
        since = self.started_at if refresh else None
        reusable = self.store.reusable(task.name, fingerprint, set(hashes), since) if task.reusable else {}
        questions: list[_Question] = []
        for key, text, digest in zip(keys, texts, hashes, strict=True):
            known, failure = answered.get(key), failed.get(key)
            row = _Row(part, key, 0)
            if not refresh and known and known[:2] == (fingerprint, digest):
                counts.rows_skipped += 1
                self._done += 1
                if known.partition_key != part.partition.key:
                    self.batch.moved.append((task.name, key, part.partition.key))
                continue
            if not text:
                self._fail(task, row, digest, Failure(FailureKind.EMPTY_TEXT, _empty_message(task)))
                continue
            if not refresh and failure and (failure.fingerprint, failure.content_hash) == (fingerprint, digest):
                row = _Row(part, key, failure.attempts)
                if failure.attempts >= MAX_ATTEMPTS or not FailureKind(failure.failure.kind).may_pass_next_time:
                    # Not tried now, so not one attempt more.
                    self._fail(task, _Row(part, key, failure.attempts - 1), digest, failure.failure)
                    continue
            if digest in reusable:
                self._answer(task, row, digest, reusable[digest], reused=True)
                continue
            questions.append(_Question(task, text, digest, [row]))
        return questions

    def _ask(self, questions: Sequence[_Question]) -> Iterator[Request]:
        """Tokenise some questions and yield their requests, the tasks of a row side by side."""
        with self.watch("prompt"):
            plans = self.pipeline.plans()
            texts = list(dict.fromkeys(question.text for question in questions))
            token_ids = dict(zip(texts, self.pipeline.engine.tokenizer.encode_literal(texts), strict=True))
            order = {task.name: index for index, task in enumerate(self.tasks)}
            place = {key: index for index, key in enumerate(dict.fromkeys(q.rows[0].key for q in questions))}
            questions = sorted(questions, key=lambda q: (place[q.rows[0].key], order[q.task.name]))
        for question in questions:
            with self.watch("prompt"):
                requests = self._requests_of(question, plans[question.task.name], token_ids[question.text])
            yield from requests

    def _requests_of(self, question: _Question, plan: Plan, text_token_ids: list[int]) -> list[Request]:
        task = question.task
        name = (task.name, question.hash)
        if name in self._asked:
            self._asked[name].rows.extend(question.rows)
            self._open(question.rows)
            return []
        if name in self._recent:
            for row in question.rows:
                self._answer(task, row, question.hash, self._recent[name], reused=True)
            return []
        if plan.is_too_long(text_token_ids):
            message = (
                f"The text has {len(text_token_ids)} tokens and the limit is {plan.max_text_tokens}. Raise "
                f"max_model_len or max_text_tokens, or set too_long='cut' on task {task.name!r}."
            )
            for row in question.rows:
                self._fail(task, row, question.hash, Failure(FailureKind.TOO_LONG, message))
            return []
        if task.reusable:
            self._asked[name] = question
        self._open(question.rows)
        requests = []
        for index, (prompt, ask) in enumerate(plan.requests(text_token_ids)):
            self._pending[self._next_id] = (question, index)
            requests.append(Request(self._next_id, prompt, ask))
            self._next_id += 1
        return requests

    def _receive(self, completion: Completion) -> None:
        """Take one completion; when it is the last of its question, record the answer."""
        if completion.id not in self._pending:
            raise AccountingError(
                f"The engine answered request {completion.id}, which was not asked or answered before."
            )
        question, index = self._pending.pop(completion.id)
        question.completions[index] = completion
        task = question.task
        first = question.rows[0].slice
        counts = first.counts[task.name]
        first.tokens += completion.usage.prompt + completion.usage.output
        counts.prompt_tokens += completion.usage.prompt
        counts.cached_tokens += completion.usage.cached
        counts.output_tokens += completion.usage.output
        plan = self.pipeline.plans()[task.name]
        if len(question.completions) < len(plan.queries):
            return
        name = (task.name, question.hash)
        self._asked.pop(name, None)
        answer = plan.answer([question.completions[i] for i in range(len(plan.queries))])
        if isinstance(answer, Failure):
            for row in question.rows:
                self._fail(task, row, question.hash, answer)
        else:
            if task.reusable:
                self._recent[name] = answer
            for number, row in enumerate(question.rows):
                self._answer(task, row, question.hash, answer, reused=number > 0)
        self._close(question.rows)
        due = time.monotonic() - self._committed >= self.settings.commit_seconds
        if len(self.batch) >= self.settings.commit_rows or due:
            self._commit()

    def _open(self, rows: Sequence[_Row]) -> None:
        for row in rows:
            row.slice.open_rows += 1

    def _close(self, rows: Sequence[_Row]) -> None:
        for row in rows:
            row.slice.open_rows -= 1
            if row.slice.is_read and not row.slice.open_rows:
                self._ready.append(row.slice)

    def _answer(self, task: Task, row: _Row, digest: str, answer: Answer, reused: bool) -> None:
        counts = row.slice.counts[task.name]
        if reused:
            counts.rows_reused += 1
        else:
            counts.rows_answered += 1
        self._done += 1
        fingerprint = self.pipeline.fingerprints[task.name]
        to_ledger = task.reusable and not reused
        self.batch.answers.append(
            AnswerToWrite(task.name, row.key, row.slice.partition.key, fingerprint, digest, answer, to_ledger)
        )

    def _fail(self, task: Task, row: _Row, digest: str, failure: Failure) -> None:
        row.slice.counts[task.name].rows_failed += 1
        self._done += 1
        fingerprint = self.pipeline.fingerprints[task.name]
        self.batch.failures.append(
            FailureToWrite(task.name, row.key, row.slice.partition.key, fingerprint, digest, failure, row.attempts + 1)
        )

    def _commit(self) -> None:
        self._committed = time.monotonic()
        if len(self.batch):
            with self.watch("write"):
                self.store.write(self.batch, self.pipeline.engine.info.model, self.run_id)
            self.batch = Batch()
        self._report()

    def _report(self) -> None:
        if self.listener is not None:
            seconds = time.monotonic() - self._started
            self.listener(Progress(self._done, self._total, self._complete, len(self.slices), seconds))

    def _throughput_rows(self, result: PartitionResult) -> list[dict[str, object]]:
        seconds = {
            f"seconds_{stage}": result.seconds.get(stage, 0.0) for stage in ("read", "prompt", "generate", "write")
        }
        total = sum(seconds.values())
        load = result.seconds.get("load", 0.0)
        info = asdict(self.pipeline.engine.info)
        rows: list[dict[str, object]] = []
        for task, counts in result.counts.items():
            asked, tokens = counts.rows_answered, counts.prompt_tokens + counts.output_tokens
            rows.append(
                {
                    "run_id": self.run_id,
                    "source": self.pipeline.source.source.name,
                    "task": task,
                    "partition_key": result.partition_key,
                    "started_at": result.started_at,
                    "finished_at": result.finished_at,
                    **asdict(counts),
                    **seconds,
                    "seconds_total": total,
                    "seconds_load": load,
                    "rows_per_second": asked / total if asked else None,
                    "tokens_per_second": tokens / total if tokens else None,
                    **info,
                }
            )
        return rows


def _empty_message(task: Task) -> str:
    columns = ", ".join(task.template.columns)
    return f"The text ({columns}) is NULL, empty or white space, so there is nothing to ask about."
