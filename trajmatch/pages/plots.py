"""What matplotlib figures share. They are drawn through `Figure` objects, without pyplot and its global state.

matplotlib is imported inside the functions: it loads numpy, which `trajmatch --help` does without.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from textwrap import fill
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE = 80
"""Characters in a line of a long name under a plot."""
LINE_HEIGHT = 0.15
"""Inches that such a line takes."""
LONGEST_INSIDE = 30
"""Characters of the longest name that has a place inside a plot."""


def panels(count: int, width: float = 4.4, height: float = 3.6) -> "tuple[Figure, list[Any]]":
    """A figure of `count` axes beside one another. width: inches of each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def heat_map(axes: Any, matrix: Sequence[Sequence[float]], labels: Sequence[object], limit: float, title: str) -> Any:
    """A square matrix in colours from -limit (blue) over 0 (white) to limit (red), with its numbers where they fit."""
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_title(title, fontsize=10)
    if len(labels) <= 10:
        for r, row in enumerate(matrix):
            for c, value in enumerate(row):
                colour = "white" if abs(value) > 0.7 * limit else "black"
                axes.text(c, r, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=colour)
    return image


def titled(axes: Any, title: str, x: str, y: str) -> None:
    """Title and labels of one panel."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def banded(
    axes: Any, x: Sequence[float], mean: Sequence[float], error: Sequence[float | None], label: str, colour: str
) -> None:
    """A curve with a band of its error to both sides, where there is one."""
    axes.plot(x, mean, "o-", color=colour, label=label, markersize=3, linewidth=1.5)
    low, high = ([m + sign * (e or 0.0) for m, e in zip(mean, error, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def fit_inside(names: Sequence[str]) -> bool:
    """Whether names have a place inside a plot; longer ones would cover what is drawn."""
    return max(map(len, names)) <= LONGEST_INSIDE


def legend(figure: Any, axes: Any, names: Sequence[str], size: int = 7) -> None:
    """Name what was drawn, in its order: inside the plot, or under it where the names are long."""
    handles, _ = axes.get_legend_handles_labels()
    if fit_inside(names):
        axes.legend(handles, names, fontsize=size)
        return
    wrapped = [fill(name, LINE) for name in names]
    lines = sum(name.count("\n") + 1 for name in wrapped)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + LINE_HEIGHT * (lines + 1))
    figure.legend(handles, wrapped, fontsize=size, loc="outside lower left")


def streams(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> "Figure":
    """A named curve for each record of a continual stream: accuracy against classes seen, with its deviation.

    The curve of random images is that of the last record that has one: grey and dashed.
    """
    figure, (axes,) = panels(1, 5.0)
    for k, (result, name) in enumerate(zip(results, names, strict=True)):
        mean, std = ([100 * value for value in result[key]] for key in ("mean", "std"))
        banded(axes, result["classes_seen"], mean, std, name, f"C{k}")
    beside = [result for result in results if "random" in result]
    for result in beside[-1:]:
        mean = [100 * value for value in result["random"]["mean"]]
        axes.plot(result["classes_seen"], mean, "s--", color="grey", label="random images", markersize=3, linewidth=1.2)
    names = [*names, "random images"] if beside else names
    seen = sorted({count for result in results for count in result["classes_seen"]})
    axes.set(xlabel="classes seen", ylabel="test accuracy on them, %", xticks=seen)
    legend(figure, axes, names, size=8)
    return figure


def png(figure: "Figure") -> bytes:
    """A figure as the content of a PNG file."""
    written = BytesIO()
    figure.savefig(written, format="png", dpi=110)
    return written.getvalue()
