"""What runs in a Ray actor: one of this package's engines, fed from a distance. It needs nothing of Ray itself."""

import os
import pickle
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from llm_assets.engines.base import Engine
from llm_assets.engines.vllm.engine import VllmEngine
from llm_assets.errors import EngineError, LLMAssetsError
from llm_assets.records import Ask, Completion, Constraint, EngineInfo, Request

POLL_SECONDS = 5.0
"""Longest wait for a completion in one call."""

LINGER_SECONDS = 0.02
"""After the first completion, so long for more: a call costs a millisecond, and a model makes thousands a second."""

MOST_TOGETHER = 256
"""Completions in one reply."""

STARVED_SECONDS = 0.2
"""An engine that waits for requests may not compute. After so long it gets none, and finishes those that it has."""

KNOWN_ASKS = 256
IN_FLIGHT = 256
"""What an engine takes at a time that does not say."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a replica says when it has loaded its model. `in_flight` is how many requests its engine takes."""

    info: EngineInfo
    in_flight: int


@dataclass(frozen=True, slots=True)
class Reply:
    """Completions since the last reply, and what stopped the engine, if anything did: then no request is left."""

    completions: bytes
    error: LLMAssetsError | None
    idle_seconds: float


class Worker:
    """Holds an engine and answers requests with it. The methods are called from several threads.

    Args:
        make_engine: Makes the engine from its settings.
        settings: The engine's settings.
        environment: Environment variables that are set before the engine is made.
    """

    def __init__(self, make_engine: Callable[[Any], Engine], settings: Any, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        self._make_engine, self._settings = make_engine, settings
        self._engine: Engine | None = None
        # One thread has the engine from its load to its end: OpenMP's threads belong to the thread that started them.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._changed = threading.Condition()
        self._run = 0
        self._is_open = False
        self._queue: deque[Request] = deque()
        self._done: list[Completion] = []
        self._left = 0
        """Requests of this run that are not done."""
        self._is_last = True
        self._answering = False
        self._error: LLMAssetsError | None = None
        self._known_asks: dict[bytes, Ask] = {}
        self._idle = 0.0
        self._idle_since: float | None = None

    def place(self) -> tuple[str, int]:
        """Return the name of the machine and the id of the process; called to learn that there are such."""
        return socket.gethostname(), os.getpid()

    def load(self) -> Loaded | LLMAssetsError:
        """Load the model, or return why it cannot be loaded."""
        return self._thread.submit(self._load).result()

    def _load(self) -> Loaded | LLMAssetsError:
        try:
            engine = self._made()
            engine.load()
            in_flight = engine.most_in_flight if isinstance(engine, VllmEngine) else IN_FLIGHT
            return Loaded(engine.info, in_flight)
        except Exception as error:  # whatever a library raises, it cannot be raised there, where it may not be known
            return _told(error)

    def info(self) -> EngineInfo:
        """Return what the answers come from."""
        return self._made().info

    def check(self, constraint: Constraint) -> LLMAssetsError | None:
        """Return what is wrong with a constraint, if anything is."""
        try:
            self._made().check(constraint)
        except Exception as error:  # as in _load
            return _told(error)
        return None

    def begin(self, run: int) -> None:
        """Begin a run, unless a call of its own has come before, and drop what is left of the one before."""
        with self._changed:
            if run > self._run:
                self._run = run
                self._drop(is_open=True)

    def end(self, run: int) -> None:
        """End a run and drop what is left of it; the engine lets go of it with its next completion."""
        with self._changed:
            if run >= self._run:
                self._run = run
                self._drop(is_open=False)

    def _drop(self, is_open: bool) -> None:
        self._note_idle()
        self._is_open, self._left, self._error = is_open, 0, None
        self._queue.clear()
        self._done.clear()
        self._note_idle()
        self._changed.notify_all()

    def exchange(self, run: int, requests: bytes, wait: bool, is_last: bool) -> Reply:
        """Take requests and return completions; of a run that is over, neither.

        Args:
            run: Number of the run that the requests belong to.
            requests: More requests, pickled.
            wait: Whether to wait for completions; if not, those are returned that are there.
            is_last: Whether no more requests come soon.
        """
        with self._changed:
            self.begin(run)
            if not self._goes_on(run):
                return self._reply([])
            if self._error is None:  # else they are lost with the others that the engine had
                fresh = self._known(pickle.loads(requests))
                self._queue.extend(fresh)
                self._left += len(fresh)
            self._is_last = is_last
            if self._queue and not self._answering:
                self._answering = True
                self._note_idle()
                self._thread.submit(self._answer)
            self._changed.notify_all()
            if wait:
                self._changed.wait_for(lambda: self._done or self._must_return(run), POLL_SECONDS)
                self._changed.wait_for(
                    lambda: len(self._done) >= MOST_TOGETHER or self._must_return(run), LINGER_SECONDS
                )
            self._note_idle()
            if not self._goes_on(run):  # what is done belongs to another one
                return self._reply([])
            completions, self._done = self._done[:MOST_TOGETHER], self._done[MOST_TOGETHER:]
            error = None
            if self._error is not None and not self._done:
                error, self._error, self._left = self._error, None, 0
            return self._reply(completions, error)

    def _reply(self, completions: list[Completion], error: LLMAssetsError | None = None) -> Reply:
        idle = self._idle + (self._made().idle_seconds if self._engine else 0.0)
        return Reply(pickle.dumps(completions, pickle.HIGHEST_PROTOCOL), error, idle)

    def close(self) -> None:
        """Free the model's memory."""
        self.end(self._run)
        self._thread.submit(self._close).result()

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _made(self) -> Engine:
        if self._engine is None:
            self._engine = self._make_engine(self._settings)
        return self._engine

    def _must_return(self, run: int) -> bool:
        """Whether waiting brings nothing."""
        return not self._left or self._error is not None or not self._goes_on(run)

    def _goes_on(self, run: int) -> bool:
        return self._is_open and run == self._run

    def _known(self, requests: Sequence[Request]) -> list[Request]:
        """The same requests, with equal asks one and the same object: engines prepare for each object once."""
        found: dict[int, Ask] = {}
        for request in requests:
            if id(request.ask) not in found:
                if len(self._known_asks) >= KNOWN_ASKS:
                    self._known_asks.clear()
                name = pickle.dumps(request.ask, pickle.HIGHEST_PROTOCOL)
                found[id(request.ask)] = self._known_asks.setdefault(name, request.ask)
        return [
            request if found[id(request.ask)] is request.ask else replace(request, ask=found[id(request.ask)])
            for request in requests
        ]

    def _note_idle(self) -> None:
        """Count the time in which the engine was given nothing since this was last called in a run."""
        now = time.monotonic()
        if self._idle_since is not None:
            self._idle += now - self._idle_since
        self._idle_since = now if self._is_open and not self._answering else None

    # Below is what runs in the engine's thread.

    def _answer(self) -> None:
        """Answer until no request is left."""
        while True:
            with self._changed:
                run = self._run
                if not self._queue:
                    self._answering = False
                    self._note_idle()
                    return
            try:
                with closing(self._made().run(self._stream(run))) as completions:  # pyright: ignore[reportArgumentType]
                    for completion in completions:
                        if not self._take(run, completion):
                            break
            except Exception as error:  # as in _load
                with self._changed:
                    if self._goes_on(run):
                        self._error = _told(error)
                        self._queue.clear()
                    self._changed.notify_all()

    def _stream(self, run: int) -> Iterator[Request]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._is_last or not self._goes_on(run), STARVED_SECONDS)
                if not self._goes_on(run) or not self._queue:
                    return
                request = self._queue.popleft()
            yield request

    def _take(self, run: int, completion: Completion) -> bool:
        """Note a completion; return whether its run still goes on."""
        with self._changed:
            if not self._goes_on(run):
                return False
            self._done.append(completion)
            self._left -= 1
            # Not for each one: whoever waits would wake up each time, and take the processor from the engine.
            if len(self._done) in (1, MOST_TOGETHER) or not self._left:
                self._changed.notify_all()
            return True


def _told(error: Exception) -> LLMAssetsError:
    """Return an error as one of this package, which is known where it goes; its secrets are masked here."""
    if isinstance(error, LLMAssetsError):
        return error
    return EngineError(f"{type(error).__name__}: {error}")
