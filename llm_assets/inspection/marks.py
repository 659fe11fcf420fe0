"""Large sets of 64-bit hashes, eight bytes for each."""

from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class Marks:
    """A set of hashes in which many are looked up at once."""

    def __init__(self, hashes: "array[int]") -> None:
        import numpy as np

        self._sorted = np.sort(np.frombuffer(hashes, dtype=np.int64)) if hashes else np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._sorted)

    def has(self, hashes: "np.ndarray") -> "np.ndarray":
        """Return for each of some hashes whether it is in the set."""
        import numpy as np

        if not len(self._sorted):
            return np.zeros(len(hashes), dtype=bool)
        places = np.searchsorted(self._sorted, hashes)
        places[places == len(self._sorted)] = 0
        return self._sorted[places] == hashes


def hashes_of(values: Iterable[object], count: int) -> "np.ndarray":
    """Return Python's own hashes of some values: the same within a process only."""
    import numpy as np

    return np.fromiter(map(hash, values), dtype=np.int64, count=count)
