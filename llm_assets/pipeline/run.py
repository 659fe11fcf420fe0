"""One run over some partitions: every row read finds exactly one outcome."""

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING

from llm_assets.errors import AccountingError, DatabaseError
from llm_assets.pipeline.accounting import Counts, PartitionResult, ProgressListener
from llm_assets.pipeline.comparison import Comparison
from llm_assets.pipeline.failed import failing_alone, raise_failed
from llm_assets.pipeline.layout import Expected
from llm_assets.pipeline.limits import Limits
from llm_assets.pipeline.outcomes import Outcomes
from llm_assets.pipeline.questions import TOKENIZED_TOGETHER, Chunk, OpenRow, Question, Slice, best_order, side_by_side
from llm_assets.pipeline.restart import completions
from llm_assets.records import Answer, Completion, Failure, FailureKind, Key, Partition, Request, Row
from llm_assets.secrets import masked_logger
from llm_assets.tables import POLL_SECONDS
from llm_assets.tasks import Plan

if TYPE_CHECKING:
    from llm_assets.pipeline.pipeline import Pipeline

SECOND_TRY_ROOM = 4
"""How many times the tokens an answer gets that was cut off. One that needs more is a failure."""

logger = masked_logger(__name__)


class Run:
    """The state of one run over some partitions."""

    def __init__(
        self, pipeline: "Pipeline", partitions: Sequence[Partition], run_id: str, listener: ProgressListener | None
    ) -> None:
        self.pipeline = pipeline
        self.settings = pipeline.settings
        self.source = pipeline.source
        self.store = pipeline.store
        self.tasks = pipeline.tasks
        self.started_at = datetime.now(UTC)
        self.slices = [
            Slice(
                part,
                {task.name: Counts(layout=pipeline.layouts[task.name]) for task in self.tasks},
                self.started_at,
            )
            for part in partitions
        ]
        self.outcomes = Outcomes(pipeline, self.slices, run_id, listener)
        self.comparison = Comparison(pipeline, self.outcomes, self.started_at)
        self.locks = self.outcomes.locks
        self.watch = self.outcomes.watch
        settings = self.settings
        self.limits = Limits(settings, pipeline.engine.info)
        self._ready: list[Slice] = []
        self._waiting: deque[Question] = deque()
        """Questions that the engine has not taken yet."""
        self._tokenizing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenize")
        """Tokenises the next texts while the engine works; the tokenizer is no Python code, so neither waits."""
        self._again: deque[Question] = deque()
        """Questions whose answer was cut off."""
        self._next_id = 0
        self._last_key: Key = ()
        self._row = 0
        """The number of the row that was asked about last, which is that of its first request."""
        self._expected: Expected | None = None
        self._pending: dict[int, tuple[Question, int]] = {}
        self._asked: dict[tuple[str, str], Question] = {}
        """Questions in flight whose answer may serve for other rows, by name."""
        self._recent: dict[tuple[str, str], Answer] = {}
        """Answers since the last look into the ledger, by the name of their question ..."""
        self._older: dict[tuple[str, str], Answer] = {}
        """... and since the look before it, which was for the rows that are now asked."""

    def results(self) -> Generator[PartitionResult]:
        with self.watch("read"):
            for part in self.slices:
                with failing_alone(part):
                    self.source.check_key(part.partition)
                    part.rows = self.source.count(part.partition)
                    self.outcomes.rows_total += part.rows * len(self.tasks)
        self.outcomes.begin()
        todo = [part for part in self.slices if part.error is None]
        try:
            for part in self.slices:
                if part.error is not None:
                    self.outcomes.finish(part)
            while todo:
                taken: list[Slice] = []
                yield from self._work(todo, taken)
                todo = [part for part in todo if part not in taken]
                if self.limits.time_is_up():
                    self._stop(todo)
                    yield from self._finish_ready()
                    break
                if todo and not taken:
                    time.sleep(POLL_SECONDS)
        except DatabaseError:
            raise
        except BaseException:
            # Whatever stops the run, an interrupt too: what was answered is kept.
            self.outcomes.commit()
            raise
        finally:
            self._tokenizing.shutdown(cancel_futures=True)
            self.locks.close()
        self._check_finished()
        raise_failed(self.slices)

    def _check_finished(self) -> None:
        """Raise an AccountingError if a partition was begun and did not come to its end."""
        for part in self.slices:
            if part.error is None and not part.is_finished:
                raise AccountingError(f"Partition {part.partition.key!r}: {part.open_rows} rows have no outcome.")

    def _work(self, parts: Sequence[Slice], taken: list[Slice]) -> Iterator[PartitionResult]:
        """Work through those partitions that no other run works on, noting which."""
        requests = self._requests(parts, taken)
        first = next(requests, None)
        if first is not None:
            self._load(first)
            yield from self._receive_all(chain([first], requests))
            while self._again and not self.limits.time_is_up():
                yield from self._receive_all(self._ask_again())
        if self.limits.time_is_up():
            self._stop(taken)
        yield from self._finish_ready()

    def _load(self, first: Request) -> None:
        with self.watch("load"):
            self.pipeline.engine.load()
        self._pending[first.id][0].rows[0].slice.seconds["load"] += self.watch.seconds.pop("load")

    def _receive_all(self, requests: Iterator[Request]) -> Iterator[PartitionResult]:
        """Let the engine answer, until all is answered or the time is up."""
        stream = completions(self.pipeline.engine, requests, self.settings.max_engine_deaths)
        while (completion := self._next(stream)) is not None:
            self._receive(completion)
            yield from self._finish_ready()
            if self.limits.time_is_up():
                stream.close()  # the engine drops what is in flight
                return
        if self._pending:
            raise AccountingError(f"The engine ended without answering {len(self._pending)} requests.")

    def _next(self, stream: Iterator[Completion]) -> Completion | None:
        with self.watch("generate"):
            return next(stream, None)

    def _requests(self, parts: Sequence[Slice], taken: list[Slice]) -> Iterator[Request]:
        """Yield a request for everything that must be asked; the rows after those are read and tokenised meanwhile."""
        chunks = self._chunks(parts, taken)
        chunk = next(chunks, None)
        while chunk is not None:
            ahead = next(chunks, None)
            yield from self._ask(chunk)
            yield from self._ask_again()
            if chunk.is_last:
                chunk.slice.is_read = True
                if not chunk.slice.open_rows:
                    self._ready.append(chunk.slice)
            chunk = ahead

    def _chunks(self, parts: Sequence[Slice], taken: list[Slice]) -> Iterator[Chunk]:
        """Read partitions one after another and find out what must be asked."""
        rows_later = sum(part.rows for part in parts)
        for part in parts:
            rows_later -= part.rows
            if not self.locks.acquire(self._lock_names(part)):
                logger.info(
                    "Another run works on partition %r; it is taken up when that has ended.", part.partition.key
                )
                continue
            taken.append(part)
            part.started_at = datetime.now(UTC)
            for rows in self._rows(part):
                yield self._chunk(part, rows, rows_later)
            yield Chunk(part, is_last=True)

    def _rows(self, part: Slice) -> Iterator[Sequence[Row]]:
        """Read a partition, until it fails or the time is up."""
        rows_of_chunks = self.source.read(part.partition)
        while part.error is None:
            if self.limits.time_is_short():
                self._leave_unread(part)
                return
            rows = None
            with failing_alone(part), self.watch("read"):
                rows = next(rows_of_chunks, None)
            if rows is None:
                return
            yield rows

    def _chunk(self, part: Slice, rows: Sequence[Row], rows_later: int) -> Chunk:
        # What was answered so far must be in the ledger before the next look into it.
        self.outcomes.commit()
        self._older, self._recent = self._recent, {}
        questions: list[Question] = []
        with failing_alone(part), self.watch("read"):
            questions = [question for task in self.tasks for question in self.comparison.questions(part, task, rows)]
            part.rows_seen += len(rows)
        if not questions:
            return Chunk(part)
        with self.watch("prompt"):
            self.pipeline.plans()
            asked = side_by_side(questions, self.tasks)
            if self.settings.max_rows is None:  # with it, a partition's first rows are meant
                asked = best_order(asked, rows_later + max(part.rows - part.rows_seen, 0))
            questions = [question for row in asked for question in row]
            texts = list(dict.fromkeys(question.text for question in questions))
            token_ids = [
                self._tokenizing.submit(self._token_ids, texts[start : start + TOKENIZED_TOGETHER])
                for start in range(0, len(texts), TOKENIZED_TOGETHER)
            ]
        self._waiting.extend(questions)
        return Chunk(part, len(questions), token_ids)

    def _token_ids(self, texts: Sequence[str]) -> dict[str, list[int]]:
        return dict(zip(texts, self.pipeline.engine.tokenizer.encode_literal(texts), strict=True))

    def _lock_names(self, part: Slice) -> list[str]:
        return [f"{self.store.table_name(task.name)} {part.partition.key}" for task in self.tasks]

    def _leave_unread(self, part: Slice) -> None:
        """Leave the rows of a partition that were not read when the time was up."""
        part.limit = self.limits.reached
        with failing_alone(part):
            unread = max(self.source.count(part.partition) - part.rows_seen, 0)
            for counts in part.counts.values():
                counts.rows_read += unread
                counts.rows_left += unread

    def _stop(self, parts: Sequence[Slice]) -> None:
        """Leave everything in some partitions that has no outcome when the time is up."""
        asked = dict.fromkeys(question for question, _ in self._pending.values())
        for question in [*asked, *self._again]:
            self._leave(question)
            self._close(question.rows)
        for question in self._waiting:
            self._leave(question)
        for container in (self._pending, self._asked, self._again, self._waiting):
            container.clear()
        for part in parts:
            if not part.is_read:
                self._leave_unread(part)
                part.is_read = True
                self._ready.append(part)

    def _leave(self, question: Question) -> None:
        for row in question.rows:
            row.slice.limit = self.limits.reached
            row.slice.counts[question.task.name].rows_left += 1

    def _finish_ready(self) -> Iterator[PartitionResult]:
        """Bring those partitions to their end that have been read and have no row in flight."""
        while self._ready:
            part = self._ready.pop(0)
            result = self.outcomes.finish(part)
            part.is_finished = True
            self.locks.release(self._lock_names(part))
            if result is not None:
                yield result

    def _ask(self, chunk: Chunk) -> Iterator[Request]:
        """Yield the requests of a chunk's questions."""
        token_ids, later = dict[str, list[int]](), iter(chunk.token_ids)
        for _ in range(chunk.questions):
            with self.watch("prompt"):
                question = self._waiting.popleft()
                while question.text not in token_ids:
                    token_ids |= next(later).result()
                plan = self.pipeline.plans()[question.task.name]
                requests = self._requests_of(question, plan, token_ids[question.text])
            yield from requests
            if self._again and (self.settings.max_tokens, self.settings.max_cost) != (None, None):
                yield from self._ask_again()  # before more rows are begun, which would use up what is left

    def _requests_of(self, question: Question, plan: Plan, text_token_ids: list[int]) -> list[Request]:
        task, name = question.task, question.name
        if name in self._asked:
            self._asked[name].rows.extend(question.rows)
            self._open(question.rows)
            return []
        answer = self._recent.get(name) or self._older.get(name)
        if answer is not None:
            for row in question.rows:
                self.outcomes.answer(task, row, question.hash, answer, reused=True)
            return []
        if plan.is_too_long(text_token_ids):
            message = (
                f"The text has {len(text_token_ids)} tokens and the limit is {plan.max_text_tokens}. Raise "
                f"max_model_len or max_text_tokens, or set too_long='cut' on task {task.name!r}."
            )
            for row in question.rows:
                self.outcomes.fail(task, row, question.hash, Failure(FailureKind.TOO_LONG, message))
            return []
        requests = self._numbered(question, plan, text_token_ids)
        if requests:
            if task.reusable:
                self._asked[name] = question
            self._open(question.rows)
        return requests

    def _ask_again(self) -> Iterator[Request]:
        """Yield the requests of answers that were cut off so far, with more room."""
        with self.watch("prompt"):
            token_ids = self._token_ids(list(dict.fromkeys(question.text for question in self._again)))
        for _ in range(len(self._again)):
            with self.watch("prompt"):
                question = self._again.popleft()
                plan = self.pipeline.plans()[question.task.name]
                requests = self._numbered(question, plan, token_ids[question.text])
                if not requests:
                    self._asked.pop(question.name, None)
                    self._close(question.rows)
            yield from requests

    def _numbered(self, question: Question, plan: Plan, text_token_ids: list[int]) -> list[Request]:
        """Return a question's requests, known by their ids from now on; none if a limit of the run forbids it."""
        if (key := question.rows[0].key) != self._last_key:
            self._last_key, self._row = key, self._next_id
        room = SECOND_TRY_ROOM if question.is_second_try else 1
        requests = [
            Request(self._next_id + index, prompt, ask, self._row)
            for index, (prompt, ask) in enumerate(plan.requests(text_token_ids, room))
        ]
        if not self.limits.admit(requests, question.is_second_try):
            self._leave(question)
            return []
        self._next_id += len(requests)
        self._expected = self._expected or self.pipeline.expected()
        tokens = self._expected.ask(question.task.name, question.hash, len(text_token_ids))
        question.rows[0].slice.counts[question.task.name].expected_tokens += tokens
        self._pending |= {request.id: (question, index) for index, request in enumerate(requests)}
        return requests

    def _receive(self, completion: Completion) -> None:
        """Take one completion; when it is the last of its question, record the answer."""
        if completion.id not in self._pending:
            raise AccountingError(
                f"The engine answered request {completion.id}, which was not asked or answered before."
            )
        question, index = self._pending.pop(completion.id)
        self.limits.settle(completion)
        question.completions[index] = completion
        task = question.task
        self.outcomes.use(task, question.rows[0].slice, completion.usage)
        plan = self.pipeline.plans()[task.name]
        if len(question.completions) < len(plan.queries):
            return
        answer = plan.answer([question.completions[i] for i in range(len(plan.queries))])
        if isinstance(answer, Failure) and answer.kind is FailureKind.TRUNCATED and not question.is_second_try:
            question.is_second_try = True
            question.completions.clear()
            self._again.append(question)
            return
        self._asked.pop(question.name, None)
        if isinstance(answer, Failure):
            for row in question.rows:
                self.outcomes.fail(task, row, question.hash, answer)
                self.outcomes.commit_if_due()  # a text can stand in very many rows
        else:
            if task.reusable:
                self._recent[question.name] = answer
            for number, row in enumerate(question.rows):
                self.outcomes.answer(task, row, question.hash, answer, reused=number > 0)
                self.outcomes.commit_if_due()
        self._close(question.rows)

    def _open(self, rows: Sequence[OpenRow]) -> None:
        for row in rows:
            row.slice.open_rows += 1

    def _close(self, rows: Sequence[OpenRow]) -> None:
        for row in rows:
            row.slice.open_rows -= 1
            if row.slice.is_read and not row.slice.open_rows:
                self._ready.append(row.slice)
