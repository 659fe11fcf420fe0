"""One row's inspection on the terminal. Where there is no colour, characters say the same."""

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_assets.errors import printable
from llm_assets.inspection.answers import answer_columns, outcome_text
from llm_assets.inspection.preview_view import key_text
from llm_assets.inspection.row import BranchScores, Inspection, Step, Token
from llm_assets.inspection.show import heading, line, literal, shorten

LOW, VERY_LOW = 0.5, 0.1
"""Probabilities below which a generated token is marked with ! and with !!."""

CONSTRAINED = " The probabilities are those among the tokens that the task's constraint allows."

WIDE = 80
SEPARATOR = "|"


def low_mark(probability: float | None) -> str:
    """Return the mark of a token that the model found unlikely."""
    if probability is None or probability >= LOW:
        return ""
    return "!!" if probability < VERY_LOW else "!"


def visible(text: str) -> str:
    """Return a token's text in which white space can be seen."""
    return printable(text).replace("\n", "↵").replace("\t", "→").replace(" ", "·")


def print_inspection(console: Console, found: Inspection) -> None:
    """Print the prompt as tokens, the answer as tokens with their candidates, and the stored answer."""
    line(console, f"{found.table}, key {key_text(found.key)}, model {found.model}", "bold")
    for name, tokens, style in (
        ("shared beginning", found.prefix, "dim"),
        (f"row{', cut to fit' if found.is_cut else ''}", found.row, "bold cyan"),
        ("shared end", found.suffix, "dim"),
    ):
        heading(console, f"Prompt, {name}: {len(tokens):,} tokens")
        console.print(_tokens(console, tokens, style))
    if found.steps:
        heading(console, f"Answer: {len(found.steps):,} tokens")
        console.print(_answer(console, found.steps))
        _print_steps(console, found.steps, found.is_constrained)
    for number, branch in enumerate(found.branches, 1):
        _print_branch(console, number, branch)
    if found.probabilities:
        heading(console, "Probability of each answer")
        for answer, probability in found.probabilities.items():
            line(console, f"{probability:>7.1%}  {shorten(answer, 60)}")
    heading(console, "Now")
    line(console, outcome_text(found.task, found.outcome, 2000))
    heading(console, "Stored")
    _print_stored(console, found)


def _tokens(console: Console, tokens: Sequence[Token], style: str) -> Text:
    """The tokens with a line between each two; special ones in brackets of their own."""
    return _flow(console, [(_shown(token), "reverse" if token.is_special else style, token.text) for token in tokens])


def _answer(console: Console, steps: Sequence[Step]) -> Text:
    return _flow(
        console,
        [
            (_shown(step.token) + low_mark(step.probability), _style(step.probability), step.token.text)
            for step in steps
        ],
    )


def _flow(console: Console, pieces: Sequence[tuple[str, str, str]]) -> Text:
    """Whole tokens on each line, as many as there is room for; a new line also where a token has one."""
    text = Text()
    used = 0
    for place, (shown, style, token) in enumerate(pieces):
        is_last = place == len(pieces) - 1
        piece = shown if is_last else shown + SEPARATOR
        if used and used + cell_len(piece) > console.width:
            text.append("\n")
            used = 0
        text.append(shown, style)
        if not is_last:
            text.append(SEPARATOR, "bright_black")
        used += cell_len(piece)
        if "\n" in token and not is_last:
            text.append("\n")
            used = 0
    return text


def _style(probability: float | None) -> str:
    match low_mark(probability):
        case "!!":
            return "white on dark_red"
        case "!":
            return "black on yellow"
    return ""


def _print_steps(console: Console, steps: Sequence[Step], is_constrained: bool) -> None:
    if console.width >= WIDE:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("", justify="right")
        table.add_column("token", overflow="fold")
        table.add_column("p", justify="right")
        table.add_column("", no_wrap=True)
        table.add_column("likeliest tokens", overflow="fold")
        for number, step in enumerate(steps, 1):
            token = Text(_shown(step.token), _style(step.probability))
            chance = "" if step.probability is None else f"{step.probability:.1%}"
            table.add_row(str(number), token, chance, low_mark(step.probability), _top(step))
        console.print(table)
    else:
        for number, step in enumerate(steps, 1):
            chance = "" if step.probability is None else f" {step.probability:.1%}"
            line(console, f"{number:>3} {_shown(step.token)}{chance} {low_mark(step.probability)}")
            for token, probability in step.top:
                mark = "*" if token.id == step.token.id else " "
                line(console, f"     {mark}{probability:>6.1%} {_shown(token)}", "dim")
    line(console, f"! below {LOW:.0%}, !! below {VERY_LOW:.0%}.{CONSTRAINED if is_constrained else ''}", "dim")


def _shown(token: Token) -> str:
    return f"⟨{printable(token.text)}⟩" if token.is_special else visible(token.text)


def _top(step: Step) -> Text:
    text = Text()
    for token, probability in step.top:
        style = "bold" if token.id == step.token.id else "dim"
        text.append(f"{_shown(token)} {probability:.1%}", style).append("  ")
    return text


def _print_branch(console: Console, number: int, branch: BranchScores) -> None:
    after = "at the answer's beginning"
    if branch.path:
        after = f"after {SEPARATOR.join(_shown(token) for token in branch.path)}"
    heading(console, f"Step {number}, {after}")
    for way in branch.ways:
        tokens = " or ".join(dict.fromkeys(_shown(token) for token in way.tokens))
        answers = ", ".join(shorten(answer, 30) for answer in way.answers[:5])
        more = f" and {len(way.answers) - 5} more" if len(way.answers) > 5 else ""
        line(console, f"{way.share:>7.1%}  {tokens}  (the model's own: {way.probability:.2%}) leads to {answers}{more}")


def _print_stored(console: Console, found: Inspection) -> None:
    if found.stored_failure:
        line(console, shorten(found.stored_failure, 400), "red")
    if not found.stored:
        if not found.stored_failure:
            line(console, "There is no stored answer.")
        return
    words = {
        "current": "to this text and the task as it is now",
        "other text": "to another text that the row had",
        "other task": "to this text, by the task or model before an edit",
    }
    for name in (*answer_columns(found.task), "confidence"):
        if found.stored.get(name) is not None:
            line(console, f"{shorten(name)}: {shorten(str(found.stored[name]), 400)}")
    line(
        console,
        f"An answer {words[found.stored_is]}, of {found.stored['answered_at']:%Y-%m-%d %H:%M} by "
        f"{shorten(found.stored['model'], 100)}, run {shorten(found.stored['run_id'], 40)}.",
        "dim" if found.stored_is == "current" else "yellow",
    )
    console.print(literal(""))
