"""One self-contained page about a run: what was run, what came out, what it cost, how to repeat it. No torch here."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from trajmatch.data.checksums import identity
from trajmatch.data.file_names import AFTER, BEFORE, CONFIG, EXPERTS_JSON, METRICS, REPORT, SET, SUMMARY
from trajmatch.data.files import write_text
from trajmatch.data.kept import other
from trajmatch.pages import figures
from trajmatch.pages import records as shapes
from trajmatch.pages.diagnoses import read
from trajmatch.pages.facts import STAGES, carried, facts, result, sayings
from trajmatch.pages.html import filled
from trajmatch.pages.made import check_configuration, experts_digest, is_of, log_digest
from trajmatch.pages.step_log import read_metrics
from trajmatch.pages.tables import as_html, set_title
from trajmatch.settings.methods import METHODS
from trajmatch.settings.options import DIAGNOSES

Record = Mapping[str, Any]
MOST_CLASSES = 20  # in the plot; a table has all of them
CAPTIONS = {
    BEFORE: "Before: where the images started.",
    AFTER: "After: distilled. Values that a screen cannot show are compressed, image by image.",
}


def write_report(folder: Path) -> Path:
    """Write `report.html` of a run folder from the files in it, whole or not at all; returns its path.

    Needs summary.json; a section whose file is missing is left out, and says so.
    Raises ValueError naming the summary where it is missing or malformed, OSError where the page can't be written.
    """
    check_configuration(folder)
    summary = _summary(folder / SUMMARY)
    curves, notes = _curves(summary, folder)
    found, others = _diagnoses(folder / DIAGNOSES)
    page = filled(
        "report.html.j2",
        summary=summary,
        result=result(summary),
        carried=carried(summary["accuracy"], len(summary.get("classes", ()))),
        facts=facts(summary),
        bars=_bars(summary),
        chance=_chance(summary),
        accuracies=_accuracies(summary["accuracy"]),
        **_classes(summary),
        sayings=sayings(summary),
        pictures=[(name, caption, _content(folder / name)) for name, caption in CAPTIONS.items()],
        curves=curves,
        notes=notes,
        diagnoses=found,
        others=others,
        costs=_costs(summary),
        configuration=_text(folder / CONFIG),
    )
    path = folder / REPORT
    _replace(path, page)
    return path


def _replace(path: Path, text: str) -> None:
    write_text(path, text)


def _summary(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"{path}: there is no such file; a report needs a finished run")
    summary = shapes.record(path, shapes.REPORTED, "this is not the summary of a run")
    shapes.check_belongs(path, summary, _belongs(path.parent))
    return summary


def _belongs(folder: Path) -> dict[str, str | None]:
    """What records in a run folder must be of: its set, where it has one."""
    return {"set": identity(folder / SET) if (folder / SET).is_file() else None}


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="backslashreplace") if path.exists() else None


def _bars(summary: Record) -> str:
    scores = summary["accuracy"]
    bars = [
        figures.Bar(set_title(key, of), of["mean"], of["std"], key in ("distilled", "chosen", "foreign"))
        for key, of in scores.items()
    ]
    return figures.accuracy_bars(bars, _chance(summary))


def _chance(summary: Record) -> float | None:
    classes = summary.get("classes")
    return 1 / len(classes) if classes else None


def _accuracies(scores: Record) -> str:
    rows = [
        {
            "trained on": set_title(key, score),
            "mean accuracy": f"{score['mean']:.2%}",
            "standard deviation": f"{score['std']:.2%}" if score["n"] > 1 else None,
            "networks": score["n"],
            "how": score.get("how", ""),
        }
        for key, score in scores.items()
    ]
    return as_html(rows, {"trained on": "", "how": "how"})


def _classes(summary: Record) -> dict[str, Any]:
    """Accuracies by class: the plot, a sentence about it and, where it leaves classes out, the table; else None."""
    scores, names = summary["accuracy"], summary.get("class_names", summary.get("classes", []))
    series = {key: scores[key]["by_class"] for key in ("distilled", "random") if "by_class" in scores.get(key, {})}
    if "distilled" not in series or not all(len(of) == len(names) for of in series.values()):
        return {"by_class": None}
    tested = [k for k in range(len(names)) if all(of[k] is not None for of in series.values())]
    order = sorted(tested, key=lambda k: series["distilled"][k])
    shown = order if len(order) <= MOST_CLASSES else [*order[: MOST_CLASSES // 2], *order[-MOST_CLASSES // 2 :]]
    told = {"distilled": "distilled", "random": "random real images"}
    plot = figures.class_dots(
        [names[k] for k in shown], {told[key]: [of[k] for k in shown] for key, of in series.items()}, 1 / len(names)
    )
    rows = [{"class": names[k], **{told[key]: f"{of[k]:.1%}" for key, of in series.items()}} for k in order]
    caption = "Test accuracy by class, from the worst to the best of the distilled set: means over its networks"
    if len(shown) < len(order):
        caption += f"; the {MOST_CLASSES // 2} worst and the {MOST_CLASSES // 2} best of {len(order)} classes"
    return {"by_class": (plot, caption, as_html(rows, {"class": ""}))} if order else {"by_class": None}


def _ends(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence on where trajectories were matched, if they could end early."""
    found = [end for row in rows for end in row.get("end") or []]
    if not found:
        return []
    last = found.count(max(found)) / len(found)
    return [
        f"With the early stop a trajectory was matched after {fmean(found):.1f} inner steps on average (from "
        f"{min(found)} to {max(found)}; {last:.0%} of the trajectories at the largest number)."
    ]


def _rows(summary: Record, folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of the log, none where it is not the log of this summary; and what is to be said of what is missing."""
    rows, left_out = read_metrics(folder / METRICS)
    if not left_out and rows and not is_of(summary, "log", log_digest(rows)):
        return [], [f"{METRICS} is not the log of this run, or rows of it are missing, and its curves are left out."]
    notes = _ends(rows) if rows else [f"{METRICS} has no rows."]
    return rows, [*notes, f"{METRICS}: {left_out}."] if left_out else notes


def _unit_of_loss(summary: Record) -> str:
    """What stands at the axis of a method's loss."""
    units = {"matching": "loss (1: as far as at the start)", "real loss": "cross-entropy, nats"}
    return units.get(METHODS[summary["method"]].steps, "loss, no unit")


def _curves(summary: Record, folder: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """Captions and SVGs of the curves, and what there is to say of those that are missing."""
    (rows, notes), experts = _rows(summary, folder), folder / EXPERTS_JSON

    def points(key: str) -> list[tuple[float, float]]:
        values = [(row["step"], row.get(key)) for row in rows]
        return [(step, value) for step, value in values if value is not None and isfinite(value)]

    losses = {"at the images": points("loss"), "after the ascent": points("loss_perturbed")}
    wanted: list[tuple[str, str, dict[str, list[tuple[float, float]]], str]] = [
        ("loss", "Matching loss", {label: of for label, of in losses.items() if of}, _unit_of_loss(summary)),
        ("step_size", "Learned step size", {"step size": points("step_size")}, "learning rate, no unit"),
        ("hypergradient", "Norm of the hypergradient", {"norm": points("hypergradient_norm")}, "loss per input unit"),
    ]
    plots = [
        (title, figures.step_curves(name, title.lower(), of, unit))
        for name, title, of, unit in wanted
        if any(of.values())
    ]
    if not (folder / SET).is_file():
        notes.append(f"{SET} is not in the run folder, and whether the numbers here belong to it is not known.")
    if not experts.exists():
        return plots, [*notes, "experts.json is not in the run folder."]
    held = shapes.record(experts, shapes.EXPERTS, "this is not the record of experts")
    if not is_of(summary, "experts", experts_digest(held)):
        return plots, [*notes, f"{EXPERTS_JSON} is not the record of this run's experts, and left out."]
    measured = {"test": held["test_accuracy"], "training": held["train_accuracy"]}
    measured = {label: found for label, found in measured.items() if any(map(len, found))}
    if measured:
        caption = "Accuracy of the experts: mean, and band from worst to best"
        plots.append((caption, figures.expert_curves(measured)))
    return plots, notes


def _diagnoses(folder: Path) -> tuple[list[tuple[str, str, bytes]], list[str]]:
    """What `trajmatch diagnose` has found: of each diagnosis what it is about, its command, and its figure's PNG.

    Then a sentence about each that is of another set, and is left out.
    """
    found: list[tuple[str, str, bytes]] = []
    others, belongs = [], _belongs(folder.parent)
    for numbers, path in read(folder):
        if other(numbers, belongs) is None:
            found.append((numbers["about"], numbers["command"], path.read_bytes()))
        else:
            others.append(f"{path.with_suffix('.json').name} is of another set than the one here, and left out.")
    return found, others


def _costs(summary: Record) -> str:
    rows = [(f"time, {STAGES.get(stage, stage)}", f"{value:,.1f} s", "") for stage, value in summary["seconds"].items()]
    if "peak_memory_mb" in summary:
        rows.append(("peak memory", f"{summary['peak_memory_mb']:,.0f} MB", str(summary.get("memory_how", ""))))
    rows.append(("compression", f"{summary['compression']:,.0f}", "real images for each synthetic one"))
    if {"compression_bytes", "set_bytes"} <= summary.keys():
        how = f"bytes of the real images' pixels for each of the {summary['set_bytes']:,.0f} bytes of {SET}"
        rows.append(("compression in bytes", f"{summary['compression_bytes']:,.0f}", how))
    known = {"device": "", "cores": "", "torch": "", "commit": "of trajmatch; + means changed", "seed": ""}
    rows += [(key, str(summary[key]), how) for key, how in known.items() if summary.get(key) is not None]
    named = [dict(zip(("what", "value", "how"), row, strict=True)) for row in rows]
    return as_html(named, {"what": "", "how": "how"}, head=False)
