"""Requests that were lost with a replica: asked again, and the one that kills replicas found."""

from collections import Counter, deque
from collections.abc import Iterable

from llm_assets.records import Completion, FailureKind, Request

SUSPECTS_TOGETHER = 8
"""Requests that were lost once and are on one replica at a time."""

MOST_LOSSES = 3


class Losses:
    """Requests to ask again.

    One that was lost once is asked again among others, but few such together: most losses have nothing to do with a
    row, and when one has, few are lost with it for the second time. One that was lost twice is asked again on a replica
    that has no other. If that is lost too, it is the row.
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.once: deque[Request] = deque()
        self.twice: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self.once) + len(self.twice)

    def is_suspect(self, request: Request) -> bool:
        """Whether a request was lost before."""
        return request.id in self._counts

    def answered(self, request: Request) -> None:
        """A request was completed."""
        self._counts.pop(request.id, None)

    def add(self, requests: Iterable[Request], reason: str) -> list[Completion]:
        """Note requests that were lost together, and return the completions of those that are not asked again."""
        given_up = []
        for request in requests:
            self._counts[request.id] += 1
            losses = self._counts[request.id]
            if losses >= MOST_LOSSES:
                del self._counts[request.id]
                message = f"{losses} replicas died on this row, the last one when it had no other: {reason}"
                given_up.append(Completion(request.id, error=message, error_kind=FailureKind.POISON))
            elif losses == 1:
                self.once.append(request)
            else:
                self.twice.append(request)
        return given_up
