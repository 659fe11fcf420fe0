"""Run workers and the processes below them: started, looked at, killed, and looked for when they should be gone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.crash.engine import ROOT
from tests.crash.job import VARIABLE, Job

END_SECONDS = 60.0
QUIET_SECONDS = 180.0
"""A run that asks nothing for so long hangs."""


class CrashError(Exception):
    """Something is not as it must be."""


class Worker:
    """A process that runs the job once."""

    def __init__(self, job: Job, directory: Path) -> None:
        self.life = job.life
        self.output = directory / f"worker-{job.life}.log"
        environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_LOGGING_LEVEL": "WARNING"} if job.model else {}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.crash.job"],
                cwd=ROOT,
                env={**os.environ, **environment, **job.environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def lives(self) -> bool:
        return self.process.poll() is None

    def engine(self) -> psutil.Process | None:
        """Return the process of the engine, if there is one now."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return None
        return next((child for child in children if _is_engine(child)), None)

    def kill(self) -> None:
        """End the process as a lack of memory does, and wait until its engine is gone, too."""
        engine = self.engine()
        self.process.kill()
        self.process.wait()
        if engine is not None:
            wait_for("the engine of a killed worker to end", lambda: not _lives(engine))

    def terminate(self) -> None:
        """Ask the process to end, as Dagster does when a run is cancelled."""
        self.process.send_signal(signal.SIGTERM)
        wait_for("a worker that got SIGTERM to end", lambda: not self.lives())

    def kill_engine(self) -> bool:
        """Kill the engine's process; return False if there is none."""
        engine = self.engine()
        if engine is None:
            return False
        engine.kill()
        wait_for("a killed engine to be gone", lambda: not _lives(engine))
        return True

    def check(self) -> None:
        """Raise an error if the process ended by itself and not well."""
        if self.process.poll() not in (None, 0):
            tail = self.output.read_text(errors="replace")[-3000:]
            raise CrashError(f"Life {self.life} ended with {self.process.returncode}:\n{tail}")


def wait_for(what: str, is_so: Callable[[], bool], seconds: float = END_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise CrashError(f"Waited {seconds:.0f} s for {what}.")
        time.sleep(0.01)


def left_over(directory: Path) -> list[psutil.Process]:
    """Return the processes that have the job of a folder in their environment: workers, and what they have started."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(directory) in process.environ().get(VARIABLE, "") and _lives(process):
                found.append(process)
        except psutil.Error:
            continue  # gone, or another user's
    return found


def _is_engine(process: psutil.Process) -> bool:
    try:
        title = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "tests.crash.engine" in title or title.startswith("VLLM::EngineCore")


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
