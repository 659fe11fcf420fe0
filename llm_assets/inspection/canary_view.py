"""A canary on the terminal."""

from rich import box
from rich.console import Console
from rich.table import Table

from llm_assets.inspection.answers import answer_text, outcome_text
from llm_assets.inspection.canary import Canary, Flip
from llm_assets.inspection.preview_view import key_text
from llm_assets.inspection.show import heading, line, literal, shorten

EXAMPLES = 10
WIDE = 80
MOST_CATEGORIES = 12
"""Of more labels, no table of old and new fits."""


def print_canary(console: Console, found: Canary) -> None:
    """Print how many rows are answered otherwise, which labels change into which, and examples."""
    line(
        console,
        f"{len(found.flips)} of {found.compared} rows are answered otherwise than in {found.table}: {found.rate:.1%} "
        f"(95 % confidence: {found.low:.1%} to {found.high:.1%}).",
        "bold",
    )
    if found.failed:
        line(console, f"{found.failed} of them fail now.", "red")
    if found.changed:
        line(console, f"{found.changed} more were left out: their text is another one now, or they are gone.", "yellow")
    if len(found.by_column) > 1:
        line(console, "By field: " + ", ".join(f"{name} {count}" for name, count in found.by_column.items()) + ".")
    if found.categories:
        _print_categories(console, found)
    if found.flips:
        heading(console, f"{min(EXAMPLES, len(found.flips))} of the rows that flip")
        if console.width >= WIDE:
            console.print(_examples(found))
        else:
            for flip in found.flips[:EXAMPLES]:
                _print_example(console, found, flip)
    line(console, "Nothing was written.", "dim")


def _print_categories(console: Console, found: Canary) -> None:
    olds = sorted({old for old, _ in found.categories})
    news = sorted({new for _, new in found.categories}, key=lambda name: (name == "failed", name))
    heading(console, "Old answers (lines) and new ones (columns)")
    if len(news) > MOST_CATEGORIES or console.width < 14 * (len(news) + 1):
        for (old, new), count in sorted(found.categories.items(), key=lambda item: -item[1])[: 2 * MOST_CATEGORIES]:
            line(console, f"{count:>6,}  {shorten(old, 30)} > {shorten(new, 30)}", "" if old == new else "yellow")
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("old")
    for new in news:
        table.add_column(literal(shorten(new, 20)), justify="right")
    for old in olds:
        counts = [found.categories.get((old, new), 0) for new in news]
        cells = [
            literal(f"{count:,}", "yellow" if count and old != new else "")
            for new, count in zip(news, counts, strict=True)
        ]
        table.add_row(literal(shorten(old, 20)), *cells)
    console.print(table)


def _examples(found: Canary) -> Table:
    table = Table(box=box.ROUNDED, show_lines=True)
    for name in ("key", "text", "old", "new"):
        table.add_column(name, overflow="fold", max_width=20 if name == "key" else None)
    task = found.variant.task
    for flip in found.flips[:EXAMPLES]:
        cells = (key_text(flip.key), shorten(flip.text, 160), answer_text(task, flip.old), outcome_text(task, flip.new))
        table.add_row(*map(literal, cells))
    return table


def _print_example(console: Console, found: Canary, flip: Flip) -> None:
    task = found.variant.task
    line(console, key_text(flip.key), "bold")
    line(console, shorten(flip.text, 160), "dim")
    line(console, f"old: {answer_text(task, flip.old)}")
    line(console, f"new: {outcome_text(task, flip.new)}\n")
