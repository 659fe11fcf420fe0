"""One replica as the driver sees it: an actor, what it is asked now, and the requests it holds."""

import os
import pickle
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from llm_assets.engines.ray.losses import Losses
from llm_assets.engines.ray.settings import RaySettings
from llm_assets.engines.ray.worker import Loaded, Worker
from llm_assets.records import EngineInfo, Request


class Phase(Enum):
    """Where a replica stands in its life."""

    PLACING = "placing"
    LOADING = "loading"
    READY = "ready"
    GONE = "gone"


def start_actor(make_engine: Callable[[Any], Any], settings: RaySettings, demand: Mapping[str, float]) -> Any:
    """Start an actor with a worker; it is placed when the cluster has what it demands."""
    import ray

    environment = {name: os.environ[name] for name in settings.environment if name in os.environ}
    others = {name: amount for name, amount in demand.items() if name not in ("CPU", "GPU")}
    options = {
        "num_cpus": demand["CPU"],
        "num_gpus": demand["GPU"],
        "resources": others or None,
        "max_restarts": 0,
        "max_concurrency": 4,
        "runtime_env": settings.runtime_env,
    }
    return ray.remote(Worker).options(**options).remote(make_engine, settings.engine, environment)


class Replica:
    """An actor in the place of which another one comes when it is lost.

    At any time it is asked one thing at most: `call` is the reference to the result.
    """

    def __init__(self, make_engine: Callable[[Any], Any], settings: RaySettings) -> None:
        self._make_engine, self._settings = make_engine, settings
        self.phase = Phase.GONE
        self.actor: Any = None
        self.call: Any = None
        self.deadline = 0.0
        self.held: dict[int, Request] = {}
        self.suspects = 0
        """Requests among those held that were lost before."""
        self.is_alone = False
        """Whether it holds a request that is to have no other beside it."""
        self.limit = 0
        self.info: EngineInfo | None = None
        self.host, self.pid = "", 0
        self._idle = self._idle_before = 0.0

    def start(self) -> None:
        """Start an actor."""
        self.actor = start_actor(self._make_engine, self._settings, self._settings.demand)
        self.phase = Phase.PLACING
        self.deadline = time.monotonic() + self._settings.start_seconds
        self.call = self.actor.place.remote()

    def placed(self, host: str, pid: int) -> None:
        """It is a process on a machine of the cluster."""
        self.phase, self.host, self.pid = Phase.LOADING, host, pid
        self.call = self.actor.load.remote()

    def loaded(self, loaded: Loaded) -> None:
        """It has its model."""
        self.phase, self.call, self.info = Phase.READY, None, loaded.info
        self.limit = self._settings.max_in_flight or loaded.in_flight + max(loaded.in_flight // 2, 1)

    def give(self, request: Request, losses: Losses) -> Request:
        """Note that it gets a request."""
        self.held[request.id] = request
        self.suspects += losses.is_suspect(request)
        return request

    def take(self, request_id: int, losses: Losses) -> bool:
        """Note that it completed a request; return whether it had it."""
        request = self.held.pop(request_id, None)
        if request is None:
            return False
        self.suspects -= losses.is_suspect(request)
        losses.answered(request)
        self.is_alone = self.is_alone and bool(self.held)
        return True

    def ask(self, run: int, requests: list[Request], wait: bool, is_last: bool) -> None:
        """Hand over requests and ask for completions."""
        self.call = self.actor.exchange.remote(run, pickle.dumps(requests, pickle.HIGHEST_PROTOCOL), wait, is_last)

    def drop(self) -> list[Request]:
        """Forget what it holds, and return it."""
        dropped = list(self.held.values())
        self.held, self.suspects, self.is_alone = {}, 0, False
        return dropped

    def kill(self) -> None:
        """End the actor, whatever it does."""
        if self.actor is not None:
            import ray

            ray.kill(self.actor)
        self.actor = self.call = None
        self._idle_before += self._idle
        self._idle = 0.0
        self.phase = Phase.GONE

    @property
    def idle_seconds(self) -> float:
        """Seconds in which it had nothing to compute."""
        return self._idle_before + self._idle

    def note_idle(self, seconds: float) -> None:
        """Note what the actor says of its idle seconds."""
        self._idle = seconds
