"""What `llm-assets explain` costs on a large table, and how near its prediction is to a run's own count of tokens.

The command reads made-up rows from a SQLite file, in a process of its own, so that its peak memory is its own; the
tasks are those of this repository's definitions. Then a smaller table is predicted, answered with the dummy engine and
the model's tokenizer, and the prompt tokens are compared. Nothing here loads a model.

    python -m benchmarks.explain [--rows 1000000] [--compared 30000] [--model DIRECTORY]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, demo_texts, insert_rows, rounded
from llm_assets.demo.model import MODEL_DIRECTORY, prepare_model
from llm_assets.demo.run import load_definitions
from llm_assets.engines import DummyEngine, VllmEngine, VllmSettings
from llm_assets.inspection.explain import explain
from llm_assets.pipeline import Pipeline
from llm_assets.prompts.light import without_torch
from llm_assets.records import Partition
from llm_assets.tables import Database, Source

MAX_MODEL_LEN = 2048


class TokenizingEngine(DummyEngine):
    """The dummy engine with a model's own tokenizer, so that its prompts have as many tokens as the model's."""

    def __init__(self, model: str) -> None:
        super().__init__(MAX_MODEL_LEN)
        self.tokenizer: Any = vllm_engine(model).tokenizer


def vllm_engine(model: str) -> VllmEngine:
    return VllmEngine(VllmSettings(model=model, max_model_len=MAX_MODEL_LEN))


def explain_once(url: str, model: str) -> dict[str, Any]:
    """Explain the table in this process; return the seconds and the peak memory, imports included."""
    database = Database(url)
    tasks = load_definitions(ROOT).TASKS
    started, cpu = time.perf_counter(), time.process_time()
    with without_torch():
        pipeline = Pipeline(Source(table="rows"), tasks, vllm_engine(model), database, database, read_only=True)
        found = explain(pipeline, [Partition()])
    return {
        "rows": found.rows,
        "to_ask": {task.task: task.to_ask for task in found.tasks},
        "prompt_tokens": {task.task: task.prompt_tokens for task in found.tasks},
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_memory_mib": peak_memory_mib(),
    }


def peak_memory_mib() -> int:
    """Return this process's own peak. What getrusage says begins with the memory of the process that started it."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return round(int(line.split()[1]) / 1024)


def measure(url: str, model: str) -> dict[str, Any]:
    """Do `explain_once` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.explain", "--once", url, "--model", model]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def compare(url: str, model: str) -> dict[str, Any]:
    """Predict a table's prompt tokens, answer it, and return by task how far the prediction was off."""
    database = Database(url)
    tasks, engine = load_definitions(ROOT).TASKS, TokenizingEngine(model)
    arguments = (Source(table="rows"), tasks, engine, database, database)
    predicted = explain(Pipeline(*arguments, read_only=True), [Partition()])
    result = Pipeline(*arguments).run(Partition(), "compared")
    real = {name: counts.prompt_tokens for name, counts in result.counts.items()}
    return {
        "compared_rows": predicted.rows,
        "sampled_texts": predicted.texts[0].sampled,
        "predicted_prompt_tokens": {task.task: task.prompt_tokens for task in predicted.tasks},
        "real_prompt_tokens": real,
        "predicted / real": {task.task: round(task.prompt_tokens / real[task.task], 5) for task in predicted.tasks},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--compared", type=int, default=30_000, help="rows that are also answered; 0 for none")
    parser.add_argument("--model", help="directory of a model; the demo's if not given")
    parser.add_argument("--once", metavar="URL", help="explain what is there, and print what it cost")
    arguments = parser.parse_args()
    model = arguments.model or str(prepare_model(ROOT / MODEL_DIRECTORY))
    if arguments.once:
        print(json.dumps(explain_once(arguments.once, model)))
        return
    found: dict[str, Any] = {"benchmark": "explain", "model": Path(model).name}
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/rows.db"
        insert_rows(Database(url), demo_texts(arguments.rows))
        found |= measure(url, model)
        print("{rows:,} rows: {seconds} s, {cpu_seconds} CPU s, {peak_memory_mib} MiB".format(**found), flush=True)
        if arguments.compared:
            url = f"sqlite:///{directory}/compared.db"
            insert_rows(Database(url), demo_texts(arguments.compared))
            found |= compare(url, model)
            worst = max(abs(ratio - 1) for ratio in found["predicted / real"].values())
            found["worst_deviation"] = rounded(worst)
            print(f"Prompt tokens of {arguments.compared:,} rows: at most {worst:.2%} off", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
