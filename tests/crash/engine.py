"""Engines whose process can be killed, and which note every question in a file: the dummy engine in a process of its
own, and vLLM.

As a program, this file is the process of the dummy engine.
"""

import contextlib
import hashlib
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from llm_assets.engines import DummyEngine, VllmEngine, VllmSettings
from llm_assets.errors import EngineError
from llm_assets.records import Completion, FailureKind, Request

ROOT = Path(__file__).resolve().parents[2]
IN_FLIGHT = 16
END_SECONDS = 10.0

REFUSED = "unanswerable"
"""A text with this word gets no answer, today or tomorrow."""


class Notes:
    """A file to which engines add a line for every question: the run worker, which of its engines, what was asked."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def add(self, life: int, engine: int, request: Request) -> None:
        prompt = ",".join(map(str, request.prompt_token_ids))
        name = hashlib.blake2b(prompt.encode(), digest_size=8).hexdigest()
        # One call of the system for each line: a process that is killed leaves no half of it.
        os.write(self._file, f"{life} {engine} {name}\n".encode())


class ProcessEngine(DummyEngine):
    """The dummy engine in a process of its own, which holds `IN_FLIGHT` questions and takes its time with each."""

    def __init__(self, notes: Path, life: int = 0, seconds: float = 0.0) -> None:
        super().__init__()
        self.notes = notes
        self.life = life
        self.seconds = seconds
        self.loads = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._runs = 0

    def load(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._pipe, theirs = multiprocessing.Pipe()
        arguments = [theirs.fileno(), self.notes, self.life, self.loads, self.seconds]
        command = [sys.executable, "-m", "tests.crash.engine", *map(str, arguments)]
        with theirs:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
            )
        self.loads += 1

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        self.load()
        assert self._pipe is not None
        self._runs += 1
        pending, exhausted = iter(requests), False
        in_flight: set[int] = set()
        try:
            while True:
                while not exhausted and len(in_flight) < IN_FLIGHT:
                    request = next(pending, None)
                    if request is None:
                        exhausted = True
                    else:
                        in_flight.add(request.id)
                        self._over_pipe(self._pipe.send, (self._runs, request))
                if not in_flight:
                    return
                run, completion = self._over_pipe(self._pipe.recv)
                if run == self._runs:  # and not what an earlier run has dropped
                    in_flight.discard(completion.id)
                    yield completion
        finally:
            if in_flight and self._process is not None:
                with contextlib.suppress(EngineError):
                    self._over_pipe(self._pipe.send, (self._runs, None))

    def close(self) -> None:
        process, self._process = self._process, None
        if self._pipe is not None:
            self._pipe.close()  # the process ends by itself when it notices
            self._pipe = None
        if process is not None:
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _over_pipe(self, call: Callable[..., Any], *arguments: object) -> Any:
        try:
            return call(*arguments)
        except (EOFError, OSError) as error:
            self.close()
            raise EngineError(f"the engine's process is gone ({type(error).__name__})") from error


class NotingVllmEngine(VllmEngine):
    """vLLM that notes what it is asked. Its process is the one that it starts itself."""

    def __init__(self, notes: Path, life: int, model: str) -> None:
        # Twice the sequences are in flight: IN_FLIGHT.
        settings = VllmSettings(model=model, max_model_len=512, cpu_kv_cache_gib=1, max_num_seqs=IN_FLIGHT // 2)
        super().__init__(settings)
        self.notes = Notes(notes)
        self.life = life
        self.deaths = 0

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        try:
            yield from super().run(self._noted(requests))
        except EngineError:
            self.deaths += 1
            raise

    def _noted(self, requests: Iterable[Request]) -> Iterator[Request]:
        for request in requests:
            self.notes.add(self.life, self.deaths, request)
            yield request


def serve(pipe: Connection, notes: Notes, life: int, engine: int, seconds: float) -> None:
    """Answer what comes through the pipe, one question every so many seconds and none in its turn."""
    dummy, held, due = DummyEngine(), [], 0.0
    while True:
        if pipe.poll(max(due - time.monotonic(), 0) if held else None):
            run, request = pipe.recv()
            if request is None:
                held.clear()
                continue
            notes.add(life, engine, request)
            due = due if held else time.monotonic() + seconds
            held.append((run, request))
        else:
            run, request = held.pop(random.randrange(len(held)))
            pipe.send((run, answer(dummy, request)))
            due = time.monotonic() + seconds


def answer(dummy: DummyEngine, request: Request) -> Completion:
    if REFUSED in dummy.tokenizer.decode(request.prompt_token_ids):
        return Completion(request.id, error="There is no answer.", error_kind=FailureKind.REFUSED_REQUEST)
    return dummy.answer(request)


def main(descriptor: str, notes: str, life: str, engine: str, seconds: str) -> None:
    try:
        serve(Connection(int(descriptor)), Notes(Path(notes)), int(life), int(engine), float(seconds))
    except (EOFError, OSError):
        return  # the parent is gone, or has closed the engine


if __name__ == "__main__":
    main(*sys.argv[1:])
