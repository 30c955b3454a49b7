"""The benchmarks' pictures."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trajmatch.pages.plots import panels, png, titled


def speedups(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Speed-up over `unrolled`, with peak memory, one panel for each batch; rows as `outer_step` makes them."""
    sizes = sorted({row["batch"] for row in rows})
    figure, beside = panels(len(sizes), 4.6, 4.2)
    for axes, batch in zip(beside, sizes, strict=True):
        these = [row for row in rows if row["batch"] == batch and row["speedup_vs_unrolled"] is not None]
        labels = [
            " ".join(str(row[k]) for k in ("estimator", "engine", "precision") if row[k] not in ("float32",))
            + (f" /{row['micro_batch']}" if row["micro_batch"] else "")
            for row in these
        ]
        places = range(len(these))
        axes.barh(places, [row["speedup_vs_unrolled"] for row in these], color=[_colour(row) for row in these])
        axes.set_yticks(places, labels, fontsize=7)
        axes.invert_yaxis()
        axes.axvline(1, color="black", linewidth=0.8)
        titled(axes, f"batch {batch}", "times faster than unrolled, eager", "")
        for place, row in zip(places, these, strict=True):
            axes.text(row["speedup_vs_unrolled"], place, f" {row['peak_memory_mb']:.0f} MB", va="center", fontsize=7)
        axes.margins(x=0.2)
    figure.savefig(path, dpi=110)


def _colour(row: dict[str, Any]) -> str:
    return "0.55" if row["engine"] == "eager" else "C0" if row["precision"] == "float32" else "C1"


def accuracy_against_seconds(results: Sequence[dict[str, Any]], path: Path, images: str = "training") -> None:
    """Accuracy of the snapshots against seconds of distillation; one panel for each size.

    results: as `compare_methods` makes them; curves of one method are averaged over seeds. images: those that the
    snapshots were scored on, in words.
    """
    sizes = sorted({r["ipc"] for r in results})
    names = list(dict.fromkeys(r["name"] for r in results))
    figure, beside = panels(len(sizes), 5.5, 4.2 + 0.2 * (len(names) // 3))
    lines = {}
    for axes, ipc in zip(beside, sizes, strict=True):
        for i, name in enumerate(names):
            curves = [r["curve"] for r in results if r["name"] == name and r["ipc"] == ipc and r["curve"]]
            if curves:
                points = list(zip(*curves, strict=True))
                seconds = [statistics.fmean(p[1] for p in point) for point in points]
                accuracies = [100 * statistics.fmean(p[2] for p in point) for point in points]
                # There are ten colours: the eleventh method and those after it have squares.
                (lines[name],) = axes.plot(seconds, accuracies, "os"[i // 10 % 2] + "-", color=f"C{i}", markersize=3)
        titled(axes, f"{ipc} per class", "seconds of distillation", f"accuracy on {images} images, %")
    if lines:
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=2, fontsize=7)
    path.write_bytes(png(figure))
