"""`trajmatch diagnose` on a small run: numbers that must hold, nothing changed, refusals, and going on after a kill."""

import json
import math
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.run.test_cli import refusal
from tests.small import INTERRUPT, KILL, command, end, start, succeed, wait_for_rows
from trajmatch.core.combine import cosine_matrix, gramian
from trajmatch.core.estimators import unrolled
from trajmatch.methods.schedule import Choice
from trajmatch.run.cli import main
from trajmatch.run.diagnose.frame import diagnosis, with_radius
from trajmatch.run.diagnose.subject import Opener, evenly
from trajmatch.settings.diagnoses import NAMES
from trajmatch.settings.options import Diagnose

Captured = pytest.CaptureFixture[str]
SMALL = ["--panel", "2", "--starts", "3", "--points", "2"]


@pytest.fixture(scope="module")
def run(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small run, scored and reported."""
    folder = tmp_path_factory.mktemp("diagnosed") / "whole"
    shutil.copytree(whole, folder)
    experts = next(line for line in (folder / "config.yaml").read_text().splitlines() if line.startswith("experts:"))
    succeed(*command("run", "--experts", experts.split(": ")[1], "--steps", 24, "--out", folder))
    return folder


@pytest.fixture(scope="module")
def plain(experts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by MTT, to stand beside it."""
    folder = tmp_path_factory.mktemp("plain") / "mtt"
    succeed(*command("distill", "--experts", experts, "--steps", 12, "--method", "mtt", "--out", folder))
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and "diagnoses" not in p.parts and p.name != "report.html")
    return {str(p.relative_to(folder)): sha256(p.read_bytes()).hexdigest() for p in files}


def diagnose(name: str, *words: object) -> dict[str, Any]:
    succeed("diagnose", name, *words)
    folder = Path(str(words[words.index("--run") + 1])) / "diagnoses" if "--out" not in words else None
    folder = folder or Path(str(words[words.index("--out") + 1]))
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    assert found["diagnosis"] == name
    assert found["command"].startswith(f"trajmatch diagnose {name}")
    return found


def test_correlation_is_the_mean_of_unrolled_cosines_and_changes_nothing(run: Path) -> None:
    before, report = contents(run), (run / "report.html").read_text()
    found = diagnose("correlation", "--run", run, *SMALL)["runs"][0]
    assert contents(run) == before
    assert found["starts"] == [0, 1, 2]
    assert found["samples"] == 4
    opened, cosines = Opener().run(run), []
    for point in (opened.points[0], opened.points[-1]):
        for e in range(2):
            tasks = opened.tasks(point, [Choice(e, t) for t in range(3)])
            cosines.append(cosine_matrix(gramian([unrolled(task).d.X for task in tasks])))
    wanted = torch.stack(cosines).mean(0)
    assert (torch.tensor(found["cosine"]) - wanted).abs().max() < 1e-3
    assert (1 - wanted).abs().max() > 0.01
    for k in range(3):
        assert found["cosine"][k][k] == pytest.approx(1, abs=1e-5)
        assert found["error"][k][k] < 1e-5
    assert [point["step"] for point in found["points"]] == [0, 24]
    assert "Diagnoses" not in report
    assert "diagnose correlation" in (run / "report.html").read_text()


def test_interference_and_forgetting(run: Path, plain: Path) -> None:
    found = diagnose("interference", "--run", run, *SMALL)["runs"][0]
    assert found["own"] < 0, "a step along a segment's own hypergradient lowers its loss"
    assert found["pairs"] == 6
    assert 0 <= found["harmed_by_two_errors"] <= found["harmed"] <= 6
    runs = diagnose("forgetting", "--run", run, plain, *SMALL)["runs"]
    assert [one["name"] for one in runs] == ["whole", "mtt"]
    assert [row["step"] for row in runs[0]["rows"]] == [0, 12, 24]
    first, last = runs[0]["rows"][0], runs[0]["rows"][-1]
    assert last["mean"] < first["mean"], "a distillation lowers the loss"
    assert first["mean"] == pytest.approx(sum(first["loss"]) / 3, rel=1e-5)
    assert all(value >= 0 for value in runs[0]["forgotten"])
    assert runs[1]["rows"][0]["loss"] == first["loss"], "both begin with the same images"


def test_accumulated_error(run: Path, plain: Path) -> None:
    runs = diagnose("accumulated-error", "--run", run, plain, *SMALL)["runs"]
    for one in runs:
        assert one["epochs"] == [1, 2, 3]
        assert one["initialisation"][0] == 0
        assert one["total"][0] == pytest.approx(one["matching"][0], rel=1e-5)
        for total, a, b in zip(one["total"], one["initialisation"], one["matching"], strict=True):
            assert 0 < total <= a + b + 1e-6
    assert runs[0]["total"] != runs[1]["total"]


def test_norms_are_those_of_the_log_and_sharpness_is_positive(run: Path, plain: Path) -> None:
    found = diagnose("hypergradient-norm", "--run", plain, run, *SMALL, "--radius", "0.3")
    assert found["radius"] == 0.3
    for one, folder in zip(found["runs"], (plain, run), strict=True):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert one["norms"] == [row["hypergradient_norm"] for row in rows]
        assert one["statistics"]["all"]["mean"] == pytest.approx(sum(one["norms"]) / len(rows))
        assert all(row["mean"] > 0 for row in one["sharpness"]), "along the gradient the loss rises"


def test_truncation_goes_on_where_it_was_killed(run: Path, tmp_path: Path) -> None:
    words = ["diagnose", "truncation", "--run", run, *SMALL, "--networks", 1, "--steps", 9, "--out"]
    succeed(*words, tmp_path / "whole")
    killed = tmp_path / "killed"
    process = start(*words, killed)
    wait_for_rows(process, killed / "truncation" / "iota-2", 4)
    assert end(process, KILL)[0] != 0
    assert not (killed / "truncation.json").exists()
    succeed(*words, killed)
    found, again = (json.loads((tmp_path / name / "truncation.json").read_text()) for name in ("whole", "killed"))
    for row, other in zip(found["distilled"], again["distilled"], strict=True):
        assert row["accuracy"] == other["accuracy"]
    assert found["iotas"] == [1, 2, 3, 6]
    assert found["error"][-1] < 1e-5
    assert found["error"][0] > 0.01
    for name in ("error", "reuse"):
        values, bounds = (
            (found["error"], found["bound"])
            if name == "error"
            else (found["reuse"]["distance"], found["reuse"]["bound"])
        )
        assert all(value <= 1.5 * bound + 1e-4 for value, bound in zip(values, bounds, strict=True)), name
    assert [row["iota"] for row in found["distilled"]] == found["iotas"]


def test_the_closed_form_s_path_is_the_runs_own(run: Path, tmp_path: Path) -> None:
    found = diagnose("learning-rate", "--run", run, "--steps", 8, "--networks", 1, "--out", tmp_path)["runs"][0]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert found["paths"]["closed-form"]["step_size"][:8] == [row["step_size"] for row in rows[:8]]
    assert found["paths"]["exact"]["step_size"] != found["paths"]["closed-form"]["step_size"]
    assert len(set(found["paths"]["fixed"]["step_size"])) == 1


@pytest.mark.parametrize("direction", ["random", "hypergradient"])
def test_the_landscapes_centre_is_the_loss_of_the_set(run: Path, tmp_path: Path, direction: str) -> None:
    words = ("--grid", 3, "--panel", 1, "--direction", direction, "--out", tmp_path)
    found = diagnose("landscape", "--run", run, *words)
    opened = Opener().run(run)
    loss = unrolled(opened.tasks(opened.last, [Choice(0, 0)])[0]).loss
    assert found["runs"][0]["loss"][1][1] == pytest.approx(float(loss), rel=1e-4)
    assert found["places"] == [-0.5, 0.0, 0.5]


def test_costs_grow_and_the_graph_is_what_costs_memory(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trajmatch.run.diagnose import cost

    monkeypatch.setattr(cost, "AXES", {"inner_steps": (4, 40), "batch": (20, 100), "width": (8, 32)})
    monkeypatch.setattr(cost, "COMPARED", ("unrolled", "truncated"))  # every one of them starts six processes
    found = diagnose("cost", "--run", run, "--rounds", 1, "--out", tmp_path)
    axes = found["axes"]
    for axis in axes:
        for row in axes[axis].values():
            assert all(value > 0 for value in row["seconds"])
    held = axes["inner_steps"]
    assert held["unrolled"]["mb_exponent"] > 0.5
    assert held["unrolled"]["mb"][-1] > 2 * held["truncated"]["mb"][-1]
    assert held["unrolled"]["seconds_exponent"] > 0.3


def test_a_running_run_and_a_set_beside_experts(experts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "running"
    process = start(*command("distill", "--experts", experts, "--steps", 400, "--out", folder, "--outer.snapshots", 50))
    wait_for_rows(process, folder, 30)
    found = diagnose("forgetting", "--run", folder, *SMALL)["runs"][0]
    assert 2 < len(found["rows"]) < 51
    assert process.poll() is None
    assert end(process, INTERRUPT)[0] == 130
    succeed(*command("distill", "--experts", experts, "--steps", 4, "--out", tmp_path / "short"))
    succeed(
        "diagnose", "correlation", "--set", tmp_path / "short", "--experts", experts, *SMALL, "--out", tmp_path / "o"
    )
    assert json.loads((tmp_path / "o" / "correlation.json").read_text())["runs"][0]["samples"] == 2


def test_the_nearest_real_images_of_initial_ones_are_themselves(run: Path, tmp_path: Path) -> None:
    found = diagnose("nearest", "--run", run, "--out", tmp_path)["runs"][0]
    assert len(found["distance"]) == len(found["training_image"]) == 10
    assert all(value > 0 for value in found["distance"])
    low, middle, high = found["of_test_images"]["quantiles"]
    assert 0 < low < middle < high
    opened = Opener().run(run)
    opened.points[-1] = opened.points[0]
    start = diagnosis("nearest").look(opened, Diagnose(), lambda count: None)
    assert max(start["distance"]) < 1e-3
    assert all(start["same_class"])
    assert start["closer_than_any_test_image"] == 10


def test_the_nearest_images_need_no_experts(run: Path, tmp_path: Path, capsys: Captured) -> None:
    succeed(*command("distill", "--method", "random", "--out", tmp_path / "r"))
    leaked = diagnose("nearest", "--run", tmp_path / "r")["runs"][0]
    assert max(leaked["distance"]) < 1e-3
    shutil.copy(run / "distilled.safetensors", tmp_path / "mine.safetensors")
    alone = diagnose("nearest", "--set", tmp_path / "mine.safetensors", "--out", tmp_path / "o")["runs"][0]
    assert alone["distance"] == diagnose("nearest", "--run", run, "--out", tmp_path)["runs"][0]["distance"]
    assert "holds no experts" in refusal(capsys, "diagnose", "correlation", "--run", tmp_path / "r")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["corelation", "--run", "RUN"], "did you mean correlation?"),
        (["correlation"], "name what is to be looked at"),
        (["correlation", "--run", "nowhere"], "--run is nowhere, which is not a run folder"),
        (["correlation", "--run", "RUN", "--panel", "0"], "--panel is 0 and must be at least 1"),
        (["correlation", "--set", "RUN"], "--set needs --experts"),
        (["landscape", "--run", "RUN", "--reach", "-1"], "--reach is -1.0 and must be above 0"),
        (["truncation", "--run", "RUN", "--steps", "0"], "--steps is 0 and must be at least 1"),
        (
            ["truncation", "--run", "RUN", "RUN"],
            "--run has 2 run folders and must have one: truncation looks at one run",
        ),
        (["cost", "--run", "RUN", "a", "b"], "--run has 3 run folders and must have one: cost looks at one run alone"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], says: str, run: Path, capsys: Captured) -> None:
    assert says in refusal(capsys, "diagnose", *[str(run) if word == "RUN" else word for word in words])


def test_all_names_are_listed_and_lead_to_a_diagnosis(capsys: Captured) -> None:
    assert main(["diagnose"]) == 0
    listed = capsys.readouterr().out
    for name in NAMES:
        assert name in listed
        assert diagnosis(name).draw is not None


QUICK = Diagnose(panel=2, starts=2, points=2, steps=2, networks=1, grid=3)


@pytest.mark.parametrize("name", sorted(NAMES.keys() - {"cost"}))
def test_as_many_pieces_are_done_as_were_promised(name: str, run: Path, plain: Path, tmp_path: Path) -> None:
    found, runs, done = diagnosis(name), [Opener().run(folder) for folder in (run, plain)], list[int]()
    options = with_radius(replace(QUICK, out=tmp_path), runs)
    numbers = found.numbers(runs, options, done.append)
    assert sum(done) == found.total(runs, options) == sum(found.pieces(one, options) for one in runs[: 2 - found.alone])
    if found.alone:
        assert numbers["name"] == "whole"
    else:
        assert [one["name"] for one in numbers["runs"]] == ["whole", "mtt"]


def test_what_is_said_beforehand_counts_pieces_alone(run: Path, tmp_path: Path, capsys: Captured) -> None:
    succeed("diagnose", "forgetting", "--run", run, *SMALL, "--out", tmp_path)
    assert "forgetting: 18 pieces of work\n" in "".join(capsys.readouterr())


def test_no_radius_is_the_largest_of_the_runs(run: Path) -> None:
    opened = Opener().run(run)
    matching = replace(opened.config.matching, radius=0.7)
    wider = replace(opened, setup=replace(opened.setup, config=replace(opened.config, matching=matching)))
    assert with_radius(Diagnose(), [opened, wider, opened]) == Diagnose(radius=0.7)
    assert with_radius(Diagnose(radius=0.2), [opened, wider]) == Diagnose(radius=0.2)


def test_places_are_even_and_hold_both_ends() -> None:
    assert evenly(24, 4) == [0, 8, 15, 23]
    assert evenly(3, 8) == [0, 1, 2]
    assert evenly(5, 1) == [4]
    assert math.isclose(evenly(1000, 3)[1], 500, abs_tol=1)


@pytest.mark.parametrize(
    "name", ["correlation", "interference", "forgetting", "accumulated-error", "hypergradient-norm"]
)
def test_a_single_sample_has_no_error(name: str, run: Path, tmp_path: Path) -> None:
    found = diagnose(name, "--run", run, "--panel", 1, "--points", 1, "--starts", 2, "--out", tmp_path)
    text = (tmp_path / f"{name}.json").read_text()
    assert "NaN" not in text
    assert "null" in text or name == "hypergradient-norm"
    assert found["runs"]
