"""What is known of rows before they are asked: answered, failed, or to be asked."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from llm_assets.pipeline.outcomes import Outcomes
from llm_assets.pipeline.questions import OpenRow, Question, Slice
from llm_assets.prompts.text import content_hash
from llm_assets.records import Failure, FailureKind, Row
from llm_assets.tables import AnsweredRow, FailedRow
from llm_assets.tasks import Task

if TYPE_CHECKING:
    from llm_assets.pipeline.pipeline import Pipeline

MAX_ATTEMPTS = 3
"""How often a row is asked in vain, when asking again may help."""


class Comparison:
    """Compares a run's rows with what is stored of them."""

    def __init__(self, pipeline: "Pipeline", outcomes: Outcomes, started_at: datetime) -> None:
        self._pipeline = pipeline
        self._outcomes = outcomes
        self._started_at = started_at
        self._settings = pipeline.settings
        self._store = pipeline.store

    def questions(self, part: Slice, task: Task, rows: Sequence[Row]) -> list[Question]:
        """Find out what is known about some rows; return what must be asked."""
        counts, fingerprint = part.counts[task.name], self._pipeline.fingerprints[task.name]
        counts.rows_read += len(rows)
        texts = [task.template.render(row.values) for row in rows]
        hashes = [content_hash(text) for text in texts]
        keys = [row.key for row in rows]
        answered = self._store.answered(task.name, keys)
        failed = self._store.failed(task.name, keys)
        # Rows that have come from another partition, or two that have one key and would overwrite each other's answer.
        moved = [key for key in keys if key in answered and answered[key].partition_key != part.partition.key]
        self._pipeline.source.check_unique(moved)
        # A refresh takes from the ledger only what it has itself written.
        since = self._started_at if self._settings.full_refresh else None
        reusable = self._store.reusable(task.name, fingerprint, set(hashes), since) if task.reusable else {}
        questions: list[Question] = []
        for key, text, digest in zip(keys, texts, hashes, strict=True):
            name, failure = (fingerprint, digest), failed.get(key)
            row = OpenRow(part, key, failure.attempts if failure and failure[:2] == name else 0)
            if self._is_answered(answered.get(key), name):
                self._outcomes.skip(task, part, key, answered[key].partition_key)
            elif self._settings.only_failed and failure is None:
                counts.rows_left += 1
            elif not text:
                failure = Failure(FailureKind.EMPTY_TEXT, _empty_message(task))
                self._outcomes.fail(task, OpenRow(part, key, 0), digest, failure)
            elif failure and not self._is_asked_again(failure, name):
                self._outcomes.keep_failure(task, part, key, failure)
            elif digest in reusable:
                self._outcomes.answer(task, row, digest, reusable[digest], reused=True)
            else:
                questions.append(Question(task, text, digest, [row]))
        return questions

    def _is_answered(self, known: AnsweredRow | None, name: tuple[str, str]) -> bool:
        return known is not None and known[:2] == name and not self._settings.full_refresh

    def _is_asked_again(self, failure: FailedRow, name: tuple[str, str]) -> bool:
        kind = FailureKind(failure.failure.kind)
        if self._settings.only_failed:
            return not self._settings.failure_kinds or kind in self._settings.failure_kinds
        same = failure[:2] == name and not self._settings.full_refresh
        return not same or (kind.may_pass_next_time and failure.attempts < MAX_ATTEMPTS)


def _empty_message(task: Task) -> str:
    columns = ", ".join(task.template.columns)
    return f"The text ({columns}) is NULL, empty or white space, so there is nothing to ask about."
