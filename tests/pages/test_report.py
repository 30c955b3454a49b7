"""The report from hand-made files: complete, self-contained, escaped, the same bytes for the same run."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from trajmatch.data import files
from trajmatch.pages.report import write_report

SUMMARY: dict[str, Any] = {
    "preset": "digits-ipc1", "dataset": "digits <script>", "method": "satm", "ipc": 1, "classes": ["a", "b"],
    "device": "cpu", "torch": "2.13.0", "commit": None, "seed": 0, "steps": 40, "step_size": 0.0123,
    "accuracy": {
        "distilled": {"mean": 0.712, "std": 0.011, "n": 5, "how": "trained <b>so</b>"},
        "random": {"mean": 0.45, "std": 0.02, "n": 5, "how": "a new draw for each"},
        "whole": {"mean": 0.98, "std": 0.001, "n": 10, "how": "experts", "epochs": 6},
    },
    "seconds": {"experts": 12.0, "distill": 34.5, "evaluate": 6.0}, "peak_memory_mb": 512.0, "memory_how": "measured",
    "compression": 143.7, "real_images": 1437, "whole_images": 1294, "synthetic_images": 10, "commands": ["trajmatch run --seed '0'"],  # noqa: E501
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    rows = [
        {"step": k + 1, "loss": 0.7 - k / 100, "loss_perturbed": 0.71, "step_size": 0.0351 + k / 1e4,
         "hypergradient_norm": 0.1 / (k + 1), "expert": 0, "start_epoch": 1, "seconds": k}
        for k in range(40)
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.yaml").write_text("data: digits\n")
    (tmp_path / "experts.json").write_text(
        json.dumps(
            {"seconds": 1, "test_accuracy": [[0.5, 0.8], [0.6, 0.9]], "train_accuracy": [[None, 0.9], [None, 1]]}
        )
    )
    for name in ("initial.png", "images.png"):
        (tmp_path / name).write_bytes(b"\x89PNG " + name.encode())
    return tmp_path


def test_everything_is_said(folder: Path) -> None:
    page = write_report(folder).read_text()
    for words in ("71.2%", "± 1.1%", "45.0%", "98.0%", "1,294 real images", "0.0123", "a new draw for each", "512"):
        assert words in page, words
    assert page.count("<svg") == 5  # accuracies, loss, step size, norm, experts
    assert page.count("data:image/png;base64,") == 2
    assert "trajmatch run --seed '0'" in unescape(page)
    assert "data: digits" in page


def test_nothing_is_loaded_and_everything_is_escaped(folder: Path) -> None:
    page = write_report(folder).read_text()
    assert not re.search(r"(?:src|href)=[\"']?https?:", page)
    assert "<script" not in page
    assert "<b>so</b>" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def summary(folder: Path, **more: Any) -> str:
    """The page of a summary with more in it."""
    (folder / "summary.json").write_text(json.dumps({**SUMMARY, **more}))
    return unescape(write_report(folder).read_text())


def of_classes(**by_class: list[float | None]) -> dict[str, Any]:
    return {
        key: {**of, "by_class": by_class[key]} if key in by_class else of for key, of in SUMMARY["accuracy"].items()
    }


def test_what_a_reader_wants_first_comes_first(folder: Path) -> None:
    page = summary(folder, network="vit", shape=[1, 8, 8], seconds={"read": 0.5, "experts": 12.0, "distill": 34.5})
    first = page[: page.index("<h2>Accuracies</h2>")]
    for words in ("71.2%", "45.0%", "98.0% ± 0.1% (n = 10) in 6 epochs", "digits <script>: 1,294 training images of 2",
                  "8 x 8 pixels, grey", "vit", "SATM, 40 outer steps", "47 s: reading 0.5 s, experts 12 s", "0 for all",
                  "whole dataset, 6 epochs", "the dashed mark is chance, 50.0 %"):  # fmt: skip
        assert words in first, words
    assert first.count("data:image/png;base64,") == 2
    assert first.count("<svg") == 1


def test_a_set_that_does_not_carry_over_is_a_warning(folder: Path) -> None:
    there = {"mean": 0.52, "std": 0.02, "n": 3, "network": "lenet"}
    page = summary(folder, accuracy={**SUMMARY["accuracy"], "foreign": there})
    assert '<p class="warning">The set does not carry over: on lenet' in page
    good = {**there, "mean": 0.7}
    page = summary(folder, accuracy={**SUMMARY["accuracy"], "foreign": good})
    assert '<p class="note">The set carries over: on lenet' in page
    assert 'class="warning"' not in write_report(folder).read_text().replace("p.warning", "")


def test_classes_are_shown_by_their_names_from_the_worst_to_the_best(folder: Path) -> None:
    page = summary(
        folder, accuracy=of_classes(distilled=[0.9, 0.25], random=[0.5, 0.75]), class_names=["tench", "$owl"]
    )
    section = page[page.index("<h2>Classes</h2>") : page.index("<h2>Curves</h2>")]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", section)
    assert cells == ["$owl", "25.0%", "75.0%", "tench", "90.0%", "50.0%"]
    assert section.count(">tench<") == 2  # in the plot, too
    untested = of_classes(distilled=[None, 0.25])
    assert summary(folder, accuracy=untested).count(">a<") == 0
    assert "<h2>Classes</h2>" not in summary(folder)


def test_of_many_classes_the_plot_has_the_worst_and_the_best_and_the_table_all(folder: Path) -> None:
    names = [f"class-{k:03}" for k in range(60)]
    shares = [k / 60 for k in range(60)]
    page = summary(folder, classes=names, accuracy=of_classes(distilled=list(shares)))
    section = page[page.index("<h2>Classes</h2>") : page.index("<h2>Curves</h2>")]
    plot, table = section[: section.index("</svg>")], section[section.index("<table>") :]
    assert re.findall(r"class-(\d+)", plot) == [f"{k:03}" for k in [*range(10), *range(50, 60)]]
    assert len(re.findall(r"class-\d+", table)) == 60
    assert "the 10 worst and the 10 best of 60 classes" in section


def test_nothing_is_wider_than_a_phone(folder: Path) -> None:
    """What may be wide scrolls inside itself or wraps; no width is fixed. Looked at in a browser at 360 pixels too."""
    page = write_report(folder).read_text()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    style, body = page[page.index("<style>") : page.index("</style>")], page[page.index("<body>") :]
    assert body.count("<table") == len(re.findall(r'<div class="wide" tabindex="0"><table', body)) > 0
    assert all(rule in style for rule in (".wide, .picture { overflow-x: auto", "pre.commands { white-space: pre-wrap",
                                          "img { max-width: 100%", "overflow-wrap: anywhere"))  # fmt: skip
    fixed = re.findall(r"[{;]\s*width:\s*([^;}]+)", style)
    assert set(fixed) == {"100%"}
    assert not re.search(r'(?:width|height)="\d', re.sub(r"<svg.*?</svg>", "", body, flags=re.DOTALL))
    assert '<pre class="commands">' in body


def test_a_printed_page_is_light_and_whole(folder: Path) -> None:
    page = write_report(folder).read_text()
    style = page[page.index("@media print") : page.index("</style>")]
    assert page.index("prefers-color-scheme: dark") < page.index("@media print")  # the later rule counts
    for rule in (
        "--page: #ffffff",
        "break-inside: avoid",
        "details::details-content",
        "pre { white-space: pre-wrap; }",
    ):
        assert rule in style, rule


def test_plots_are_told_apart_without_colours_and_have_units(folder: Path) -> None:
    page = unescape(write_report(folder).read_text())
    loss = page[page.index('aria-label="matching loss over') :]
    loss = loss[: loss.index("</svg>")]
    assert re.search(r"stroke: var\(--second\)[^\"]*", loss)
    assert any("stroke-dasharray" in line for line in re.findall(r'style="[^"]*var\(--second\)[^"]*"', loss))
    assert not any("stroke-dasharray" in line for line in re.findall(r'style="[^"]*var\(--accent\)[^"]*"', loss))
    for unit in ("loss (1: as far as at the start)", "learning rate, no unit", "loss per input unit", "accuracy, %",
                 "test accuracy, %", "outer step", "epoch"):  # fmt: skip
        assert f">{unit}<" in page, unit


def test_the_same_run_gives_the_same_bytes(folder: Path) -> None:
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_ticks_are_not_rounded_to_repetition(folder: Path) -> None:
    page = write_report(folder).read_text()
    assert re.search(r">0\.03\d+<", page)  # 0.0351 to 0.039: two decimals would say 0.04 everywhere


def test_what_is_missing_is_said(folder: Path) -> None:
    for name in ("experts.json", "initial.png", "config.yaml"):
        (folder / name).unlink()
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text[:-20])
    page = write_report(folder).read_text()
    for words in ("experts.json is not", "initial.png is not", "config.yaml is not", "cut short"):
        assert words in page
    (folder / "metrics.jsonl").unlink()
    assert "no rows" in write_report(folder).read_text()


def test_where_matches_ended_is_said_where_the_log_knows(folder: Path) -> None:
    assert "early stop" not in write_report(folder).read_text()
    rows = [{"step": k + 1, "loss": 0.5, "end": ends} for k, ends in enumerate(([3, 6], [6, 5]))]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report(folder).read_text()
    assert "was matched after 5.0 inner steps on average (from 3 to 6; 50% of the trajectories at" in page


def test_refusals(folder: Path) -> None:
    (folder / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json: this is not the summary of a run"):
        write_report(folder)
    (folder / "summary.json").write_text(json.dumps({**SUMMARY, "accuracy": {}}))
    with pytest.raises(ValueError, match="distilled"):
        write_report(folder)
    negative = {**SUMMARY["accuracy"]["random"], "std": -7.5}
    (folder / "summary.json").write_text(
        json.dumps({**SUMMARY, "accuracy": {**SUMMARY["accuracy"], "random": negative}})
    )
    with pytest.raises(ValueError, match=r"summary\.json: .*random\.std must be a finite number of at least 0"):
        write_report(folder)
    (folder / "summary.json").unlink()
    with pytest.raises(ValueError, match="no such file"):
        write_report(folder)


def test_a_failed_write_keeps_the_old_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_report(folder).read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before
    assert not list(folder.glob(".*"))
