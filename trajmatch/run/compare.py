"""`trajmatch compare`: one table and plots from run folders, with every difference of protocol shown. No torch here."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from trajmatch.run.compared import Entry, read, read_stream
from trajmatch.run.differing import Parts, labels, measured, parts, same_data
from trajmatch.run.pages import Row, as_csv, as_html, as_markdown, pictures, png
from trajmatch.run.ranges import Place
from trajmatch.run.streams import RESULT, draw, stream_rows

NOTHING = "the same"


@dataclass(frozen=True)
class Options:
    """What is compared, and where the pages go."""

    out: Place = Path("compare")
    """Folder for compare.html, compare.md, compare.csv with the runs and streams.csv with the continual streams."""


def compare(folders: Sequence[Path], options: Options, say: Callable[[str], None]) -> Path:
    """Write the pages; returns the HTML's path. Raises ValueError for a folder that is no finished run or stream."""
    if not folders:
        raise ValueError("name the run folders that are to be compared: trajmatch compare runs/a runs/b")
    folders = _once(folders, say)
    streams = same_data([read_stream(folder) for folder in folders if (folder / RESULT).is_file()])
    runs = same_data([read(folder) for folder in folders if not (folder / RESULT).is_file()])
    rows, told = table(runs), parts(streams, seeds=True)
    cells = [row.cells for row in rows]
    streamed = stream_rows([_named(stream) for stream in streams], [_protocol(one) for one in told])
    figures = (pictures(rows) if rows else []) + ([_curves(streams, told)] if streams else [])
    tables = [one for one in (cells, streamed) if one]
    from trajmatch.data.files import write_text

    options.out.mkdir(parents=True, exist_ok=True)
    for name, one in (("compare.csv", cells), ("streams.csv", streamed)):
        if one:
            write_text(options.out / name, as_csv(one))
        else:  # what an earlier comparison has left does not belong to these pages
            (options.out / name).unlink(missing_ok=True)
    markdown = "\n".join(map(as_markdown, tables))
    write_text(options.out / "compare.md", markdown)
    path = options.out / "compare.html"
    write_text(path, as_html(tables, figures, [f"{e.name}: {e.dataset} {e.method} {e.ipc}" for e in (*runs, *streams)]))
    for line in markdown.splitlines():
        say(line)
    return path


def _once(folders: Sequence[Path], say: Callable[[str], None]) -> list[Path]:
    """Every folder once, however often and in whatever spelling it was named."""
    found: dict[Path, Path] = {}
    for folder in folders:
        first = found.setdefault(folder.resolve(), folder)
        if first is not folder:
            say(f"{folder} is the same folder as {first}, and counts once")
    return list(found.values())


def _named(stream: Entry) -> dict[str, Any]:
    """A stream's record, under the name that its data has here."""
    return {**stream.record, "dataset": stream.dataset}


def _curves(streams: Sequence[Entry], told: Sequence[Parts]) -> tuple[str, str]:
    """Title and PNG of the streams' curves with their bands."""
    sizes = len({stream.ipc for stream in streams}) > 1
    names = labels(
        [
            (stream.dataset, f"{stream.method}, {stream.ipc}" if sizes else stream.method, [one])
            for stream, one in zip(streams, told, strict=True)
        ]
    )
    # Streams may differ in nothing but where they lie.
    names = [
        f"{name} ({one.name})" if names.count(name) > 1 else name for name, one in zip(names, streams, strict=True)
    ]
    title = (
        "Accuracy on all classes seen, as they arrive; bands are a standard deviation over class orders and networks"
    )
    return title, png(draw([stream.record for stream in streams], names))


def _protocol(told: Parts) -> str:
    return " ".join(told.values()) or NOTHING


def table(entries: Sequence[Entry]) -> list[Row]:
    """A row for each data set, method, size and settings, averaged over its seeds; accuracies in per cent.

    Runs for which `trajmatch evaluate` has measured something in different ways stand apart too; one for which it was
    not asked stands with those of its settings, where these are of one row.
    """
    told = parts(entries)
    added = {
        "to other networks": measured(entries, [entry.transfer for entry in entries]),
        "scores": measured(entries, [entry.ranking for entry in entries]),
    }
    alike: dict[Any, list[int]] = defaultdict(list)
    for k, (entry, one) in enumerate(zip(entries, told, strict=True)):
        alike[entry.dataset, entry.method, entry.ipc, tuple(one.items())].append(k)
    groups = list(alike.values())
    for name, how in added.items():
        added[name] = _completed(groups, how)
        groups = [part for group in groups for part in _split(group, added[name])]
    networks = list(dict.fromkeys(name for entry in entries for name in entry.transfer.get("networks", {})))
    rows = []
    for group in groups:
        apart = told[group[0]]
        beside = {name: f"{name}: {how[group[0]]}" for name, how in added.items() if how[group[0]]}
        protocol = "; ".join(filter(None, (" ".join(apart.values()), *beside.values())))
        cells = _averages([entries[k] for k in group], networks)
        rows.append(Row(apart, beside, {**cells, "protocol": protocol or NOTHING}))
    return sorted(rows, key=lambda row: (row.cells["dataset"], row.cells["ipc"], -row.cells["distilled"]))


def _completed(groups: Sequence[Sequence[int]], how: Sequence[str | None]) -> list[str | None]:
    """How something was measured for each run, where runs for which it was not stand with others of their settings."""
    found = list(how)
    for group in groups:
        known = {how[k] for k in group} - {None}
        for k in group:
            if how[k] is None and known:
                found[k] = next(iter(known)) if len(known) == 1 else "not measured"
    return found


def _split(group: Sequence[int], how: Sequence[str | None]) -> list[list[int]]:
    """The runs of a row, parted where something was measured in different ways."""
    found: dict[str | None, list[int]] = defaultdict(list)
    for k in group:
        found[how[k]].append(k)
    return list(found.values())


def _averages(runs: Sequence[Entry], networks: Sequence[str]) -> dict[str, Any]:
    """A row's cells."""
    first, records = runs[0], [run.record for run in runs]
    row: dict[str, Any] = {"dataset": first.dataset, "method": first.method, "ipc": first.ipc, "runs": len(runs)}
    for key in ("distilled", "chosen", "random", "whole"):
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
