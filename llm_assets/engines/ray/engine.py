"""One of this package's engines many times, in Ray actors on a cluster or on this machine."""

import importlib.util
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from llm_assets.engines.base import Engine
from llm_assets.engines.compile_check import check_limits
from llm_assets.engines.ray.cluster import Cluster
from llm_assets.engines.ray.replica import Replica, start_actor
from llm_assets.engines.ray.replicas import Replicas, brief
from llm_assets.engines.ray.run import RayRun
from llm_assets.engines.ray.settings import DummySettings, RaySettings, make_engine
from llm_assets.engines.vllm.engine import VllmEngine
from llm_assets.errors import EngineError, ModelError
from llm_assets.prompts import Tokenizer
from llm_assets.records import Completion, Constraint, EngineInfo, Request

INFO_SECONDS = 60.0
INFO_WAIT_SECONDS = 20.0


class RayEngine:
    """Spreads requests over replicas of an engine, each in a Ray actor, and starts lost ones again.

    A replica holds at most `max_in_flight` requests. Those of one that is lost are asked again on others; a request
    with which three replicas are lost, the third when it had no other, is completed with an error of the kind `poison`.

    Args:
        settings: The replicas.
        make_engine: Makes the engine of a replica from `settings.engine`. It must be importable where replicas run.

    Raises:
        ConfigError: the settings name a model directory that does not exist.
        ModelError: Ray is not installed, or the model cannot be loaded.
        EngineError: the cluster cannot be reached, has no place for the replicas, or lost them all.
    """

    def __init__(self, settings: RaySettings, make_engine: Callable[[Any], Engine] = make_engine) -> None:
        self.settings = settings
        self.inner = make_engine(settings.engine)
        """The engine of a replica, to ask what it says without its model. It is never loaded."""
        self._make_engine = make_engine
        self._cluster: Cluster | None = None
        self._replicas: Replicas | None = None
        self._idle_before = 0.0
        self._runs = 0
        self._known_info: tuple[float, EngineInfo] | None = None

    def with_inner(self, inner: Engine) -> "RayEngine":
        """Return an engine of the same replicas with another engine in each."""
        if isinstance(inner, VllmEngine):
            settings = inner.settings
        else:
            settings = DummySettings(max_model_len=inner.max_model_len, identity=inner.identity)
        return RayEngine(self.settings.model_copy(update={"engine": settings}), self._make_engine)

    @property
    def identity(self) -> str:
        return self.inner.identity

    @property
    def tokenizer(self) -> Tokenizer:
        return self.inner.tokenizer

    @property
    def max_model_len(self) -> int:
        return self.inner.max_model_len

    @property
    def cache_block(self) -> int:
        return self.inner.cache_block

    @property
    def info(self) -> EngineInfo:
        """What the answers came from: a replica's device and memory, at most a minute old, and the GPUs of all."""
        now = time.monotonic()
        ready = self._replicas.ready if self._replicas is not None and self._is_connected() else []
        if ready and (self._known_info is None or now - self._known_info[0] > INFO_SECONDS):
            self._known_info = (now, _ask_info(ready[0]))
        found = self._known_info[1] if self._known_info else self.inner.info
        gpus = found.gpus and found.gpus * self.settings.replicas
        if gpus and 0 < self.settings.gpus < 1:  # Ray never spreads such a replica over two GPUs
            gpus = math.ceil(gpus / int(1 / self.settings.gpus))
        return replace(found, engine="ray", gpus=gpus)

    @property
    def idle_seconds(self) -> float:
        """Seconds, of all runs so far, in which a replica had nothing to compute though a run went on: their mean.

        So a second in which one of four replicas idles is a quarter of a second of the run.
        """
        return self._idle_before + (self._replicas.idle_seconds if self._replicas is not None else 0.0)

    def check(self, constraint: Constraint) -> None:
        if isinstance(self.settings.engine, DummySettings) or importlib.util.find_spec("vllm") is not None:
            self.inner.check(constraint)
        else:
            check_limits(constraint)
            self._check_there(constraint)

    def _check_there(self, constraint: Constraint) -> None:
        """Let an actor check a constraint, where vLLM is not installed here. No GPU is needed for it."""
        self._connect()
        import ray
        import ray.exceptions

        actor = start_actor(self._make_engine, self.settings, {"CPU": 0, "GPU": 0})
        try:
            error: Any = ray.get(actor.check.remote(constraint), timeout=self.settings.start_seconds)
        except ray.exceptions.RayError as lost:
            raise EngineError(f"No Ray actor could check a constraint: {brief(lost)}") from lost
        finally:
            ray.kill(actor)
        if error is not None:
            raise error

    def load(self) -> None:
        if self._replicas is not None and self._is_connected() and self._replicas.ready:
            self._replicas.start_missing()
            return
        self._end_replicas()
        self._connect()
        assert self._cluster is not None
        self._replicas = Replicas(self._make_engine, self.settings, self._cluster)
        try:
            self._replicas.start()
        except BaseException:
            self._end_replicas()
            raise

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        self.load()
        assert self._replicas is not None
        self._runs += 1
        run = RayRun(self._replicas, self._runs, iter(requests), self.settings.max_restarts)
        try:
            yield from run.completions()
        except (EngineError, ModelError):
            self._end_replicas()  # the next run starts them all again
            raise
        finally:
            run.end()

    def close(self) -> None:
        try:
            self._end_replicas(gently=True)
        finally:
            self._leave()

    def _leave(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.leave()

    def _is_connected(self) -> bool:
        """Whether Ray is still there, and the same: others in this process may shut it down."""
        return self._cluster is not None and self._cluster.is_there

    def _connect(self) -> Cluster:
        if not self._is_connected():
            self._leave()
            self._cluster = Cluster(self.settings)
        assert self._cluster is not None
        return self._cluster

    def _end_replicas(self, gently: bool = False) -> None:
        replicas, self._replicas = self._replicas, None
        if replicas is not None:
            replicas.end(gently)
            self._idle_before += replicas.idle_seconds


def _ask_info(replica: Replica) -> EngineInfo:
    import ray
    import ray.exceptions

    try:
        return ray.get(replica.actor.info.remote(), timeout=INFO_WAIT_SECONDS)
    except ray.exceptions.RayError:  # lost, or busy
        assert replica.info is not None
        return replica.info
