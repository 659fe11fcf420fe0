"""A Ray cluster: connected to, or started on this machine, and what it says of its resources."""

import importlib.util
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from llm_assets.engines.processes import MARK, end_processes, start_watcher
from llm_assets.engines.ray.settings import RaySettings
from llm_assets.errors import EngineError, ModelError

OBJECT_STORE_BYTES = 256 * 2**20
"""Memory for objects in a cluster of our own, which holds requests and completions for moments only. Ray's own default
is a third of the machine."""

KNOCK_SECONDS = 10.0


_in_use: list["Cluster"] = []
"""Those of this process: it has one connection for all of them."""


class Cluster:
    """The connection of this process to a cluster.

    Raises:
        ModelError: Ray is not installed.
        EngineError: the cluster cannot be reached.
    """

    def __init__(self, settings: RaySettings) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ModelError("Ray is not installed. Install llm_assets with the extra 'ray'.")
        # Read when Ray is imported.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        self._ray = ray
        self._mark = uuid4().hex
        self._watcher: subprocess.Popen[bytes] | None = None
        self._connection: tuple[str, str] | None = None
        self.is_own = not ray.is_initialized()
        if not self.is_own:
            self._connection = self._current_connection()
            _in_use.append(self)
            return
        address = settings.address or os.environ.get("RAY_ADDRESS") or "local"
        arguments: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
        if address == "local":
            arguments |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
            # Ray lets all else on a machine go before its actors, which here do the run's own work.
            os.environ.setdefault("RAY_worker_niceness", "0")
            # Some of Ray's processes outlive a killed driver.
            self._watcher = start_watcher(self._mark)
            os.environ |= {MARK: self._mark, "SPT_NOENV": os.environ.get("SPT_NOENV", "1")}
        try:
            _knock(address)
            with _own_sigterm():
                ray.init(**arguments)
            self._connection = self._current_connection()
        except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError and errors of gRPC
            self.leave()
            raise EngineError(
                f"The Ray cluster {address!r} cannot be reached: {error}. 'auto' is the cluster that this machine "
                "belongs to, 'host:6379' its head node, 'ray://host:10001' one outside; its Python and Ray must be of "
                "the versions here."
            ) from error
        finally:
            os.environ.pop(MARK, None)
        _in_use.append(self)

    def leave(self) -> None:
        """Let go of the cluster. The last to do so disconnects, and a cluster that was started here ends with that.

        A connection that came after this one is another's, and is left alone.
        """
        if self in _in_use:
            _in_use.remove(self)
        heir = next((other for other in _in_use if other._connection == self._connection), None)
        if self.is_own and heir is not None:
            heir.is_own, heir._mark, heir._watcher = True, self._mark, self._watcher
            self.is_own, self._watcher = False, None
        if self.is_own and (self._connection is None or self.is_there):
            self._ray.shutdown()
        if self._watcher is not None:
            end_processes(self._mark)
            self._watcher.kill()
            self._watcher.wait()
            self._watcher = None

    @property
    def is_there(self) -> bool:
        """Whether this process is still connected; anyone in it may shut Ray down, and start it again."""
        if not self._ray.is_initialized():
            return False
        try:
            return self._current_connection() == self._connection
        except Exception:  # a ray:// address that does not answer, which whoever needs it is told
            return True

    def _current_connection(self) -> tuple[str, str]:
        """What tells a connection from others: each cluster has its own nodes, and numbers the jobs on it."""
        context = self._ray.get_runtime_context()
        return context.get_node_id(), context.get_job_id()

    def resources(self) -> str:
        """Return what the cluster has, and what of it is free."""
        try:
            total, free = self._ray.cluster_resources(), self._ray.available_resources()
        except Exception as error:  # it may be gone
            return f"the cluster does not say what it has: {error}"
        nodes = sum(name.startswith("node:") and name != "node:__internal_head__" for name in total)
        hidden = ("node:", "memory", "object_store_memory")
        found = {name: amount for name, amount in sorted(total.items()) if not name.startswith(hidden)}
        has = amounts({"CPU": 0.0, "GPU": 0.0, **found})
        return f"the cluster has {has} on {nodes} node(s), of which {amounts(free, found)} are free"


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's way to end: Ray sets one of its own, with which Dagster would not see a run terminated."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _knock(address: str) -> None:
    """Raise an OSError if nobody listens at an address of a host and a port: Ray would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


def amounts(resources: Mapping[str, float], names: Iterable[str] | None = None) -> str:
    """Return resources in words: "2 CPU and 1 GPU"."""
    parts = [f"{resources.get(name, 0):g} {name}" for name in (resources if names is None else names)]
    return " and ".join(parts) or "nothing"
