"""Ray: this package's replicas in Ray actors, against the same engine without Ray, and against Ray Data LLM.

Labels for rows. Ray Data LLM reads them from memory and returns them there; the two others go from a table to a
committed table. It loads its model in each execution; a second speed counts its batches' seconds in vLLM alone.

The last part is the dummy engine, two replicas against none: what Ray costs the host.

python -m benchmarks.ray_data [--rows 96] [--rounds 2]

Ray Data LLM needs `pip install 'ray[data,serve]'` besides; with the extra `llm` comes another vLLM.
"""

import importlib.util
import math
import os
import time
from typing import Any

from benchmarks.common import Bench, LeftOutError, Side, Turn, compare, demo_texts, main, ratio, rounded, speeds
from benchmarks.prompts import LONG_CHOICE
from llm_assets.engines import DummyEngine, DummySettings, Engine, RayEngine, RaySettings, VllmEngine, VllmSettings
from llm_assets.engines.vllm.hardware import cpu_arguments, cpu_has_bfloat16, is_cpu_build
from llm_assets.prompts.template import ROW_TEXT

DUMMY_ROWS = 20_000
BATCH = 32
BATCHES = 8
"""Ray Data LLM hands so many rows to vLLM together, and has so many such batches in flight: its own defaults."""

CPUS = 8
"""More than there are: Ray counts one for each of Ray Data's small stages, which hardly compute."""


def messages(text: str) -> list[dict[str, str]]:
    """Return a row's prompt."""
    return [
        {"role": message["role"], "content": message["content"].replace(ROW_TEXT, text)}
        for message in LONG_CHOICE.messages()
    ]


def ray_data(settings: VllmSettings, seconds: dict[int, float]) -> Side:
    """Return the side of Ray Data LLM, which notes its slowest batch's seconds in vLLM by the number of rows."""
    import ray.data
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    arguments = {name: value for name, value in settings.arguments().items() if name != "model"}
    cores = os.cpu_count() or 1
    if is_cpu_build():
        arguments |= cpu_arguments(settings) | {"dtype": "bfloat16" if cpu_has_bfloat16() else "float32"}
    # All cores for it, too: vLLM's CPU build else leaves one to its front end, and Ray sets OpenMP's threads.
    environment = {"OMP_NUM_THREADS": str(cores), "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    sampling = {"temperature": 0.0, "max_tokens": 16, "structured_outputs": {"choice": list(LONG_CHOICE.label_names)}}
    config = vLLMEngineProcessorConfig(
        model_source=settings.model,
        engine_kwargs=arguments,
        batch_size=BATCH,
        max_concurrent_batches=BATCHES,
        concurrency=1,
        log_engine_metrics=False,
        placement_group_config={"bundles": [{"CPU": cores}]} if is_cpu_build() else None,
        runtime_env={"env_vars": environment},
    )
    processor = build_processor(
        config,
        preprocess=lambda row: {"messages": messages(row["text"]), "sampling_params": sampling},
        postprocess=lambda row: {"label": row["generated_text"], "seconds": row["time_taken_llm"]},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False

    def answer(texts: list[str]) -> Turn:
        started, cpu = time.perf_counter(), time.process_time()
        blocks = math.ceil(len(texts) / BATCH)
        rows = ray.data.from_items([{"text": text} for text in texts], override_num_blocks=blocks)
        found = processor(rows).take_all()
        labels = [row["label"] for row in found]
        assert len(labels) == len(texts)
        assert set(labels) <= set(LONG_CHOICE.label_names), set(labels)
        turn = Turn(time.perf_counter() - started, time.process_time() - cpu, asked=len(labels))
        seconds[len(texts)] = max(row["seconds"] for row in found)
        return turn

    return answer


def loaded(bench: Bench, engine: Engine) -> Side:
    """Return the side of an engine that is loaded, untimed, for its turn alone: memory may not hold two."""
    side = bench.pipeline(engine, [LONG_CHOICE])

    def answer(texts: list[str]) -> Turn:
        engine.load()
        try:
            return side(texts)
        finally:
            engine.close()

    return answer


def dummy(bench: Bench) -> dict[str, Any]:
    """Measure what Ray costs the host."""
    replicas = RayEngine(RaySettings(engine=DummySettings(), replicas=2, num_cpus=0.5))
    replicas.load()
    sides = {
        "dummy": bench.pipeline(DummyEngine(), [LONG_CHOICE]),
        "ray_dummy": bench.pipeline(replicas, [LONG_CHOICE]),
    }
    turns = compare(sides, demo_texts(DUMMY_ROWS), bench.options.rounds)
    replicas.close()
    cost = {name: rounded(min(turn.cpu for turn in some) / DUMMY_ROWS * 1e6) for name, some in turns.items()}
    return {"dummy_rows_per_second": speeds(turns, DUMMY_ROWS), "host_microseconds_per_row": cost}


def run(bench: Bench) -> dict[str, Any]:
    """Measure the three sides, and the two with the dummy engine."""
    if importlib.util.find_spec("ray") is None:
        raise LeftOutError("Ray is not installed")
    # Actors with the priority of this process: Ray else lets all others on a machine go first.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    import ray

    rows = bench.rows(cpu=96, gpu=4096)
    settings = {"model": bench.model, "load_format": bench.options.load_format, "max_model_len": 2048}
    engine = VllmEngine(VllmSettings.model_validate({**settings, "cpu_kv_cache_gib": 1}))
    ray.init(num_cpus=max(CPUS, os.cpu_count() or 1), include_dashboard=False, log_to_driver=False)
    try:
        replicas = RayEngine(RaySettings(engine=engine.settings))
        sides = {name: loaded(bench, one) for name, one in {"pipeline": engine, "ray_engine": replicas}.items()}
        seconds: dict[int, float] = {}
        if importlib.util.find_spec("pyarrow") is not None:
            sides["ray_data"] = ray_data(engine.settings, seconds)
        turns = compare(sides, demo_texts(rows), bench.options.rounds)
        found = {f"ray_engine / {name}": ratio(turns, "ray_engine", name) for name in sides if name != "ray_engine"}
        speed = speeds(turns, rows)
        if 0 < rows <= BATCH * BATCHES and rows in seconds:  # all its batches are with vLLM at once
            speed["ray_data_loaded"] = rounded(rows / seconds[rows])
            found["ray_engine / ray_data_loaded"] = rounded(speed["ray_engine"] / speed["ray_data_loaded"])
        report = bench.report("ray_data", found, speed, turns, rows=rows, ray=ray.__version__, **dummy(bench))
        return {**report, "model": engine.info.model, "device": replicas.info.device}
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(run, __doc__)
