"""What outer_step.py has measured, as tables: by themselves, and beside the committed ones of such a machine."""

from pathlib import Path
from typing import Any

from benchmarks import measure
from trajmatch.data.files import read_json

COLUMNS = {
    "estimator": "estimator",
    "engine": "engine",
    "precision": "precision",
    "micro_batch": "micro",
    "seconds": "seconds",
    "seconds_spread": "+-",
    "speedup_vs_unrolled": "x unrolled",
    "speedup_vs_tesla": "x tesla",
    "peak_memory_mb": "peak MB",
    "relative_error": "error",
    "cosine": "cosine",
}
BESIDE = {
    **{key: COLUMNS[key] for key in ("estimator", "engine", "precision", "micro_batch")},
    "batch": "batch",
    "speedup_vs_unrolled": "x unrolled",
    "committed_speedup_vs_unrolled": "committed",
    "speedup_vs_tesla": "x tesla",
    "committed_speedup_vs_tesla": "committed there",
}
RESULTS = Path(__file__).parent / "results"


def text(about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """All tables, with how they were measured."""
    lines = [", ".join(f"{key} {value}" for key, value in about.items())]
    for batch in sorted({row["batch"] for row in rows}):
        these = [row for row in rows if row["batch"] == batch]
        timed, remembered, T = (these[0][key] for key in ("timed_steps", "memory_steps", "inner_steps"))
        lines += ["", f"**batch {batch}, T {T}**: seconds and errors of {timed} steps, memory of {remembered}", ""]
        lines.append(measure.table(these, COLUMNS))
    return "\n".join(lines)


def network(width: int, pixels: int) -> str:
    """The network of a run in words, by which committed tables are found."""
    return f"ConvNetD3, width {width}, {pixels} x {pixels}"


def committed(about: dict[str, Any], rows: list[dict[str, Any]], folder: Path) -> str:
    """These speed-ups beside those of the committed table of this kind of processor and network."""
    keys = "processor", "network"
    for path in sorted(folder.glob("outer_step-*.json")):
        there = read_json(path, measure.has("about", "rows"), "take it from the repository again")
        if all(there["about"].get(key) == about.get(key) for key in keys):
            known = {_name(row): row for row in there["rows"]}
            both = [{**row, **_beside(known[_name(row)])} for row in rows if _name(row) in known]
            made = f"{there['about']['device']}, threads {there['about']['threads']}"
            return f"Beside {path.name} ({made}):\n\n{measure.table(both, BESIDE)}"
    kind = ", ".join(str(about.get(key)) for key in keys)
    return f"No table of this kind is committed ({kind}): see --json and {folder}."


def _name(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("estimator", "engine", "precision", "micro_batch", "batch"))


def _beside(row: dict[str, Any]) -> dict[str, Any]:
    return {f"committed_{key}": row[key] for key in ("speedup_vs_unrolled", "speedup_vs_tesla")}
