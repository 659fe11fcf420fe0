"""How long the copies of a model had nothing to compute."""

import time
from collections.abc import Sequence
from typing import Any

from llm_assets.engines.idle import IdleClock


class Copy(IdleClock):
    """One process of vLLM that computes, with what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: dict[str, float] = {}
        """Requests that have not finished, in the order in which they were handed over, and when that was."""

    def end(self) -> None:
        super().end()
        self._asked.clear()

    def take(self, request_id: str) -> None:
        """It is handed a request."""
        self._asked[request_id] = time.monotonic()
        self.works()

    def finish(self, request_ids: Sequence[str], at: float) -> None:
        """It finished requests at a time that `time.monotonic()` gave; what it was handed later it waited for."""
        if not [self._asked.pop(request_id) for request_id in request_ids if request_id in self._asked]:
            return
        oldest = next(iter(self._asked.values()), None)
        if oldest is None:
            self.rests(at)
        elif oldest > at:
            self.rests(at)
            self.works(oldest)


class VllmIdleClock:
    """Seconds in which vLLM had nothing to compute though a run had not ended, as a mean over the copies of the model.

    vLLM inside this process computes only while it is asked for its output. In processes of its own it computes as
    long as it has requests. It says itself when it made an output, because this process may have been busy meanwhile
    and take the output late; this process knows when it handed over each request.
    """

    def __init__(self) -> None:
        self._clocks: Sequence[IdleClock] = [IdleClock()]
        """One for vLLM inside this process, or one for each process of its own."""
        self._copies: list[Copy] = []
        """vLLM's own processes, by their rank."""
        self._before = 0.0
        """The seconds of engines that have ended."""

    @property
    def seconds(self) -> float:
        return self._before + sum(clock.seconds for clock in self._clocks) / len(self._clocks)

    def attach(self, engine_core: Any, copies: int) -> None:
        """Note from now on what a client of vLLM's processes is asked, and when they finished it."""
        self._before = self.seconds
        self._clocks, self._copies = [IdleClock()], []
        if not hasattr(engine_core, "outputs_queue"):
            return
        self._clocks = self._copies = [Copy() for _ in range(copies)]
        get_output, get_output_async = engine_core.get_output, engine_core.get_output_async
        abort, abort_async = engine_core.abort_requests, engine_core.abort_requests_async

        def output() -> Any:
            return self._finished(get_output())

        async def output_async() -> Any:
            return self._finished(await get_output_async())

        def aborted(request_ids: list[str]) -> None:
            abort(request_ids)
            self._dropped(request_ids)

        async def aborted_async(request_ids: list[str]) -> None:
            await abort_async(request_ids)
            self._dropped(request_ids)

        engine_core.get_output, engine_core.get_output_async = output, output_async
        engine_core.abort_requests, engine_core.abort_requests_async = aborted, aborted_async
        if hasattr(engine_core, "get_core_engine_for_request"):
            choose = engine_core.get_core_engine_for_request

            def chosen(request: Any) -> bytes:
                identity = choose(request)
                self._copies[int.from_bytes(identity, "little")].take(request.request_id)
                return identity

            engine_core.get_core_engine_for_request = chosen
        else:
            add = engine_core.add_request

            def added(request: Any) -> None:
                self._copies[0].take(request.request_id)
                add(request)

            engine_core.add_request = added

    def begin(self) -> None:
        """A run begins, and has not asked anything yet."""
        for clock in self._clocks:
            clock.begin()

    def end(self) -> None:
        """A run ends."""
        for clock in self._clocks:
            clock.end()

    def step(self) -> None:
        """This process waits for outputs from now on."""
        if not self._copies:
            self._clocks[0].works()

    def stepped(self) -> None:
        """Outputs are there."""
        if not self._copies:
            self._clocks[0].rests()

    def _finished(self, outputs: Any) -> Any:
        finished = [output.request_id for output in outputs.outputs if output.finished]
        self._copies[outputs.engine_index].finish(finished, outputs.timestamp)
        return outputs

    def _dropped(self, request_ids: Sequence[str]) -> None:
        for copy in self._copies:
            copy.finish(request_ids, time.monotonic())
