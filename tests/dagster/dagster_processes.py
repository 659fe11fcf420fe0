"""A webserver and a daemon of Dagster, as processes of their own on an instance of their own."""

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.crash.lives import wait_for

ROOT = Path(__file__).resolve().parents[2]

INSTANCE = """\
# A run whose process is gone is found soon.
run_monitoring:
  enabled: true
  poll_interval_seconds: 1
run_coordinator:
  module: dagster._core.run_coordinator
  class: QueuedRunCoordinator
  config: {dequeue_interval_seconds: 1}
telemetry:
  enabled: false
nux:
  enabled: false
"""

# The daemon looks after backfills every 30 seconds, which a test would only wait for.
DAEMON = """\
import sys
import dagster._daemon.controller as controller
controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 1
from dagster._daemon.cli import main
sys.argv = ["dagster-daemon", "run", *sys.argv[1:]]
main()
"""


class Dagster:
    """A running webserver, to be asked as the UI asks it."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/server_info"):
                return True
        except OSError:
            return False

    def ask(self, query: str, **variables: object) -> Any:
        """Send a GraphQL query and return its data."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.address}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            answer = json.load(response)
        assert not answer.get("errors"), answer["errors"]
        return answer["data"]


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def running(module: str, home: Path, environment: Mapping[str, str], instance: str = INSTANCE) -> Iterator[Dagster]:
    """Start a webserver and a daemon on a code location, and end them with all that they have started."""
    home.mkdir()
    (home / "dagster.yaml").write_text(instance)
    port = free_port()
    commands = {
        "webserver": ["-m", "dagster_webserver", "-m", module, "-p", str(port)],
        "daemon": ["-c", DAEMON, "-m", module],
    }
    variables = {**os.environ, **environment, "DAGSTER_HOME": str(home)}
    dagster = Dagster(port)
    with ExitStack() as stack:
        for name, command in commands.items():
            log = stack.enter_context((home / f"{name}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            stack.callback(end, process)
        wait_for("the webserver", dagster.answers, 120.0)
        yield dagster


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process, and those that it has started."""
    for child in [*psutil.Process(process.pid).children(recursive=True), process]:
        child.kill()
    process.wait()


def run_processes(pid: int) -> list[psutil.Process]:
    """Return the processes of a run, from one of them up to the code server that has started the first."""
    found = []
    process = psutil.Process(pid)
    while not any(word in process.cmdline() for word in ("grpc", "dagster_webserver", "dagster-daemon")):
        found.append(process)
        parent = process.parent()
        assert parent is not None
        process = parent
    return found
