"""The plots of `trajmatch compare`. No torch here."""

from collections.abc import Sequence
from typing import Any

from trajmatch.pages.plots import fit_inside, legend, panels, png, streams
from trajmatch.run.compare.entries import Entry
from trajmatch.run.compare.protocol import Parts, labels
from trajmatch.run.compare.rows import Row

# One kind of bar for all: a row of one run has no error over runs.
STD = "test accuracy, %\n(bars: std over the networks of a run)"
Picture = tuple[str, bytes]
"""A title, and the content of a PNG file."""


def pictures(rows: Sequence[Row]) -> list[Picture]:
    """Accuracy of runs against images per class, against seconds, and on other networks."""
    found = []
    if len({row.cells["ipc"] for row in rows}) > 1:
        found.append(("Accuracy against images per class", png(by_size(rows))))
    title = "Accuracy against seconds of distillation; bars: a standard deviation, over the networks of a run"
    found.append((title, png(by_seconds(rows))))
    if any(key.startswith("to ") for key in rows[0].cells):
        found.append(("Accuracy on other networks, each at a rate of its own", png(by_network(rows))))
    return found


def curves(found: Sequence[Entry], told: Sequence[Parts]) -> Picture:
    """Accuracy of streams. told: for each stream, the settings that tell it from the others."""
    several = len({stream.ipc for stream in found}) > 1
    methods = [f"{stream.method}, {stream.ipc}" if several else stream.method for stream in found]
    names = labels(list(zip([stream.dataset for stream in found], methods, told, strict=True)))
    # Streams may differ in nothing but where they lie.
    names = [f"{name} ({one.name})" if names.count(name) > 1 else name for name, one in zip(names, found, strict=True)]
    title = (
        "Accuracy on all classes seen, as they arrive; bands are a standard deviation over class orders and networks"
    )
    return title, png(streams([stream.record for stream in found], names))


def _names(rows: Sequence[Row]) -> list[str]:
    """What to call each row."""
    return labels([(row.cells["dataset"], f"{row.cells['method']}, {row.cells['ipc']}", row.apart) for row in rows])


def by_size(rows: Sequence[Row]) -> Any:
    """Accuracy against images per class: a line for each data set, method and protocol."""
    lines: dict[str, list[tuple[int, float]]] = {}
    names = labels([(row.cells["dataset"], row.cells["method"], row.apart) for row in rows])
    for name, row in zip(names, rows, strict=True):
        lines.setdefault(name, []).append((row.cells["ipc"], row.cells["distilled"]))
    figure, (axes,) = panels(1, 5.0)
    for name, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), "o-", label=name)
    sizes = sorted({row.cells["ipc"] for row in rows})
    axes.set(xscale="log", xlabel="images per class", ylabel="test accuracy, %")
    axes.set_xticks(sizes, sizes)
    legend(figure, axes, list(lines))
    return figure


def by_seconds(rows: Sequence[Row]) -> Any:
    """Accuracy against seconds of distillation."""
    figure, (axes,) = panels(1, 5.0)
    names = _names(rows)
    for name, row in zip(names, rows, strict=True):
        at = row.cells["seconds"], row.cells["distilled"]
        axes.errorbar(*at, row.cells["std"], marker="o", linestyle="none", capsize=3, label=name)
        if fit_inside(names):
            axes.annotate(name, at, fontsize=7)
    if not fit_inside(names):
        legend(figure, axes, names)
    axes.set(xlabel="seconds of distillation", ylabel=STD)
    return figure


def by_network(rows: Sequence[Row]) -> Any:
    """Accuracy on other networks, side by side; none where it was not measured."""
    networks = [key for key in rows[0].cells if key.startswith("to ")]
    rows = [row for row in rows if any(row.cells[key] is not None for key in networks)]
    figure, (axes,) = panels(1, 1.5 + 1.6 * len(networks))
    names = _names(rows)
    width = 0.8 / len(rows)
    for k, (name, row) in enumerate(zip(names, rows, strict=True)):
        bars = {j + (k - len(rows) / 2 + 0.5) * width: row.cells[key] for j, key in enumerate(networks)}
        known = {place: accuracy for place, accuracy in bars.items() if accuracy is not None}
        axes.bar(list(known), list(known.values()), width, label=name)
    axes.set_xticks(range(len(networks)), [key.removeprefix("to ") for key in networks])
    axes.set_ylabel("test accuracy, %")
    legend(figure, axes, names)
    return figure
