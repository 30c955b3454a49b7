"""Results of continual streams as rows and curves. No torch here."""

from collections.abc import Mapping, Sequence
from typing import Any

from trajmatch.run.legend import legend

RESULT = "continual.json"


def stream_rows(streams: Sequence[Mapping[str, Any]], protocols: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each continual stream: accuracy in per cent on all classes seen, after each step, and its deviation.

    protocols: for each stream, what tells it from the others.
    """
    rows = []
    for stream, protocol in zip(streams, protocols, strict=True):
        row: dict[str, Any] = {key: stream[key] for key in ("dataset", "method", "ipc", "n")}
        for seen, mean, std in zip(stream["classes_seen"], stream["mean"], stream["std"], strict=True):
            row |= {f"{seen} classes": 100 * mean, f"std of {seen}": 100 * std}
        rows.append({**row, "protocol": protocol})
    # Streams may see other numbers of classes: the protocol stands behind all of them.
    rows = [{**dict.fromkeys(key for one in rows for key in one if key != "protocol"), **row} for row in rows]
    return sorted(rows, key=lambda row: (row["dataset"], row["ipc"]))


def draw(results: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> Any:
    """Accuracy against classes seen, with a band of a standard deviation, for each of some streams.

    names: what the curves are called; None calls each by its method.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    names = [result["method"] for result in results] if names is None else names
    for k, (result, name) in enumerate(zip(results, names, strict=True)):
        mean, std = ([100 * value for value in result[key]] for key in ("mean", "std"))
        axes.plot(result["classes_seen"], mean, "o-", color=f"C{k}", label=name)
        low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
        axes.fill_between(result["classes_seen"], low, high, color=f"C{k}", alpha=0.2, linewidth=0)
    seen = sorted({count for result in results for count in result["classes_seen"]})
    axes.set(xlabel="classes seen", ylabel="test accuracy on them, %", xticks=seen)
    legend(figure, axes, names, size=8)
    return figure
