"""One run over replicas: requests go out as places come free, completions come back as they are there."""

import pickle
from collections.abc import Iterator

from llm_assets.engines.ray.losses import SUSPECTS_TOGETHER, Losses
from llm_assets.engines.ray.replica import Phase, Replica
from llm_assets.engines.ray.replicas import Replicas
from llm_assets.engines.ray.worker import Reply
from llm_assets.errors import EngineError, LLMAssetsError, ModelError
from llm_assets.records import Completion, Request
from llm_assets.secrets import masked_logger

GIVEN_TOGETHER = 64
"""Requests that are gathered for a replica before they are sent off."""

logger = masked_logger(__name__)


class RayRun:
    """One run.

    Args:
        replicas: The replicas, of which at least one is ready.
        number: What tells this run from others.
        requests: All that is to be asked.
        max_restarts: Most replicas to start again.
    """

    def __init__(self, replicas: Replicas, number: int, requests: Iterator[Request], max_restarts: int) -> None:
        self._replicas, self._number, self._requests = replicas, number, requests
        self._restarts = max_restarts
        self._losses = Losses()
        self._is_exhausted = False
        self._last_error: LLMAssetsError | None = None

    def completions(self) -> Iterator[Completion]:
        """Yield the completion of each request.

        Raises:
            EngineError: all replicas are lost.
            ModelError: a replica that was lost cannot load the model again, and there is no other.
        """
        for replica in self._replicas.ready:
            replica.actor.begin.remote(self._number)
        while True:
            self._give()
            if self._is_exhausted and not self._losses and not any(replica.held for replica in self._replicas.all):
                return
            yield from self._receive()

    def end(self) -> None:
        """Drop what the replicas still hold."""
        for replica in self._replicas.ready:
            replica.actor.end.remote(self._number)
            replica.drop()
            replica.call = None

    def _give(self) -> None:
        """Give requests to the replicas that are not asked anything, the least loaded first, and ask those."""
        free = [replica for replica in self._replicas.ready if replica.call is None]
        given: dict[Replica, list[Request]] = {replica: [] for replica in free}
        emptied = self._empty_one(given)
        open_to_more = [replica for replica in free if replica is not emptied and not replica.is_alone]
        while open_to_more:
            replica = min(open_to_more, key=lambda one: len(one.held))
            request = self._next(replica) if self._has_room(replica, given) else None
            if request is None:
                open_to_more.remove(replica)
            else:
                given[replica].append(replica.give(request, self._losses))
        for replica, requests in given.items():
            is_last = self._is_exhausted or replica is emptied or replica.is_alone
            if replica.held:
                replica.ask(self._number, requests, is_last or len(replica.held) >= replica.limit, is_last)

    def _empty_one(self, given: dict[Replica, list[Request]]) -> Replica | None:
        """Give a request that is to be alone to an empty replica, or choose one that gets no more until it is empty."""
        if not self._losses.twice or any(replica.is_alone for replica in self._replicas.ready):
            return None
        replica = min(self._replicas.ready, key=lambda one: len(one.held), default=None)
        if replica is not None and replica in given and not replica.held:
            given[replica].append(replica.give(self._losses.twice.popleft(), self._losses))
            replica.is_alone = True
        return replica

    @staticmethod
    def _has_room(replica: Replica, given: dict[Replica, list[Request]]) -> bool:
        return len(replica.held) < replica.limit and len(given[replica]) < GIVEN_TOGETHER

    def _next(self, replica: Replica) -> Request | None:
        """Return the next request for a replica: one that was lost once, or a new one."""
        if self._losses.once and replica.suspects < SUSPECTS_TOGETHER:
            return self._losses.once.popleft()
        if self._is_exhausted:
            return None
        request = next(self._requests, None)
        self._is_exhausted = request is None
        return request

    def _receive(self) -> Iterator[Completion]:
        """Wait for what was asked, and yield what is completed."""
        for replica, result in self._replicas.results(self._replicas.all):
            if replica.phase is Phase.READY:
                yield from self._receive_from(replica, result)
            elif error := self._replicas.advance(replica, result):
                yield from self._lost(replica, error)
            elif replica.phase is Phase.READY:
                replica.actor.begin.remote(self._number)
        for replica in self._replicas.overdue(self._replicas.all):
            error = self._replicas.no_place([replica])
            replica.kill()
            self._gone(error)

    def _receive_from(self, replica: Replica, result: Reply | EngineError) -> Iterator[Completion]:
        replica.call = None
        if isinstance(result, EngineError):
            yield from self._lost(replica, result)
            return
        replica.note_idle(result.idle_seconds)
        for completion in pickle.loads(result.completions):
            if replica.take(completion.id, self._losses):
                yield completion
        if result.error is not None:
            yield from self._stopped(replica, result.error)

    def _stopped(self, replica: Replica, error: LLMAssetsError) -> Iterator[Completion]:
        """The engine in an actor stopped. One that died can be loaded again where it is."""
        if not isinstance(error, EngineError):
            raise error
        yield from self._lost(replica, error)

    def _lost(self, replica: Replica, error: LLMAssetsError) -> Iterator[Completion]:
        """A replica is lost, with what it holds; another one comes in its place."""
        dropped = replica.drop()
        logger.warning(
            "The replica on %s was lost with %d requests, which are asked again. %s", replica.host, len(dropped), error
        )
        replica.kill()
        if isinstance(error, ModelError) or not self._restarts:
            self._gone(error)
        else:
            self._restarts -= 1
            replica.start()
        yield from self._losses.add(dropped, str(error))

    def _gone(self, error: LLMAssetsError) -> None:
        """A replica does not come back. The run goes on with the others."""
        self._last_error = error
        if self._replicas.ready or self._replicas.starting:
            logger.warning("A replica does not come back; the run goes on with the others. %s", error)
            return
        if isinstance(error, ModelError):
            raise error
        raise EngineError(f"All {len(self._replicas.all)} replicas in Ray are lost. The last one: {error}")
