"""How near labels come to the most that the device can compute: its measured matrix rate, and the arithmetic of a run.

The rate is that of one large matrix product, the best of ten before the run and ten after it, in the type in which vLLM
multiplies here. A run's operations are counted from the model's config.json and the tokens that it computed, those not
taken from the prefix cache:

    layers      2 x parameters of the layers' matrices x computed tokens
    attention   4 x layers x heads x head size x the positions that each computed token looks at
    lm_head     2 x hidden size x vocabulary x sampled tokens

    python -m benchmarks.matrix --rate     prints the rate alone, in TFLOP/s
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Bench, compare, demo_texts, main, median_of, rounded, speeds
from benchmarks.prompts import LONG_CHOICE
from llm_assets.engines.vllm.hardware import cpu_has_bfloat16, is_cpu_build

TRIES = 10


@dataclass(frozen=True)
class Work:
    """Floating-point operations of a run, a multiplication with its addition counted as two."""

    layers: float
    attention: float
    lm_head: float

    @property
    def total(self) -> float:
        return self.layers + self.attention + self.lm_head


def head_size(config: Mapping[str, Any]) -> int:
    """Return the size of an attention head."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def layer_parameters(config: Mapping[str, Any]) -> int:
    """Return the parameters of all layers' matrices; embeddings, norms and biases are not multiplied by matrices."""
    hidden, size = config["hidden_size"], head_size(config)
    queries = config["num_attention_heads"] * size
    keys = config.get("num_key_value_heads", config["num_attention_heads"]) * size
    attention = hidden * queries + 2 * hidden * keys + queries * hidden
    return config["num_hidden_layers"] * (attention + 3 * hidden * config["intermediate_size"])


def work(config: Mapping[str, Any], prompts: float, prompt_tokens: float, cached_tokens: float) -> Work:
    """Return the work of scoring one token after some prompts, which have so many tokens in all.

    All prompts count as equally long; a computed token looks at itself and at all before it.
    """
    length, cached = prompt_tokens / prompts, cached_tokens / prompts
    looked_at = prompts * (length * (length + 1) - cached * (cached + 1)) / 2
    heads = config["num_attention_heads"] * head_size(config)
    return Work(
        layers=2.0 * layer_parameters(config) * (prompt_tokens - cached_tokens),
        attention=4.0 * config["num_hidden_layers"] * heads * looked_at,
        lm_head=2.0 * config["hidden_size"] * config["vocab_size"] * prompts,
    )


def matrix_type() -> str:
    """Return the type in which vLLM multiplies on this device."""
    return "bfloat16" if cpu_has_bfloat16() or not is_cpu_build() else "float32"


def matrix_rate() -> float:
    """Return the operations per second of a large matrix product on this device, the best of ten."""
    import torch

    on_gpu = torch.cuda.is_available()
    side = 8192 if on_gpu else 2048
    device, kind = "cuda" if on_gpu else "cpu", getattr(torch, matrix_type())
    left = torch.randn(side, side, device=device, dtype=kind)
    right = torch.randn(side, side, device=device, dtype=kind)
    seconds = []
    for _ in range(TRIES + 1):
        started = time.perf_counter()
        torch.mm(left, right)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds[1:])


def measured_rate() -> float:
    """Do the same in a process of its own: this one must not touch the GPU that vLLM's engine process has."""
    command = [sys.executable, "-m", "benchmarks.matrix", "--rate"]
    return 1e12 * float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def run(bench: Bench) -> dict[str, Any]:
    """Measure the device, labels by the pipeline, and the device again: other work on it may have come or gone."""
    before = measured_rate()
    engine = bench.engine()
    rows = bench.rows(cpu=64, gpu=4096)
    side = {"pipeline": bench.pipeline(engine, [LONG_CHOICE])}
    turns = compare(side, demo_texts(rows), bench.options.rounds, engine.reset_prefix_cache)
    peak = max(before, measured_rate())
    [some] = turns.values()
    config = json.loads(Path(bench.model, "config.json").read_text())
    tokens = {
        name: statistics.median(getattr(turn, name) for turn in some) for name in ("prompt_tokens", "cached_tokens")
    }
    needed = work(config, rows, **tokens)
    seconds = statistics.median(turn.seconds for turn in some)
    achieved = needed.total / seconds
    computed = tokens["prompt_tokens"] - tokens["cached_tokens"]
    print(f"""
    layers     2 x {layer_parameters(config):,} x {computed:,.0f} tokens = {needed.layers:.3g}
    attention  {needed.attention:.3g}
    lm_head    2 x {config["hidden_size"]:,} x {config["vocab_size"]:,} x {rows:,} tokens = {needed.lm_head:.3g}
    in all     {needed.total:.3g} FLOP in {seconds:.2f} s = {achieved / 1e12:.4g} TFLOP/s
    the device {peak / 1e12:.4g} TFLOP/s: the run used {achieved / peak:.1%}
""")
    return bench.report(
        "matrix",
        {"labels / matrix rate": rounded(achieved / peak)},
        speeds(turns, rows),
        turns,
        rows=rows,
        matrix_tflops=rounded(peak / 1e12),
        matrix=f"{matrix_type()}, {'2048 x 2048' if is_cpu_build() else '8192 x 8192'}",
        run_tflops=rounded(achieved / 1e12),
        flop={name: rounded(value) for name, value in asdict(needed).items()},
        tokens_per_row={name: rounded(value / rows) for name, value in tokens.items()},
        cached_share=median_of(turns, lambda turn: turn.cached_share),
    )


if __name__ == "__main__":
    if "--rate" in sys.argv:
        print(matrix_rate() / 1e12)
    else:
        main(run, __doc__)
