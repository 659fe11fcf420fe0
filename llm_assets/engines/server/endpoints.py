"""The addresses behind an engine: which one gets the next request, and which ones are left out until they answer."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from llm_assets.errors import EngineAwayError

FIRST_PROBE_SECONDS, LAST_PROBE_SECONDS = 0.2, 5.0
"""A dead address is looked at again after so long, then ever more seldom, but at least so often."""


class Endpoint:
    """One address, and how busy it is."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.in_flight = 0
        self.is_alive = True
        self.trouble = ""


class Endpoints:
    """The addresses that share an engine's requests; for one event loop.

    A request goes where the fewest are in flight. An address that breaks a connection is left out, and asked whether it
    lives until it says so.

    Args:
        urls: The addresses.
        most: Requests in flight to each, at most.
        patience: Seconds to wait while none of them answers.
        lives: Whether an address answers.
    """

    def __init__(
        self, urls: Sequence[str], most: int, patience: float, lives: Callable[[Endpoint], Awaitable[bool]]
    ) -> None:
        self.all = [Endpoint(url) for url in urls]
        self._most = most
        self._patience = patience
        self._lives = lives
        self._waiting: deque[asyncio.Future[None]] = deque()
        """Requests that no address has room for, the first one first."""
        self._probes: set[asyncio.Task[None]] = set()
        self._silent_since: float | None = None
        """Since when requests get no answer from any address; None while they get one."""

    async def take(self) -> Endpoint:
        """Return an address for a request, as soon as one has room.

        Raises:
            EngineAwayError: none has answered for longer than the patience lasts.
        """
        while True:
            self.check_patience()
            usable = [endpoint for endpoint in self.all if endpoint.is_alive and endpoint.in_flight < self._most]
            if usable:
                best = min(usable, key=lambda endpoint: endpoint.in_flight)
                best.in_flight += 1
                return best
            wait = None if self._silent_since is None else self._silent_since + self._patience - time.monotonic()
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await asyncio.wait([turn], timeout=wait if wait is None else max(wait, 0.01))
            finally:
                if not turn.done():
                    self._waiting.remove(turn)

    def give_back(self, endpoint: Endpoint) -> None:
        """Say that a request to an address has ended, however it did."""
        endpoint.in_flight -= 1
        self._wake(1)

    def answered(self) -> None:
        """Say that a request was answered, if only with an error."""
        self._silent_since = None

    def broke(self, endpoint: Endpoint, trouble: str) -> None:
        """Say that a connection broke, and how: the address is left out until it answers again."""
        endpoint.trouble = trouble
        self._silent_since = self._silent_since or time.monotonic()
        if endpoint.is_alive:
            endpoint.is_alive = False
            probe = asyncio.create_task(self._probe(endpoint))
            self._probes.add(probe)
            probe.add_done_callback(self._probes.discard)

    def check_patience(self) -> None:
        """Raise an EngineAwayError if no address has answered for too long."""
        if self._silent_since is not None and time.monotonic() - self._silent_since > self._patience:
            urls = ", ".join(f"{endpoint.url} ({endpoint.trouble})" for endpoint in self.all)
            raise EngineAwayError(
                f"No server has answered for {self._patience:g} seconds (unavailable_seconds). Asked: {urls}. "
                "What was answered is kept; start the server, and run again."
            )

    async def close(self) -> None:
        """Stop looking at dead addresses."""
        for probe in tuple(self._probes):
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)

    async def _probe(self, endpoint: Endpoint) -> None:
        wait = FIRST_PROBE_SECONDS
        while not await self._lives(endpoint):
            await asyncio.sleep(wait * random.uniform(0.5, 1.5))
            wait = min(2 * wait, LAST_PROBE_SECONDS)
        endpoint.is_alive = True
        self._wake(len(self._waiting))

    def _wake(self, number: int) -> None:
        for _ in range(min(number, len(self._waiting))):
            self._waiting.popleft().set_result(None)
