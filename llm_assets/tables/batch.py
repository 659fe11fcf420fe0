"""What a run learns from the output tables, and what it adds to them."""

from dataclasses import dataclass, field
from typing import NamedTuple

from llm_assets.records import Answer, Failure, Key


class AnsweredRow(NamedTuple):
    """What a stored answer was an answer to."""

    fingerprint: str
    content_hash: str
    partition_key: str


class FailedRow(NamedTuple):
    """What a stored failure was about, and how often it happened."""

    fingerprint: str
    content_hash: str
    attempts: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class AnswerToWrite:
    """An answer on its way into the tables.

    `to_ledger` is whether it may serve for other rows, `reused` whether it was asked for another one.
    """

    task: str
    key: Key
    partition_key: str
    fingerprint: str
    content_hash: str
    answer: Answer
    to_ledger: bool
    reused: bool


@dataclass(frozen=True, slots=True)
class FailureToWrite:
    """A failure on its way into the tables."""

    task: str
    key: Key
    partition_key: str
    fingerprint: str
    content_hash: str
    failure: Failure
    attempts: int


@dataclass(slots=True)
class Batch:
    """What is committed together. `moved` are answered rows that belong to another partition now, by task."""

    answers: list[AnswerToWrite] = field(default_factory=list)
    failures: list[FailureToWrite] = field(default_factory=list)
    moved: list[tuple[str, Key, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.answers) + len(self.failures) + len(self.moved)


class UnstorableError(Exception):
    """Some answers of a batch cannot be held by the database; nothing of the batch is written.

    `refused` are those answers with the database's reasons.
    """

    def __init__(self, refused: list[tuple[AnswerToWrite, str]]) -> None:
        super().__init__(f"{len(refused)} answers cannot be stored")
        self.refused = refused
