"""What becomes of a run's rows: counted, gathered, and committed with how far the run is."""

import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from llm_assets.errors import AccountingError
from llm_assets.pipeline.accounting import (
    Counts,
    PartitionResult,
    Progress,
    ProgressListener,
    Stopwatch,
    check_failures,
)
from llm_assets.pipeline.failed import failing_alone
from llm_assets.pipeline.questions import OpenRow, Slice
from llm_assets.records import Answer, Failure, FailureKind, Key, Usage
from llm_assets.tables import AnswerToWrite, Batch, FailedRow, FailureToWrite, UnstorableError, run_locks
from llm_assets.tasks import Task

if TYPE_CHECKING:
    from llm_assets.pipeline.pipeline import Pipeline


class Outcomes:
    """The outcomes of a run's rows, on their way into the tables."""

    def __init__(
        self, pipeline: "Pipeline", slices: Sequence[Slice], run_id: str, listener: ProgressListener | None
    ) -> None:
        self.pipeline = pipeline
        self.slices = slices
        self.run_id = run_id
        self.listener = listener
        self.settings = pipeline.settings
        self.store = pipeline.store
        self.locks = run_locks(self.store.database)
        self.watch = Stopwatch()
        self.rows_total = 0
        """Rows of all partitions, counted once for each task."""
        self._batch = Batch()
        self._complete = 0
        self._started = self._committed = time.monotonic()
        self._shared: dict[str, float] = defaultdict(float, idle=pipeline.engine.idle_seconds)
        """Seconds by stage that have been shared out among the partitions."""

    def answer(self, task: Task, row: OpenRow, digest: str, answer: Answer, reused: bool) -> None:
        """Take the answer to the text with a hash; `reused` is whether it was asked for another row."""
        counts = row.slice.counts[task.name]
        if reused:
            counts.rows_reused += 1
        else:
            counts.rows_answered += 1
        fingerprint = self.pipeline.fingerprints[task.name]
        to_ledger = task.reusable and not reused
        self._batch.answers.append(
            AnswerToWrite(task.name, row.key, row.slice.partition.key, fingerprint, digest, answer, to_ledger, reused)
        )

    def fail(self, task: Task, row: OpenRow, digest: str, failure: Failure) -> None:
        """Take the failure of a row, one attempt more than it had behind it."""
        known = FailedRow(self.pipeline.fingerprints[task.name], digest, row.attempts + 1, failure)
        self.keep_failure(task, row.slice, row.key, known)

    def keep_failure(self, task: Task, part: Slice, key: Key, known: FailedRow) -> None:
        """Count a failure, and let it stand as it is: it may be that of another text or an earlier task."""
        part.counts[task.name].rows_failed += 1
        part.failures[str(known.failure.kind)] += 1
        fingerprint, digest, attempts, failure = known.fingerprint, known.content_hash, known.attempts, known.failure
        self._batch.failures.append(
            FailureToWrite(task.name, key, part.partition.key, fingerprint, digest, failure, attempts)
        )

    def skip(self, task: Task, part: Slice, key: Key, partition_key: str) -> None:
        """Leave an answer as it is; if it stands under another partition key, move it."""
        part.counts[task.name].rows_skipped += 1
        if partition_key != part.partition.key:
            self._batch.moved.append((task.name, key, part.partition.key))

    def use(self, task: Task, part: Slice, usage: Usage) -> None:
        """Count the tokens of a completion."""
        counts = part.counts[task.name]
        counts.prompt_tokens += usage.prompt
        counts.cached_tokens += usage.cached
        counts.output_tokens += usage.output
        part.tokens += usage.prompt + usage.output

    def begin(self) -> None:
        """Count the seconds of the run's progress from now on."""
        self._started = time.monotonic()

    def commit_if_due(self) -> None:
        """Commit if enough is ready, or enough time has passed."""
        due = time.monotonic() - self._committed >= self.settings.commit_seconds
        if len(self._batch) >= self.settings.commit_rows or due:
            self.commit()

    def commit(self) -> None:
        """Write what is ready, and how far its partitions are, in one transaction."""
        self._committed = time.monotonic()
        if len(self._batch):
            with self.watch("write"):
                self.locks.confirm()
                try:
                    self._write()
                except UnstorableError as error:
                    self._fail_unstorable(error)
                    self._write()
            self._batch = Batch()
        self._report()

    def finish(self, part: Slice) -> PartitionResult | None:
        """Bring a partition to its end: remove what is gone, and write down what was done. Return None if it failed."""
        self.commit()
        if part.error is None:
            with failing_alone(part), self.watch("write"):
                self._remove_gone(part)
        if part.error is None:
            self._account(part)
            with failing_alone(part):
                self._check_failures(part)
        self._share_seconds(part)
        status = "failed" if part.error else "limit" if part.limit else "complete"
        result = self._result(part, status)
        self.store.write_throughput(self._throughput_rows(result))
        self._complete += 1
        self._report()
        return None if part.error else result

    def _remove_gone(self, part: Slice) -> None:
        """Remove the answers of rows that are gone, and failures that no longer stand."""
        partition = part.partition
        for name, counts in part.counts.items():
            if not self.settings.keep_removed:
                counts.rows_removed = self.store.remove_missing(
                    name, partition.key, lambda keys: self.pipeline.source.present(partition, keys)
                )
            # Failures of rows that a limit kept from being looked at still stand.
            if part.limit is None:
                self.store.remove_old_failures(name, partition.key, self.run_id)

    def _account(self, part: Slice) -> None:
        for name, counts in part.counts.items():
            if counts.rows_done != counts.rows_read:
                raise AccountingError(
                    f"Task {name!r}, partition {part.partition.key!r}: {counts.rows_read} rows were read, "
                    f"{counts.rows_done} accounted for."
                )

    def _check_failures(self, part: Slice) -> None:
        """Raise a FailureThresholdError if more of a partition failed than the settings accept.

        It is counted for each partition, so that what becomes of one does not depend on which others share its run.
        """
        tried = sum(counts.rows_done - counts.rows_left for counts in part.counts.values())
        check_failures(part.failures, tried, self.settings.max_failed_share, self.settings.max_failed_rows)

    def _counts(self) -> list[Counts]:
        return [counts for part in self.slices for counts in part.counts.values()]

    def _write(self) -> None:
        self._share_seconds()
        touched = {item.partition_key for item in (*self._batch.answers, *self._batch.failures)}
        results = [self._result(part, "running") for part in self.slices if part.partition.key in touched]
        rows = [row for result in results for row in self._throughput_rows(result)]
        self.store.write(self._batch, self.pipeline.model, self.run_id, rows)

    def _fail_unstorable(self, error: UnstorableError) -> None:
        """Turn the answers that the database cannot hold into failures."""
        tasks = {task.name: task for task in self.pipeline.tasks}
        slices = {part.partition.key: part for part in self.slices}
        for item, reason in error.refused:
            self._batch.answers.remove(item)
            part = slices[item.partition_key]
            counts = part.counts[item.task]
            if item.reused:
                counts.rows_reused -= 1
            else:
                counts.rows_answered -= 1
            failure = Failure(FailureKind.UNSTORABLE, f"The database cannot hold the answer: {reason}.")
            self.fail(tasks[item.task], OpenRow(part, item.key, 0), item.content_hash, failure)

    def _result(self, part: Slice, status: str) -> PartitionResult:
        seconds, now = dict(part.seconds), datetime.now(UTC)
        return PartitionResult(part.partition.key, part.counts, seconds, part.started_at, now, status, part.limit)

    def _throughput_rows(self, result: PartitionResult) -> list[dict[str, object]]:
        return result.throughput_rows(self.run_id, self.pipeline.source.source.name, self.pipeline.engine.info)

    def _share_seconds(self, finished: Slice | None = None) -> None:
        """Share the seconds since this was last done among the partitions that had tokens computed."""
        total = sum(part.tokens for part in self.slices)
        if not total and finished is None:
            return
        for stage, seconds in {**self.watch.seconds, "idle": self.pipeline.engine.idle_seconds}.items():
            fresh = seconds - self._shared[stage]
            self._shared[stage] = seconds
            for part in self.slices:
                if part.tokens:
                    part.seconds[stage] += fresh * part.tokens / total
            if not total and finished is not None:
                finished.seconds[stage] += fresh
        for part in self.slices:
            part.tokens = 0

    def _report(self) -> None:
        if self.listener is not None:
            done = sum(counts.rows_done for counts in self._counts())
            seconds = time.monotonic() - self._started
            self.listener(Progress(done, self.rows_total, self._complete, len(self.slices), seconds))
