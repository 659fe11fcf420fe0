"""Label the demo's rows with SmolLM2 on this machine, table to table, and compare with labels written before.

    python -m tests.gpu.same_labels write            write cpu_labels.json beside this file (on a machine without a GPU)
    python -m tests.gpu.same_labels compare          compare this machine's labels with it, in float32 and bfloat16

The last line printed is JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa

import definitions
from llm_assets.demo.data import load_reviews
from llm_assets.demo.model import MODEL_DIRECTORY, prepare_model
from llm_assets.engines import VllmEngine, VllmSettings
from llm_assets.pipeline import Pipeline
from llm_assets.records import Partition
from llm_assets.tables import Database, Source

REFERENCE = Path(__file__).with_name("cpu_labels.json")
AGREEMENT = 0.95
"""Share of labels that must be the same in the reference's own precision, float32."""


def label(dtype: str) -> tuple[dict[str, list], float]:
    """Return label and confidence by row id, and rows per second without the load."""
    model = prepare_model(definitions.ROOT / MODEL_DIRECTORY)
    engine = VllmEngine(VllmSettings(model=str(model), max_model_len=2048, dtype=dtype, gpu_memory_utilization=0.5))
    with tempfile.TemporaryDirectory() as directory:
        database = Database(f"sqlite:///{directory}/demo.db")
        load_reviews(database, definitions.ROOT / "sql" / "demo")
        pipeline = Pipeline(Source(table="reviews"), definitions.TASKS[:1], engine, database, database)
        engine.load()
        started = time.perf_counter()
        counts = pipeline.run(Partition(), "labels").counts["sentiment"]
        seconds = time.perf_counter() - started
        with database.engine.connect() as connection:
            rows = connection.execute(sa.text("SELECT id, label, confidence FROM reviews_sentiment ORDER BY id"))
            labels = {str(key): [name, round(confidence, 4)] for key, name, confidence in rows}
        database.close()
    engine.close()
    return labels, counts.rows_answered / seconds


def compare(dtype: str) -> dict[str, object]:
    """Return how far this machine's labels agree with the reference."""
    reference = json.loads(REFERENCE.read_text())
    labels, speed = label(dtype)
    assert labels.keys() == reference.keys()
    same = sum(labels[key][0] == reference[key][0] for key in reference)
    distance = max(abs(labels[k][1] - reference[k][1]) for k in reference if labels[k][0] == reference[k][0])
    share = same / len(reference)
    print(
        f"{dtype}: {same} of {len(reference)} labels are the same ({share:.1%}), confidence differs by {distance:.4f}"
    )
    return {"dtype": dtype, "same": share, "largest_difference": distance, "rows_per_second": round(speed, 1)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("write", "compare"))
    if parser.parse_args().what == "write":
        labels, _ = label("float32")
        REFERENCE.write_text(json.dumps(labels, indent=0) + "\n")
        print(json.dumps({"rows": len(labels)}))
        return
    results = [compare(dtype) for dtype in ("float32", "bfloat16")]
    print(json.dumps(results))
    # bfloat16 keeps 8 bits: it flips labels of this small model whose probabilities are close, and is shown for that.
    sys.exit(0 if results[0]["same"] >= AGREEMENT else 1)


if __name__ == "__main__":
    main()
