"""A sweep of vLLM's engine settings for labels and for JSON: one setting at a time, against the package's defaults.

Each is a load in a process of its own, one after another; on a GPU that takes about a minute each. On a CPU, where most
of the settings are for more rows than it computes at a time, there are three loads.

    python -m benchmarks.defaults [--only max_num_seqs async_scheduling] [the options that all benchmarks have]
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.common import Bench, Turn, compare, demo_texts, options_of, parser, rounded, speeds, write_line
from benchmarks.plain import XGRAMMAR
from benchmarks.prompts import LONG_CHOICE, LONG_EXTRACT
from llm_assets.engines.vllm.hardware import is_cpu_build

SWEEP: dict[str, tuple[object, ...]] = {
    "max_num_seqs": (256, 1024, 2048),
    "max_num_batched_tokens": (8192, 16384, 32768),
    "async_scheduling": (True, False),
    "enable_prefix_caching": (True, False),
    "enforce_eager": (True,),
    "compilation_config": ({"cudagraph_mode": "NONE"}, {"max_cudagraph_capture_size": 1024}),
    "structured_outputs_config": (XGRAMMAR,),
}
CPU_SWEEP: dict[str, tuple[object, ...]] = {"enable_prefix_caching": (False,), "block_size": (128,)}
"""vLLM's own block on a CPU has 128 tokens."""


def cases(sweep: dict[str, tuple[object, ...]], only: Sequence[str] = ()) -> list[dict[str, object]]:
    """Return the settings of each load: the defaults first, then one setting changed."""
    changed = [{name: value} for name, values in sweep.items() for value in values if not only or name in only]
    return [{}, *changed]


def one(bench: Bench, settings: dict[str, object]) -> dict[str, Any]:
    """Load a model with some settings, and measure it."""
    started = time.perf_counter()
    engine = bench.engine(**settings)
    load = time.perf_counter() - started
    turns: dict[str, list[Turn]] = {}
    speed: dict[str, float] = {}
    for name, task, rows in (
        ("choice", LONG_CHOICE, bench.rows(cpu=16, gpu=4096)),
        ("extract", LONG_EXTRACT, bench.rows(cpu=4, gpu=1024)),
    ):
        side = {name: bench.pipeline(engine, [task])}
        turns |= compare(side, demo_texts(rows), bench.options.rounds, engine.reset_prefix_cache)
        speed |= speeds({name: turns[name]}, rows)
    return bench.report("defaults", {}, speed, turns, settings=settings, load_seconds=rounded(load))


def in_child(bench: Bench, settings: dict[str, object]) -> dict[str, Any]:
    """Do `one` in a process of its own; what it prints before its JSON is dropped."""
    options = replace(bench.options, model=bench.model).arguments()
    command = [sys.executable, "-m", "benchmarks.defaults", "--one", json.dumps(settings), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"settings": settings, "error": done.stderr.strip().splitlines()[-1:]}
    return json.loads(done.stdout.splitlines()[-1])


def run(bench: Bench, only: Sequence[str] = ()) -> dict[str, Any]:
    """Measure every case, printing the table as it grows."""
    bench.unload()
    print(f"  {'settings':<34}{'load, s':>9}{'labels, rows/s':>16}{'JSON, rows/s':>14}")
    found = []
    for settings in cases(CPU_SWEEP if is_cpu_build() and not only else SWEEP, only):
        found.append(in_child(bench, settings))
        name = label(settings)
        if "error" in found[-1]:
            print(f"  {name:<34}{found[-1]['error']}", flush=True)
        else:
            speed = found[-1]["rows_per_second"]
            print(
                f"  {name:<34}{found[-1]['load_seconds']:>9}{speed['choice']:>16,}{speed['extract']:>14,}", flush=True
            )
    base, *others = found
    if "error" in base:
        raise RuntimeError(f"The defaults themselves do not run: {base['error']}")
    measured = [case for case in others if "error" not in case]
    ratios = {
        f"{label(case['settings'])}: {name}": rounded(case["rows_per_second"][name] / speed)
        for case in measured
        for name, speed in base["rows_per_second"].items()
    }
    table = {label(case["settings"]): case.get("rows_per_second") or case["error"] for case in found}
    return {**base, "ratios": ratios, "rows_per_second": table, "settings": "one at a time"}


def label(settings: dict[str, object]) -> str:
    """Return a case's name."""
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "defaults"


def main() -> None:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    command = parser(__doc__)
    command.add_argument("--only", nargs="+", default=[], choices=list(SWEEP), help="these settings alone")
    command.add_argument("--one", metavar="JSON", help="measure these settings in this process")
    arguments = command.parse_args()
    with Bench(options_of(arguments)) as bench:
        if arguments.one is not None:
            write_line(one(bench, json.loads(arguments.one)), None)
        else:
            write_line(run(bench, arguments.only), arguments.json)


if __name__ == "__main__":
    main()
