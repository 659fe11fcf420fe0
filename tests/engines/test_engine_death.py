"""vLLM in processes of its own that are killed: it is started again, and none stays behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from llm_assets.engines import VllmEngine
from llm_assets.pipeline.restart import completions
from llm_assets.records import Request, ScoreTokens
from tests.engines.dying import REQUESTS

ROOT = Path(__file__).resolve().parents[2]


def next_event(process: "subprocess.Popen[str]") -> dict:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("EVENT "):
            return json.loads(line.removeprefix("EVENT "))
    raise AssertionError(f"the program ended with {process.wait()}")


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_end(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(lives(pid) for pid in pids):
        assert time.monotonic() < deadline, [pid for pid in pids if lives(pid)]
        time.sleep(0.1)


def test_a_killed_engine_is_started_again_and_ends_with_its_parent(smollm2: Path) -> None:
    command = [sys.executable, "-m", "tests.engines.dying", str(smollm2)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            first = next_event(process)["children"]
            assert "VLLM::EngineCore" in first
            os.kill(first["VLLM::EngineCore"], signal.SIGKILL)
            after = next_event(process)
            if after["name"] == "running":  # told again when five were answered
                after = next_event(process)
            assert after["ids"] == list(range(REQUESTS))
            assert after["failed"] == 0
            assert "VLLM::EngineCore" in after["children"]
            assert not set(after["children"].values()) & set(first.values())
            wait_for_end(list(first.values()))
        finally:
            process.kill()
        wait_for_end(list(after["children"].values()))


def test_an_engine_in_this_process_that_raises_is_loaded_again(vllm_engine: VllmEngine) -> None:
    [ids] = vllm_engine.tokenizer.encode_literal(["A fine day."])
    requests = [Request(number, ids, ScoreTokens((ids[0],))) for number in range(5)]
    before = vllm_engine.llm
    runner = before.llm_engine.model_executor.driver_worker.worker.model_runner
    raised = []

    def fail_once(*_: object) -> None:
        if not raised:
            raised.append(True)
            raise MemoryError("out of memory, once")

    handle = runner.model.register_forward_pre_hook(fail_once)
    try:
        found = list(completions(vllm_engine, requests, max_deaths=1))
    finally:
        handle.remove()
    assert raised
    assert sorted(completion.id for completion in found) == [0, 1, 2, 3, 4]
    assert all(completion.error is None for completion in found)
    assert vllm_engine.llm is not before
