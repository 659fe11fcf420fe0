"""What tests of inspections share: a pipeline that only looks, what stands in a database, and what a terminal shows."""

import io
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from rich.console import Console

from llm_assets.engines import DummyEngine
from llm_assets.pipeline import Pipeline, PipelineSettings
from llm_assets.tables import Source
from llm_assets.tasks import Task
from tests.tables.shop import SENTIMENT, Shop

HOSTILE = (
    "[bold red]loud[/] [link=http://example.org]here[/link] :warning: \x1b[31mred\x1b]8;;http://example.org\x07"
    "\u202eback\u2066\x9b2J\r\b <script>alert(1)</script> &amp; \\[x\\"
)
ACTING = ("\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\r", "\b")
MARKUP = ("[bold red]loud[/]", "[link=http://example.org]", ":warning:")


def looking(
    shop: Shop, *tasks: Task, engine: DummyEngine | None = None, column: str | None = None, **settings: Any
) -> Pipeline:
    """Return a pipeline over `reviews` that writes nothing."""
    return Pipeline(
        Source(table="reviews"),
        tasks or (SENTIMENT,),
        engine or DummyEngine(),
        shop.database,
        shop.database,
        () if column is None else (column,),
        PipelineSettings(**settings),
        read_only=True,
    )


def contents(shop: Shop) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table, by the table's name."""
    return {name: shop.rows(f"SELECT * FROM {name}") for name in sa.inspect(shop.database.engine).get_table_names()}


def printed(show: Callable[[Console], None], width: int = 100, color: bool = False) -> str:
    """Return what is printed on a terminal of a width."""
    stream = io.StringIO()
    system = "truecolor" if color else None
    show(Console(file=stream, width=width, force_terminal=color, color_system=system, no_color=not color))
    return stream.getvalue()
