"""An explanation on the terminal and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from llm_assets.inspection.edits import TaskEdits
from llm_assets.inspection.explanation import Explanation, RowTexts, TaskForecast
from llm_assets.inspection.forecast import TimeForecast
from llm_assets.inspection.show import duration, heading, line, literal, shorten

NARROW = 70
"""Columns of a terminal below which tables are turned: a line for each number, a column for each task."""

OUTCOMES = {
    "to ask": "to_ask",
    "duplicates": "duplicates",
    "reused": "reused",
    "skipped": "skipped",
    "empty": "empty",
    "failed before": "failed_before",
    "too long, fail": "too_long_failed",
    "left": "left",
}
"""What becomes of the rows, and the field that counts it. Together they are all rows."""


def explanation_json(found: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON values."""
    values = asdict(found)
    for layout, choice in zip(values["layouts"], found.layouts, strict=True):
        layout["explanation"] = choice.explanation
    return values


def edits_json(found: Sequence[TaskEdits]) -> list[dict[str, Any]]:
    """Return what an edit makes stale as JSON values."""
    result = []
    for task in found:
        values = asdict(task)
        for group in values["groups"]:
            group |= {"first": group["first"].isoformat(), "last": group["last"].isoformat()}
        result.append({**values, "stale": task.stale, "current": task.current})
    return result


def print_explanation(console: Console, found: Explanation) -> None:
    """Print what a run would do."""
    line(console, f"{found.source}, {_where(found)}: {found.rows:,} rows. Model {found.model}.", "bold")
    if found.every_partition is not None:
        line(console, f"Partitions: {'; '.join(found.every_partition)}.", "dim")
    if found.in_no_partition:
        count = "1 row is" if found.in_no_partition == 1 else f"{found.in_no_partition:,} rows are"
        line(console, f"{count} in no partition, and not asked about.", "yellow")
    if found.refusal:
        line(console, f"A run would refuse to begin: {found.refusal}", "bold red")
    if not found.rows:
        line(console, "There are no rows, so there is nothing to ask.")
        return
    heading(console, "Rows")
    _print_numbers(console, found.tasks, {name: _outcome(field) for name, field in _shown(found).items()})
    _print_notes(console, found)
    for texts in found.texts:
        _print_texts(console, texts)
    heading(console, "Layout")
    for choice in found.layouts:
        line(console, f"{', '.join(choice.tasks)}: {choice.layout}, {choice.explanation}.")
    heading(console, "Predicted tokens of the rows to ask")
    _print_numbers(
        console,
        found.tasks,
        {
            "prompt": lambda task: f"{task.prompt_tokens:,}",
            "computed": lambda task: f"{task.computed_tokens:,}",
            "output": _output,
        },
    )
    line(console, "computed: prompt tokens that the prefix cache will not have.", "dim")
    heading(console, "Predicted time")
    _print_times(console, found)


def print_edits(console: Console, found: Sequence[TaskEdits]) -> None:
    """Print which stored answers are those of the tasks as they stand."""
    for task in found:
        heading(console, f"{task.table}: {task.current:,} answers stay, {task.stale:,} are stale")
        if not task.groups:
            line(console, "There are no stored answers.")
            continue
        words = {
            "current": "as the task is now",
            "other layout": "same task, other layout",
            "other model": "other model",
            "edited": "other task, prompt or revision",
        }
        if console.width < NARROW:
            for group in task.groups:
                line(console, f"{group.rows:,} rows: {words[group.state]}", "" if group.is_stale else "green")
                line(console, f"  {shorten(group.model, 200)}, until {group.last:%Y-%m-%d %H:%M}", "dim")
                line(console, f"  {group.fingerprint[:12]}", "dim")
            continue
        table = _table()
        for name in ("rows", "what", "model", "last answered", "fingerprint"):
            table.add_column(name, justify="right" if name == "rows" else "left", overflow="fold")
        for group in task.groups:
            cells = (
                f"{group.rows:,}",
                words[group.state],
                shorten(group.model, 40),
                f"{group.last:%Y-%m-%d %H:%M}",
                group.fingerprint[:12],
            )
            table.add_row(*map(literal, cells), style="" if group.is_stale else "green")
        console.print(table)
    if any(task.stale for task in found):
        line(console, "\nA run asks about the rows of stale answers again. See how answers change: preview --canary.")


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _where(found: Explanation) -> str:
    if found.every_partition is not None:
        return "every partition"
    if found.partitions is None:
        return "all rows"
    first, last = found.partitions[0], found.partitions[-1]
    return (
        f"partition {first}"
        if len(found.partitions) == 1
        else f"{len(found.partitions)} partitions from {first} to {last}"
    )


def _shown(found: Explanation) -> dict[str, str]:
    """Leave out outcomes that no row has, but the commonest."""
    always = {"to_ask", "reused", "skipped"}
    return {
        name: field
        for name, field in OUTCOMES.items()
        if field in always or any(getattr(task, field) for task in found.tasks)
    }


def _outcome(field: str) -> Any:
    return lambda task: f"{getattr(task, field):,}"


def _output(task: TaskForecast) -> str:
    if task.output_tokens is None:
        return f"at most {task.most_output_tokens:,}"
    return f"{task.output_tokens:,}"


def _print_numbers(console: Console, tasks: Sequence[TaskForecast], rows: dict[str, Any]) -> None:
    """Print a line for each task; on a narrow terminal, a short list for each."""
    if console.width < NARROW:
        for task in tasks:
            line(console, task.task, "cyan")
            for name, value in rows.items():
                line(console, f"  {name:<15}{value(task):>12}")
        return
    table = _table()
    table.add_column("task", no_wrap=True)
    for name in rows:
        table.add_column(name, justify="right")
    for task in tasks:
        table.add_row(literal(task.task), *(value(task) for value in rows.values()))
    console.print(table)


def _print_notes(console: Console, found: Explanation) -> None:
    for task in found.tasks:
        if task.too_long_cut or task.too_long_failed:
            count, what = (
                (task.too_long_failed, "will fail")
                if task.too_long_failed
                else (task.too_long_cut, "will be cut in the middle")
            )
            about = "" if task.too_long_is_exact else "about "
            line(
                console,
                f"{task.task}: texts of more than {task.max_text_tokens:,} tokens, which {what}: {about}{count:,}.",
                "yellow",
            )
    if found.limits:
        line(console, f"A run stops before all is asked at {', '.join(found.limits)}.", "yellow")
    if any(not task.table_exists for task in found.tasks):
        names = ", ".join(task.table for task in found.tasks if not task.table_exists)
        line(console, f"Not there yet, a run makes them: {names}.", "dim")


def _print_texts(console: Console, texts: RowTexts) -> None:
    heading(console, f"Tokens of {shorten(texts.template, 50)}")
    if not texts.bins:
        line(console, "Every text is empty.")
        return
    most = max(item.rows for item in texts.bins)
    labels = [
        f"{item.low:,} to {item.high - 1:,}" if item.high - item.low > 1 else f"{item.low:,}" for item in texts.bins
    ]
    wide = max(map(len, labels))
    room = max(min(console.width, 100) - wide - 13, 5)
    for label, item in zip(labels, texts.bins, strict=True):
        bar = "█" * round(room * item.rows / most) or ("▏" if item.rows else "")
        if not console.encoding.startswith("utf"):
            bar = bar.replace("█", "#").replace("▏", "|")
        line(console, f"{label:>{wide}} {item.rows:>11,} {bar}")
    of = "all distinct texts" if texts.sampled >= texts.rows - texts.empty else f"{texts.sampled:,} distinct texts"
    line(console, f"median {texts.median:,}, 95 % up to {texts.p95:,} tokens; counted on {of}.", "dim")


def _print_times(console: Console, found: Explanation) -> None:
    if not any(task.to_ask for task in found.tasks):
        line(console, "Nothing is to be asked, so the model is not loaded.")
        return
    if not found.times:
        line(console, f"No earlier run with {found.model} from which it could be told.")
    for time in found.times:
        line(console, _time(time))


def _time(time: TimeForecast) -> str:
    load = f", and {duration(time.seconds_load)} to load the model" if time.seconds_load else ""
    device = f"{time.gpus} x {time.device}" if time.gpus else time.device
    return (
        f"{duration(time.seconds)} on {device}{load}: at the {time.per_second:,.1f} {time.basis}/s of "
        f"{time.partitions:,} earlier partitions."
    )
