"""What a run would do with each row of one task, counted in bulk."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llm_assets.inspection.marks import Marks, hashes_of
from llm_assets.pipeline import MAX_ATTEMPTS, Pipeline
from llm_assets.records import FailureKind, Key
from llm_assets.tables import ReadOnlyStore, key_text
from llm_assets.tasks import Task

if TYPE_CHECKING:
    import numpy as np

UNKNOWN = -1
"""In place of a text's tokens, where they were not counted."""


@dataclass(slots=True)
class Texts:
    """The rows of a chunk as one group of tasks sees them."""

    keys: Sequence[Key]
    texts: Sequence[str]
    digests: Sequence[str]
    digest_hashes: "np.ndarray"
    row_hashes: "np.ndarray"
    sizes: "np.ndarray"
    """Bytes."""


@dataclass(slots=True)
class Open:
    """Rows that no stored answer serves: hash of the text, bytes, and tokens where they were counted."""

    hashes: "np.ndarray"
    sizes: "np.ndarray"
    tokens: "np.ndarray"


@dataclass(slots=True)
class Tally:
    """Counts of one task's rows. The cases, and their order, are those of a run: see `Comparison.questions`."""

    task: Task
    answered: Marks
    failed: Marks
    """Failures that are not asked again ..."""
    asked_again: Marks | None
    """... or, when only failed rows are asked, those that are."""
    any_failed: Marks | None
    ledger: Marks
    rows: int = 0
    skipped: int = 0
    empty: int = 0
    failed_before: int = 0
    left: int = 0
    reused: int = 0
    _open: list[Open] = field(default_factory=list)

    def compare(self, chunk: Texts) -> "np.ndarray":
        """Count the rows of a chunk; return which of them are open: no stored answer serves for them."""
        import numpy as np

        self.rows += len(chunk.keys)
        skipped = self.answered.has(chunk.row_hashes)
        rest = ~skipped
        self.skipped += int(skipped.sum())
        if self.any_failed is not None:
            known = self.any_failed.has(hashes_of(map(key_text, chunk.keys), len(chunk.keys)))
            self.left += int((rest & ~known).sum())
            rest &= known
        empty = rest & (chunk.sizes == 0)
        self.empty += int(empty.sum())
        rest &= ~empty
        failed = rest & self._is_not_asked_again(chunk, np.zeros(len(chunk.keys), dtype=bool))
        self.failed_before += int(failed.sum())
        rest &= ~failed
        reused = rest & self.ledger.has(chunk.digest_hashes)
        self.reused += int(reused.sum())
        return rest & ~reused

    def _is_not_asked_again(self, chunk: Texts, none: "np.ndarray") -> "np.ndarray":
        if self.asked_again is not None:
            return ~self.asked_again.has(hashes_of(map(key_text, chunk.keys), len(chunk.keys)))
        if not len(self.failed):
            return none
        names = zip(map(key_text, chunk.keys), chunk.digests, strict=True)
        return self.failed.has(hashes_of(names, len(chunk.keys)))

    def add_open(self, hashes: "np.ndarray", sizes: "np.ndarray", tokens: "np.ndarray") -> None:
        """Take rows that are open."""
        import numpy as np

        self._open.append(Open(hashes, sizes.astype(np.int32), tokens.astype(np.int32)))

    def open_rows(self) -> Open:
        """Return all open rows."""
        import numpy as np

        if not self._open:
            return Open(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int32))
        joined = Open(
            np.concatenate([item.hashes for item in self._open]),
            np.concatenate([item.sizes for item in self._open]),
            np.concatenate([item.tokens for item in self._open]),
        )
        self._open = [joined]
        return joined


def make_tally(pipeline: Pipeline, store: ReadOnlyStore, task: Task) -> Tally:
    """Return a tally with all that the tables know of a task's rows."""
    settings, fingerprint = pipeline.settings, pipeline.fingerprints[task.name]
    empty = Marks(array("q"))
    passing = {str(kind): MAX_ATTEMPTS for kind in FailureKind if kind.may_pass_next_time}
    answered = failed = ledger = empty
    asked_again = any_failed = None
    if not settings.full_refresh:
        answered = Marks(store.answered_marks(task.name, fingerprint))
        failed = Marks(store.failed_marks(task.name, fingerprint, passing=passing))
        ledger = Marks(store.ledger_marks(fingerprint)) if task.reusable else empty
    if settings.only_failed:
        any_failed = Marks(store.failed_marks(task.name, None))
        asked_again = Marks(store.failed_marks(task.name, None, kinds=[str(kind) for kind in settings.failure_kinds]))
    return Tally(task, answered, failed, asked_again, any_failed, ledger)
