"""Tables of `trajmatch compare` as CSV, Markdown and HTML, and its plots. No torch here."""

import base64
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from io import BytesIO, StringIO
from typing import Any

from trajmatch.run.differing import Parts, labels
from trajmatch.run.legend import is_long, legend

Cells = Mapping[str, Any]
# One kind of bar for all: a row of one run has no error over runs.
STD = "test accuracy, %\n(bars: std over the networks of a run)"


@dataclass(frozen=True)
class Row:
    """Runs that were averaged: what tells them from others, and the row of the table.

    apart: settings of the runs. beside: how `trajmatch evaluate` has measured what it added.
    """

    apart: Parts
    beside: Parts
    cells: dict[str, Any]


def _columns(rows: Sequence[Cells]) -> list[str]:
    """The columns that any row has a value in."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if any(row.get(name) is not None for row in rows)]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def as_csv(rows: Sequence[Cells]) -> str:
    """The table with all digits."""
    written = StringIO()
    writer = csv.DictWriter(written, _columns(rows), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


def as_markdown(rows: Sequence[Cells]) -> str:
    """The table for a README."""
    columns = _columns(rows)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(key)).replace("|", "\\|") for key in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _html_table(rows: Sequence[Cells]) -> str:
    columns = _columns(rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td{_kind(key)}>{escape(_cell(row.get(key)))}</td>" for key in columns) + "</tr>\n"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>\n"


def _kind(column: str) -> str:
    """Numbers stay on one line; settings may take several."""
    return "" if column == "protocol" else ' class="number"'


def as_html(tables: Sequence[Sequence[Cells]], figures: Sequence[tuple[str, str]], sources: Sequence[str]) -> str:
    """A page that stands alone: the tables, the plots, and what every folder is."""
    from trajmatch.run.report import STYLE

    plots = "".join(
        f'<figure><img alt="{escape(title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(title)}</figcaption></figure>"
        for title, data in figures
    )
    runs = "".join(f"<li>{escape(source)}</li>" for source in sources)
    note = "Accuracies in per cent on test images: of the last images, of those chosen on validation images, of random "
    note += "real ones, of the whole set. A row is the mean over runs that differ in their seeds; a standard error is "
    note += "over them, std over the networks of a run. That of a stream is over its class orders and networks."
    return (
        f'<!doctype html>\n<html lang=en><head><meta charset="utf-8"><title>trajmatch: comparison</title>'
        f"<style>{STYLE} body {{ max-width: 80rem; }}</style></head>\n<body><h1>Comparison</h1>"
        f'<p class="note">{note}</p>{"".join(map(_html_table, tables))}'
        f'<div class="row">{plots}</div><h2>Runs</h2><ul>{runs}</ul></body></html>\n'
    )


def pictures(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Titles and PNGs (base64): accuracy against images per class, against seconds, and on other networks."""
    found = []
    if len({row.cells["ipc"] for row in rows}) > 1:
        found.append(("Accuracy against images per class", png(by_size(rows))))
    title = "Accuracy against seconds of distillation; bars: a standard deviation, over the networks of a run"
    found.append((title, png(by_seconds(rows))))
    if any(key.startswith("to ") for key in rows[0].cells):
        found.append(("Accuracy on other networks, each at a rate of its own", png(by_network(rows))))
    return found


def _names(rows: Sequence[Row]) -> list[str]:
    """What to call each row."""
    found = [
        (row.cells["dataset"], f"{row.cells['method']}, {row.cells['ipc']}", (row.apart, row.beside)) for row in rows
    ]
    return labels(found)


def _figure(width: float = 5.0) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.6), layout="constrained")
    return figure, figure.add_subplot()


def by_size(rows: Sequence[Row]) -> Any:
    """Accuracy against images per class: a line for each data set, method and protocol."""

    def keys(*kinds: str) -> list[tuple[str, str, list[Parts]]]:
        return [(row.cells["dataset"], row.cells["method"], [getattr(row, kind) for kind in kinds]) for row in rows]

    # What was measured beside is of no matter here, unless it alone tells rows of one size apart.
    lines, sizes = keys("apart"), [row.cells["ipc"] for row in rows]
    points = list(zip(lines, sizes, strict=True))
    if any(point in points[:k] for k, point in enumerate(points)):
        lines = keys("apart", "beside")
    figure, axes = _figure()
    different = [line for k, line in enumerate(lines) if line not in lines[:k]]
    for line in different:
        these = [
            (row.cells["ipc"], row.cells["distilled"]) for row, own in zip(rows, lines, strict=True) if own == line
        ]
        axes.plot(*zip(*sorted(these), strict=True), "o-", label=line[1])
    axes.set(xscale="log", xlabel="images per class", ylabel="test accuracy, %")
    axes.set_xticks(sorted(set(sizes)), sorted(set(sizes)))
    legend(figure, axes, labels(different))
    return figure


def by_seconds(rows: Sequence[Row]) -> Any:
    """Accuracy against seconds of distillation."""
    figure, axes = _figure()
    names = _names(rows)
    for name, row in zip(names, rows, strict=True):
        at = row.cells["seconds"], row.cells["distilled"]
        axes.errorbar(*at, row.cells["std"], marker="o", linestyle="none", capsize=3, label=name)
        if not is_long(names):
            axes.annotate(name, at, fontsize=7)
    if is_long(names):
        legend(figure, axes, names)
    axes.set(xlabel="seconds of distillation", ylabel=STD)
    return figure


def by_network(rows: Sequence[Row]) -> Any:
    """Accuracy on other networks, side by side; none where it was not measured."""
    networks = [key for key in rows[0].cells if key.startswith("to ")]
    rows = [row for row in rows if any(row.cells[key] is not None for key in networks)]
    figure, axes = _figure(1.5 + 1.6 * len(networks))
    # How it was measured is said wherever it was not the same for all: bars of two methods are looked at together too.
    names = [
        ", ".join((name, *row.beside.values()))
        for name, row in zip(_names([replace(row, beside={}) for row in rows]), rows, strict=True)
    ]
    width = 0.8 / len(rows)
    for k, (name, row) in enumerate(zip(names, rows, strict=True)):
        bars = {j + (k - len(rows) / 2 + 0.5) * width: row.cells[key] for j, key in enumerate(networks)}
        known = {place: accuracy for place, accuracy in bars.items() if accuracy is not None}
        axes.bar(list(known), list(known.values()), width, label=name)
    axes.set_xticks(range(len(networks)), [key.removeprefix("to ") for key in networks])
    axes.set_ylabel("test accuracy, %")
    legend(figure, axes, names)
    return figure


def png(figure: Any) -> str:
    """A figure as base64."""
    written = BytesIO()
    figure.savefig(written, format="png", dpi=110)
    return base64.b64encode(written.getvalue()).decode()
