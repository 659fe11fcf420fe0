"""Labels for rows: this pipeline, table to committed table, against batches of 64 that vLLM decodes under a choice.

Both sides get the same rows, prompts and loaded model, and take turns; the prefix cache is emptied before each. The
baseline is what vLLM's lesson on batch inference shows: prompts as text, one `LLM.generate` call for each 64 rows,
answers constrained to the labels, no database.

    python -m benchmarks.choice [--rows 128] [--rounds 3] [--model DIRECTORY [--load-format dummy]]
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="directory of a model; the demo's if not given")
    parser.add_argument("--load-format", default="auto", help="dummy: random weights, for speed alone")
    arguments = parser.parse_args()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

    import definitions
    from llm_assets.demo.model import MODEL_DIRECTORY, prepare_model
    from llm_assets.engines import VllmEngine, VllmSettings

    model = arguments.model or str(prepare_model(definitions.ROOT / MODEL_DIRECTORY))
    settings = VllmSettings(model=model, max_model_len=2048, load_format=arguments.load_format)
    engine = VllmEngine(settings)
    engine.load()
    task = definitions.TASKS[0]
    texts = demo_texts(definitions.ROOT, arguments.rows)
    seconds: dict[str, list[float]] = {"pipeline": [], "batches": []}
    for turn in range(arguments.rounds):
        for side in ("pipeline", "batches") if turn % 2 == 0 else ("batches", "pipeline"):
            engine.reset_prefix_cache()
            run = run_pipeline if side == "pipeline" else run_batches
            seconds[side].append(run(engine, task, texts))
            print(f"round {turn + 1}, {side}: {len(texts) / seconds[side][-1]:.2f} rows/s")
    engine.close()
    speed = {side: round(len(texts) / statistics.median(values), 2) for side, values in seconds.items()}
    ratio = round(statistics.median(b / p for p, b in zip(seconds["pipeline"], seconds["batches"], strict=True)), 2)
    print(f"The pipeline labels {ratio} times as many rows per second as batches of {BATCH}.")
    print(
        json.dumps(
            {
                "benchmark": "choice",
                "model": engine.info.model,
                "rows": len(texts),
                "rows_per_second": speed,
                "ratio": ratio,
            }
        )
    )


def demo_texts(root: Path, count: int) -> list[str]:
    """Return the demo's texts without the very long one, numbered and repeated until there are enough."""
    lines = (root / "sql" / "demo" / "reviews.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    usable = list(dict.fromkeys(text for text in texts if text and text.strip() and len(text) < 4000))
    return [f"{number + 1}. {usable[number % len(usable)]}" for number in range(count)]


def run_pipeline(engine: Any, task: Any, texts: list[str]) -> float:
    """Return the seconds from a table of rows to a committed table of labels."""
    import sqlalchemy as sa

    from llm_assets.pipeline import Pipeline
    from llm_assets.records import Partition
    from llm_assets.tables import Database, Source

    with tempfile.TemporaryDirectory() as directory:
        database = Database(f"sqlite:///{directory}/rows.db")
        table = sa.Table(
            "rows", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text)
        )
        with database.engine.begin() as connection:
            table.create(connection)
            connection.execute(table.insert(), [{"id": n, "text": text} for n, text in enumerate(texts)])
        started = time.perf_counter()
        counts = Pipeline(Source(table="rows"), [task], engine, database, database).run(Partition(), "benchmark").counts
        seconds = time.perf_counter() - started
        assert counts[task.name].rows_answered == len(texts)
        database.close()
    return seconds


def run_batches(engine: Any, task: Any, texts: list[str]) -> float:
    """Return the seconds that vLLM takes for text prompts in fixed batches, decoding one of the labels."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    constraint = StructuredOutputsParams(choice=list(task.label_names))
    params = SamplingParams(temperature=0.0, max_tokens=16, structured_outputs=constraint)
    llm = engine.llm
    messages = task.messages()[:-1]
    started = time.perf_counter()
    answers = 0
    for start in range(0, len(texts), BATCH):
        chats = [[*messages, {"role": "user", "content": text}] for text in texts[start : start + BATCH]]
        prompts = [engine.tokenizer.render(chat) for chat in chats]
        answers += sum(bool(output.outputs[0].text) for output in llm.generate(prompts, params, use_tqdm=False))
    assert answers == len(texts)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
