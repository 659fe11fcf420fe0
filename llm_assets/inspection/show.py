"""Text of rows and models on a terminal: it is shown, and never acts."""

from rich.console import Console
from rich.text import Text

from llm_assets.errors import printable

TEXT_CHARACTERS = 70


def shorten(text: str | None, limit: int = TEXT_CHARACTERS) -> str:
    """Return text on one line, cut, without control characters."""
    line = printable(" ".join((text or "").split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def literal(text: str, style: str = "") -> Text:
    """Return text in which rich sees neither markup nor names of emoji."""
    return Text(text, style)


def heading(console: Console, text: str) -> None:
    """Print the title of a section."""
    console.print(literal(f"\n{printable(text)}", "bold"))


def line(console: Console, text: str, style: str = "") -> None:
    """Print a line of text as it is, wrapped at words."""
    console.print(literal(printable(text), style))


def duration(seconds: float) -> str:
    """Return a duration in words: 42 s, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
