"""What the demo prints at its end: answers, labels, accuracy, failures and throughput, read from the tables."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from rich import box
from rich.console import Console
from rich.table import Table

from llm_assets.inspection.show import literal, shorten
from llm_assets.tables import Database, Source
from llm_assets.tasks import Classify, Extract, Summarize, Task


def print_report(
    console: Console,
    database: Database,
    source: Source,
    tasks: Sequence[Task],
    run_id: str,
    text: str,
    gold: str | None,
) -> None:
    """Print the tables of a run. `text` and `gold` name columns of the source."""
    tables = sa.MetaData()
    tables.reflect(database.engine)
    rows = tables.tables[source.table]
    with database.engine.connect() as connection:
        for table in (
            _answers(connection, tables, rows, tasks, text),
            _labels(connection, tables, rows, tasks, gold),
            _failures(connection, tables, source),
            _throughput(connection, tables, run_id),
        ):
            if table is not None:
                console.print(table)


def _answers(connection: sa.Connection, tables: sa.MetaData, rows: sa.Table, tasks: Sequence[Task], text: str) -> Table:
    """Ten rows spread over the table, with the answers of every task."""
    key = next(iter(rows.primary_key))
    results = {task.name: tables.tables[f"{rows.name}_{task.name}"] for task in tasks}
    query: Any = sa.select(rows)
    for result in results.values():
        query = query.join(result, result.c[key.name] == key)
    # Short texts, because people read this in a terminal.
    total = connection.execute(sa.select(sa.func.count()).select_from(query.subquery())).scalar_one()
    ids = list(connection.execute(query.with_only_columns(key).order_by(key)).scalars())
    chosen = ids[:: max(total // 10, 1)][:10]
    shown = Table(title=f"Ten of {total:,} rows with their answers", show_lines=True)
    shown.add_column(literal(key.name), no_wrap=True)
    shown.add_column(literal(text), max_width=46)
    for task in tasks:
        shown.add_column(task.name, max_width=40)
    for value in chosen:
        source_row = connection.execute(sa.select(rows).where(key == value)).mappings().one()
        cells = [shorten(str(value)), shorten(source_row[text])]
        for task in tasks:
            result = results[task.name]
            answer = connection.execute(sa.select(result).where(result.c[key.name] == value)).mappings().one()
            cells.append(_cell(task, dict(answer)))
        shown.add_row(*map(literal, cells))
    return shown


def _cell(task: Task, answer: dict[str, Any]) -> str:
    match task:
        case Classify():
            return f"{shorten(answer['label'])} {answer['confidence']:.2f}"
        case Extract():
            facts = {
                c.name: answer[c.name] for c in task.columns if answer[c.name] is not None and c.name != "confidence"
            }
            return "\n".join(f"{shorten(name)}: {shorten(str(value), 40)}" for name, value in facts.items())
        case Summarize():
            return shorten(answer["summary"], 120)
    return shorten(str(answer.get("answer")))


def _labels(
    connection: sa.Connection, tables: sa.MetaData, rows: sa.Table, tasks: Sequence[Task], gold: str | None
) -> Table | None:
    """The label distribution, and the accuracy where rows have a gold label."""
    task = next((task for task in tasks if isinstance(task, Classify)), None)
    if task is None:
        return None
    result = tables.tables[f"{rows.name}_{task.name}"]
    key = next(iter(rows.primary_key))
    counts = dict(
        connection.execute(
            sa.select(result.c.label, sa.func.count()).group_by(result.c.label).order_by(sa.func.count().desc())
        )
        .tuples()
        .all()
    )
    confidence = dict(
        connection.execute(sa.select(result.c.label, sa.func.avg(result.c.confidence)).group_by(result.c.label))
        .tuples()
        .all()
    )
    total = sum(counts.values())
    shown = Table(title=f"Labels of {result.name}")
    for name in ("label", "rows", "share", "mean confidence"):
        shown.add_column(name, justify="left" if name == "label" else "right")
    for label, count in counts.items():
        shown.add_row(literal(shorten(label)), f"{count:,}", f"{count / total:.1%}", f"{confidence[label]:.3f}")
    if gold is not None:
        pairs = connection.execute(
            sa.select(rows.c[gold], result.c.label)
            .join(result, result.c[key.name] == key)
            .where(rows.c[gold].is_not(None))
        ).all()
        if pairs:
            right = sum(expected == label for expected, label in pairs)
            labels = [expected for expected, _ in pairs]
            majority = max(labels.count(label) for label in set(labels))
            shown.caption = literal(
                f"Accuracy against {shorten(gold)}: {right / len(pairs):.1%} of {len(pairs):,} rows "
                f"(always the commonest label: {majority / len(pairs):.1%})",
                "table.caption",
            )
    return shown


def _failures(connection: sa.Connection, tables: sa.MetaData, source: Source) -> Table | None:
    """Rows without an answer, with the reason; the tasks that share it on one line."""
    failures = tables.tables["llm_failures"]
    columns = (failures.c.row_key, failures.c.kind, failures.c.message, failures.c.task)
    found = connection.execute(sa.select(*columns).where(failures.c.source == source.name).order_by(*columns)).all()
    if not found:
        return None
    reasons: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row_key, kind, message, task in found:
        reasons.setdefault((kind, message), {}).setdefault(row_key, []).append(task)
    shown = Table(title=f"{len(found)} answers failed (table llm_failures)", show_lines=True)
    for name in ("kind", "rows", "tasks", "reason"):
        shown.add_column(name)
    for (kind, message), rows in reasons.items():
        names = ", ".join(shorten(key) for key in list(rows)[:5]) + (
            f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        )
        tasks = ", ".join(sorted({task for names in rows.values() for task in names}))
        shown.add_row(*map(literal, (shorten(kind), names, tasks, shorten(message, 120))))
    return shown


def _throughput(connection: sa.Connection, tables: sa.MetaData, run_id: str) -> Table:
    """What this run did, task by task."""
    t = tables.tables["llm_throughput"]
    sums = [t.c.rows_read, t.c.rows_answered, t.c.rows_reused, t.c.rows_skipped, t.c.rows_failed]
    tokens = [t.c.prompt_tokens, t.c.cached_tokens, t.c.output_tokens]
    query = sa.select(t.c.task, *(sa.func.sum(column) for column in (*sums, *tokens))).where(t.c.run_id == run_id)
    shown = Table(title=f"Run {run_id} (table llm_throughput)", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("task", "read", "asked", "reused", "same", "failed", "prompt", "cached", "output"):
        shown.add_column(name, justify="left" if name == "task" else "right", no_wrap=True)
    answered = all_tokens = 0
    for task, *values in connection.execute(query.group_by(t.c.task).order_by(t.c.task)):
        prompt, cached, output = values[5:]
        share = f"{cached / prompt:.0%}" if prompt else "-"
        shown.add_row(task, *(f"{value:,}" for value in values[:5]), f"{prompt:,}", share, f"{output:,}")
        answered += values[1]
        all_tokens += prompt + output
    # A partition's seconds are the same on the row of each of its tasks.
    once = sa.select(t.c.partition_key, sa.func.max(t.c.seconds_total), sa.func.max(t.c.seconds_load))
    spent = connection.execute(once.where(t.c.run_id == run_id).group_by(t.c.partition_key)).all()
    seconds, load = sum(row[1] for row in spent), sum(row[2] for row in spent)
    device = connection.execute(sa.select(sa.func.max(t.c.device)).where(t.c.run_id == run_id)).scalar_one()
    if answered:
        shown.caption = literal(
            f"{answered:,} answers in {seconds:.0f} s on {shorten(device)}: {answered / seconds:.1f} answers/s, "
            f"{all_tokens / seconds:,.0f} tokens/s. The model loaded in {load:.0f} s.\n"
            "reused: took the answer to an equal text. same: answered before. prompt, output: tokens. "
            "cached: share of the prompt tokens that were computed before.",
            "table.caption",
        )
    else:
        shown.caption = "Nothing was new, so nothing was asked and the model was not loaded."
    return shown
