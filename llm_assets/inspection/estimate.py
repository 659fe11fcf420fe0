"""Token counts of many texts from those of a sample, by length: tokens for each byte differ between short and long."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Measured:
    """A text whose tokens were counted: its bytes, its tokens, and how many rows or questions it stands for."""

    size: int
    tokens: int
    weight: int = 1


class Estimator:
    """Sums over texts of which only the bytes are known.

    Texts are told apart by classes of lengths: one for each power of two, divided at a `border` of so many bytes.
    """

    def __init__(self, sample: Sequence[Measured], border: int = 0) -> None:
        import numpy as np

        self._border = border
        self._by_stratum: dict[int, list[Measured]] = {}
        classes = self._classes(np.array([item.size for item in sample], dtype=np.int64)).tolist()
        for item, number in zip(sample, classes, strict=True):
            self._by_stratum.setdefault(number, []).append(item)

    def _classes(self, sizes: "np.ndarray") -> "np.ndarray":
        import numpy as np

        # The exponent of a whole number is its bit length.
        return 2 * np.frexp(sizes.astype(np.float64))[1] + (sizes > self._border)

    def total(self, sizes: "np.ndarray", value: Callable[[int], float]) -> float:
        """Return the sum of a value of each text's tokens, for texts of so many bytes.

        The value is taken to grow with the bytes: within a class of lengths, its sum over the sample is to the sample's
        bytes as the sum sought is to the texts' bytes.
        """
        import numpy as np

        if not len(sizes) or not self._by_stratum:
            return 0.0
        classes = self._classes(sizes)
        found = 0.0
        for number in np.unique(classes):
            nearest = min(self._by_stratum, key=lambda known: (abs(known - int(number)), known))
            items = self._by_stratum[nearest]
            bytes_of_sample = sum(item.size * item.weight for item in items)
            values = sum(value(item.tokens) * item.weight for item in items)
            found += float(sizes[classes == number].sum()) * values / bytes_of_sample
        return found

    def count(self, sizes: "np.ndarray", holds: Callable[[int], bool]) -> float:
        """Return for how many of some texts something holds of their tokens."""
        import numpy as np

        if not len(sizes) or not self._by_stratum:
            return 0.0
        classes = self._classes(sizes)
        found = 0.0
        for number, texts in zip(*np.unique(classes, return_counts=True), strict=True):
            nearest = min(self._by_stratum, key=lambda known: (abs(known - int(number)), known))
            items = self._by_stratum[nearest]
            weights = sum(item.weight for item in items)
            found += int(texts) * sum(item.weight for item in items if holds(item.tokens)) / weights
        return found


@dataclass(frozen=True, slots=True)
class Bin:
    """A bar of a histogram: rows with `low` up to, but without, `high` tokens."""

    low: int
    high: int
    rows: int


def histogram(sample: Sequence[Measured], rows: int) -> list[Bin]:
    """Return how many rows have how many tokens, scaled from a sample to all rows; bars double in width."""
    weights = sum(item.weight for item in sample)
    counts: dict[int, int] = {}
    for item in sample:
        counts[item.tokens.bit_length()] = counts.get(item.tokens.bit_length(), 0) + item.weight
    if not counts:
        return []
    return [
        Bin(1 << (number - 1) if number else 0, 1 << number, round(rows * counts.get(number, 0) / weights))
        for number in range(min(counts), max(counts) + 1)
    ]


def quantile(sample: Sequence[Measured], share: float) -> int:
    """Return the tokens that this share of the rows does not exceed."""
    ordered = sorted(sample, key=lambda item: item.tokens)
    left = share * sum(item.weight for item in ordered)
    for item in ordered:
        left -= item.weight
        if left <= 0:
            return item.tokens
    return ordered[-1].tokens if ordered else 0
