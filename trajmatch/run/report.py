"""One self-contained page about a run: what was run, what came out, what it cost, how to repeat it. No torch here."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

from trajmatch.data.kept import other
from trajmatch.run import figures, shapes
from trajmatch.run.folder import read_metrics
from trajmatch.run.options import DIAGNOSES
from trajmatch.run.scoring import SET

Record = Mapping[str, Any]

STYLE = """
:root { --ink: #1d2327; --faint: #68737b; --rule: #d9dee2; --accent: #0b6e8a; --second: #b4531f; --page: #ffffff;
        --panel: #f5f7f8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaed; --faint: #9aa6ae; --rule: #39434a; --accent: #52b8d4;
        --second: #e58f5a; --page: #14191c; --panel: #1d2428; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p.lead { font-size: 1.15rem; margin: .4rem 0; } p.note, figcaption, td.how { color: var(--faint); font-size: .88rem; }
.row { display: flex; flex-wrap: wrap; gap: 1.2rem; } .row > figure { flex: 1 1 19rem; margin: 0; min-width: 0; }
svg { width: 100%; max-width: 36rem; height: auto; } svg text { font-family: inherit; }
img { max-width: 100%; height: auto; border: 1px solid var(--rule); border-radius: 4px; background: #fff; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
td.number { white-space: nowrap; } pre { background: var(--panel); padding: .8rem 1rem; border-radius: 4px;
       overflow-x: auto; font-size: .85rem; } summary { cursor: pointer; color: var(--accent); }
@media print { body { max-width: none; } details > * { display: block; } }
"""
TITLES = {
    "distilled": "distilled, last iterate",
    "chosen": "distilled, chosen on validation",
    "random": "random real images",
    "whole": "whole dataset",
}

CAPTIONS = {
    "initial.png": "Before: where the images started.",
    "images.png": "After: distilled. Values that a screen cannot show are compressed, image by image.",
}


def write_report(folder: Path) -> Path:
    """Write `report.html` of a run folder from the files in it, whole or not at all; returns its path.

    Needs summary.json; a section whose file is missing is left out, and says so.
    Raises ValueError naming the summary where it is missing or malformed, OSError where the page can't be written.
    """
    summary = _summary(folder / "summary.json")
    rows, left_out = read_metrics(folder / "metrics.jsonl")
    sections = [
        _headline(summary),
        _section("Accuracy", _accuracies(summary)),
        _section("Images", _pictures(folder)),
        _section("Curves", _curves(rows, left_out, folder / "experts.json")),
        *_diagnoses(folder / DIAGNOSES),
        _section("Cost", _costs(summary)),
        _section("Run it again", _commands(summary)),
        _section("Configuration", _configuration(folder / "config.yaml")),
    ]
    title = escape(f"trajmatch: {summary['dataset']}, {summary['method']}, {summary['ipc']} per class")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}'
    page = f"<!doctype html>\n<html lang=en><head>{head}</title><style>{STYLE}</style></head>\n<body>\n"
    path = folder / "report.html"
    _replace(path, page + "\n".join(sections) + "\n</body></html>\n")
    return path


def _replace(path: Path, text: str) -> None:
    from trajmatch.data.files import write_text

    write_text(path, text)


def _summary(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"{path}: there is no such file; a report needs a finished run")
    summary = shapes.record(path, shapes.REPORTED, "this is not the summary of a run")
    shapes.check_belongs(path, summary, _belongs(path.parent))
    return summary


def _belongs(folder: Path) -> dict[str, str | None]:
    """What records in a run folder must be of: its set, where it has one."""
    from trajmatch.data.checksums import identity

    return {"set": identity(folder / SET) if (folder / SET).is_file() else None}


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>\n{body}</section>"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _per_cent(score: Record) -> str:
    return f"{score['mean']:.1%} ± {100 * score['std']:.1f} (n = {score['n']})"


def _headline(summary: Record) -> str:
    scores = summary["accuracy"]
    count, real = summary.get("synthetic_images", "?"), summary.get("whole_images")
    sentence = f"{count} synthetic images train a network to {_per_cent(scores['distilled'])}"
    if "random" in scores:
        sentence += f"; {count} random real ones to {_per_cent(scores['random'])}"
    if "whole" in scores:
        sentence += f"; {real:,} real images to {_per_cent(scores['whole'])}" if real else ""
    made = f"{summary['method'].upper()}, {summary['ipc']} per class, {summary.get('steps', '?')} outer steps, "
    made += f"learned step size {summary['step_size']:.4g}" if "step_size" in summary else ""
    title = f"<h1>{escape(str(summary['dataset']))} in {count} images</h1>"
    return f'{title}<p class="lead">{escape(sentence)}.</p>{_note(made)}'


def _accuracies(summary: Record) -> str:
    scores = summary["accuracy"]
    named = [(TITLES.get(key, key), score, key == "distilled") for key, score in scores.items()]
    bars = [figures.Bar(name, score["mean"], score["std"], highlighted) for name, score, highlighted in named]
    classes = summary.get("classes") or []
    plot = figures.accuracy_bars(bars, 1 / len(classes) if classes else None)
    caption = "Mean and standard deviation over networks" + ("; dotted: chance." if classes else ".")
    table = _table(
        ("set", "mean", "std", "n", "how"),
        [(n, f"{s['mean']:.2%}", f"{s['std']:.2%}", str(s["n"]), str(s.get("how", ""))) for n, s, _ in named],
    )
    return f'<div class="row"><figure>{plot}<figcaption>{caption}</figcaption></figure></div>{table}'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = ""
    for row in rows:
        kinds = ["", *["number"] * (len(row) - 2), "how"]
        columns = (f'<td class="{kind}">{escape(v)}</td>' for kind, v in zip(kinds, row, strict=True))
        body += f"<tr>{''.join(columns)}</tr>\n"
    return f"<table><thead><tr>{cells}</tr></thead><tbody>\n{body}</tbody></table>"


def _pictures(folder: Path) -> str:
    shown = []
    for name, caption in CAPTIONS.items():
        path = folder / name
        if path.exists():
            data = base64.b64encode(path.read_bytes()).decode()
            picture = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
            shown.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
        else:
            shown.append(_note(f"{name} is not in the run folder."))
    return f'<div class="row">{"".join(shown)}</div>'


def _curves(rows: Sequence[Record], left_out: str, experts: Path) -> str:
    def points(key: str) -> list[tuple[float, float]]:
        values = [(row["step"], row.get(key)) for row in rows]
        return [(step, value) for step, value in values if value is not None and isfinite(value)]

    plots: list[str] = []
    if rows:
        losses = {"at the images": points("loss"), "after the ascent": points("loss_perturbed")}
        losses = {label: found for label, found in losses.items() if found}
        wanted: list[tuple[str, str, dict[str, list[tuple[float, float]]]]] = [
            ("loss", "matching loss", losses),
            ("step_size", "learned step size", {"step size": points("step_size")}),
            ("hypergradient", "norm of the hypergradient", {"norm": points("hypergradient_norm")}),
        ]
        plots += [_plot(figures.step_curves(name, title, c), title) for name, title, c in wanted if any(c.values())]
    notes = "" if rows else _note("metrics.jsonl has no rows.")
    notes += _note(f"metrics.jsonl: {left_out}.") if left_out else ""
    if experts.exists():
        held = shapes.record(experts, shapes.EXPERTS, "this is not the record of experts")
        measured = {"test": held["test_accuracy"], "training": held["train_accuracy"]}
        measured = {label: found for label, found in measured.items() if any(map(len, found))}
        if measured:
            caption = "accuracy of the experts: mean, and band from worst to best"
            plots.append(_plot(figures.expert_curves(measured), caption))
    else:
        notes += _note("experts.json is not in the run folder.")
    return f'<div class="row">{"".join(plots)}</div>{notes}'


def _diagnoses(folder: Path) -> list[str]:
    """A section of what `trajmatch diagnose` has found, if it has been asked."""
    from trajmatch.run.diagnose import read

    figures = []
    for numbers, path in read(folder):
        if other(numbers, _belongs(folder.parent)) is not None:
            figures.append(
                _note(f"{path.with_suffix('.json').name} is of another set than the one here, and left out.")
            )
            continue
        data, name = base64.b64encode(path.read_bytes()).decode(), escape(numbers["about"])
        caption = f"{name[:1].upper()}{name[1:]}. <code>{escape(numbers['command'])}</code>"
        figures.append(
            f'<figure><img alt="{name}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
        )
    return [_section("Diagnoses", "\n".join(figures))] if figures else []


def _plot(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption[:1].upper() + caption[1:])}.</figcaption></figure>"


def _costs(summary: Record) -> str:
    seconds = summary["seconds"]
    rows = [(f"seconds, {stage}", f"{value:,.1f}", "") for stage, value in seconds.items()]
    if "peak_memory_mb" in summary:
        rows.append(("peak memory, MB", f"{summary['peak_memory_mb']:,.0f}", str(summary.get("memory_how", ""))))
    rows.append(("compression", f"{summary['compression']:,.0f}", "real images for each synthetic one"))
    known = {"device": "", "cores": "", "torch": "", "commit": "of trajmatch; + means changed", "seed": ""}
    rows += [(key, str(summary[key]), how) for key, how in known.items() if summary.get(key) is not None]
    return _table(("", "", ""), rows)


def _commands(summary: Record) -> str:
    return "<pre>" + escape("\n".join(summary.get("commands", []))) + "</pre>"


def _configuration(path: Path) -> str:
    if not path.exists():
        return _note("config.yaml is not in the run folder.")
    text = escape(path.read_text(encoding="utf-8", errors="backslashreplace"))
    return f"<details><summary>config.yaml, which --config reads</summary><pre>{text}</pre></details>"
