"""vLLM inside this process's run: on GPUs, or on the CPU with the CPU build."""

import gc
import os
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from llm_assets.engines.compile_check import check_limits
from llm_assets.engines.processes import MARK, end_processes, on_first_end, start_watcher
from llm_assets.engines.vllm.copies import CopiesLLM
from llm_assets.engines.vllm.data_parallel import DataParallelLLM, Refusal
from llm_assets.engines.vllm.hardware import (
    cache_block,
    device_and_memory,
    engine_arguments,
    is_cpu_build,
    prepare_environment,
)
from llm_assets.engines.vllm.idle import VllmIdleClock
from llm_assets.engines.vllm.messages import (
    SamplingCache,
    beam_completion,
    check_constraint,
    completion,
    computing_more_than_one_token,
    refusals,
    refused,
    runs_apart,
)
from llm_assets.engines.vllm.settings import VllmSettings
from llm_assets.errors import ConfigError, EngineError, ModelError
from llm_assets.prompts import ChatTokenizer, load_tokenizer
from llm_assets.records import BeamSearch, Completion, Constraint, EngineInfo, Request, ScoreTokens
from llm_assets.secrets import masked_logger

if TYPE_CHECKING:
    import vllm
    from vllm.v1.engine.llm_engine import LLMEngine

    AnyLLM = vllm.LLM | CopiesLLM | DataParallelLLM
    AnyEngine = LLMEngine | CopiesLLM | DataParallelLLM

MEASURE_SECONDS = 60.0

logger = masked_logger(__name__)


class VllmEngine:
    """Runs a model with vLLM, loading it at the first request.

    Requests are handed to vLLM as places come free and completions yielded as they finish. Beam searches, and requests
    for the likeliest tokens at each step, run in batches of their own; with speculative decoding, scores do.

    Raises:
        ConfigError: the settings name a model directory that does not exist.
        ModelError: the model cannot be loaded.
        EngineError: vLLM itself failed; or another run began, or the engine was closed, before a run had ended.
    """

    def __init__(self, settings: VllmSettings) -> None:
        settings.check_model()
        self.settings = settings
        self._llm: AnyLLM | None = None
        self._mark = uuid4().hex
        self._watcher: subprocess.Popen[bytes] | None = None
        self._watch_stopped: threading.Event | None = None
        self._runs = 0
        self._in_flight: dict[str, Request] = {}
        """What vLLM holds, by its names for it: a new object for each run, by which that knows that it goes on."""
        self._tokens = 0
        """Prompt tokens that vLLM holds."""
        self._idle = VllmIdleClock()
        self._sampling = SamplingCache()
        self._measured: tuple[float, tuple[str, int | None]] | None = None

    @property
    def identity(self) -> str:
        return self.settings.identity

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> ChatTokenizer:
        settings = self.settings
        return load_tokenizer(
            str(Path(settings.tokenizer or settings.model).expanduser()),
            settings.revision,
            settings.trust_remote_code,
            settings.chat_template,
            settings.chat_template_kwargs,
        )

    @property
    def max_model_len(self) -> int:
        return self._max_model_len

    @cached_property
    def _max_model_len(self) -> int:
        return self.settings.max_model_len or self.settings.model_length()

    @property
    def cache_block(self) -> int:
        return cache_block(self.settings)

    @property
    def info(self) -> EngineInfo:
        path = Path(self.settings.model).expanduser()
        name = path.name if path.is_dir() else self.settings.model
        device, memory, gpus = "", None, None
        if self._llm is not None:
            device, memory = self._hardware()
            if not is_cpu_build():
                gpus = self._llm.llm_engine.vllm_config.parallel_config.world_size_across_dp
        return EngineInfo("vllm", name, self.settings.weights_revision, device, memory, gpus)

    @property
    def idle_seconds(self) -> float:
        return self._idle.seconds

    def _hardware(self) -> tuple[str, int | None]:
        """The device and its memory in use, at most a minute old: the driver takes a while to answer."""
        now = time.monotonic()
        if self._measured is None or now - self._measured[0] > MEASURE_SECONDS:
            self._measured = (now, device_and_memory())
        return self._measured[1]

    def check(self, constraint: Constraint) -> None:
        check_limits(constraint)
        prepare_environment(self.settings)
        check_constraint(constraint, self.settings.constraints_config.get("backend", "auto"))

    def load(self) -> None:
        self._load()

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        self._load()
        self._end_run()  # of one that was left half-way: vLLM would go on with it, and this run get its outputs
        limit = self.most_in_flight
        most_tokens = self.most_tokens_in_flight
        # With speculative decoding, scores and texts take turns: the fewer the turns, the fuller the steps.
        aside_limit = limit if self._speculates else max(1, limit // 8)
        pending = iter(requests)
        in_flight = self._in_flight
        aside: list[Request] = []
        exhausted = False
        self._idle.begin()
        try:
            while True:
                while (
                    not exhausted and len(in_flight) < limit and self._tokens < most_tokens and len(aside) < aside_limit
                ):
                    request = next(pending, None)
                    if request is None:
                        exhausted = True
                    elif runs_apart(request, in_flight, self._speculates):
                        aside.append(request)
                    else:
                        yield from self._submit(request, in_flight)
                if in_flight:
                    yield from self._step(in_flight)
                elif exhausted and not aside:
                    return
                if aside and not in_flight:
                    waiting, aside = aside, []
                    beams = [request for request in waiting if isinstance(request.ask, BeamSearch)]
                    yield from self._search_beams(beams, in_flight)
                    for request in waiting:
                        while self._tokens >= most_tokens:
                            yield from self._step(in_flight)
                        if not isinstance(request.ask, BeamSearch):
                            yield from self._submit(request, in_flight)
                    while in_flight and not self._speculates:
                        yield from self._step(in_flight)
        finally:
            if in_flight is self._in_flight:
                self._end_run()

    def _end_run(self) -> None:
        """Drop what is in flight, if anything is. The run that asked it, should it go on, raises an error."""
        dropped, self._in_flight, self._tokens = self._in_flight, {}, 0
        self._runs += 1
        self._idle.end()
        if dropped and self._llm is not None:
            try:
                self._llm.llm_engine.abort_request(list(dropped))
            except Exception as error:  # as in _step
                raise self._died(error) from error

    def _check_run(self, in_flight: dict[str, Request]) -> None:
        if in_flight is not self._in_flight:
            raise EngineError(
                f"This run is over, and {len(in_flight)} of its requests were dropped: another one began on the "
                "engine, or that was closed, before it had ended. Read a run to its end, or close it, before the next "
                "one."
            )

    @property
    def _speculates(self) -> bool:
        return self._load().vllm_config.speculative_config is not None

    @property
    def most_in_flight(self) -> int:
        """Most requests that vLLM is handed at a time, as its loaded engine says."""
        computed = self.settings.copies * self._load().vllm_config.scheduler_config.max_num_seqs
        return self.settings.max_in_flight or 2 * computed

    @property
    def most_tokens_in_flight(self) -> int:
        """Prompt tokens that vLLM may hold before it is handed no more requests."""
        return self.settings.max_in_flight_tokens * self.settings.copies

    @property
    def llm(self) -> "vllm.LLM":
        """The loaded vLLM model itself, for what this class does not offer: the first copy on its GPU.

        There is none with data parallelism.
        """
        self._load()
        if self._llm is None or isinstance(self._llm, DataParallelLLM):
            raise ConfigError("vLLM has no LLM object with data parallelism. Set data_parallel_size to 1.")
        return self._llm.llms[0] if isinstance(self._llm, CopiesLLM) else self._llm

    def reset_prefix_cache(self) -> None:
        """Forget the computed prefixes of prompts, so that two measurements begin alike."""
        self._load().reset_prefix_cache()

    def close(self) -> None:
        try:
            self._shut_down()
        finally:
            self._end_processes()

    def _shut_down(self) -> None:
        if self._llm is None:
            return
        llm, self._llm = self._llm, None
        self._end_run()
        gc.unfreeze()
        if isinstance(llm, CopiesLLM | DataParallelLLM):
            llm.shutdown()
            return
        computes_here = (
            os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0"
            and llm.llm_engine.vllm_config.parallel_config.distributed_executor_backend == "uni"
        )
        llm.llm_engine.engine_core.shutdown()
        del llm
        if computes_here:  # else it would take this from another engine that does
            from vllm.distributed import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()
        gc.collect()

    def _end_processes(self) -> None:
        """End what vLLM left running, and the process that would end it when this one is killed."""
        if self._watch_stopped is not None:
            self._watch_stopped.set()
            self._watch_stopped = None
        if self._watcher is not None:
            end_processes(self._mark)
            self._watcher.kill()
            self._watcher.wait()
            self._watcher = None

    def _wake(self) -> None:
        """Make vLLM raise an error: it would wait for ever for the output of an engine process that was killed."""
        from vllm.v1.engine.exceptions import EngineDeadError

        llm = self._llm
        if isinstance(llm, CopiesLLM | DataParallelLLM):
            llm.stop_waiting(EngineDeadError())
            return
        outputs = getattr(llm.llm_engine.engine_core, "outputs_queue", None) if llm is not None else None
        if outputs is not None:
            outputs.put_nowait(EngineDeadError())

    def _died(self, error: Exception) -> EngineError:
        """Clear away an engine that died; the next request starts another one."""
        try:
            # First what is left of its processes, for whose end vLLM would wait.
            end_processes(self._mark)
            self.close()
        except Exception as trouble:  # a broken engine may break at its end, too
            logger.warning("vLLM did not shut down cleanly: %s", trouble)
        return EngineError(f"vLLM stopped: {type(error).__name__}: {error}")

    def _submit(self, request: Request, in_flight: dict[str, Request]) -> Iterator[Completion]:
        """Hand a request to vLLM; yield its completion only if vLLM refuses it."""
        self._check_run(in_flight)
        name = f"{self._runs}-{request.id}"
        try:
            prompt: Any = {"type": "token", "prompt_token_ids": request.prompt_token_ids}  # ready for the engine
            params = self._sampling.params(request.ask)
            if self._speculates and isinstance(request.ask, ScoreTokens):
                params = computing_more_than_one_token(params, len(request.prompt_token_ids), self.cache_block)
            llm = self._load()
            if isinstance(llm, CopiesLLM | DataParallelLLM):
                llm.add_request(name, prompt, params, request.row)
            else:
                llm.add_request(name, prompt, params)
        except refusals() as error:
            yield refused(request, error)
        except Exception as error:  # as in _step
            raise self._died(error) from error
        else:
            in_flight[name] = request
            self._tokens += len(request.prompt_token_ids)

    def _step(self, in_flight: dict[str, Request]) -> Iterator[Completion]:
        """Compute one step of all requests in flight and yield the completions of those that it finished."""
        self._check_run(in_flight)
        self._idle.step()
        try:
            outputs = self._load().step()
        except Exception as error:  # whatever vLLM raises here, its engine is gone
            raise self._died(error) from error
        # Those of an earlier run may still come.
        done = [output for output in outputs if output.finished and output.request_id in in_flight]
        finished = [(in_flight.pop(output.request_id), output) for output in done]
        self._tokens -= sum(len(request.prompt_token_ids) for request, _ in finished)
        self._idle.stepped()
        for request, output in finished:
            if isinstance(output, Refusal):
                yield refused(request, output.error)
            else:
                yield completion(request, output, self.tokenizer)

    def _search_beams(self, requests: list[Request], in_flight: dict[str, Request]) -> Iterator[Completion]:
        """Run beam searches, those with the same parameters together."""
        from vllm.sampling_params import BeamSearchParams

        if isinstance(self._llm, DataParallelLLM):
            reason = "beam search needs one copy of the model: set data_parallel_size to 1"
            yield from (refused(request, reason) for request in requests)
            return
        groups: dict[BeamSearch, list[Request]] = {}
        for request in requests:
            assert isinstance(request.ask, BeamSearch)
            groups.setdefault(request.ask, []).append(request)
        for ask, group in groups.items():
            self._check_run(in_flight)
            params = BeamSearchParams(
                beam_width=ask.beam_width, max_tokens=ask.max_tokens, length_penalty=ask.length_penalty
            )
            prompts: Any = [{"prompt_token_ids": request.prompt_token_ids} for request in group]
            self._idle.step()
            try:
                outputs = self.llm.beam_search(prompts, params)
            except refusals() as error:
                if len(group) == 1:
                    yield refused(group[0], error)
                else:  # vLLM does not say which one it refuses
                    for request in group:
                        yield from self._search_beams([request], in_flight)
                continue
            except Exception as error:  # as in _step
                raise self._died(error) from error
            finally:
                self._idle.stepped()
            for request, output in zip(group, outputs, strict=True):
                yield beam_completion(request, output.sequences, self.tokenizer)

    def _load(self) -> "AnyEngine":
        """Return vLLM's engine, loaded."""
        if self._llm is None:
            prepare_environment(self.settings)
            arguments = engine_arguments(self.settings)
            import vllm

            if self.settings.copies > 1 or os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
                self._watcher = self._watcher or start_watcher(self._mark)
            os.environ[MARK] = self._mark
            try:
                if self.settings.data_parallel_size > 1:
                    self._llm = DataParallelLLM(arguments, self.settings.max_in_flight)
                elif self.settings.copies_per_gpu > 1:
                    self._llm = CopiesLLM(arguments, self.settings.copies_per_gpu, self.settings.max_in_flight)
                else:
                    self._llm = vllm.LLM(**arguments)
            except Exception as error:  # vLLM raises whatever stopped it: memory, files, arguments
                self._end_processes()
                raise ModelError(f"vLLM cannot load model {self.settings.model!r}: {error}") from error
            finally:
                del os.environ[MARK]
            cores = self._llm.engine_cores if isinstance(self._llm, CopiesLLM) else [self._llm.llm_engine.engine_core]
            self._idle.attach(cores, self.settings.data_parallel_size)
            # What is here now stays. Each full collection would look through all of it, for a fifth of the host's time.
            gc.collect()
            gc.freeze()
            if self._watcher is not None:
                self._watch_stopped = on_first_end(self._mark, self._wake)
        return self._llm.llm_engine
