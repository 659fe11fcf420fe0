"""A vLLM server of this machine, asked over HTTP, against vLLM inside the run: the same rows, table to table.

Both sides have the same engine arguments, and one is gone before the other is there: they share the GPU. Small runs
are measured too: with a model that is loaded for them, and with a server that is warm.

    python -m benchmarks.server [--rows 4096] [--rounds 3] [--model DIRECTORY [--load-format dummy]] [--api-servers 1]
    python -m benchmarks.server --kill [--rows 2000]

--kill does not measure: it kills the server in the middle of a run, starts it again, and counts what is in the table.
"""

import json
import statistics
import threading
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.common import (
    Bench,
    Side,
    Turn,
    compare,
    demo_texts,
    insert_rows,
    options_of,
    parser,
    ratio,
    rounded,
    run_pipeline,
    speeds,
    write_line,
)
from benchmarks.prompts import LONG_CHOICE, LONG_EXTRACT
from llm_assets.engines import Engine, ServerEngine, ServerSettings, VllmSettings
from llm_assets.engines.vllm.hardware import is_cpu_build
from llm_assets.pipeline import output_table_name
from llm_assets.tables import Database, Source
from llm_assets.tasks import Classify, Task
from tests.vllm_server import VllmServer

SMALL = (10, 100)
"""Rows of small runs."""

TASKS: dict[str, Task] = {"choice": LONG_CHOICE, "extract": LONG_EXTRACT}
SHORT = Classify(name="mood", instruction="Is the writer content?", labels=("yes", "no"))


class Labelled:
    """The side of an engine, which also keeps the labels of its last turn."""

    def __init__(self, bench: Bench, engine: Engine, task: Task) -> None:
        self._bench, self._engine, self._task = bench, engine, task
        self.labels: dict[int, tuple[str, float]] = {}

    def __call__(self, texts: list[str]) -> Turn:
        with self._bench.database() as database:
            insert_rows(database, texts)
            turn = run_pipeline(database, self._engine, [self._task])
            if isinstance(self._task, Classify):
                self.labels = labels(database, self._task)
            return turn


def labels(database: Database, task: Task) -> dict[int, tuple[str, float]]:
    """Return each row's label and its margin."""
    import sqlalchemy as sa

    table = sa.table(output_table_name(Source(table="rows"), task))
    query = sa.select(sa.column("id"), sa.column("label"), sa.column("margin")).select_from(table)
    with database.engine.connect() as connection:
        return {row[0]: (row[1], row[2]) for row in connection.execute(query)}


def measure(
    bench: Bench, name: str, engine: Engine, reset: Any, counts: dict[str, int]
) -> tuple[dict[str, list[Turn]], dict[int, tuple[str, float]]]:
    """Measure all tasks on one engine; return the turns by task, and the labels."""
    turns: dict[str, list[Turn]] = {}
    found: dict[int, tuple[str, float]] = {}
    for task_name, task in TASKS.items():
        side = Labelled(bench, engine, task)
        print(f"  {task_name}")
        turns[task_name] = compare({name: side}, demo_texts(counts[task_name]), bench.options.rounds, reset)[name]
        found = side.labels or found
    return turns, found


def small_runs(side: Side) -> dict[int, float]:
    """Return the seconds that small runs take."""
    return {rows: statistics.median(side(demo_texts(rows)).seconds for _ in range(3)) for rows in SMALL}


def run(bench: Bench, api_servers: int = 0) -> dict[str, Any]:
    """Measure vLLM inside the run, end it, and measure the server."""
    api_servers = api_servers or (1 if is_cpu_build() else 2)
    counts = {"choice": bench.rows(cpu=32, gpu=16_384), "extract": bench.rows(cpu=12, gpu=2048)}
    started = time.perf_counter()
    engine = bench.engine()
    load = time.perf_counter() - started
    inside, inside_labels = measure(bench, "inside", engine, engine.reset_prefix_cache, counts)
    small_inside = small_runs(Labelled(bench, engine, LONG_CHOICE))
    info, settings = engine.info, engine.settings
    scheduler = engine.llm.llm_engine.vllm_config.scheduler_config
    # vLLM has other defaults for a server.
    extra = ["--max-num-seqs", str(scheduler.max_num_seqs)]
    extra += ["--max-num-batched-tokens", str(scheduler.max_num_batched_tokens)]
    extra += ["--api-server-count", str(api_servers)] if api_servers > 1 else []
    bench.unload()
    with VllmServer(settings, extra=extra) as server:
        asking = ServerEngine(server_settings(server, settings, 2 * scheduler.max_num_seqs))
        outside, outside_labels = measure(bench, "server", asking, server.reset_prefix_cache, counts)
        small_outside = small_runs(Labelled(bench, asking, LONG_CHOICE))
        asking.close()
    found_ratios, found_speeds = {}, {}
    for task, rows in counts.items():
        both = {"inside": inside[task], "server": outside[task]}
        found_ratios[f"{task}: server / inside"] = ratio(both, "server", "inside")
        found_speeds |= {f"{task}: {name}": speed for name, speed in speeds(both, rows).items()}
    differing = {
        key: (label, outside_labels[key][0], rounded(margin))
        for key, (label, margin) in inside_labels.items()
        if outside_labels[key][0] != label
    }
    found = bench.report(
        "server",
        found_ratios,
        found_speeds,
        {**{f"{task}: inside": some for task, some in inside.items()}, **outside},
        rows=counts,
        load_seconds=rounded(load),
        small_runs={
            f"{rows} rows": {
                "loaded for the run": rounded(load + small_inside[rows]),
                "warm server": rounded(small_outside[rows]),
            }
            for rows in SMALL
        },
        same_labels=f"{len(inside_labels) - len(differing)} of {len(inside_labels)}",
        differing=list(differing.values())[:20],
        api_servers=api_servers,
        database=bench.dialect,
    )
    return {**found, "model": info.model, "device": info.device}


def server_settings(server: VllmServer, settings: VllmSettings, in_flight: int) -> ServerSettings:
    """Return the settings of an engine that asks a server of ours."""
    return ServerSettings(
        urls=[server.url],
        model=server.served,
        weights=settings.model,
        max_model_len=settings.max_model_len,
        max_in_flight=in_flight,
        unavailable_seconds=900,
    )


def kill_in_the_middle(bench: Bench) -> dict[str, Any]:
    """Kill the server in the middle of a run and start it again; say what the run left in the table."""
    import sqlalchemy as sa
    from sqlalchemy.exc import OperationalError

    rows = bench.rows(cpu=2000, gpu=20_000)
    settings = VllmSettings(model=bench.model, load_format=bench.options.load_format, max_model_len=2048)
    with VllmServer(settings) as server, bench.database() as database:
        insert_rows(database, demo_texts(rows))
        asking = ServerEngine(server_settings(server, settings, 64))
        asking.load()
        answers = sa.select(sa.func.count()).select_from(sa.table(output_table_name(Source(table="rows"), SHORT)))
        away: list[float] = []

        def committed() -> int:
            try:
                with database.engine.connect() as connection:
                    return connection.execute(answers).scalar_one()
            except OperationalError:
                return 0

        def kill() -> None:
            while committed() < rows // 2:
                time.sleep(0.05)
            began = time.perf_counter()
            server.kill()
            print(f"  killed with {committed()} answers committed", flush=True)
            server.start()
            server.wait()
            away.append(time.perf_counter() - began)

        killer = threading.Thread(target=kill)
        killer.start()
        turn = run_pipeline(database, asking, [SHORT])
        killer.join()
        asking.close()
        stored = committed()
    assert stored == rows == turn.asked, (stored, turn)
    return {
        "benchmark": "server killed",
        "rows": rows,
        "answered": turn.asked,
        "failed": turn.failed,
        "in the table": stored,
        "seconds": rounded(turn.seconds),
        "seconds away": rounded(away[0]),
        "rows_per_second": rounded(rows / (turn.seconds - away[0])),
    }


def main(words: Sequence[str] | None = None) -> None:
    command = parser(__doc__)
    command.add_argument("--api-servers", type=int, default=0, help="processes that take requests; two on a GPU")
    command.add_argument("--kill", action="store_true", help="kill the server in the middle of a run instead")
    arguments = command.parse_args(words)
    with Bench(options_of(arguments)) as bench:
        found = kill_in_the_middle(bench) if arguments.kill else run(bench, arguments.api_servers)
        write_line(json.loads(json.dumps(found)), arguments.json)


if __name__ == "__main__":
    main()
