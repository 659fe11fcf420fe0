"""The addresses behind an engine: which one gets the next request, and which ones are left out until they answer."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from enum import Enum, auto
from itertools import count

from llm_assets.errors import ConfigError, EngineAwayError
from llm_assets.secrets import masked_logger

FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.2, 5.0
"""An address that is left out is looked at after so long, then ever more seldom, but at least so often."""

MOST_FAULTS = 3
"""So many faults more than good answers, and an address is left out while there is another."""

MOST_RETURNS = 5
"""So often a server may come back without answering anything before this no longer counts as being there."""

logger = masked_logger(__name__)


class State(Enum):
    """Which requests an address gets."""

    OUT = auto()
    """None, until a look at it finds it well."""
    TRIAL = auto()
    """One at a time, until it answers one."""
    WELL = auto()
    """As many as are allowed."""


class Endpoint:
    """One address, how it is, and how busy."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.state = State.OUT
        self.in_flight = self.room = 0
        """Requests that it has, and may have."""
        self.was_well = False
        """Whether a look has ever found it well."""
        self.has_answered = False
        """Whether it has ever answered a request."""
        self.busy_until = 0.0
        """Until when it has too many requests, by its own word."""
        self.faults = 0
        self.trouble = "no answer yet"
        self.wrong: ConfigError | None = None
        """Why it is not the server that is wanted, though it answers."""
        self.pause = FIRST_LOOK_SECONDS
        """Seconds to the next look, about."""
        self.watch: asyncio.Task[None] | None = None
        """Looks at it while it is left out."""


class Endpoints:
    """The addresses that share an engine's requests; for one event loop.

    A request goes where the one before it went if both are about the same row, which that server has in its prefix
    cache, and otherwise where the fewest are in flight. An address is left out until it was looked at, and again when
    it is away or fails several times in a row: then it is looked at until it is found well, and gets one request to
    begin with. One that only fails stays if there is no other, because it may be the requests that make it fail. One
    that has too many requests gets none for a while, if there is another.

    Args:
        urls: The addresses.
        most: Requests in flight to each, at most.
        patience: Seconds to wait while all of them are left out.
        look: Returns what is the matter with an address, nothing if it is well; raises a ConfigError if another server
            is wanted.
    """

    def __init__(
        self, urls: Sequence[str], most: int, patience: float, look: Callable[[Endpoint], Awaitable[str]]
    ) -> None:
        self.all = [Endpoint(url) for url in urls]
        self._most = most
        self._patience = patience
        self._look = look
        self._tickets = count()
        self._last: tuple[int | None, Endpoint | None] = None, None
        """The row of the last request that had not failed yet, and where it went."""
        self._waiting: dict[int, asyncio.Future[None]] = {}
        """Requests that no address has room for. The first ticket is the next one's, however often it has waited."""
        self.answers = 0
        """Requests that were answered, of all runs."""
        self.returns = 0
        """Servers that came back since the last answer."""
        self._away_since: float | None = None
        """Since when nothing was answered, from the moment when all addresses were left out."""

    def begin(self) -> None:
        """Begin a run: what was in another one does not count, and what is left out is looked at now."""
        self.returns = 0
        for endpoint in self.all:
            if endpoint.state is State.OUT:
                endpoint.wrong, endpoint.pause = None, FIRST_LOOK_SECONDS
                if endpoint.watch is not None:
                    endpoint.watch.cancel()
                endpoint.watch = asyncio.create_task(self._watch(endpoint, 0.0))
        self._start_clock()

    async def take(self, failed_at: Collection[Endpoint] = (), row: int | None = None) -> Endpoint:
        """Return an address for a request about a row, as soon as one has room; rather one at which it has not failed.

        Raises:
            ConfigError: none of them is the server that is wanted.
            EngineAwayError: all were left out for longer than the patience lasts.
        """
        ticket = next(self._tickets)
        while (endpoint := self._free(failed_at, row)) is None:
            seconds = self._patience_left()
            turn = self._waiting[ticket] = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait([turn], timeout=seconds)
            finally:
                self._waiting.pop(ticket, None)
        if not failed_at:
            self._last = (row, endpoint)
        endpoint.in_flight += 1
        return endpoint

    def give_back(self, endpoint: Endpoint) -> None:
        """Say that a request to an address has ended, however it did."""
        endpoint.in_flight -= 1
        self._wake(1)

    def answered(self, endpoint: Endpoint) -> None:
        """Say that a request was answered: the address is well, unless it went away after it got the request."""
        self.answers += 1
        self.returns = 0
        self._start_clock()
        endpoint.has_answered = True
        endpoint.faults = max(0, endpoint.faults - 1)
        endpoint.pause = FIRST_LOOK_SECONDS
        if endpoint.state is State.TRIAL:
            endpoint.state, endpoint.room, endpoint.faults = State.WELL, self._most, 0
            self._wake(self._most)

    def failed(self, endpoint: Endpoint, trouble: str) -> None:
        """Say that a server failed at a request: it is left out if it does so again and again, and there is another."""
        endpoint.faults = min(endpoint.faults + 1, MOST_FAULTS)
        others = any(other.state is State.WELL for other in self.all if other is not endpoint)
        if endpoint.state is State.TRIAL or (endpoint.faults == MOST_FAULTS and others):
            self.leave_out(endpoint, trouble)

    def leave_out(
        self, endpoint: Endpoint, trouble: str, wrong: ConfigError | None = None, wait: float | None = None
    ) -> None:
        """Give an address no more requests until a look finds it well; not before `wait` seconds, if it asks so."""
        endpoint.wrong = wrong or endpoint.wrong
        if endpoint.state is State.WELL:
            logger.warning("%s is left out until it answers: %s", endpoint.url, trouble)
        endpoint.trouble = trouble
        if endpoint.state is not State.OUT:
            endpoint.state, endpoint.room, endpoint.faults = State.OUT, 0, 0
            seconds = max(self._next_pause(endpoint), min(wait or 0.0, self._patience))
            endpoint.watch = asyncio.create_task(self._watch(endpoint, seconds))
        if self._away_since is None:
            self._start_clock()
        self._wake(len(self._waiting))

    def busy(self, endpoint: Endpoint, seconds: float) -> bool:
        """Say that an address has too many requests for so long; return whether there is another one meanwhile."""
        endpoint.busy_until = time.monotonic() + seconds
        # Those that wait for the others may come here then.
        asyncio.get_running_loop().call_later(seconds, self._wake, self._most)
        return any(self._takes_more(other) for other in self.all)

    async def is_well(self, endpoint: Endpoint) -> bool:
        """Look at an address, and leave it out if it is not well."""
        trouble, wrong = await self._found(endpoint)
        if trouble:
            self.leave_out(endpoint, trouble, wrong)
        return not trouble

    async def close(self) -> None:
        """Stop looking at addresses."""
        watches = [endpoint.watch for endpoint in self.all if endpoint.watch is not None]
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)

    def _free(self, failed_at: Collection[Endpoint], row: int | None) -> Endpoint | None:
        # An address on trial is not tried by those that have failed there, as long as they can go elsewhere.
        spared = any(endpoint.state is State.WELL and endpoint not in failed_at for endpoint in self.all)
        some_take_more = any(map(self._takes_more, self.all))
        usable = [
            endpoint
            for endpoint in self.all
            if endpoint.in_flight < endpoint.room
            and not (spared and endpoint.state is State.TRIAL and endpoint in failed_at)
            and not (some_take_more and self._is_busy(endpoint))
        ]
        last_row, last = self._last
        if row is not None and row == last_row and last in usable and last not in failed_at:
            return last
        return min(usable, key=lambda endpoint: (endpoint in failed_at, endpoint.in_flight), default=None)

    def _takes_more(self, endpoint: Endpoint) -> bool:
        return endpoint.state is State.WELL and not self._is_busy(endpoint)

    def _is_busy(self, endpoint: Endpoint) -> bool:
        return time.monotonic() < endpoint.busy_until

    def _are_all_out(self) -> bool:
        return all(endpoint.state is State.OUT for endpoint in self.all)

    def _are_all_wrong(self) -> bool:
        return all(endpoint.wrong for endpoint in self.all)

    def _start_clock(self) -> None:
        self._away_since = time.monotonic() if self._are_all_out() else None

    def _patience_left(self) -> float | None:
        """Return how many seconds more to wait; None while an address is there. Raise an error if there are none."""
        if not self._are_all_out() or self._away_since is None:
            return None
        if self._are_all_wrong():
            raise ConfigError("\n".join(str(endpoint.wrong) for endpoint in self.all))
        left = self._away_since + self._patience - time.monotonic()
        if left > 0:
            return left
        urls = ", ".join(f"{endpoint.url} ({endpoint.trouble})" for endpoint in self.all)
        raise EngineAwayError(
            f"No server has answered for {self._patience:g} seconds (unavailable_seconds). Asked: {urls}. "
            "What was answered is kept; start the server, or correct urls, and run again."
        )

    async def _found(self, endpoint: Endpoint) -> tuple[str, ConfigError | None]:
        try:
            return await self._look(endpoint), None
        except ConfigError as error:
            return str(error), error

    async def _watch(self, endpoint: Endpoint, seconds: float) -> None:
        """Look at an address until it is well: after so many seconds, then ever more seldom."""
        was_away = False
        while True:
            await asyncio.sleep(seconds)
            trouble, wrong = await self._found(endpoint)
            if not trouble:
                break
            was_away, is_new = True, trouble != endpoint.trouble
            endpoint.trouble, endpoint.wrong = trouble, wrong
            if wrong and is_new and not self._are_all_wrong():
                logger.warning("%s gets no requests: %s", endpoint.url, trouble)
            if self._are_all_wrong():
                self._wake(len(self._waiting))
            seconds = self._next_pause(endpoint)
        endpoint.wrong = None
        if endpoint.was_well:
            # Beside what it got before it was away, which may never end.
            endpoint.state, endpoint.room = State.TRIAL, min(endpoint.in_flight + 1, self._most)
        else:
            endpoint.state, endpoint.room, endpoint.was_well = State.WELL, self._most, True
        # What only says that it is well, and has never been away, does not stop the clock.
        if was_away:
            self.returns += 1
            if self.returns <= MOST_RETURNS:
                self._start_clock()
        self._wake(len(self._waiting))

    def _next_pause(self, endpoint: Endpoint) -> float:
        """Return the seconds to the next look, which the one after it doubles: at random, as runs look side by side."""
        seconds = endpoint.pause * random.uniform(0.5, 1.5)
        endpoint.pause = min(2 * endpoint.pause, LAST_LOOK_SECONDS, self._patience / 8)
        return seconds

    def _wake(self, number: int) -> None:
        for ticket in sorted(self._waiting)[:number]:
            self._waiting.pop(ticket).set_result(None)
