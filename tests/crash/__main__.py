"""Crash runs and say what came of it: python -m tests.crash [--kills 50] [--seed 1] [--dummy | --vllm]

Exit status 1 if anything is wrong: a row lost or doubled, an answer that differs from an undisturbed run's, more asked
again than was in flight or waited for its commit, a process or a lock left behind.
"""

import argparse
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from llm_assets.demo.model import MODEL_DIRECTORY, prepare_model
from tests.crash.asked import BOUNDS
from tests.crash.crash import Crash, Plan, Report, total
from tests.crash.databases import PostgresPlace, SqlitePlace
from tests.crash.engine import ROOT
from tests.engine_fixtures import LOGPROB_TOLERANCE
from tests.postgres import PostgresServer

VLLM_KILLS = 10
VLLM_ROWS = 150


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description="Crash runs and say what came of it.")
    parser.add_argument("--kills", type=int, default=50, help="kills for each database, with the dummy engine")
    parser.add_argument("--rows", type=int, default=2000, help="rows of the table, with the dummy engine")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="the same seed, the same kills")
    parser.add_argument("--database", choices=["sqlite", "postgres"], help="only this one")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--dummy", action="store_true", help="only the dummy engine")
    which.add_argument("--vllm", action="store_true", help="only vLLM")
    options = parser.parse_args()
    print(f"Seed {options.seed}", flush=True)
    reports = list(crashes(options))
    print(table(reports))
    for report in reports:
        for text in report.wrong:
            print(f"\n{report.name}: {text}")
    return int(any(report.wrong or report.lost or report.doubled for report in reports))


def crashes(options: argparse.Namespace) -> Iterator[Report]:
    databases = [options.database] if options.database else ["sqlite", "postgres"]
    if not options.vllm:
        for database in databases:
            yield crash(database, Plan(rows=options.rows, kills=options.kills), options.seed)
    if not options.dummy:
        model = prepare_model(ROOT / MODEL_DIRECTORY)
        plan = Plan(
            rows=VLLM_ROWS,
            kills=VLLM_KILLS,
            kinds=("worker", "engine"),
            questions=(5, 40),
            seconds_share=0.0,  # vLLM that dies while it is loaded is a model that cannot be loaded
            model=str(model),
            tolerance=LOGPROB_TOLERANCE,  # numbers depend a little on what is computed together
        )
        yield crash(databases[0], plan, options.seed)


def crash(database: str, plan: Plan, seed: int) -> Report:
    """Crash runs on a new database, and keep its files only if something is wrong."""
    directory = Path(tempfile.mkdtemp(prefix="crash-"))
    name = f"{'SQLite' if database == 'sqlite' else 'Postgres'}{', vLLM' if plan.model else ''}"
    with ExitStack() as stack:
        if database == "sqlite":
            place = SqlitePlace(directory)
        else:
            place = PostgresPlace(stack.enter_context(PostgresServer(durable=True)))
        report = Crash(name, place, plan, seed, directory, lambda line: print(line, flush=True)).run()
    if report.wrong:
        report.wrong.append(f"The workers' output is in {directory}.")
    else:
        shutil.rmtree(directory)
    return report


def table(reports: list[Report]) -> str:
    """Return the reports as two tables: each database, and what was asked again after each kind of kill."""
    head = ["database", "kills", "lives", "rows", "asked", "again", "lost", "doubled", "wrong", "seconds"]
    lines = [
        [
            report.name,
            len(report.kills),
            report.lives,
            report.rows,
            report.asked,
            sum(count for count, _ in report.again.values()),
            report.lost,
            report.doubled,
            len(report.wrong),
            f"{report.seconds:.0f}",
        ]
        for report in reports
    ]
    kinds = [
        [report.name, kind, total(report, kind), *report.again[kind], BOUNDS[kind]]
        for report in reports
        for kind in report.again
    ]
    again = ["database", "killed", "kills", "asked again", "most after one", "at most"]
    return f"\n{columns(head, lines)}\n\n{columns(again, kinds)}"


def columns(head: list[str], lines: list[list[object]]) -> str:
    cells = [head, *([str(value) for value in line] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = [
        "  ".join(cell.ljust(width) if number < 1 else cell.rjust(width) for number, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    return "\n".join([rows[0], "-" * len(rows[0]), *rows[1:]])


if __name__ == "__main__":
    sys.exit(main())
