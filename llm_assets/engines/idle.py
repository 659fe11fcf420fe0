"""How long an engine had nothing to compute."""

import time


class IdleClock:
    """Seconds in which an engine had nothing to compute though a run had not ended."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float | None = None
        self._runs = False

    def begin(self) -> None:
        """A run begins, and has not asked anything yet."""
        self._runs = True
        self._since = time.monotonic()

    def end(self) -> None:
        """A run ends."""
        self._runs = False
        self._since = None

    def works(self, since: float | None = None) -> None:
        """The engine has something to compute, from now on or since `time.monotonic()` said so."""
        if self._since is not None:
            self.seconds += max((time.monotonic() if since is None else since) - self._since, 0.0)
            self._since = None

    def rests(self, since: float | None = None) -> None:
        """The engine has nothing to compute, from now on or since `time.monotonic()` said so."""
        if self._runs:
            self._since = time.monotonic() if since is None else since
