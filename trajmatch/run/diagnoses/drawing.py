"""What the diagnoses' figures share. matplotlib through `Figure` objects: no global state."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure


def panels(count: int, width: float = 4.4, height: float = 3.6) -> tuple[Figure, list[Any]]:
    """A figure of `count` axes beside one another."""
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
    """A curve with a band of one standard error, where there is one."""
    axes.plot(x, mean, "o-", color=colour, label=label, markersize=3, linewidth=1.5)
    low, high = ([m + sign * (e or 0.0) for m, e in zip(mean, error, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
