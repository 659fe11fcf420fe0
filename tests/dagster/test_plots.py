"""The pictures: well-formed, small, with axes, whatever they show."""

import base64
import re
from xml.etree import ElementTree

import pytest

from llm_assets.dagster.plots import HEIGHT, WIDTH, histogram_plot, label_plot, markdown_image
from llm_assets.tables import Histogram

HOSTILE = [
    "<script>alert(1)</script>",
    '"/><image href="http://example.com/x"/>',
    "$x^{$ \\frac{1}{2} _ * `code` ](http://a.b)",
    "]]> &amp; <!-- ",
    "日本語のとても長いラベルがここにあります。まだまだ続きます。",
    "😀👩‍👩‍👧",
    "مرحبا \u202e abc",
    "\x00\x1b[31m\ud800\ufffe\n\t",
    "x" * 100_000,
    "",
]


def texts(svg: str) -> list[str]:
    """The texts of a picture, which must be well-formed."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text")]


def test_labels_are_shown_with_their_shares_and_the_axis_says_what_it_counts() -> None:
    shown = texts(label_plot({"negative": 30, "positive": 90}))
    assert shown[:4] == ["positive", "negative", "75 %", "25 %"]
    assert shown[-1] == "rows"
    assert {"0", "50"} <= set(shown)


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_rows_are_counted_in_whole_numbers(rows: int) -> None:
    ticks = texts(label_plot({"positive": rows}))[2:-1]
    assert ticks[0] == "0"
    assert len(ticks) > 1
    assert all(tick.isdecimal() for tick in ticks)


@pytest.mark.parametrize("label", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_label_is_text_and_nothing_else(label: str) -> None:
    svg = label_plot({"fine": 3, label: 1})
    tags = {element.tag.partition("}")[2] for element in ElementTree.fromstring(svg).iter()}
    assert tags == {"svg", "path", "g", "text"}
    assert len(svg) < 1500
    assert all(text.isprintable() and len(text) <= 60 for text in texts(svg))
    assert re.fullmatch(r"!\[Labels\]\(data:image/svg\+xml;base64,[A-Za-z0-9+/=]+\)", markdown_image("Labels", svg))


def test_of_many_labels_the_commonest_have_a_bar() -> None:
    svg = label_plot({f"label {n}": 1000 - n for n in range(5000)})
    assert {"label 0", "label 14", "4985 others"} <= set(texts(svg))
    assert "label 15" not in texts(svg)
    assert len(svg) < 3000


def test_a_histogram_names_both_axes_and_its_unit() -> None:
    shown = texts(histogram_plot(Histogram(tuple(n / 10 for n in range(11)), (200,) * 10), "confidence (0 to 1)"))
    assert "rows" in shown
    assert shown[-1] == "confidence (0 to 1)"
    assert {"0", "0.5", "1", "200"} <= set(shown)


@pytest.mark.parametrize(
    "histogram",
    [
        Histogram((7, 8), (1,)),
        Histogram((0, 1), (3_000_000,)),
        Histogram((0.0, 1e-9), (5,)),
        Histogram(tuple(range(0, 2_000_001, 100_000)), (1,) * 20),
        Histogram(tuple(n / 20 for n in range(21)), (0,) * 19 + (1,)),
    ],
)
def test_any_histogram_can_be_drawn_inside_its_frame(histogram: Histogram) -> None:
    svg = histogram_plot(histogram, "tokens")
    for element in ElementTree.fromstring(svg).iter():
        if element.tag.endswith("}text"):
            assert 0 <= float(element.get("x", "")) <= WIDTH
            assert 0 <= float(element.get("y", "")) <= HEIGHT


def test_an_ordinary_histogram_is_short_enough_to_be_shown_without_a_click() -> None:
    counts = (3, 3, 7, 6, 8, 6, 4, 6, 3, 2)
    histogram = Histogram(tuple(n / 20 for n in range(21)), (0,) * 10 + counts)
    # The UI shows Markdown of fewer characters at once.
    assert len(markdown_image("confidence", histogram_plot(histogram, "confidence (0 to 1)"))) < 1000


def test_the_picture_is_the_one_that_was_drawn() -> None:
    svg = label_plot({"a": 1, "b": 1})
    encoded = markdown_image("Labels", svg).partition("base64,")[2].removesuffix(")")
    assert base64.b64decode(encoded).decode() == svg
