"""What so many rows take, from measured numbers: the tables of docs/a-billion-rows.md.

`python -m scripts.scale` prints them, and with `--write` puts them into the page. To see other sizes or another GPU,
change the constants: everything is computed from them.
"""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).resolve().parent.parent / "docs" / "a-billion-rows.md"
MARK = "<!-- {}: made by `python -m scripts.scale --write` -->"


class Work(NamedTuple):
    """One task on one GPU: rows a second, and CPU seconds of the run's own process for 1,000 rows."""

    name: str
    rows_per_second: float
    host_seconds: float


LABEL_HOST, JSON_HOST, JSON_TOKENS = 0.30, 0.97, 37
"""The host's seconds as they were measured beside a tiny model, and the tokens of that JSON."""


def json_host_seconds(tokens: int) -> float:
    """Return the host's seconds for longer JSON: those of a label, and for each token what the measured JSON took."""
    return LABEL_HOST + (JSON_HOST - LABEL_HOST) * tokens / JSON_TOKENS


# One H200, vLLM 0.25.1, instruction of about 240 tokens and rows of about 55: benchmarks/README.md, Results. The host's
# seconds are of the same page. For the 0.5B shape they are taken to be those of the 7B shape.
LABELS = Work("labels, 7B", 608, LABEL_HOST)
WORKS = (
    LABELS,
    Work("labels, 0.5B", 2303, LABEL_HOST),
    Work("JSON of 86 tokens, 7B", 105, json_host_seconds(86)),
    Work("text of 64 tokens, 7B", 221, 0.71),
)
LOAD_SECONDS = 78
"""To load the 7B shape: 44 to 78 seconds were usual, and one of a machine that had just started took 130."""

# `python -m benchmarks.database` on two CPU cores, 23 November 2026: labels, in batches of 200, fsync on.
DATABASE_SECONDS = 0.084
"""CPU seconds of Postgres for 1,000 answers: table, ledger, indexes, commit."""
TABLE_BYTES = 304 + 46
"""A label in its table, and in the table's two indexes."""
LEDGER_BYTES = 273 + 133
"""The same answer in the ledger, and in its two indexes."""
LOG_BYTES = 1127
"""Written to the log (WAL) for an answer by four writers, while pages of the indexes are changed many times each."""
LOG_BYTES_LARGE = 6734
"""The same in a ledger of ten million after a checkpoint: the first change of a page of an index logs all of it."""
LOG_BYTES_UNLOGGED = 463
"""The same with an unlogged ledger: what is left is the table of answers."""
LOOKUP_SECONDS = 0.081
"""To look up 1,000 texts in a ledger of ten million."""
READ_SECONDS = 0.031
"""To read 1,000 rows of a day among a hundred, in a table of ten million whose key has nothing to do with the time."""

# Chosen, not measured.
NIGHT_HOURS = 8
COMMIT_ROWS = 200
"""The default of `commit_rows`."""
PARTITION_ROWS = 1_000_000
"""A partition is the least that a run takes: with more in one, a killed or slow run holds up too much."""
CONNECTIONS = 2
"""Of a run to the database of the answers: its locks' own, and one for everything else; a test counts them."""
ROW_BYTES = 250
"""A row of the source on its way into the run: about 55 tokens of four characters, and its key."""
SIZES = tuple(10**power for power in range(4, 10))
GPUS = (1, 8, 64, 512)


def gpu_hours(rows: float, work: Work = LABELS) -> float:
    """Return how long one GPU takes for that many rows, without loading."""
    return rows / work.rows_per_second / 3600


class Night(NamedTuple):
    """Whole partitions on the fewest GPUs that are done in a night: each GPU takes one after the other, in rounds."""

    partitions: int
    gpus: int
    rounds: int
    hours: float
    loading: float
    """The share of the time that loads of the model take: one for each partition."""


def night(rows: int) -> Night:
    """Return what labelling so many rows in a night takes; of a single partition, it can be longer."""
    partitions = math.ceil(rows / PARTITION_ROWS)
    seconds = LOAD_SECONDS + 3600 * gpu_hours(rows / partitions)
    most_rounds = max(1, int(3600 * NIGHT_HOURS / seconds))
    gpus = math.ceil(partitions / most_rounds)
    rounds = math.ceil(partitions / gpus)
    return Night(partitions, gpus, rounds, rounds * seconds / 3600, LOAD_SECONDS / seconds)


def rounded(value: float) -> str:
    """Return a number with two figures that count, and with separators."""
    if value == 0:
        return "0"
    digits = 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_task() -> str:
    """Return what a billion rows of each task take."""
    head = ["a billion rows", "rows/s of a GPU", "GPU hours", *(f"hours on {n}" for n in GPUS[1:]), "CPU cores a GPU"]
    rows = [
        [
            work.name,
            f"{work.rows_per_second:,}",
            rounded(gpu_hours(1e9, work)),
            *(rounded(gpu_hours(1e9, work) / n) for n in GPUS[1:]),
            rounded(work.rows_per_second * work.host_seconds / 1000),
        ]
        for work in WORKS
    ]
    return table(head, rows)


def by_gpus() -> str:
    """Return what that many GPUs, each a run of its own, ask of the rest while they label."""
    measures: list[tuple[str, Callable[[int], float]]] = [
        ("hours for a billion rows", lambda n: gpu_hours(1e9) / n),
        ("answers/s into the tables", lambda n: n * LABELS.rows_per_second),
        (f"commits/s, each of {COMMIT_ROWS}", lambda n: n * LABELS.rows_per_second / COMMIT_ROWS),
        ("CPU cores of Postgres, writing", lambda n: n * LABELS.rows_per_second * DATABASE_SECONDS / 1000),
        ("MB/s of its log, at first", lambda n: n * LABELS.rows_per_second * LOG_BYTES / 1e6),
        ("MB/s of its log, large ledger", lambda n: n * LABELS.rows_per_second * LOG_BYTES_LARGE / 1e6),
        ("MB/s of its log, unlogged ledger", lambda n: n * LABELS.rows_per_second * LOG_BYTES_UNLOGGED / 1e6),
        ("ledger look-ups/s", lambda n: n * LABELS.rows_per_second),
        ("of them at once, at 81 ms for 1,000", lambda n: n * LABELS.rows_per_second * LOOKUP_SECONDS / 1000),
        ("MB/s from the source", lambda n: n * LABELS.rows_per_second * ROW_BYTES / 1e6),
        (
            "CPU cores of the runs, tokenising among it",
            lambda n: n * LABELS.rows_per_second * LABELS.host_seconds / 1000,
        ),
        ("connections to the database", lambda n: n * CONNECTIONS),
    ]
    rows = [[name, *(rounded(measure(n)) for n in GPUS)] for name, measure in measures]
    return table(["labels by the 7B shape", *(f"{n} GPU{'s' * (n > 1)}" for n in GPUS)], rows)


def by_size() -> str:
    """Return what labelling takes at each order of magnitude."""
    rows = []
    for size in SIZES:
        found = night(size)
        rows.append(
            [
                f"{size:,}",
                rounded(gpu_hours(size)),
                f"{found.partitions:,}",
                str(found.gpus),
                str(found.rounds),
                rounded(found.hours),
                f"{100 * found.loading:.1f} %",
                rounded(size * TABLE_BYTES / 1e9),
                rounded(size * LEDGER_BYTES / 1e9),
                rounded(size * LOG_BYTES_UNLOGGED / 1e9),
                rounded(size * LOG_BYTES_LARGE / 1e9),
            ]
        )
    head = ["rows", "GPU hours", "partitions", f"GPUs for {NIGHT_HOURS} h", "rounds", "hours on them", "of it loading"]
    return table([*head, "GB of answers", "GB of ledger", "GB of log, least", "most"], rows)


TABLES = {"by task": by_task, "by GPUs": by_gpus, "by size": by_size}


def written(text: str) -> str:
    """Return a page's text with the tables as they are now."""
    for name, make in TABLES.items():
        start, end = MARK.format(name), f"<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{PAGE.name} has no place for the table {name!r}: {start} and {end}, a line each.")
        text = f"{before}{start}\n\n{make()}\n\n{end}{after}"
    return text


def main(arguments: Sequence[str]) -> None:
    """Print the tables, or write them into the page."""
    if "--write" in arguments:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for make in TABLES.values():
        print(make(), end="\n\n")


if __name__ == "__main__":
    main(sys.argv[1:])
