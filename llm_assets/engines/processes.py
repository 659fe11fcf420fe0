"""vLLM's own processes: found by a mark in their environment, and ended when nobody needs them any more.

vLLM's engine process does not notice that the process which started it was killed, and would keep the GPU's memory for
ever. A small process of its own watches over both. This file is also its program, and imports nothing of this package,
so that it starts at once.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil

MARK = "LLM_ASSETS_ENGINE"
"""Environment variable that vLLM's processes inherit. They must be spawned: a forked one does not show it."""

WATCH_SECONDS = 0.5
END_SECONDS = 10.0


def start_watcher(mark: str) -> "subprocess.Popen[bytes]":
    """Start a process that ends all marked ones when this process is gone, and outlives signals to its group."""
    command = [sys.executable, __file__, mark, str(os.getpid())]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def end_processes(mark: str) -> None:
    """End all processes with a mark, at once, and wait until they are gone."""
    found = [process for process in psutil.process_iter() if _is_marked(process, mark)]
    for process in found:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(found, timeout=END_SECONDS)


def on_first_end(mark: str, notify: Callable[[], None]) -> threading.Event:
    """Call `notify` from a thread when a marked child of this process ends. Set the returned event to stop looking."""
    children = [process for process in psutil.Process().children() if _is_marked(process, mark)]
    stopped = threading.Event()

    def look() -> None:
        while not stopped.wait(WATCH_SECONDS):
            if not all(_lives(process) for process in children):
                notify()
                return

    threading.Thread(target=look, name="llm_assets engine watch", daemon=True).start()
    return stopped


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_marked(process: psutil.Process, mark: str) -> bool:
    try:
        if process.pid == os.getpid() or process.environ().get(MARK) != mark:
            return False
        # Python's own helper serves the parent too, and ends with it.
        return "multiprocessing.resource_tracker" not in " ".join(process.cmdline())
    except psutil.Error:
        return False  # gone, or another user's


def _watch(mark: str, parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    end_processes(mark)


if __name__ == "__main__":
    _watch(sys.argv[1], int(sys.argv[2]))
