"""What vLLM runs on: its build, and the machine's processor, memory and GPUs."""

import importlib.metadata
import importlib.util
import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from llm_assets.engines.vllm.settings import VllmSettings
from llm_assets.errors import ModelError

CPU_ENVIRONMENT = {"GOMP_SPINCOUNT": "1000"}
"""Read when torch is imported. On a machine with other work, OpenMP's waiting threads otherwise take the cores from
those that they wait for, and the model runs several times slower."""

QUIET_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
}


def silence_libraries() -> None:
    """Keep the libraries' own messages out of what a command prints; call it before they are imported."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)


def is_cpu_build() -> bool:
    """Return whether the installed vLLM is the build without a GPU."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        try:
            return "cpu" in importlib.metadata.version("vllm")
        except importlib.metadata.PackageNotFoundError:
            return False
    return True


def prepare_environment(settings: VllmSettings) -> None:
    """Set what vLLM reads from the environment when it is imported. What the user has set stays.

    Raises:
        ModelError: vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ModelError("vLLM is not installed. Install llm_assets with the extra 'cuda' for a GPU, or 'cpu' without.")
    # Spawned: a forked child cannot use CUDA once its parent has looked at it, a Dagster run has threads, and it
    # would not bear its mark. SPT_NOENV keeps the mark when vLLM gives its processes a title.
    defaults = {"VLLM_NO_USAGE_STATS": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn", "SPT_NOENV": "1"}
    if is_cpu_build():
        # Guessing tokens needs numba, and in a process with that the CPU build of vLLM loads no model again. A process
        # computes one copy of a model.
        own_process = settings.speculative_config is not None or settings.copies_per_gpu > 1
        defaults |= {
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if own_process else "0",
            "VLLM_CPU_KVCACHE_SPACE": str(settings.cpu_kv_cache_gib),
            **CPU_ENVIRONMENT,
        }
    elif importlib.util.find_spec("flashinfer") is None:
        defaults["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def cpu_arguments(settings: VllmSettings) -> dict[str, Any]:
    """Return vLLM's arguments on a CPU: one process, no compilation, so that a load takes seconds instead of a minute.

    Only whole blocks of a prompt are cached, and many instructions are shorter than the CPU build's 128 tokens.
    """
    arguments: dict[str, Any] = {"block_size": 32, "enforce_eager": True}
    if settings.tensor_parallel_size * settings.pipeline_parallel_size == 1:
        arguments["distributed_executor_backend"] = "uni"
    return arguments


def engine_arguments(settings: VllmSettings) -> dict[str, Any]:
    """Return the keyword arguments of vLLM's engine on this machine."""
    arguments: dict[str, Any] = {
        "disable_log_stats": True,
        "use_tqdm_on_load": sys.stderr.isatty(),
        **(cpu_arguments(settings) if is_cpu_build() else {}),
        **settings.arguments(),
        "structured_outputs_config": settings.constraints_config,
        "model": str(Path(settings.model).expanduser()),
    }
    if is_cpu_build() and settings.dtype == "auto" and not cpu_has_bfloat16():
        arguments["dtype"] = "float32"
    return arguments


def cache_block(settings: VllmSettings) -> int:
    """Return how many tokens a block of vLLM's prefix cache has; 0 when the cache is off. vLLM's own default is 16."""
    if not settings.enable_prefix_caching:
        return 0
    arguments = {**(cpu_arguments(settings) if is_cpu_build() else {}), **settings.engine_args}
    return int(arguments.get("block_size") or 16)


def cpu_has_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware; emulated, it is several times slower than float32.

    AVX512-BF16 multiplies twice as many numbers in an instruction as float32, AMX sixteen times as many.
    """
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and not {"amx_bf16", "avx512_bf16"}.isdisjoint(cpuinfo.read_text().split())


def device_and_memory() -> tuple[str, int | None]:
    """Return the hardware's name and its memory in use, in bytes, as the driver says: vLLM's workers hold it."""
    if is_cpu_build():
        return "cpu", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    cards = _cards("name,memory.used")
    # Where a GPU shares the host's memory, the driver has no number.
    used = [int(memory) for _, memory in cards if memory.isdigit()]
    return cards[0][0] if cards else "gpu", max(used) * 2**20 if used else None


def gpu_names() -> list[str]:
    """Return the names of the machine's NVIDIA GPUs, as the driver says; none without a driver."""
    return [name for (name,) in _cards("name")]


def _cards(columns: str) -> list[list[str]]:
    """What the driver says of each GPU; nothing if there is no driver."""
    query = ["nvidia-smi", f"--query-gpu={columns}", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    return [[value.strip() for value in line.rsplit(",", columns.count(","))] for line in lines if line.strip()]
