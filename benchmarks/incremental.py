"""What a rerun costs, and how reading and writing grow with a partition: with the dummy engine, so this package alone.

For each number of rows: the first run, a rerun with one row in a hundred changed, and one with nothing changed. Each is
a process of its own, so that its peak memory is its own. Nothing here is a comparison with another program.

    python -m benchmarks.incremental [--postgres] [--rows 100000 1000000]

On a SQLite file; `--postgres` starts the Postgres of the tests.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack

import sqlalchemy as sa

from llm_assets.engines import DummyEngine
from llm_assets.pipeline import Pipeline
from llm_assets.records import Partition
from llm_assets.tables import Database, Source
from llm_assets.tasks import Classify

CHANGED_SHARE = 0.01
INSERT_ROWS = 20_000
SENTIMENT = Classify(name="sentiment", labels=("positive", "negative"))


class LoadCounter(DummyEngine):
    """Counts how often it was loaded."""

    loads = 0

    def load(self) -> None:
        self.loads += 1


def make_table(database: Database, rows: int) -> None:
    table = sa.Table(
        "reviews", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text)
    )
    with database.engine.begin() as connection:
        table.create(connection)
        for start in range(0, rows, INSERT_ROWS):
            numbers = range(start, min(start + INSERT_ROWS, rows))
            values = [{"id": n, "text": f"Review {n}: it arrived late, but it works as described."} for n in numbers]
            connection.execute(table.insert(), values)


def change(database: Database, share: float, name: str = "reviews") -> None:
    """Edit that share of a table's rows."""
    table = sa.table(name, sa.column("id", sa.Integer), sa.column("text", sa.Text))
    with database.engine.begin() as connection:
        edit = table.update().where(table.c.id % round(1 / share) == 0).values(text=table.c.text + " Edited.")
        connection.execute(edit)


def run_once(url: str) -> dict[str, object]:
    """Run over the table in this process; return its counts, rows per second and peak memory."""
    database, engine = Database(url), LoadCounter()
    started, cpu = time.perf_counter(), time.process_time()
    pipeline = Pipeline(Source(table="reviews"), [SENTIMENT], engine, database, database)
    result = pipeline.run(Partition(), f"run at {time.time()}")
    seconds = time.perf_counter() - started
    [counts] = result.counts.values()
    return {
        "rows": counts.rows_read,
        "asked": counts.rows_answered,
        "skipped": counts.rows_skipped,
        "loads": engine.loads,
        "seconds": round(seconds, 2),
        "rows_per_second": round(counts.rows_read / seconds),
        "cpu_seconds_per_1000_rows": round(1000 * (time.process_time() - cpu) / counts.rows_read, 4),
        "seconds_by_stage": {stage: round(value, 2) for stage, value in result.seconds.items()},
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def measure(url: str) -> dict[str, object]:
    """Do `run_once` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.incremental", "--once", url]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000])
    parser.add_argument("--postgres", action="store_true", help="measure on the Postgres of the tests")
    parser.add_argument("--once", metavar="URL", help="run once over what is there, and print what it cost")
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(run_once(arguments.once)))
        return
    found = []
    for rows in arguments.rows:
        with ExitStack() as stack:
            url = f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/shop.db"
            if arguments.postgres:
                from tests.postgres import PostgresServer

                url = stack.enter_context(PostgresServer(durable=True)).url()
            database = Database(url)
            make_table(database, rows)
            for name in ("first", "1 % changed", "nothing changed"):
                if name == "1 % changed":
                    change(database, CHANGED_SHARE)
                database.close()
                found.append({"database": database.dialect, "run": name, **measure(url)})
                print(
                    "{database:<11}{rows:>9,} rows  {run:<16}{asked:>9,} asked  {loads} loads  {seconds:>8.1f} s  "
                    "{rows_per_second:>7,} rows/s  {peak_memory_mib:>7.1f} MiB".format(**found[-1]),
                    flush=True,
                )
    peaks = {item["rows"]: item["peak_memory_mib"] for item in found if item["run"] == "first"}
    print(json.dumps({"benchmark": "incremental", "peak_memory_mib_by_rows": peaks, "runs": found}))


if __name__ == "__main__":
    main()
