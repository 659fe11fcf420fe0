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
from llm_assets.tasks import Plan, Task

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
    """How far a partition is. Rows count once for each task; `seconds` are since the partition was begun."""

    partition_key: str
    rows_done: int
    rows_total: int
    rows_asked: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Rows that found their outcome per second."""
        return self.rows_done / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the partition is done at this pace; None before the first row."""
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

    def run(
        self,
        partition: Partition,
        run_id: str,
        tasks: Sequence[str] | None = None,
        listener: ProgressListener | None = None,
    ) -> PartitionResult:
        """Bring the partition's answers up to date and return what was done.

        The engine is loaded only if a row must be asked. Answers are committed while it runs; whatever stops the run,
        they stay.

        Raises:
            SourceError: a key in the partition is NULL or stands twice.
            AccountingError: the engine lost, doubled or invented a request.
        """
        chosen = [task for task in self.tasks if tasks is None or task.name in tasks]
        return _PartitionRun(self, partition, run_id, chosen, listener).run()


def output_table_name(source: Source, task: Task) -> str:
    """Return the name of a task's output table."""
    return f"{source.output_prefix}_{task.name}"


@dataclass(slots=True)
class _Question:
    """One text that a task is asked about, for one row or for several with the same text."""

    task: Task
    text: str
    hash: str
    rows: list[tuple[Key, int]]
    """Keys with the attempts they have behind them."""
    completions: dict[int, Completion] = field(default_factory=dict)


class _PartitionRun:
    """The state of one pass over one partition."""

    def __init__(
        self,
        pipeline: Pipeline,
        partition: Partition,
        run_id: str,
        tasks: Sequence[Task],
        listener: ProgressListener | None,
    ) -> None:
        self.pipeline = pipeline
        self.partition = partition
        self.run_id = run_id
        self.tasks = tasks
        self.listener = listener
        self.settings = pipeline.settings
        self.store = pipeline.store
        self.counts = {task.name: Counts() for task in tasks}
        self.watch = Stopwatch()
        self.batch = Batch()
        self.started_at = datetime.now(UTC)
        self._started = self._committed = time.monotonic()
        self._total = 0
        self._next_id = 0
        self._pending: dict[int, tuple[_Question, int]] = {}
        self._asked: dict[tuple[str, str], _Question] = {}
        """Questions in flight whose answer may serve for other rows, by task and content hash."""
        self._recent: dict[tuple[str, str], Answer] = {}
        """Answers since the last look into the ledger."""

    def run(self) -> PartitionResult:
        with self.watch("read"):
            self.pipeline.source.check_key(self.partition)
            self._total = self.pipeline.source.count(self.partition) * len(self.tasks)
        requests = self._requests()
        first = next(requests, None)
        if first is not None:
            with self.watch("load"):
                self.pipeline.engine.load()
            with self.watch("generate"):
                for completion in self.pipeline.engine.run(chain([first], requests)):
                    self._receive(completion)
        if self._pending:
            raise AccountingError(f"The engine ended without answering {len(self._pending)} requests.")
        self._commit()
        with self.watch("write"):
            for task in self.tasks:
                self.counts[task.name].rows_removed = self.store.remove_missing(
                    task.name, self.partition.key, lambda keys: self.pipeline.source.present(self.partition, keys)
                )
                self.store.remove_old_failures(task.name, self.partition.key, self.run_id)
        for name, counts in self.counts.items():
            if counts.rows_done != counts.rows_read:
                raise AccountingError(
                    f"Task {name!r}: {counts.rows_read} rows were read, {counts.rows_done} accounted for."
                )
        result = PartitionResult(
            self.partition.key, self.counts, dict(self.watch.seconds), self.started_at, datetime.now(UTC)
        )
        self.store.write_throughput(self._throughput_rows(result))
        return result

    def _requests(self) -> Iterator[Request]:
        """Read the partition and yield a request for everything that must be asked."""
        rows_of_chunks = self.pipeline.source.read(self.partition)
        while True:
            with self.watch("read"):
                rows = next(rows_of_chunks, None)
                # What was answered so far must be in the ledger before the next look into it.
                self._commit()
                self._recent.clear()
                questions = [question for task in self.tasks for question in self._compare(task, rows or [])]
            if rows is None:
                return
            if questions:
                yield from self._ask(questions)

    def _compare(self, task: Task, rows: Sequence[Row]) -> list[_Question]:
        """Find out what is known about some rows; return what must be asked."""
        if not rows:
            return []
        counts, fingerprint = self.counts[task.name], self.pipeline.fingerprints[task.name]
        counts.rows_read += len(rows)
        texts = [task.template.render(row.values) for row in rows]
        hashes = [content_hash(text) for text in texts]
        keys = [row.key for row in rows]
        refresh = self.settings.full_refresh
        answered = self.store.answered(task.name, keys)
        failed = self.store.failed(task.name, keys)
        reusable = {} if refresh or not task.reusable else self.store.reusable(task.name, fingerprint, set(hashes))
        questions: list[_Question] = []
        for key, text, digest in zip(keys, texts, hashes, strict=True):
            known, failure = answered.get(key), failed.get(key)
            attempts = 0
            if not refresh and known and known[:2] == (fingerprint, digest):
                counts.rows_skipped += 1
                if known.partition_key != self.partition.key:
                    self.batch.moved.append((task.name, key, self.partition.key))
                continue
            if not text:
                self._fail(task, key, digest, 0, Failure(FailureKind.EMPTY_TEXT, _empty_message(task)))
                continue
            if not refresh and failure and (failure.fingerprint, failure.content_hash) == (fingerprint, digest):
                attempts = failure.attempts
                if attempts >= MAX_ATTEMPTS or not FailureKind(failure.failure.kind).may_pass_next_time:
                    self._fail(task, key, digest, attempts - 1, failure.failure)
                    continue
            if digest in reusable:
                self._answer(task, key, digest, reusable[digest], reused=True)
                continue
            questions.append(_Question(task, text, digest, [(key, attempts)]))
        self._report()
        return questions

    def _ask(self, questions: Sequence[_Question]) -> Iterator[Request]:
        """Tokenise some questions and yield their requests, the tasks of a row side by side."""
        with self.watch("prompt"):
            plans = self.pipeline.plans()
            texts = list(dict.fromkeys(question.text for question in questions))
            token_ids = dict(zip(texts, self.pipeline.engine.tokenizer.encode_literal(texts), strict=True))
            order = {task.name: index for index, task in enumerate(self.tasks)}
            place = {key: index for index, key in enumerate(dict.fromkeys(q.rows[0][0] for q in questions))}
            questions = sorted(questions, key=lambda q: (place[q.rows[0][0]], order[q.task.name]))
        for question in questions:
            with self.watch("prompt"):
                requests = self._requests_of(question, plans[question.task.name], token_ids[question.text])
            yield from requests

    def _requests_of(self, question: _Question, plan: Plan, text_token_ids: list[int]) -> list[Request]:
        task = question.task
        name = (task.name, question.hash)
        if name in self._asked:
            self._asked[name].rows.extend(question.rows)
            return []
        if name in self._recent:
            for key, _ in question.rows:
                self._answer(task, key, question.hash, self._recent[name], reused=True)
            return []
        if plan.is_too_long(text_token_ids):
            message = (
                f"The text has {len(text_token_ids)} tokens and the limit is {plan.max_text_tokens}. Raise max_model_len "
                f"or max_text_tokens, or set too_long='cut' on task {task.name!r}."
            )
            for key, attempts in question.rows:
                self._fail(task, key, question.hash, attempts, Failure(FailureKind.TOO_LONG, message))
            return []
        if task.reusable:
            self._asked[name] = question
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
        counts = self.counts[task.name]
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
            for key, attempts in question.rows:
                self._fail(task, key, question.hash, attempts, answer)
        else:
            if task.reusable:
                self._recent[name] = answer
            for number, (key, _) in enumerate(question.rows):
                self._answer(task, key, question.hash, answer, reused=number > 0)
        due = time.monotonic() - self._committed >= self.settings.commit_seconds
        if len(self.batch) >= self.settings.commit_rows or due:
            self._commit()

    def _answer(self, task: Task, key: Key, digest: str, answer: Answer, reused: bool) -> None:
        counts = self.counts[task.name]
        if reused:
            counts.rows_reused += 1
        else:
            counts.rows_answered += 1
        fingerprint = self.pipeline.fingerprints[task.name]
        to_ledger = task.reusable and not reused
        self.batch.answers.append(
            AnswerToWrite(task.name, key, self.partition.key, fingerprint, digest, answer, to_ledger)
        )

    def _fail(self, task: Task, key: Key, digest: str, attempts: int, failure: Failure) -> None:
        self.counts[task.name].rows_failed += 1
        fingerprint = self.pipeline.fingerprints[task.name]
        self.batch.failures.append(
            FailureToWrite(task.name, key, self.partition.key, fingerprint, digest, failure, attempts + 1)
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
            done = sum(counts.rows_done for counts in self.counts.values())
            asked = sum(counts.rows_answered for counts in self.counts.values())
            seconds = time.monotonic() - self._started
            self.listener(Progress(self.partition.key, done, self._total, asked, seconds))

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
