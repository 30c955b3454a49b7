"""What `benchmarks.compare_methods` makes of its results: a table, and on what and by which commits they were made."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks import measure
from benchmarks.comparison import Comparison
from trajmatch.data.files import read_json

MADE = ("device", "threads", "torch", "commit", "date", "allocator", "workers")


def summarise(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each method and size: mean, spread and standard error over distillation seeds, and what it took."""
    rows = []
    for name, ipc in dict.fromkeys((r["name"], r["ipc"]) for r in results):
        these = [r for r in results if (r["name"], r["ipc"]) == (name, ipc)]
        means = [statistics.fmean(r["accuracy"]) for r in these]
        every = [a for r in these for a in r["accuracy"]]
        # Some may have been scored by more networks at another time.
        counts = sorted(len(r["accuracy"]) for r in these)
        equal = [statistics.fmean(r["equal_accuracy"]) for r in these if "equal_accuracy" in r]
        row = {
            "name": name,
            "ipc": ipc,
            "accuracy": 100 * statistics.fmean(every),
            "std": 100 * statistics.pstdev(every),
            "standard_error": _error_of_mean(means),
            "n": f"{len(these)} x {'-'.join(dict.fromkeys((str(counts[0]), str(counts[-1]))))}",
            "seconds": statistics.fmean(r["seconds"] for r in these),
            "steps": these[0]["steps"],
            "peak_memory_mb": max(r["peak_memory_mb"] for r in these),
            "equal_accuracy": 100 * statistics.fmean(equal) if equal else None,
            "equal_error": _error_of_mean(equal),
            "equal_steps": these[0].get("equal_steps"),
            "step_size": statistics.fmean(r["step_size"] for r in these),
        }
        rows.append(row)
    return sorted(rows, key=lambda row: (row["ipc"], row["accuracy"]))


def _error_of_mean(accuracies: Sequence[float]) -> float | None:
    """The standard error of the mean in per cent, None where there are fewer than two accuracies."""
    return 100 * statistics.stdev(accuracies) / len(accuracies) ** 0.5 if len(accuracies) > 1 else None


COLUMNS = {
    "name": "method",
    "ipc": "ipc",
    "accuracy": "accuracy, %",
    "std": "std",
    "standard_error": "s.e.",
    "n": "seeds x networks",
    "seconds": "seconds",
    "steps": "steps",
    "equal_accuracy": "at equal steps",
    "equal_error": "s.e. there",
    "equal_steps": "steps there",
    "step_size": "step size",
    "peak_memory_mb": "peak MB",
}


def origin_of_table(about: Comparison) -> dict[str, Any]:
    """What the table that is there says of its origin; nothing where there is none yet."""
    if not about.table.exists():
        return {}
    found: dict[str, Any] = read_json(about.table, _is_table, "delete it, and it is written again")["about"]
    return found


def _is_table(record: Any) -> bool:
    return isinstance(record, dict) and isinstance(record.get("about"), dict)


def made(results: Sequence[Mapping[str, Any]], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """On what and by which commits the results were made, as each says itself; a list where they differ.

    earlier: of the table that they were last written into, which stands for those that say nothing: results have
    said it only since there is such a record.
    """
    records = [{**earlier, **record} for result in results for record in result.get("made", [{}])]
    return {key: _one_or_all([record.get(key) for record in records]) for key in MADE}


def _one_or_all(values: Sequence[Any]) -> Any:
    """The value, if all are the same; else all different ones. A list among them is of several."""
    each = [one for value in values for one in (value if isinstance(value, list) else [value])]
    different = list(dict.fromkeys(each))
    return different[0] if len(different) == 1 else different


def made_here(workers: int, networks: int, distilled: bool) -> dict[str, Any]:
    """What a result says of the call that scored `networks` of its networks. distilled: it made the set as well."""
    machine = measure.machine(torch.device("cpu"), 1)
    return {**machine, "workers": workers, "networks": networks, "distilled": distilled}
