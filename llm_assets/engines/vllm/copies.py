"""Several copies of a model on the same GPU, among which requests are spread."""

from collections.abc import Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from llm_assets.engines.vllm.spread import Spread
from llm_assets.errors import ConfigError

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.outputs import RequestOutput


class CopiesLLM:
    """Copies of a model on one GPU, by the methods of vLLM's own `LLM` and `LLMEngine` that `VllmEngine` calls.

    Each copy has a process of its own, with the host's work for each token, so that the GPU computes for one while the
    others prepare their next step or read their last.

    Args:
        arguments: Arguments of vLLM's engine. `gpu_memory_utilization` is the share of all copies together.
        count: How many copies.
        max_in_flight: Most requests that all copies are handed at a time, where they are fewer than they would take.

    Raises:
        ConfigError: vLLM is told to compute in this process, in which there is one engine at a time.
    """

    def __init__(self, arguments: dict[str, Any], count: int, max_in_flight: int | None = None) -> None:
        import vllm
        import vllm.envs

        if not vllm.envs.VLLM_ENABLE_V1_MULTIPROCESSING:
            raise ConfigError(
                "Copies of a model need processes of their own: set copies_per_gpu to 1, or the environment variable "
                "VLLM_ENABLE_V1_MULTIPROCESSING to 1."
            )
        share = arguments.get("gpu_memory_utilization") or vllm.EngineArgs.gpu_memory_utilization
        self.llms = []
        self._ready: SimpleQueue[int] = SimpleQueue()
        """A number of a copy for each output that it put into its queue."""
        self._spread = Spread(count, max_in_flight)
        try:
            for number in range(count):  # one after the other: each measures the memory that is left
                self.llms.append(vllm.LLM(**{**arguments, "gpu_memory_utilization": share / count}))
                self._listen(number)
        except BaseException:
            self.shutdown()
            raise

    def _listen(self, number: int) -> None:
        """Note from now on which copy has an output. vLLM has a queue for each, and no way to wait for all of them."""
        outputs = self._core(number).outputs_queue
        put = outputs.put_nowait

        def put_and_say(output: Any) -> None:
            put(output)
            self._ready.put(number)

        outputs.put_nowait = put_and_say

    def _core(self, number: int) -> Any:
        return self.llms[number].llm_engine.engine_core

    @property
    def llm_engine(self) -> "CopiesLLM":
        """What `LLM` calls its engine."""
        return self

    @property
    def engine_cores(self) -> Sequence[Any]:
        """vLLM's clients of the processes that compute."""
        return [self._core(number) for number in range(len(self.llms))]

    @property
    def vllm_config(self) -> "VllmConfig":
        """The configuration of each copy."""
        return self.llms[0].llm_engine.vllm_config

    def add_request(self, request_id: str, prompt: Any, params: Any, row: int | None = None) -> None:
        """Hand a request about a row to the copy whose turn it is."""
        number = self._spread.give(request_id, row)
        try:
            self.llms[number].llm_engine.add_request(request_id, prompt, params)
        except BaseException:
            self._spread.end([request_id])
            raise

    def step(self) -> "list[RequestOutput]":
        """Wait until a copy has outputs, and return them; raise what stopped it."""
        number = self._ready.get()
        while self._core(number).outputs_queue.empty():  # taken by a call of the copy's own, such as a beam search
            number = self._ready.get()
        outputs: list[RequestOutput] = self.llms[number].llm_engine.step()  # pyright: ignore[reportAssignmentType]
        self._spread.end(output.request_id for output in outputs if output.finished)
        return outputs

    def abort_request(self, request_ids: Sequence[str]) -> None:
        """Drop requests."""
        dropped = set(request_ids)
        for number, llm in enumerate(self.llms):
            llm.llm_engine.abort_request(list(self._spread.held(number) & dropped))
        self._spread.end(dropped)

    def reset_prefix_cache(self) -> None:
        """Forget the computed prefixes of prompts, in every copy."""
        for llm in self.llms:
            llm.llm_engine.reset_prefix_cache()

    def stop_waiting(self, error: Exception) -> None:
        """Have `step` raise an error; from any thread."""
        self._core(0).outputs_queue.put_nowait(error)

    def shutdown(self) -> None:
        """End the processes of all copies."""
        for number in range(len(self.llms)):
            self._core(number).shutdown()
