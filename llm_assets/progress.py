"""Progress of long work: a bar in a terminal, or a line every ten seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from llm_assets.pipeline import Progress, ProgressListener

LINE_SECONDS = 10.0

_terminal: ContextVar[ProgressListener | None] = ContextVar("terminal", default=None)


def listener(write: Callable[[str], None]) -> ProgressListener:
    """Return a listener for a run: the terminal's bar if this process shows one, else lines through `write`."""
    bar = _terminal.get()
    if bar is not None:
        return bar
    last = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            write(describe(progress))

    return show


def describe(progress: Progress) -> str:
    """Return one line: rows and partitions done, rows per second, time left."""
    line = f"{progress.rows_done:,} of {progress.rows_total:,} answers"
    if progress.partitions_total > 1:
        line += f", {progress.partitions_done} of {progress.partitions_total} partitions"
    line += f", {progress.rows_per_second:.1f} rows/s"
    left = progress.seconds_left
    return line if left is None else f"{line}, {duration(left)} left"


def duration(seconds: float) -> str:
    """Return seconds as people say them: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextmanager
def terminal_bar(console: Console) -> Iterator[None]:
    """Show one bar for the run that this process does meanwhile; without a terminal, a line every ten seconds."""
    if not console.is_terminal:
        yield from _with(listener(console.print))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    with Bar(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("Loading the model", total=None, speed="")

        def show(progress: Progress) -> None:
            partitions = f"{progress.partitions_done}/{progress.partitions_total} partitions"
            speed = f"{progress.rows_per_second:.1f} rows/s"
            bar.update(
                task, completed=progress.rows_done, total=progress.rows_total, description=partitions, speed=speed
            )

        yield from _with(show)


def _with(show: ProgressListener) -> Iterator[None]:
    token = _terminal.set(show)
    try:
        yield
    finally:
        _terminal.reset(token)
