"""How long an engine had nothing to compute."""

import time
from typing import Any


class IdleClock:
    """Seconds in which vLLM had nothing to compute though a run had not ended.

    vLLM inside this process computes only while it is asked for its output. In a process of its own it computes as
    long as it has requests; it then says itself when it made its last output, because this process may have been busy
    and have noticed late.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float | None = None
        self._in_background = False
        self._last_output = 0.0

    def attach(self, engine_core: Any) -> None:
        """Note from now on when a client of vLLM's engine core says that it made its outputs."""
        get_output, get_output_async = engine_core.get_output, engine_core.get_output_async
        self._in_background = hasattr(engine_core, "outputs_queue")

        def noted() -> Any:
            outputs = get_output()
            self._last_output = outputs.timestamp
            return outputs

        async def noted_async() -> Any:
            outputs = await get_output_async()
            self._last_output = outputs.timestamp
            return outputs

        engine_core.get_output, engine_core.get_output_async = noted, noted_async

    def begin(self) -> None:
        """A run begins, and has not asked anything yet."""
        self._since = time.monotonic()

    def end(self) -> None:
        """A run ends."""
        self._since = None

    def submitted(self) -> None:
        """The engine has got a request."""
        if self._in_background:
            self.works()

    def step(self) -> None:
        """This process waits for outputs from now on."""
        if not self._in_background:
            self.works()

    def stepped(self, requests_left: int) -> None:
        """Outputs are there, and the engine still has some requests."""
        if not self._in_background:
            self.rests()
        elif not requests_left:
            self._since = self._last_output

    def works(self) -> None:
        """The engine has something to compute."""
        if self._since is not None:
            self.seconds += max(time.monotonic() - self._since, 0.0)
            self._since = None

    def rests(self) -> None:
        """The engine has nothing to compute."""
        self._since = time.monotonic()
