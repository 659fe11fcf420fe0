"""What a check looks at, and what it finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llm_assets.records import Key, Partition
from llm_assets.tables import SourceTable, Statistics, Unanswered
from llm_assets.tasks import Task

EXAMPLES = 5
"""So many rows are shown with what was found."""


SEARCHED_PARTITIONS = 1000
"""So many partitions of several dimensions are searched for those that are alike in all but the time."""


@dataclass(frozen=True)
class Subject:
    """One task's answers to one partition, and the source that they are about."""

    task: Task
    partition: Partition
    answers: Statistics
    source: SourceTable
    unanswered: Unanswered
    """The same source with nothing but its keys, to be compared with those of the answers and failures."""
    time_place: int = 0
    """Which part of the partition's key, cut at |, is its time; those of several dimensions have others beside it."""

    def texts(self, keys: Sequence[Key]) -> dict[Key, str]:
        """Return the texts that were asked about, by key; without the rows that are gone."""
        return {key: self.task.template.render(row.values) for key, row in self.source.rows(keys).items()}

    def earlier(self, limit: int) -> list[str]:
        """Return the keys of the last partitions before this one that have answers, alike in all but the time."""
        here = self.partition.key.split("|")
        if len(here) == 1:
            return self.answers.partitions(limit, before=self.partition.key)
        found = []
        for key in self.answers.partitions(SEARCHED_PARTITIONS, before=self.partition.key):
            parts = key.split("|")
            if len(parts) == len(here) and _others(parts, self.time_place) == _others(here, self.time_place):
                found.append(key)
        return found[:limit]

    def row(self, key: Key, **values: object) -> dict[str, object]:
        """Return a row of examples: the key, and what is to be seen of it."""
        return {**dict(zip(self.source.key_columns, key, strict=True)), **values}


@dataclass(frozen=True)
class Finding:
    """What a check found in one partition.

    `measure` is what the threshold is about, so much the worse the higher it is; it says which partition is the worst.
    `numbers` and `examples` are shown beside the text.
    """

    passed: bool
    text: str
    measure: float = 0.0
    numbers: Mapping[str, int | float | str] = field(default_factory=dict)
    examples: Sequence[Mapping[str, object]] = ()


def nothing(why: str, **numbers: int | float | str) -> Finding:
    """Return the finding of a check that has nothing to look at, which is not wrong."""
    return Finding(True, why, 0.0, numbers)


def share_of(part: int, whole: int) -> str:
    """Return a part in words: 3 of 1,200 (0.3 %)."""
    return f"{part:,} of {whole:,} ({percent(part / whole)})" if whole else f"{part:,} of 0"


def percent(share: float) -> str:
    """Return a share as a percentage that is not rounded to nothing: 0.03 %, 2.5 %, 40 %."""
    return f"{100 * share:.2g} %" if 0 < share < 0.1 else f"{100 * share:.3g} %"


def _others(parts: Sequence[str], place: int) -> list[str]:
    return [part for index, part in enumerate(parts) if index != place]
