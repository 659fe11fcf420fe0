"""Engines on a GPU that run out of memory: started again in the same run. tests/engines has those that are killed."""

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from llm_assets.engines import VllmEngine, VllmSettings
from llm_assets.engines.vllm.hardware import is_cpu_build
from llm_assets.pipeline.restart import completions
from llm_assets.records import Request, ScoreTokens

pytestmark = pytest.mark.skipif(is_cpu_build(), reason="needs a GPU")


def exhaust(worker: Any) -> None:
    """Make the model ask for 16 TiB at its next step; runs in vLLM's process."""
    import torch

    def ask(*_: object) -> None:
        torch.empty(1 << 44, dtype=torch.uint8, device="cuda")

    worker.model_runner.model.register_forward_pre_hook(ask)


def memory_in_use() -> int:
    """Return the GPU's memory in use, in MiB."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])


def test_an_engine_that_ran_out_of_memory_is_started_again_and_gives_it_back(smollm2: Path) -> None:
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    before = memory_in_use()
    settings = VllmSettings(model=str(smollm2), max_model_len=512, gpu_memory_utilization=0.3, enforce_eager=True)
    engine = VllmEngine(settings)
    engine.load()
    assert memory_in_use() > before + 1000
    engine.llm.collective_rpc(exhaust)
    [ids] = engine.tokenizer.encode_literal(["A fine day."])
    found = list(completions(engine, [Request(n, ids, ScoreTokens((ids[0],))) for n in range(300)], max_deaths=1))
    assert sorted(completion.id for completion in found) == list(range(300))
    assert all(completion.error is None for completion in found)
    engine.close()
    deadline = time.monotonic() + 30
    while memory_in_use() > before + 200 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert memory_in_use() <= before + 200
