"""What runs/trust.sh and runs/compare_methods.sh have made, as tables: `python -m benchmarks.tables FOLDER`.

Reads the folder that both wrote into; what is not there yet is left out.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import measure
from trajmatch.data.files import read_json, write_json

Row = dict[str, Any]
# What the scripts write into, each part by itself.
PARTS = ("16px-*", "small-ipc1", "continual", "experts-*", "flat-*")


def check(out: Path) -> None:
    """Raise ValueError for a folder that holds no part of what the scripts make."""
    if not out.is_dir():
        raise ValueError(f"FOLDER is '{out}', which is no folder, and must be that of runs/compare_methods.sh")
    if not any(path.is_dir() for pattern in PARTS for path in out.glob(pattern)):
        raise ValueError(f"FOLDER is '{out}', which holds nothing of runs/compare_methods.sh or runs/trust.sh")


def _read(paths: Iterable[Path], *keys: str) -> Iterator[tuple[Path, Row]]:
    """Those of some records that are there, which must have these keys. Raises ValueError for a damaged one."""
    for path in paths:
        if path.exists():
            yield path, read_json(path, measure.has(*keys), "delete it, and what wrote it does so again")


def _first_seeds(out: Path, ipc: int, record: str, *keys: str) -> Iterator[tuple[str, Row]]:
    """Methods, and the records of this name in the folders of their first seeds."""
    runs = [run for part in ("", "-baselines") for run in sorted(out.glob(f"16px-ipc{ipc}{part}/*-ipc{ipc}-seed0"))]
    for path, found in _read([run / record for run in runs], *keys):
        yield path.parent.name.removesuffix(f"-ipc{ipc}-seed0"), found


def in_domain(out: Path) -> list[Row]:
    """A row for each method: accuracy and standard error over distillation seeds, at one and ten images per class."""
    rows: dict[str, Row] = {}
    for ipc in (1, 10):
        for _, table in _read([out / f"16px-ipc{ipc}{part}/comparison.json" for part in ("", "-baselines")], "rows"):
            for row in table["rows"]:
                found = rows.setdefault(row["name"], {"method": row["name"]})
                found |= {f"{key} {ipc}": row[key] for key in ("accuracy", "standard_error", "n", "steps", "seconds")}
    return sorted(rows.values(), key=lambda row: row.get("accuracy 10") or row.get("accuracy 1") or 0.0)


def transfer(out: Path) -> list[Row]:
    """A row for each method: accuracy on other networks, each at a rate of its own and at the learned step size."""
    rows = []
    for method, found in _first_seeds(out, 1, "transfer.json", "networks"):
        row = {"method": method}
        for network, scores in found["networks"].items():
            tuned, learned = scores.get("tuned", scores["learned"]), scores["learned"]
            row[network] = f"{100 * tuned['mean']:.1f} ± {100 * tuned['std']:.1f}"
            row[f"{network} at the learned step size"] = f"{100 * learned['mean']:.1f}"
        rows.append(row)
    return rows


def ranking(out: Path) -> list[Row]:
    """A row for each method: DD-Ranking's scores at one image per class."""
    rows = []
    for method, found in _first_seeds(out, 1, "ranking.json", "accuracy", "hlr", "ior", "lrs", "ars"):
        accuracies = {key: 100 * found["accuracy"][key]["mean"] for key in ("any", "hard", "random")}
        percent = {key: 100 * found[key] for key in ("hlr", "ior")}
        rows.append({"method": method, **accuracies, **percent, "lrs": found["lrs"], "ars": found["ars"]})
    return sorted(rows, key=lambda row: row["lrs"])


def sizes(out: Path) -> list[Row]:
    """A row for each set of ten: accuracy of its leading parts; and of sets distilled for each size."""
    rows = [
        {"set": f"parts of {method}", **{size: 100 * score["mean"] for size, score in found["sizes"].items()}}
        for method, found in _first_seeds(out, 10, "sizes.json", "sizes")
    ]
    parts = ("16px-ipc1-baselines", "16px-sizes", "16px-ipc10-baselines")
    paths = [path for part in parts for path in out.glob(f"{part}/dsa-ipc*-seed0/test.json")]
    tests = sorted((found for _, found in _read(paths, "ipc", "accuracy")), key=lambda found: found["ipc"])
    alone = {str(found["ipc"]): 100 * fmean(found["accuracy"]) for found in tests}
    return rows + ([{"set": "dsa, each size by itself", **alone}] if alone else [])


def search(out: Path) -> list[Row]:
    """A row for each set: how it ranks networks."""
    return [
        {"ranked by": method if source == "set" else "as many random images", **values}
        for method, found in _first_seeds(out, 10, "search.json", "agreement")
        for source, values in found["agreement"].items()
    ]


def tables(out: Path, json: Path | None) -> None:
    """Print the tables of a folder, and keep their numbers. Raises ValueError."""
    check(out)
    found = {made.__name__: made(out) for made in (in_domain, transfer, ranking, sizes, search)}
    for name, rows in found.items():
        if rows:
            columns = {key: key for row in rows for key in row}
            print(f"\n**{name.replace('_', ' ')}**\n\n{measure.table(rows, columns)}")
    if json:
        write_json(json, found)


def main(words: list[str] | None = None) -> int:
    """The tables of a command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="of runs/compare_methods.sh and runs/trust.sh")
    parser.add_argument("--json", type=Path, help="write the rows into this file")
    given = parser.parse_args(words)
    return measure.exit_code("benchmarks.tables", lambda: tables(given.folder, given.json))


if __name__ == "__main__":
    sys.exit(main())
