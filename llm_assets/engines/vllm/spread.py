"""Which copy of a model gets which request."""

from collections.abc import Iterable

STRETCH = 64
"""Requests that follow upon each other and go to the same copy, with those of the last one's row: there they find what
they have in common in the prefix cache."""


class Spread:
    """The requests that each copy of a model holds; the next stretch goes to the one that holds the fewest.

    Args:
        copies: How many there are.
        max_in_flight: Most requests that all of them are handed at a time, where they are fewer than they would take.
    """

    def __init__(self, copies: int, max_in_flight: int | None = None) -> None:
        self._holds: list[set[str]] = [set() for _ in range(copies)]
        self._stretch = STRETCH if max_in_flight is None else max(1, min(STRETCH, max_in_flight // (2 * copies)))
        self._chosen, self._left = 0, 0
        self._row: int | None = None

    def give(self, request_id: str, row: int | None = None) -> int:
        """Return the number of the copy that holds a request about a row from now on."""
        is_same_row = row is not None and row == self._row
        if not is_same_row and (self._left <= 0 or not any(self._holds)):
            self._chosen = min(range(len(self._holds)), key=lambda number: len(self._holds[number]))
            self._left = self._stretch
        self._left -= 1
        self._row = row
        self._holds[self._chosen].add(request_id)
        return self._chosen

    def held(self, number: int) -> set[str]:
        """Return the requests that a copy holds."""
        return self._holds[number]

    def end(self, request_ids: Iterable[str]) -> None:
        """Note that no copy holds some requests any more."""
        ended = set(request_ids)
        for holds in self._holds:
            holds -= ended
