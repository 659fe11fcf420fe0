"""The little of a cluster that Dagster's run launcher talks to: an address that takes Jobs and does what they say.

The launcher, its client and the Job that they send are the real ones. What stands in for the cluster checks the Job
against Kubernetes' own schema, and starts its container's command as a process here, with the container's variables.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

VERSION = "1.33"
"""Of Kubernetes."""


class Cluster:
    """What was sent to a cluster, and the processes that came of it.

    `secrets` are the cluster's secrets by name. `overrides` are variables that a volume or an address would make right
    inside a pod. Without `start` the Jobs are only kept.
    """

    def __init__(
        self, secrets: Mapping[str, Mapping[str, str]], overrides: Mapping[str, str], folder: Path, start: bool = True
    ) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.most_at_once = 0
        self._secrets = secrets
        self._overrides = overrides
        self._folder = folder
        self._start = start
        self._lock = threading.Lock()

    def take(self, job: dict[str, Any]) -> dict[str, Any]:
        """Check a Job and start it."""
        kubernetes_validate.validate(job, VERSION, strict=True)
        name = job["metadata"]["name"]
        with self._lock:
            self.jobs[name] = job
            if self._start:
                self.processes[name] = self._run(name, job["spec"]["template"]["spec"]["containers"][0])
                self.most_at_once = max(self.most_at_once, len(self.running()))
        return job

    def status(self, name: str) -> dict[str, Any]:
        """Return a Job with what has become of it."""
        code = self.processes[name].poll() if name in self.processes else None
        counts = {"active": 1} if code is None else {"failed": 1} if code else {"succeeded": 1}
        return {**self.jobs[name], "status": counts}

    def running(self) -> list[str]:
        return [name for name, process in self.processes.items() if process.poll() is None]

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def _run(self, name: str, container: Mapping[str, Any]) -> "subprocess.Popen[bytes]":
        given: dict[str, str] = {}
        for source in container.get("envFrom", []):
            given |= self._secrets[source["secretRef"]["name"]] if "secretRef" in source else {}
        for variable in container["env"]:
            if "value" in variable:
                given[variable["name"]] = variable["value"]
            else:
                reference = variable["valueFrom"]["secretKeyRef"]
                given[variable["name"]] = self._secrets[reference["name"]][reference["key"]]
        program, *arguments = container["args"]
        assert program == "dagster", "the image has Dagster on its path"
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dagster", *arguments],
                env={**os.environ, **given, **self._overrides},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


@contextmanager
def serving(cluster: Cluster, folder: Path) -> Iterator[Path]:
    """Serve a cluster on this machine, and yield the file that tells a client where it is."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(201, cluster.take(body))

        def do_GET(self) -> None:
            name = self.path.partition("?")[0].removesuffix("/status").rpartition("/")[2]
            known = name in cluster.jobs
            self._answer(200 if known else 404, cluster.status(name) if known else {"kind": "Status", "code": 404})

        def _answer(self, code: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    file = folder / "kubeconfig"
    named = {"name": "here"}
    address = f"http://127.0.0.1:{server.server_port}"
    file.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{**named, "cluster": {"server": address}}],
                "users": [{**named, "user": {}}],
                "contexts": [{**named, "context": {"cluster": "here", "user": "here"}}],
                "current-context": "here",
            }
        )
    )
    try:
        yield file
    finally:
        server.shutdown()
        server.server_close()
        cluster.close()
