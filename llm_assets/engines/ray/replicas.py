"""All replicas of an engine: started, waited for, and ended."""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from llm_assets.engines.ray.cluster import Cluster, amounts
from llm_assets.engines.ray.replica import Phase, Replica
from llm_assets.engines.ray.settings import RaySettings
from llm_assets.errors import EngineError, LLMAssetsError
from llm_assets.secrets import masked, masked_logger

CLOSE_SECONDS = 20.0
"""A replica that is to end by itself has so long."""

LOOK_SECONDS = 1.0
"""So often is looked whether a replica has waited too long for its place."""

SAID = 400
"""Characters of a line in Ray's messages, which hold whole pages of advice."""

logger = masked_logger(__name__)


class Replicas:
    """The replicas of an engine on a cluster."""

    def __init__(self, make_engine: Callable[[Any], Any], settings: RaySettings, cluster: Cluster) -> None:
        import ray
        import ray.exceptions

        self._ray = ray
        self._settings, self._cluster = settings, cluster
        self.all = [Replica(make_engine, settings) for _ in range(settings.replicas)]

    def start(self) -> None:
        """Start all of them, and wait until they have loaded the model.

        Raises:
            ModelError: the model cannot be loaded.
            EngineError: the cluster has no place for them, or loses one while it starts.
        """
        for replica in self.all:
            replica.start()
        while waiting := [replica for replica in self.all if replica.phase is not Phase.READY]:
            for replica, result in self.results(waiting):
                if error := self.advance(replica, result):
                    raise error
            if overdue := self.overdue(waiting):
                raise self.no_place(overdue)

    def start_missing(self) -> None:
        """Start those again that were lost; the others need not wait for them."""
        for replica in self.all:
            if replica.phase is Phase.GONE:
                replica.start()

    @property
    def ready(self) -> list[Replica]:
        """Those that have loaded the model."""
        return [replica for replica in self.all if replica.phase is Phase.READY]

    @property
    def starting(self) -> list[Replica]:
        """Those that have not loaded it yet."""
        return [replica for replica in self.all if replica.phase in (Phase.PLACING, Phase.LOADING)]

    def results(self, replicas: Sequence[Replica]) -> list[tuple[Replica, Any]]:
        """Wait a moment for what replicas were asked; an actor that is lost has an EngineError for its result."""
        by_call = {replica.call: replica for replica in replicas if replica.call is not None}
        self._ray.wait(list(by_call), num_returns=1, timeout=LOOK_SECONDS)
        # All that are there, lest a fast replica keeps the others waiting.
        calls, _ = self._ray.wait(list(by_call), num_returns=len(by_call), timeout=0)
        return [(by_call[call], self._result(call)) for call in calls]

    def _result(self, call: Any) -> Any:
        try:
            return self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            return EngineError(f"A Ray actor was lost: {brief(error)}")

    @staticmethod
    def advance(replica: Replica, result: Any) -> LLMAssetsError | None:
        """Let a replica that starts take its next step; return why it cannot."""
        if isinstance(result, LLMAssetsError):
            return result
        if replica.phase is Phase.PLACING:
            replica.placed(*result)
        else:
            replica.loaded(result)
        return None

    @staticmethod
    def overdue(replicas: Sequence[Replica]) -> list[Replica]:
        """Those of some replicas that have waited too long for their place."""
        now = time.monotonic()
        return [replica for replica in replicas if replica.phase is Phase.PLACING and now > replica.deadline]

    def no_place(self, overdue: Sequence[Replica]) -> EngineError:
        """Return the error of replicas that the cluster did not place."""
        settings = self._settings
        return EngineError(
            f"Ray has not placed {len(overdue)} of {settings.replicas} replicas within {settings.start_seconds:g} "
            f"seconds. Each asks for {amounts(settings.demand)}; {self._cluster.resources()}. Ask for fewer replicas, "
            "or for less with num_cpus, num_gpus and resources; where the cluster grows first, raise start_seconds."
        )

    def end(self, gently: bool = False) -> None:
        """End all actors; gently, so that engines free by themselves what they hold. They ended with a lost cluster."""
        if not self._cluster.is_there:
            return
        calls = [replica.actor.close.remote() for replica in self.ready] if gently else []
        if calls:
            self._ray.wait(calls, num_returns=len(calls), timeout=CLOSE_SECONDS)
        for replica in self.all:
            replica.kill()

    @property
    def idle_seconds(self) -> float:
        """Seconds in which a replica had nothing to compute, their mean."""
        return sum(replica.idle_seconds for replica in self.all) / len(self.all)


def brief(error: Exception) -> str:
    """Return what an error of Ray's says, without the stack in its middle and the colours of terminals."""
    # Masked before it is cut: half a secret would not be found.
    lines = masked(re.sub(r"\x1b\[[\d;]*m", "", str(error))).strip().splitlines()
    advice = ""
    if "ModuleNotFoundError" in lines[-1]:
        advice = " What runs here must be installed where the replicas run, or be brought there with runtime_env."
    ends = dict.fromkeys([lines[0].strip(), lines[-1].strip()])
    return " ... ".join(end if len(end) <= SAID else f"{end[:SAID]}..." for end in ends) + advice
