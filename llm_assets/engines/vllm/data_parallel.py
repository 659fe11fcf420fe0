"""Several copies of a model, each on GPUs of its own, among which requests are spread."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_assets.engines.background import Background
from llm_assets.engines.vllm.messages import refusals
from llm_assets.engines.vllm.spread import Spread

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.outputs import RequestOutput


@dataclass(frozen=True, slots=True)
class Refusal:
    """What vLLM says to a request that it does not take, in the place of its output."""

    request_id: str
    error: Exception
    finished: bool = True


class DataParallelLLM:
    """vLLM with data parallelism, by the methods of vLLM's own `LLM` and `LLMEngine` that `VllmEngine` calls.

    vLLM offers it to asynchronous callers only, so its front end runs in a thread with an event loop of its own.
    Requests are handed over without waiting for vLLM to look at them.

    Args:
        arguments: Arguments of vLLM's engine, with `data_parallel_size`.
        max_in_flight: Most requests that all copies are handed at a time, where they are fewer than they would take.
    """

    def __init__(self, arguments: dict[str, Any], max_in_flight: int | None = None) -> None:
        self._spread = Spread(arguments["data_parallel_size"], max_in_flight)
        self._collectors: dict[str, Any] = {}
        self._background: Background[RequestOutput | Refusal] = Background("llm_assets vLLM front end")
        try:
            self._llm = self._background.run(self._start(arguments))
        except BaseException:
            self._background.close()
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

    def add_request(self, request_id: str, prompt: Any, params: Any, row: int | None = None) -> None:
        """Hand a request about a row to the copy whose turn it is. `step` says so if vLLM refuses it."""
        self._background.submit(self._answer(request_id, prompt, params, self._spread.give(request_id, row)))

    def step(self) -> "list[RequestOutput | Refusal]":
        """Wait until a request has finished, and return its output; raise what stopped vLLM."""
        output = self._background.get()
        self._spread.end([output.request_id])
        return [output]

    def abort_request(self, request_ids: list[str]) -> None:
        """Drop all requests; `request_ids` are those that have not finished."""
        self._background.cancel_all()
        self._spread.end(request_ids)

    def reset_prefix_cache(self) -> None:
        """Forget the computed prefixes of prompts, in every copy."""
        self._background.run(self._llm.reset_prefix_cache())

    def stop_waiting(self, error: Exception) -> None:
        """Have the requests that vLLM holds end with an error; from any thread."""
        self._background.run(self._fail(error))

    def shutdown(self) -> None:
        """End vLLM's processes and the thread."""
        try:
            self._background.run(self._shut_down())
        finally:
            self._background.close()

    async def _answer(self, request_id: str, prompt: Any, params: Any, rank: int) -> "RequestOutput | Refusal":
        try:
            collector = await self._llm.add_request(request_id, prompt, params, data_parallel_rank=rank)
            self._collectors[request_id] = collector
            return await collector.get()  # the only output of a request whose output_kind is FINAL_ONLY
        except refusals() as error:
            return Refusal(request_id, error)
        except asyncio.CancelledError:
            await self._llm.abort([request_id])
            raise
        finally:
            self._collectors.pop(request_id, None)

    async def _fail(self, error: Exception) -> None:
        for collector in self._collectors.values():
            collector.put(error)

    async def _shut_down(self) -> None:
        self._llm.shutdown()
