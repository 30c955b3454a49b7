"""The legend of a plot whose lines may have long names. No torch here."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

# Characters of a line of a name, and inches that it takes.
LINE, HEIGHT = 80, 0.15
# Longer names would cover what is drawn.
SHORT = 30


def is_long(names: Sequence[str]) -> bool:
    """Whether names have no place inside a plot."""
    return max(map(len, names)) > SHORT


def legend(figure: Any, axes: Any, names: Sequence[str], size: int = 7) -> None:
    """Name what was drawn, in its order: inside the plot, or under it where names are long."""
    handles, _ = axes.get_legend_handles_labels()
    if not is_long(names):
        axes.legend(handles, names, fontsize=size)
        return
    wrapped = [fill(name, LINE) for name in names]
    lines = sum(name.count("\n") + 1 for name in wrapped)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + HEIGHT * (lines + 1))
    figure.legend(handles, wrapped, fontsize=size, loc="outside lower left")
