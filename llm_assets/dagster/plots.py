"""Pictures of a materialization, small enough to stand in Dagster's event log, as images inside Markdown."""

import base64
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from llm_assets.errors import printable
from llm_assets.tables import Histogram

WIDTH, HEIGHT, DPI = 5.0, 2.5, 100
"""Inches, and pixels for each."""

BARS = 15
"""So many labels have a bar; the others are one together."""

LABEL_CHARACTERS = 28

BLUE, GREY = "#3b6fb6", "#9aa5b1"

# What has the scripts that matplotlib's own font lacks, where it is installed.
FONTS = (
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Microsoft YaHei",
    "Hiragino Sans",
    "PingFang SC",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Thai",
    "Noto Sans Devanagari",
    "Arial Unicode MS",
    "Unifont",
)


def markdown_image(title: str, png: bytes) -> str:
    """Return Markdown that shows a picture. The title is our own, never a row's text."""
    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"


def label_plot(counts: Mapping[str, int]) -> bytes:
    """Return a PNG of how many rows have each label, the commonest at the top.

    A label that no installed font can draw is shown as its place in the order: #3.
    """
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    shown, others = ranked[:BARS], ranked[BARS:]
    total = sum(counts.values())
    fonts = _Fonts()
    names = [fonts.drawable(name, f"#{place}") for place, (name, _) in enumerate(shown, start=1)]
    values = [count for _, count in shown]
    if others:
        names.append(f"{len(others)} others")
        values.append(sum(count for _, count in others))
    with _Figure(max(HEIGHT, 0.9 + 0.27 * len(names))) as figure:
        axes = figure.axes
        colors = [BLUE] * len(shown) + [GREY] * bool(others)
        bars = axes.barh(range(len(names)), values, color=colors, height=0.7)
        axes.set_yticks(range(len(names)), labels=names)
        for text in axes.get_yticklabels():
            text.set_parse_math(False)
            text.set_fontfamily(fonts.names)
        axes.invert_yaxis()
        shares = [f" {100 * value / total:.3g} %" for value in values]
        axes.bar_label(bars, labels=shares, fontsize=8, color="#333333")
        axes.margins(x=0.16)
        hidden = any(name.startswith("#") and name == f"#{place}" for place, name in enumerate(names, start=1))
        figure.finish("Labels", "rows", "label (#: row of the table)" if hidden else "label", whole_x=True)
    return figure.png


def histogram_plot(histogram: Histogram, title: str, x_name: str) -> bytes:
    """Return a PNG of a histogram: rows on the y axis, and what was counted on the x axis with its unit."""
    edges, counts = histogram.edges, histogram.counts
    with _Figure(HEIGHT) as figure:
        width = edges[1] - edges[0]
        whole = all(isinstance(edge, int) for edge in edges)
        left = -0.5 if whole and width == 1 else 0  # a bar for each number stands over it
        starts = [edge + left for edge in edges]
        figure.axes.bar(starts[:-1], counts, width=width, align="edge", color=BLUE, edgecolor="white", linewidth=0.5)
        beside = width * max(0, 5 - len(counts))  # few bars do not fill the picture
        figure.axes.set_xlim(max(starts[0] - beside, min(starts[0], 0)), starts[-1] + beside)
        figure.finish(title, x_name, "rows", whole_x=whole, whole_y=True)
    return figure.png


class _Figure:
    """One picture, drawn without pyplot, which would keep it, and without the settings of whoever runs this."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.png = b""
        self.axes: Any = None

    def __enter__(self) -> "_Figure":
        import matplotlib
        from matplotlib.figure import Figure

        self._quiet = warnings.catch_warnings()
        self._quiet.__enter__()
        warnings.simplefilter("ignore")
        # Its fonts are looked through the first time, which it tells of.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        self._settings = matplotlib.rc_context()
        self._settings.__enter__()
        matplotlib.rcdefaults()
        self._figure = Figure(figsize=(WIDTH, self.height), dpi=DPI, facecolor="white", layout="constrained")
        self.axes = self._figure.subplots()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                file = io.BytesIO()
                self._figure.savefig(file, format="png", metadata={"Software": None})
                self.png = file.getvalue()
        finally:
            self._settings.__exit__(None, None, None)
            self._quiet.__exit__(None, None, None)

    def finish(self, title: str, x_name: str, y_name: str, whole_x: bool = False, whole_y: bool = False) -> None:
        """Name the axes, and take what is no data out of the picture."""
        from matplotlib.ticker import MaxNLocator, StrMethodFormatter

        axes = self.axes
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel(x_name, fontsize=9)
        axes.set_ylabel(y_name, fontsize=9)
        axes.tick_params(labelsize=8)
        for axis, whole in ((axes.xaxis, whole_x), (axes.yaxis, whole_y)):
            if whole:
                axis.set_major_locator(MaxNLocator(nbins=5, integer=True))
                axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.spines[["top", "right"]].set_visible(False)


class _Fonts:
    """The fonts of this machine that pictures are written in, and the characters that they have."""

    def __init__(self) -> None:
        from matplotlib import font_manager

        installed = {entry.name: entry.fname for entry in font_manager.fontManager.ttflist}
        self.names: Sequence[str] = [name for name in FONTS if name in installed]
        self._fonts = [font_manager.get_font(installed[name]) for name in self.names]

    def drawable(self, text: str, otherwise: str) -> str:
        """Return a text on one line and short, or something else if a character of it has no shape in any font."""
        line = " ".join(printable(text).split())
        if len(line) > LABEL_CHARACTERS:
            line = f"{line[: LABEL_CHARACTERS - 1]}…"
        has_shape = all(any(font.get_char_index(ord(character)) for font in self._fonts) for character in line)
        return line if line and has_shape else otherwise
