"""One row's inspection as a page of HTML that needs no other file. All text is escaped and nothing in it acts."""

import html
from collections.abc import Sequence

from llm_assets.errors import printable
from llm_assets.inspection.answers import answer_columns, outcome_text
from llm_assets.inspection.preview_view import key_text
from llm_assets.inspection.row import BranchScores, Inspection, Step, Token
from llm_assets.inspection.row_view import CONSTRAINED, LOW, VERY_LOW, low_mark

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --page: #ffffff; --quiet: #57606a; --edge: #d0d7de;
  --shared: #f3f4f6; --row: #ddeeff; --special: #e6dcf8; --low: 207, 34, 46; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --page: #0d1117; --quiet: #9198a1; --edge: #3d444d;
  --shared: #1c2129; --row: #10304f; --special: #3b2a63; --low: 248, 81, 73; } }
body { color: var(--text); background: var(--page); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
.tokens { font-family: ui-monospace, monospace; font-size: .87rem; line-height: 1.7; }
.token { display: inline-block; overflow-wrap: break-word; max-width: 100%; white-space: pre-wrap;
  border: 1px solid var(--edge); border-radius: 3px; padding: .1em 1px; margin: 0 1px 0 0; unicode-bidi: isolate; }
.shared { background: var(--shared); } .row { background: var(--row); } .special { background: var(--special); }
.bang { color: rgb(var(--low)); font-weight: 700; }
.quiet, caption { color: var(--quiet); font-size: .87rem; text-align: left; }
table { margin-top: .5rem; border-collapse: collapse; width: 100%; font-size: .9rem; }
th { white-space: nowrap; }
th, td { border-bottom: 1px solid var(--edge); padding: .25rem .5rem; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.chosen { font-weight: 700; }
.candidate { display: inline-block; margin-right: .8rem; white-space: nowrap; }
pre { white-space: pre-wrap; margin: .2rem 0; font: inherit; }
""".strip()


def inspection_page(found: Inspection) -> str:
    """Return the page."""
    title = f"{found.table}, key {key_text(found.key)}"
    parts = [
        f"<h1>{_escaped(title)}</h1>",
        f'<p class="quiet">Model {_escaped(found.model)}. Colours: '
        f"{_token(Token(0, 'shared by all rows'), 'shared')} {_token(Token(0, 'the row'), 'row')} "
        f"{_token(Token(0, 'special token', True), 'shared')}. Spaces are shown as ·, line ends as ↵.</p>",
        _prompt(found),
    ]
    if found.steps:
        parts.append(_steps(found.steps, found.is_constrained))
    parts += [_branch(number, branch) for number, branch in enumerate(found.branches, 1)]
    if found.probabilities:
        rows = [f"{_cell(answer)}{_number(f'{value:.1%}')}" for answer, value in found.probabilities.items()]
        parts.append("<h2>Probability of each answer</h2>" + _table("", ("answer", "probability"), rows))
    parts += [f"<h2>Now</h2><pre>{_escaped(outcome_text(found.task, found.outcome, 5000))}</pre>", _stored(found)]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{_escaped(title)}</title>\n'
        f"<style>\n{_STYLE}\n</style>\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _prompt(found: Inspection) -> str:
    total = len(found.prefix) + len(found.row) + len(found.suffix)
    cut = ", cut to fit" if found.is_cut else ""
    spans = [
        _token(token, kind) + ("<br>" if "\n" in token.text else "")
        for tokens, kind in _kinds(found)
        for token in tokens
    ]
    return (
        f"<h2>Prompt: {total:,} tokens</h2>\n"
        f'<p class="quiet">{len(found.prefix):,} before the row, {len(found.row):,} of the row{cut}, '
        f'{len(found.suffix):,} behind it.</p>\n<div class="tokens">{"".join(spans)}</div>'
    )


def _kinds(found: Inspection) -> tuple[tuple[Sequence[Token], str], ...]:
    return (found.prefix, "shared"), (found.row, "row"), (found.suffix, "shared")


def _visible(text: str) -> str:
    return _escaped(text).replace("\n", "↵").replace("\t", "→").replace(" ", "·")


def _token(token: Token, kind: str, style: str = "", title: str = "") -> str:
    classes = "token special" if token.is_special else f"token {kind}"
    extra = f' style="{style}"' if style else ""
    return f'<span class="{classes}"{extra} title="{_escaped(title or f"id {token.id}")}">{_visible(token.text)}</span>'


def _background(probability: float | None) -> str:
    """The less likely, the deeper. Text stays readable on the deepest."""
    if probability is None:
        return ""
    return f"background: rgba(var(--low), {0.55 * (1 - probability):.2f})"


def _steps(steps: Sequence[Step], is_constrained: bool) -> str:
    spans = "".join(
        _token(step.token, "", _background(step.probability), _title(step)) + _bang(step.probability) for step in steps
    )
    rows = []
    for number, step in enumerate(steps, 1):
        chance = "" if step.probability is None else f"{step.probability:.1%}"
        shown = _token(step.token, "", _background(step.probability)) + _bang(step.probability)
        rows.append(f"{_number(str(number))}<td>{shown}</td>{_number(chance)}<td>{_candidates(step)}</td>")
    heads = ("", "token", "probability", "likeliest tokens")
    return (
        f'<h2>Answer: {len(steps):,} tokens</h2>\n<p class="quiet">The redder, the less likely; '
        f"! is below {LOW:.0%}, !! below {VERY_LOW:.0%}.{CONSTRAINED if is_constrained else ''}</p>\n"
        f'<div class="tokens">{spans}</div>\n' + _table("", heads, rows)
    )


def _title(step: Step) -> str:
    chance = "" if step.probability is None else f"{step.probability:.1%}"
    return f"id {step.token.id} {chance}"


def _bang(probability: float | None) -> str:
    mark = low_mark(probability)
    return f'<span class="bang">{mark}</span>' if mark else ""


def _candidates(step: Step) -> str:
    found = []
    for token, probability in step.top:
        chosen = " chosen" if token.id == step.token.id else ""
        found.append(f'<span class="candidate{chosen}">{_token(token, "shared")} {probability:.1%}</span>')
    return "".join(found)


def _branch(number: int, branch: BranchScores) -> str:
    after = "".join(_token(token, "shared") for token in branch.path)
    rows = []
    for way in branch.ways:
        tokens = " ".join(_token(token, "shared") for token in way.tokens)
        share = f"<b>{way.share:.1%}</b>"
        answers = _cell(", ".join(way.answers))
        rows.append(f'<td>{tokens}</td><td class="number">{share}</td>{_number(f"{way.probability:.2%}")}{answers}')
    heads = ("token", "share", "model's own", "leads to")
    where = f"after {after}" if after else "at the answer's beginning"
    return f"<h2>Step {number}, {where}</h2>" + _table("", heads, rows)


def _stored(found: Inspection) -> str:
    parts = ["<h2>Stored</h2>"]
    if found.stored_failure:
        parts.append(f"<pre>{_escaped(found.stored_failure)}</pre>")
    if not found.stored:
        if not found.stored_failure:
            parts.append("<p>There is no stored answer.</p>")
        return "".join(parts)
    names = [*answer_columns(found.task), "confidence", "model", "answered_at", "run_id", "fingerprint"]
    rows = [f"{_cell(name)}{_cell(str(found.stored[name]))}" for name in names if found.stored.get(name) is not None]
    words = {
        "current": "This text, and the task as it is now.",
        "other text": "The row had another text.",
        "other task": "The task or model was another one: before an edit.",
    }
    parts.append(_table(words[found.stored_is], ("column", "value"), rows))
    return "".join(parts)


def _cell(text: str) -> str:
    return f"<td>{_escaped(text)}</td>"


def _number(text: str) -> str:
    return f'<td class="number">{_escaped(text)}</td>'


def _table(caption: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    top = f"<caption>{_escaped(caption)}</caption>" if caption else ""
    numbers = ("", "probability", "share", "model's own")
    head = "".join(f'<th class="{"number" if name in numbers else "words"}">{_escaped(name)}</th>' for name in heads)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table>{top}<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
