"""Several copies of a model, each on GPUs of its own, among which vLLM spreads the requests."""

import asyncio
import queue
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.outputs import RequestOutput


class DataParallelLLM:
    """vLLM with data parallelism, by the methods of vLLM's own `LLM` and `LLMEngine` that `VllmEngine` calls.

    vLLM offers it to asynchronous callers only, so its front end runs in a thread with an event loop of its own.

    Args:
        arguments: Arguments of vLLM's engine, with `data_parallel_size`.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._outputs: queue.SimpleQueue[RequestOutput | Exception] = queue.SimpleQueue()
        self._waiting: dict[str, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm_assets vLLM front end", daemon=True)
        self._thread.start()
        try:
            self._llm = self._run(self._start(arguments))
        except BaseException:
            self._stop_loop()
            raise

    @staticmethod
    async def _start(arguments: dict[str, Any]) -> Any:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))

    @property
    def llm_engine(self) -> "DataParallelLLM":
        """What `LLM` calls its engine."""
        return self

    @property
    def engine_core(self) -> Any:
        """vLLM's client of the processes that compute."""
        return self._llm.engine_core

    @property
    def vllm_config(self) -> "VllmConfig":
        """The configuration of each copy."""
        return self._llm.vllm_config

    def add_request(self, request_id: str, prompt: Any, params: Any) -> None:
        """Hand a request to vLLM, which chooses a copy of the model; raise what vLLM raises when it refuses it."""
        self._run(self._submit(request_id, prompt, params))

    def step(self) -> list["RequestOutput"]:
        """Wait until requests have finished, and return their outputs; raise what stopped vLLM."""
        found = [self._outputs.get()]
        while not self._outputs.empty():
            found.append(self._outputs.get())
        for item in found:
            if isinstance(item, Exception):
                raise item
        return [item for item in found if not isinstance(item, Exception)]

    def abort_request(self, request_ids: list[str]) -> None:
        """Drop requests. Outputs that are there already still come."""
        self._run(self._abort(request_ids))

    def reset_prefix_cache(self) -> None:
        """Forget the computed prefixes of prompts, in every copy."""
        self._run(self._llm.reset_prefix_cache())

    def stop_waiting(self, error: Exception) -> None:
        """Have `step` raise an error; it may be called from any thread."""
        self._outputs.put(error)

    def shutdown(self) -> None:
        """End vLLM's processes and the thread."""
        try:
            self._run(self._shut_down())
        finally:
            self._stop_loop()

    async def _submit(self, request_id: str, prompt: Any, params: Any) -> None:
        collector = await self._llm.add_request(request_id, prompt, params)
        self._waiting[request_id] = asyncio.create_task(self._collect(request_id, collector))

    async def _collect(self, request_id: str, collector: Any) -> None:
        """Wait for the one output of a request: `output_kind` is FINAL_ONLY."""
        try:
            self._outputs.put(await collector.get())
        except Exception as error:  # vLLM's engine is gone
            self._outputs.put(error)
        finally:
            self._waiting.pop(request_id, None)

    async def _abort(self, request_ids: list[str]) -> None:
        await self._llm.abort(request_ids)
        for request_id in request_ids:
            if task := self._waiting.get(request_id):
                task.cancel()

    async def _shut_down(self) -> None:
        for task in list(self._waiting.values()):
            task.cancel()
        self._llm.shutdown()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return the result of a coroutine that runs in the thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
