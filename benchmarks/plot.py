"""Draw the ratios of a file of JSON lines as bars: python -m benchmarks.plot FILE [--out PNG] [--names choice text].

Of several lines of the same benchmark, model and device the last one counts.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
NAMES = ("choice", "extract", "text", "tasks", "prefix", "duplicates", "speculation", "copies", "server")
"""What is drawn if nothing else is asked for: those whose ratios are rows per second over rows per second."""

GAP = 0.7
"""Between the bars of one pair of sides and those of the next, in bars."""

COLOURS = ("#3b6ea5", "#d98032", "#5d9a57", "#9c5a91", "#7f7f7f", "#c2a83e")


def bars(lines: Sequence[dict[str, Any]], names: Sequence[str] = NAMES) -> dict[str, dict[str, float]]:
    """Return the ratios by model and device, and for each by their labels, in the order of `names`."""
    newest: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for line in lines:
        if line["benchmark"] in names and line.get("ratios"):
            group = newest.setdefault((line["model"], line["device"]), {})
            group[line["benchmark"]] = line["ratios"]
    return {
        f"{model}, {device}": {
            f"{name}: {label}": value for name in names for label, value in found.get(name, {}).items()
        }
        for (model, device), found in newest.items()
    }


def draw(groups: dict[str, dict[str, float]], file: Path) -> None:
    """Write a PNG with one bar for each ratio, coloured by model and device."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch
    from PIL import Image  # matplotlib needs it itself

    labels = list(dict.fromkeys(label for group in groups.values() for label in group))
    shown = [(label, [name for name in groups if label in groups[name]]) for label in labels]
    count = sum(len(names) + GAP for _, names in shown)
    figure, axes = pyplot.subplots(figsize=(9, 1.4 + 0.17 * count), layout="constrained")
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(groups)}
    middles = []
    place = 0.0
    for label, names in shown:
        middles.append(place + (len(names) - 1) / 2)
        for name in names:
            value = groups[name][label]
            # From 1, where both sides are as fast: to the right the first is faster, to the left the second.
            axes.barh(place, value - 1, 0.9, left=1, color=colours[name])
            offset, side = (3, "left") if value >= 1 else (-3, "right")
            where = {"xytext": (offset, 0), "textcoords": "offset points", "ha": side, "va": "center"}
            axes.annotate(f"{value:.3g}", (value, place), fontsize=8, **where)
            place += 1
        place += GAP
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
    values = [value for group in groups.values() for value in group.values()]
    low, high = min([*values, 1]) / 1.5, max([*values, 1]) * 1.5
    axes.set_xlim(low, high)
    axes.set_xticks([tick for tick in ticks if low < tick < high], minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(middles, labels, fontsize=8)
    axes.set_ylim(place - GAP, -1)
    axes.set_xlabel("rows/s of the first over rows/s of the second (times, logarithmic)")
    axes.set_ylabel("benchmark: first / second")
    axes.spines[["top", "right"]].set_visible(False)
    legend = [Patch(color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=legend, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(file, dpi=100)
    pyplot.close(figure)
    with Image.open(file) as image:  # few colours, so that the file is small
        image.convert("RGB").quantize(32).save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="JSON lines that --json wrote")
    parser.add_argument("--out", type=Path, default=ROOT / "results.png")
    parser.add_argument("--names", nargs="+", default=list(NAMES), help="benchmarks to draw")
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.file.read_text(encoding="utf-8").splitlines() if line.strip()]
    groups = bars(lines, arguments.names)
    if not groups:
        parser.error(f"{arguments.file} has no ratios of {', '.join(arguments.names)}")
    draw(groups, arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
