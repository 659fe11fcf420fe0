"""Pictures of a materialization: SVG inside Markdown, drawn by the browser with its own fonts, so for any language.

A picture is a few hundred bytes and costs no time worth the name, where a drawing library's is ten thousand and a tenth
of a second; a backfill of a year makes thousands of them. The UI shows Markdown of less than 1,000 characters at once,
and longer Markdown at a click. An SVG that is shown as an image runs no script and loads nothing.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from unicodedata import east_asian_width

from llm_assets.errors import printable
from llm_assets.tables import Histogram

WIDTH, HEIGHT = 350, 190
"""Pixels. As wide as the column of values on the asset's page, in a window of 1,500."""

BARS = 15
"""So many labels have a bar; the others are one together."""

LABEL_WIDTH = 22
"""Of a longer label, the beginning is shown: so many letters, or half as many Chinese ones."""

LETTER = 6.4
"""About the pixels of a letter."""

LEFT, RIGHT, TOP, BOTTOM = 62, 338, 18, 150
BAR_HEIGHT = 24


def markdown_image(title: str, svg: str) -> str:
    """Return Markdown that shows a picture. The title is our own, never a row's text."""
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def label_plot(counts: Mapping[str, int]) -> str:
    """Return an SVG of how many rows have each label, the commonest at the top, with their shares."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    bars = [(_short(name), count) for name, count in ranked[:BARS]]
    if others := ranked[BARS:]:
        bars.append((f"{len(others)} others", sum(count for _, count in others)))
    total, highest = sum(counts.values()), max(count for _, count in bars)
    left = round(12 + LETTER * max(_columns(name) for name, _ in bars))
    scale, bottom = (WIDTH - left - 60) / highest, TOP + BAR_HEIGHT * len(bars)
    shapes, names, shares = "", "", ""
    for index, (name, count) in enumerate(bars):
        y = TOP + BAR_HEIGHT * index
        shapes += f"M{left} {y + 12}h{count * scale:.0f}"
        names += _text(left - 6, y + 16, name)
        shares += _text(left + count * scale + 5, y + 16, f"{100 * count / total:.3g} %")
    below = _x_axis(_ticks(0, highest, 2 if left > 110 else 3, whole=True), left, scale, 0, bottom, "rows")
    return _svg(bottom + 40, shapes, 18, f"M{left} {TOP}V{bottom}H{WIDTH - 10}", names, shares + below)


def histogram_plot(histogram: Histogram, x_name: str) -> str:
    """Return an SVG of a histogram: rows upward, and what was counted to the right, with its unit."""
    edges, counts = histogram.edges, histogram.counts
    width, highest = edges[1] - edges[0], max(counts)
    whole = all(isinstance(edge, int) for edge in edges)
    first, last = edges[0], edges[-1]
    if whole and width == 1:
        first, last = first - 0.5, last - 0.5  # a bar for each number stands over it
    beside = width * max(0, 6 - len(counts)) / 2  # few bars do not fill the picture
    begin, end = first - beside, last + beside
    scale = (RIGHT - LEFT) / (end - begin)
    shapes, x, y = f"M0 {BOTTOM}", 0, 0
    for index, count in enumerate(counts):
        if count:
            middle = round(LEFT + (first + (index + 0.5) * width - begin) * scale)
            height = max(round((BOTTOM - TOP) * count / highest), 1)
            shapes += f"m{middle - x} {y}v-{height}"
            x, y = middle, height
    beside_axis = _text(LEFT - 6, 11, "rows")
    for tick in _ticks(0, highest, 3, whole=True):
        beside_axis += _text(LEFT - 6, BOTTOM + 4 - (BOTTOM - TOP) * tick / highest, f"{tick:,.0f}")
    ticks = [tick for tick in _ticks(begin, end, whole=whole) if tick >= min(edges[0], 0)]
    below = _x_axis(ticks, LEFT, scale, begin, BOTTOM, x_name)
    return _svg(HEIGHT, shapes, width * scale - 1, f"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}", beside_axis, below)


def _svg(height: int, bars: str, bar_width: float, axes: str, right_aligned: str, others: str) -> str:
    """A picture on white, which both themes of the UI leave readable. Bars are thick lines: that is shortest."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" style="background:#fff" '
        f'font-family="sans-serif" font-size="11"><path stroke="#36a" stroke-width="{bar_width:.0f}" d="{bars}"/>'
        f'<path fill="none" stroke="#888" d="{axes}"/><g text-anchor="end">{right_aligned}</g>{others}</svg>'
    )


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}">{escape(text)}</text>'


def _x_axis(ticks: Sequence[float], left: float, scale: float, begin: float, bottom: int, name: str) -> str:
    """The numbers under a picture, and what they are."""
    numbers = "".join(_text(left + (tick - begin) * scale, bottom + 14, f"{tick:,.10g}") for tick in ticks)
    return f'<g text-anchor="middle">{numbers}{_text((left + WIDTH) / 2, bottom + 31, name)}</g>'


def _ticks(begin: float, end: float, most: int = 4, whole: bool = False) -> list[float]:
    """Return round numbers between two: multiples of 1, 2 or 5 times a power of ten, about `most` of them."""
    rough = (end - begin) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    return [round(index * step, 10) for index in range(math.ceil(begin / step), math.floor(end / step + 1e-9) + 1)]


def _short(text: str) -> str:
    """Return a text on one line, of at most `LABEL_WIDTH`, in which nothing acts."""
    line = " ".join(printable(text).split())
    if _columns(line) <= LABEL_WIDTH:
        return line
    line = line[:LABEL_WIDTH]
    while _columns(line) >= LABEL_WIDTH:
        line = line[:-1]
    return f"{line}…"


def _columns(text: str) -> int:
    """How many letters wide a text is."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)
