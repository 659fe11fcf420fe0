"""What the engines noted: which questions were asked, which of them again, and which kill was the cause."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.engine import IN_FLIGHT
from tests.crash.job import COMMIT_ROWS

BOUNDS = {
    "worker": IN_FLIGHT + COMMIT_ROWS,  # what was in flight, and what was answered and waited for its commit
    "second": IN_FLIGHT + COMMIT_ROWS,
    "engine": IN_FLIGHT,
    "sigterm": IN_FLIGHT,  # what was answered is committed before the worker ends
    "server": 0,  # the worker waits for it
}
"""How many questions at most are asked again after one kill of a kind."""


@dataclass(frozen=True)
class Kill:
    """A kill of a worker, by its life; or of one of its engines, by their number."""

    kind: str
    life: int | None = None
    engine: int | None = None


@dataclass
class Again:
    """Questions asked again: after each kill, by its number, and those that no kill explains."""

    after: Counter[int] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)


class Asked:
    """The file that engines note questions in, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[tuple[int, int, str]] = []
        self._read = 0

    def count(self) -> int:
        """Return how many questions were asked so far."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self._read += len(new)
            for line in new.decode().splitlines():
                life, engine, name = line.split()
                self.lines.append((int(life), int(engine), name))
        return len(self.lines)

    def names(self) -> set[str]:
        """Return the different questions that were asked so far."""
        return {name for _, _, name in self.lines}

    def again(self, kills: list[Kill]) -> Again:
        """Find the cause of every question that was asked again.

        What another worker asks again was lost with the first one. What another engine of the same worker is asked
        again was lost with the first engine. So no kill of a server explains any.
        """
        causes = {(kill.life, kill.engine): number for number, kill in enumerate(kills) if kill.life is not None}
        found, last = Again(), dict[str, tuple[int, int]]()
        for life, engine, name in self.lines:
            if name in last:
                before = last[name]
                cause = causes.get((before[0], None) if before[0] != life else before)
                if cause is None:
                    found.unexplained.append(f"{name}, asked by {before} and by {(life, engine)}")
                else:
                    found.after[cause] += 1
            last[name] = (life, engine)
        return found
