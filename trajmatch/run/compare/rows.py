"""The rows of `trajmatch compare`: averages of runs over their seeds, and streams. No torch here."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from trajmatch.run.compare.entries import Entry
from trajmatch.run.compare.protocol import Parts, parts

NOTHING = "the same"


@dataclass(frozen=True)
class Row:
    """Runs that were averaged: the settings that tell them from others, and the cells of the table."""

    apart: Parts
    cells: dict[str, Any]


def table(entries: Sequence[Entry]) -> list[Row]:
    """A row for each data set, method, size and settings, averaged over its seeds; accuracies in per cent.

    entries: as `measured_alike` leaves them, so that every column is of numbers that can be averaged.
    """
    alike: dict[Any, list[tuple[Parts, Entry]]] = defaultdict(list)
    for apart, entry in zip(parts(entries), entries, strict=True):
        alike[entry.dataset, entry.method, entry.ipc, tuple(apart.items())].append((apart, entry))
    networks = list(dict.fromkeys(name for entry in entries for name in entry.transfer.get("networks", {})))
    rows = []
    for group in alike.values():
        apart = group[0][0]
        cells = _averages([entry for _, entry in group], networks)
        rows.append(Row(apart, {**cells, "protocol": _protocol(apart)}))
    return sorted(rows, key=lambda row: (row.cells["dataset"], row.cells["ipc"], -row.cells["distilled"]))


def stream_rows(streams: Sequence[Entry], told: Sequence[Parts]) -> list[dict[str, Any]]:
    """A row for each stream: accuracy in per cent on all classes seen, after each step, and its deviation.

    told: for each stream, the settings that tell it from the others.
    """
    rows = []
    for stream, apart in zip(streams, told, strict=True):
        found = stream.record
        row = {"dataset": stream.dataset, "method": stream.method, "ipc": stream.ipc, "n": found["n"]}
        for seen, mean, std in zip(found["classes_seen"], found["mean"], found["std"], strict=True):
            row |= {f"{seen} classes": 100 * mean, f"std of {seen}": 100 * std}
        rows.append({**row, "protocol": _protocol(apart)})
    # Streams may see other numbers of classes: the protocol stands behind all of them.
    rows = [{**dict.fromkeys(key for one in rows for key in one if key != "protocol"), **row} for row in rows]
    return sorted(rows, key=lambda row: (row["dataset"], row["ipc"]))


def _protocol(apart: Parts) -> str:
    return " ".join(apart.values()) or NOTHING


def _averages(runs: Sequence[Entry], networks: Sequence[str]) -> dict[str, Any]:
    """A row's cells."""
    first, records = runs[0], [run.record for run in runs]
    row: dict[str, Any] = {"dataset": first.dataset, "method": first.method, "ipc": first.ipc, "runs": len(runs)}
    for key in ("distilled", "chosen", "random", "random tuned", "whole"):
        row[key] = _mean([100 * one["accuracy"][key]["mean"] for one in records if key in one["accuracy"]])
    distilled = [one["accuracy"]["distilled"] for one in records]
    means = [100 * score["mean"] for score in distilled]
    row["std"] = 100 * fmean(score["std"] for score in distilled)
    row["standard error"] = stdev(means) / len(means) ** 0.5 if len(means) > 1 else None
    row["networks"] = sum(score["n"] for score in distilled)
    row["seconds"] = fmean(one["seconds"].get("distill", 0.0) for one in records)
    row["steps"] = fmean(one["steps"] for one in records)
    row["peak MB"] = max(one["peak_memory_mb"] for one in records)
    for score in ("lrs", "ars"):
        row[score] = _mean([run.ranking[score] for run in runs if run.ranking])
    for name in networks:
        row[f"to {name}"] = _transferred(runs, name)
    return row


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _transferred(runs: Sequence[Entry], name: str) -> float | None:
    """Accuracy of a network at a rate of its own, or for the set's own network at the learned one."""
    found = [run.transfer["networks"][name] for run in runs if name in run.transfer.get("networks", {})]
    return _mean([100 * scores.get("tuned", scores["learned"])["mean"] for scores in found])
