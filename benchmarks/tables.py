"""What runs/trust.sh and runs/compare_methods.sh have made, as tables: `python -m benchmarks.tables FOLDER`.

Reads the folder that both wrote into; what is not there yet is left out.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
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


def _read(path: Path, *keys: str) -> Any:
    """A record, which must have these keys. Raises ValueError where it is damaged."""
    whole = set(keys)
    return read_json(
        path,
        lambda found: isinstance(found, dict) and whole <= found.keys(),
        "delete it, and what wrote it does so again",
    )


def in_domain(out: Path) -> list[Row]:
    """A row for each method: accuracy and standard error over distillation seeds, at one and ten images per class."""
    rows: dict[str, Row] = {}
    for ipc in (1, 10):
        for folder in (f"16px-ipc{ipc}", f"16px-ipc{ipc}-baselines"):
            path = out / folder / "comparison.json"
            for row in _read(path, "rows")["rows"] if path.exists() else []:
                found = rows.setdefault(row["name"], {"method": row["name"]})
                found |= {f"{key} {ipc}": row[key] for key in ("accuracy", "standard_error", "n", "steps", "seconds")}
    return sorted(rows.values(), key=lambda row: row.get("accuracy 10") or row.get("accuracy 1") or 0.0)


def _runs(out: Path, ipc: int) -> Iterator[tuple[str, Path]]:
    """Methods and the folders of their first seeds."""
    for folder in (out / f"16px-ipc{ipc}", out / f"16px-ipc{ipc}-baselines"):
        for run in sorted(folder.glob(f"*-ipc{ipc}-seed0")):
            yield run.name.removesuffix(f"-ipc{ipc}-seed0"), run


def transfer(out: Path) -> list[Row]:
    """A row for each method: accuracy on other networks, each at a rate of its own and at the learned step size."""
    rows: dict[str, Row] = {}
    for method, run in _runs(out, 1):
        if not (run / "transfer.json").exists():
            continue
        row = rows.setdefault(method, {"method": method})
        for network, scores in _read(run / "transfer.json", "networks")["networks"].items():
            tuned, learned = scores.get("tuned", scores["learned"]), scores["learned"]
            row[network] = f"{100 * tuned['mean']:.1f} ± {100 * tuned['std']:.1f}"
            row[f"{network} at the learned step size"] = f"{100 * learned['mean']:.1f}"
    return list(rows.values())


def ranking(out: Path) -> list[Row]:
    """A row for each method: DD-Ranking's scores at one image per class."""
    rows: dict[str, Row] = {}
    for method, run in _runs(out, 1):
        if (run / "ranking.json").exists():
            found = _read(run / "ranking.json", "accuracy", "hlr", "ior", "lrs", "ars")
            accuracies = {key: 100 * found["accuracy"][key]["mean"] for key in ("any", "hard", "random")}
            percent = {key: 100 * found[key] for key in ("hlr", "ior")}
            rows.setdefault(
                method, {"method": method, **accuracies, **percent, "lrs": found["lrs"], "ars": found["ars"]}
            )
    return sorted(rows.values(), key=lambda row: row["lrs"])


def sizes(out: Path) -> list[Row]:
    """A row for each set of ten: accuracy of its leading parts; and of sets distilled for each size."""
    rows: list[Row] = []
    for method, run in _runs(out, 10):
        if (run / "sizes.json").exists():
            scores = _read(run / "sizes.json", "sizes")["sizes"]
            rows.append({"set": f"parts of {method}", **{k: 100 * score["mean"] for k, score in scores.items()}})
    alone: Row = {"set": "dsa, each size by itself"}
    for folder in ("16px-ipc1-baselines", "16px-sizes", "16px-ipc10-baselines"):
        tests = (_read(path, "ipc", "accuracy") for path in (out / folder).glob("dsa-ipc*-seed0/test.json"))
        for found in sorted(tests, key=lambda one: one["ipc"]):
            alone[str(found["ipc"])] = 100 * sum(found["accuracy"]) / len(found["accuracy"])
    return rows + ([alone] if len(alone) > 1 else [])


def search(out: Path) -> list[Row]:
    """A row for each set: how it ranks networks."""
    rows = []
    for method, run in _runs(out, 10):
        if (run / "search.json").exists():
            found = _read(run / "search.json", "agreement")["agreement"]
            rows += [{"ranked by": method if k == "set" else "as many random images", **v} for k, v in found.items()]
    return rows


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
    """The tables of a command line; returns the exit code: 0, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="of runs/compare_methods.sh and runs/trust.sh")
    parser.add_argument("--json", type=Path, help="write the rows into this file")
    given = parser.parse_args(words)
    try:
        tables(given.folder, given.json)
    except ValueError as error:
        sentence = str(error)
    except OSError as error:
        sentence = f"{error.filename}: {error.strerror}"
    else:
        return 0
    print(f"benchmarks.tables: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
