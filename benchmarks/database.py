"""What Postgres does for each answer, without a model and without the pipeline: the inputs of `scripts.scale`.

- writes: 1, 2 and 4 processes commit batches of labels; rows/s, and bytes of tables, of indexes and of the log (WAL).
- ledger: looking up 1,000 texts in a ledger that grows, and what the log takes for new answers after a checkpoint.
- pages: reading a partition by time, 1,000 rows at a time in the order of the key.

    python -m benchmarks.database [--rows 200000] [--ledger 1000000 10000000] [--pages 10000 100000]

It starts the Postgres of the tests with `fsync`. Writers and server share the cores of one machine.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b, md5
from itertools import islice
from pathlib import Path

from llm_assets.pipeline import task_outputs
from llm_assets.records import Answer, Partition, Within
from llm_assets.tables import AnswerToWrite, Batch, Database, Source, SourceTable, Store
from llm_assets.tasks import Classify
from tests.postgres import PostgresServer

SENTIMENT = Classify(name="sentiment", labels=("positive", "negative"))
FINGERPRINT = "f" * 32
LOOKUP_ROWS = 1000
LOOKUPS = 50
COMMIT_ROWS = 200
LOGGED_ROWS = 20_000
PAGES = 20
DAYS = 100
TICKS_PER_SECOND = 100


def digest(number: int) -> str:
    return blake2b(str(number).encode(), digest_size=16).hexdigest()


def open_store(url: str) -> Store:
    database, source = Database(url), Source(table="reviews")
    store = Store(database, SourceTable(database, source, ("text",)), task_outputs(source, [SENTIMENT]))
    store.prepare()
    return store


def answer(number: int) -> AnswerToWrite:
    scores = {"positive": 0.9341, "negative": 0.0659}
    columns = {"label": "positive", "confidence": 0.9341, "margin": 0.8682, "scores": scores}
    given = Answer(columns, 300, 1, "stop")
    return AnswerToWrite("sentiment", (number,), "2026-11-03", FINGERPRINT, digest(number), given, True, False)


def write(url: str, first: int, rows: int, commit_rows: int) -> None:
    """Commit answers in batches, as a run does; print when that began and ended."""
    store = open_store(url)
    started = time.time()
    for start in range(first, first + rows, commit_rows):
        batch = Batch(answers=[answer(n) for n in range(start, min(start + commit_rows, first + rows))])
        store.write(batch, "Qwen/Qwen2.5-7B-Instruct", "0f3c5a52-6f0e-4a1a-9a63-8f7f3d8e3d11")
    print(json.dumps([started, time.time()]))


def server_seconds(server: PostgresServer) -> float:
    """Return the CPU seconds of the server and of the sessions that have ended."""
    postmaster = server.postmaster()
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(path.parent.name) == postmaster:
            total += sum(map(int, fields[11:15]))  # its own, and those of children that it has waited for
        elif int(fields[1]) == postmaster:
            total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_SECOND


def measure_writes(server: PostgresServer, writers: int, rows: int, commit_rows: int) -> dict[str, object]:
    """Measure some processes that write at once, each to its share of the rows."""
    name = f"writes_{writers}_{commit_rows}"
    server.execute(f"CREATE DATABASE {name}")
    server.execute("CREATE TABLE reviews (id bigint PRIMARY KEY, text text)", name)
    open_store(server.url(name)).database.close()
    log, cpu = server.execute("SELECT pg_current_wal_lsn()"), server_seconds(server)
    share = rows // writers
    commands = [
        [sys.executable, "-m", "benchmarks.database", "--write", server.url(name), *map(str, (n * share, share))]
        for n in range(writers)
    ]
    processes = [
        subprocess.Popen([*command, "--commit-rows", str(commit_rows)], stdout=subprocess.PIPE) for command in commands
    ]
    times = [json.loads(process.communicate()[0]) for process in processes]
    seconds, written = max(end for _, end in times) - min(start for start, _ in times), share * writers
    wal = int(server.execute(f"SELECT pg_current_wal_lsn() - '{log}'::pg_lsn"))
    sizes = {
        table: [int(server.execute(f"SELECT {size}('{table}')", name)) / written for size in SIZES]
        for table in ("reviews_sentiment", "llm_answers")
    }
    return {
        "writers": writers,
        "commit_rows": commit_rows,
        "rows_per_second": round(written / seconds),
        "server_cpu_seconds_per_1000_rows": round(1000 * (server_seconds(server) - cpu) / written, 4),
        "wal_bytes_per_row": round(wal / written),
        "bytes_per_row": {table: [round(size) for size in found] for table, found in sizes.items()},
    }


SIZES = ("pg_table_size", "pg_indexes_size")


def measure_ledger(server: PostgresServer, sizes: Sequence[int]) -> list[dict[str, object]]:
    """Measure look-ups of 1,000 texts, half of them known, and the log for new answers, in a ledger that grows."""
    server.execute("CREATE DATABASE ledger")
    server.execute("CREATE TABLE reviews (id bigint PRIMARY KEY, text text)", "ledger")
    store = open_store(server.url("ledger"))
    columns = "fingerprint, content_hash, answer, prompt_tokens, output_tokens, finish_reason, answered_at"
    value = json.dumps(dict(answer(0).answer.columns))
    found, size = [], 0
    for target in sizes:
        started = time.perf_counter()
        # The hashes are md5's here, which the server can make by itself.
        server.execute(
            f"INSERT INTO llm_answers ({columns}) "  # noqa: S608 - all of it is written above
            f"SELECT '{FINGERPRINT}', md5(n::text), '{value}', 300, 1, 'stop', now() "
            f"FROM generate_series({size + 1}, {target}) n",
            "ledger",
        )
        server.execute("VACUUM ANALYZE llm_answers", "ledger")
        filled, size = time.perf_counter() - started, target
        texts = random.Random(7).choices(range(1, 2 * size), k=LOOKUPS * LOOKUP_ROWS)
        hashes = [md5(str(n).encode(), usedforsecurity=False).hexdigest() for n in texts]
        times = []
        for start in range(0, len(hashes), LOOKUP_ROWS):
            begun = time.perf_counter()
            store.reusable("sentiment", FINGERPRINT, hashes[start : start + LOOKUP_ROWS])
            times.append(time.perf_counter() - begun)
        times.sort()
        wal = _log_bytes(server, store, 10 * size)
        found.append(
            {
                "ledger_rows": size,
                "seconds_to_fill": round(filled, 1),
                "gigabytes": round(
                    int(server.execute("SELECT pg_total_relation_size('llm_answers')", "ledger")) / 1e9, 2
                ),
                "milliseconds_median": round(1000 * times[LOOKUPS // 2], 2),
                "milliseconds_slowest": round(1000 * times[-1], 2),
                "texts_per_second": round(LOOKUP_ROWS / times[LOOKUPS // 2]),
                "wal_bytes_per_row_after_a_checkpoint": wal,
            }
        )
    # A ledger without a log is emptied by a crash of the server. That costs only what it would have saved.
    server.execute("ALTER TABLE llm_answers SET UNLOGGED", "ledger")
    found.append({"ledger_rows": size, "wal_bytes_per_row_unlogged": _log_bytes(server, store, 20 * size)})
    store.database.close()
    return found


def _log_bytes(server: PostgresServer, store: Store, first: int) -> int:
    """Return what the log takes for each of some new answers after a checkpoint."""
    server.execute("CHECKPOINT")
    log = server.execute("SELECT pg_current_wal_lsn()")
    for start in range(first, first + LOGGED_ROWS, COMMIT_ROWS):
        store.write(Batch(answers=[answer(n) for n in range(start, start + COMMIT_ROWS)]), "model", "run")
    return round(int(server.execute(f"SELECT pg_current_wal_lsn() - '{log}'::pg_lsn")) / LOGGED_ROWS)


def measure_pages(server: PostgresServer, sizes: Sequence[int]) -> list[dict[str, object]]:
    """Measure the first pages of one day among a hundred, for days of some sizes, with an index on the time."""
    found = []
    for rows in sizes:
        name = f"pages_{rows}"
        server.execute(f"CREATE DATABASE {name}")
        # Rows of one day do not lie together, as in a table whose key is no counter.
        server.execute(
            "CREATE TABLE reviews AS SELECT n::bigint AS id, 'It arrived late, but it works.' AS text, "  # noqa: S608 - as above
            f"timestamp '2026-07-01' + interval '1 day' * (n % {DAYS}) AS created_at "
            f"FROM generate_series(1, {DAYS * rows}) n",
            name,
        )
        server.execute("ALTER TABLE reviews ADD PRIMARY KEY (id)", name)
        server.execute("CREATE INDEX ON reviews (created_at)", name)
        server.execute("VACUUM ANALYZE reviews", name)
        database = Database(server.url(name))
        table = SourceTable(database, Source(table="reviews"), ("text",), ("created_at",))
        start = datetime(2026, 7, 2, tzinfo=UTC)
        pages = table.read(Partition("2026-07-02", (Within("created_at", start, start + timedelta(days=1)),)))
        started = time.perf_counter()
        read = sum(len(page) for page in islice(pages, PAGES))
        seconds = time.perf_counter() - started
        database.close()
        server.execute(f"DROP DATABASE {name}")
        found.append({"rows_of_the_day": rows, "milliseconds_per_1000_rows": round(1e6 * seconds / read, 2)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="rows to write in each measurement; 0 for none")
    parser.add_argument("--ledger", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--pages", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--write", nargs=3, metavar=("URL", "FIRST", "ROWS"), help="be a writer")
    parser.add_argument("--commit-rows", type=int, default=COMMIT_ROWS)
    arguments = parser.parse_args()
    if arguments.write:
        url, first, rows = arguments.write
        write(url, int(first), int(rows), arguments.commit_rows)
        return
    result: dict[str, object] = {"benchmark": "database"}
    with PostgresServer(durable=True) as server:
        result["writes"] = [
            measure_writes(server, writers, arguments.rows, commit_rows)
            for writers, commit_rows in ((1, 200), (2, 200), (4, 200), (1, 2000), (4, 2000))
            if arguments.rows
        ]
        result["ledger"] = measure_ledger(server, arguments.ledger)
        result["pages"] = measure_pages(server, arguments.pages)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
