"""One run over some partitions: every row read finds exactly one outcome."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING

from llm_assets.errors import AccountingError, FailureThresholdError
from llm_assets.pipeline.accounting import Counts, PartitionResult, Progress, ProgressListener, Stopwatch
from llm_assets.prompts.text import content_hash
from llm_assets.records import Answer, Completion, Failure, FailureKind, Key, Partition, Request, Row
from llm_assets.tables import AnswerToWrite, Batch, FailureToWrite
from llm_assets.tasks import Plan, Task

if TYPE_CHECKING:
    from llm_assets.pipeline.pipeline import Pipeline

SECOND_TRY_ROOM = 4
"""How many times the tokens an answer gets that was cut off. One that needs more is a failure."""

MAX_ATTEMPTS = 3
"""How often a row is asked in vain, when asking again may help."""


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
    is_second_try: bool = False
    """Whether the answer was cut off and is now given more room."""
    completions: dict[int, Completion] = field(default_factory=dict)


class Run:
    """The state of one run over some partitions."""

    def __init__(
        self, pipeline: "Pipeline", partitions: Sequence[Partition], run_id: str, listener: ProgressListener | None
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
        self._again: list[_Question] = []
        """Questions whose answer was cut off."""
        self._failures: Counter[str] = Counter()
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
            stream: Iterator[Completion] | None = self.pipeline.engine.run(chain([first], requests))
            while stream is not None:
                while (completion := self._wait(stream)) is not None:
                    self._receive(completion)
                    yield from self._finish_ready()
                stream = self.pipeline.engine.run(self._requests_again()) if self._again else None
        if self._pending:
            raise AccountingError(f"The engine ended without answering {len(self._pending)} requests.")
        yield from self._finish_ready()
        self._check_failures()

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
        return self._numbered(question, plan, text_token_ids)

    def _requests_again(self) -> Iterator[Request]:
        """Yield the requests of answers that were cut off, with more room."""
        with self.watch("prompt"):
            questions, self._again = self._again, []
            token_ids = self.pipeline.engine.tokenizer.encode_literal([question.text for question in questions])
        for question, ids in zip(questions, token_ids, strict=True):
            yield from self._numbered(question, self.pipeline.plans()[question.task.name], ids)

    def _numbered(self, question: _Question, plan: Plan, text_token_ids: list[int]) -> list[Request]:
        """Return a question's requests, known by their ids from now on."""
        room = SECOND_TRY_ROOM if question.is_second_try else 1
        requests = []
        for index, (prompt, ask) in enumerate(plan.requests(text_token_ids, room)):
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
        answer = plan.answer([question.completions[i] for i in range(len(plan.queries))])
        if isinstance(answer, Failure) and answer.kind is FailureKind.TRUNCATED and not question.is_second_try:
            question.is_second_try = True
            question.completions.clear()
            self._again.append(question)
            return
        self._asked.pop(name, None)
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
        self._failures[str(failure.kind)] += 1
        self._done += 1
        fingerprint = self.pipeline.fingerprints[task.name]
        self.batch.failures.append(
            FailureToWrite(task.name, row.key, row.slice.partition.key, fingerprint, digest, failure, row.attempts + 1)
        )

    def _check_failures(self) -> None:
        """Raise a FailureThresholdError if more failed than the settings accept; all that was done is committed."""
        settings, failed = self.settings, self._failures.total()
        read = sum(counts.rows_read for part in self.slices for counts in part.counts.values())
        limits = []
        if settings.max_failed_share is not None and failed > settings.max_failed_share * read:
            limits.append(f"max_failed_share={settings.max_failed_share:g}")
        if settings.max_failed_rows is not None and failed > settings.max_failed_rows:
            limits.append(f"max_failed_rows={settings.max_failed_rows}")
        if limits:
            kinds = ", ".join(f"{kind}: {count}" for kind, count in self._failures.most_common())
            raise FailureThresholdError(
                f"{failed} of {read} answers failed ({kinds}), more than {' and '.join(limits)} accepts. "
                "All other answers are in their tables; llm_failures has the reasons."
            )

    def _commit(self) -> None:
        self._committed = time.monotonic()
        if len(self.batch):
            with self.watch("write"):
                self.store.write(self.batch, self.pipeline.model, self.run_id)
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
