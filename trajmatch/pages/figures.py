"""Plots of one run as inline SVG: text as text, colours from the page, the same bytes for the same values.

matplotlib is imported inside the functions, and drawn on through `Figure` objects: no pyplot, no global state.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import zip_longest
from math import ceil, isfinite
from statistics import fmean, median
from typing import Any

# Stand-ins that no plot would use by chance; `_inline` turns them into the page's variables, so that one SVG
# serves the light and the dark page.
INK, FAINT, RULE, ACCENT, SECOND = "#010203", "#010204", "#010205", "#010206", "#010207"
VARIABLES = {INK: "--ink", FAINT: "--faint", RULE: "--rule", ACCENT: "--accent", SECOND: "--second"}
WIDTH, HEIGHT = 3.9, 2.5  # inches: less than the width of a phone, so that text is not scaled down there
MAX_POINTS = 240  # drawn per curve
LONGEST_CLASS = 20  # signs of a class's name beside a plot
# Of two curves in one plot: the second is dashed, thinner and on top, so that both are seen where they are the same.
STYLES: tuple[dict[str, Any], ...] = (
    {"color": ACCENT, "linewidth": 2.4},
    {"color": SECOND, "linewidth": 1.4, "linestyle": (0, (4, 2))},
)
LOG_RATIO = 10.0  # a positive quantity that varies more than this is drawn on a logarithmic axis

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bar:
    """One accuracy, as a fraction, with its standard deviation where there is one."""

    name: str
    mean: float
    std: float | None = None
    highlighted: bool = False


def accuracy_bars(bars: Sequence[Bar], chance: float | None = None) -> str:
    """Horizontal bars in per cent, each with its name above it; chance level as a dashed mark on each bar."""
    figure, axes = _figure(0.62 * len(bars) + 0.5)
    for place, bar in enumerate(bars):
        colour, mean, std = ACCENT if bar.highlighted else FAINT, 100 * bar.mean, 100 * (bar.std or 0.0)
        axes.barh(place, mean, height=0.42, color=colour, alpha=0.85 if bar.highlighted else 0.55)
        if std:
            axes.errorbar(mean, place, xerr=std, color=INK, capsize=3, linewidth=1.1)
        end = mean + std
        if chance is not None:  # beside the bar alone: a line through all of them would cross their names
            axes.vlines(100 * chance, place - 0.26, place + 0.26, color=INK, linestyle=(0, (2, 1)), linewidth=1.3)
            end = max(end, 100 * chance)
        axes.text(0, place - 0.3, bar.name, color=INK, fontsize=9, va="bottom", parse_math=False)
        axes.text(end + 1.5, place, f"{mean:.1f} %", color=INK, fontsize=9, va="center", fontweight="bold")
    axes.set(xlim=(0, 116), ylim=(len(bars) - 0.6, -0.75), yticks=[], xticks=range(0, 101, 20))
    axes.set_xlabel("test accuracy, %", color=FAINT)
    axes.spines["left"].set_visible(False)
    return _inline(figure, "accuracy", "Test accuracy: " + ", ".join(f"{bar.name} {bar.mean:.1%}" for bar in bars))


def class_dots(classes: Sequence[str], series: Mapping[str, Sequence[float]], chance: float) -> str:
    """The accuracy of each class in per cent, a row for each: a mark of its own shape for each of one or two series.

    classes: n names; series: by its name, n accuracies in [0, 1].
    """
    figure, axes = _figure(0.24 * len(classes) + 0.75)
    rows = range(len(classes))
    styles = ((ACCENT, "o", ACCENT), (SECOND, "D", "none"))
    for (label, values), (colour, marker, face) in zip(series.items(), styles, strict=False):
        shown = [100 * value for value in values]
        axes.plot(shown, rows, marker, color=colour, markerfacecolor=face, markersize=5.5, label=label, clip_on=False)
    axes.axvline(100 * chance, color=INK, linestyle=(0, (2, 1)), linewidth=1.0, label="chance", zorder=0)
    axes.set(xlim=(0, 100), ylim=(len(classes) - 0.5, -0.5), xticks=range(0, 101, 20))
    names = [name if len(name) <= LONGEST_CLASS else f"{name[: LONGEST_CLASS - 1]}…" for name in classes]
    axes.set_yticks(rows, names, parse_math=False, color=INK)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("test accuracy on the images of the class, %", color=FAINT)
    _legend(axes)
    return _inline(figure, "classes", "Test accuracy of each class")


def step_curves(name: str, title: str, curves: Mapping[str, Points], unit: str) -> str:
    """A quantity over the outer steps: every value (or the range of a bin) faint, the running median strong.

    unit: what stands at the vertical axis. The second curve is dashed, and the first shows through it.
    """
    figure, axes = _figure(HEIGHT)
    for style, (label, points) in zip(STYLES, curves.items(), strict=False):
        _faint_values(axes, points, style["color"])
        axes.plot(*zip(*running_median(points), strict=True), label=label, **style)
    values = [y for points in curves.values() for _, y in points]
    _scale(axes, min(values), max(values))
    axes.set_xlabel("outer step", color=FAINT)
    axes.set_ylabel(unit, color=FAINT, fontsize=9)
    if len(curves) > 1:
        _legend(axes)
    return _inline(figure, name, f"{title} over the outer steps")


def expert_curves(curves: Mapping[str, Sequence[Sequence[float | None]]]) -> str:
    """Accuracy of the experts over their epochs: mean over experts, and the band from the worst to the best."""
    figure, axes = _figure(HEIGHT)
    for style, (label, experts) in zip(STYLES, curves.items(), strict=False):
        epochs, low, mean, high = zip(*spread(experts), strict=True)
        axes.fill_between(epochs, low, high, color=style["color"], alpha=0.2, linewidth=0)
        axes.plot(epochs, mean, label=label, marker="o" if len(epochs) == 1 else None, **style)
    _scale(axes, 1.0, 1.0)
    axes.set_xlabel("epoch", color=FAINT)
    axes.set_ylabel("accuracy, %", color=FAINT, fontsize=9)
    _legend(axes)
    return _inline(figure, "experts", "Accuracy of the experts over their epochs, %")


def median_window(num_points: int) -> int:
    """Values under one running median: a thirtieth of them, odd, at least 1."""
    return max(1, num_points // 30) // 2 * 2 + 1


def running_median(points: Points) -> list[tuple[float, float]]:
    """Centred running median, at no more than MAX_POINTS of the points; the window shrinks at both ends."""
    half = median_window(len(points)) // 2
    kept = range(0, len(points), ceil(len(points) / MAX_POINTS))
    places = [*kept, len(points) - 1] if kept[-1] != len(points) - 1 else list(kept)
    return [
        (points[i][0], median(y for _, y in points[i - near : i + near + 1]))
        for i in places
        for near in [min(half, i, len(points) - 1 - i)]
    ]


def bin_ranges(points: Points) -> list[tuple[float, float, float]]:
    """(first x, lowest y, highest y) of no more than MAX_POINTS bins: thinned, and yet no spike is lost."""
    size = ceil(len(points) / MAX_POINTS)
    bins = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[0][0], min(y for _, y in part), max(y for _, y in part)) for part in bins]


def spread(experts: Sequence[Sequence[float | None]]) -> list[tuple[int, float, float, float]]:
    """(epoch from 1, lowest, mean, highest) in per cent, at the epochs where any expert was measured."""
    rows = []
    for epoch, column in enumerate(zip_longest(*experts), start=1):
        measured = [100 * value for value in column if value is not None and isfinite(value)]
        if measured:
            rows.append((epoch, min(measured), fmean(measured), max(measured)))
    return rows


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(colors=RULE, labelcolor=FAINT, labelsize=8.5, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(RULE)
    axes.margins(x=0.01)
    return figure, axes


def _legend(axes: Any) -> None:
    """What the marks and lines are, above the plot: inside it the words would cover some of them."""
    axes.legend(
        frameon=False, fontsize=8.5, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1), ncols=3,
        borderaxespad=0.2, handlelength=2.4, columnspacing=1.2,
    )  # fmt: skip


def _faint_values(axes: Any, points: Points, colour: str) -> None:
    if len(points) <= MAX_POINTS:
        axes.plot(*zip(*points, strict=True), color=colour, alpha=0.35, linewidth=0.8)
        if len(points) == 1:
            axes.plot(*points[0], color=colour, marker="o", markersize=4)
        return
    starts, low, high = zip(*bin_ranges(points), strict=True)
    axes.fill_between(starts, low, high, color=colour, alpha=0.22, linewidth=0)


def _scale(axes: Any, low: float, high: float) -> None:
    """Plain numbers on the vertical axis, logarithmic if the values call for it; faint horizontal lines."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if low > 0 and high / low > LOG_RATIO:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1e3 else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", length=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)


def _inline(figure: Any, name: str, description: str) -> str:
    """The figure as an <svg> element that can stand beside others in one page."""
    from html import escape

    import matplotlib

    written = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    body = written.getvalue()
    size = re.search(r'viewBox="([^"]+)"', body)
    assert size is not None
    # Dropped: header and licence links; and a <style> that would apply to the whole page.
    body = body[body.index(">", body.index("<svg")) + 1 : body.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = _own_ids(body, name)
    body = re.sub(r"font-family: [^;\"]+;? ?", "", body)  # the page's
    body = re.sub(r'transform="rotate\(-0 [^"]*"', "", body)
    # Coordinates, which stand inside tags; the text between tags is what the reader sees.
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"-?\d+\.\d{3,}", _rounded, tag.group()), body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    body = re.sub(r"\s*\n\s*", "\n", body).strip()
    return f'<svg viewBox="{size.group(1)}" role="img" aria-label="{escape(description)}">\n{body}\n</svg>'


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number.group()):.2f}"


def _own_ids(body: str, name: str) -> str:
    """Remove ids that nothing refers to, and prefix the others by the plot's name: ids belong to the whole page."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda found: found.group() if found.group(1) in used else "", body)
    return re.sub(r'( id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", body).replace("xlink:href", "href")
