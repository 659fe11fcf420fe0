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

    def attach(self, engine_cores: Sequence[Any], copies: int) -> None:
        """Note from now on what clients of vLLM's processes are asked, and when those finished it.

        Each client has so many copies of the model.
        """
        self._before = self.seconds
        self._clocks, self._copies = [IdleClock()], []
        if not all(hasattr(core, "outputs_queue") for core in engine_cores):
            return
        self._clocks = self._copies = [Copy() for _ in range(len(engine_cores) * copies)]
        for number, core in enumerate(engine_cores):
            _listen(core, self._copies[number * copies : (number + 1) * copies])

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


def _listen(core: Any, copies: Sequence[Copy]) -> None:
    """Let the clocks of some copies know what their client is asked, and when they finished it."""
    get_output, get_output_async = core.get_output, core.get_output_async
    abort, abort_async = core.abort_requests, core.abort_requests_async

    def finished(outputs: Any) -> Any:
        ids = [output.request_id for output in outputs.outputs if output.finished]
        copies[outputs.engine_index].finish(ids, outputs.timestamp)
        return outputs

    def dropped(request_ids: Sequence[str]) -> None:
        for copy in copies:
            copy.finish(request_ids, time.monotonic())

    def output() -> Any:
        return finished(get_output())

    async def output_async() -> Any:
        return finished(await get_output_async())

    def aborted(request_ids: list[str]) -> None:
        abort(request_ids)
        dropped(request_ids)

    async def aborted_async(request_ids: list[str]) -> None:
        await abort_async(request_ids)
        dropped(request_ids)

    core.get_output, core.get_output_async = output, output_async
    core.abort_requests, core.abort_requests_async = aborted, aborted_async
    if hasattr(core, "get_core_engine_for_request"):
        choose = core.get_core_engine_for_request

        def chosen(request: Any) -> bytes:
            identity = choose(request)
            copies[int.from_bytes(identity, "little")].take(request.request_id)
            return identity

        core.get_core_engine_for_request = chosen
    else:
        add = core.add_request

        def added(request: Any) -> None:
            copies[0].take(request.request_id)
            add(request)

        core.add_request = added
