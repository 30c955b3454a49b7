"""Commands that leave settings open: what is chosen is told, recorded, and found again by the same command."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from trajmatch.data.reading.sides import shorter_side
from trajmatch.run.cli import main
from trajmatch.run.stages import first_rate

Captured = pytest.CaptureFixture[str]
# Small besides what is chosen. Of three inner steps, segments have 24 steps of an expert, which are 6 epochs of four.
QUICK = [
    "--network.width",
    "8",
    "--expert.batch",
    "8",
    "--experts",
    "1",
    "--matching.inner-steps",
    "3",
    "--expert.workers",
    "1",
    "--evaluation.epochs",
    "2",
    "--evaluation.networks",
    "1",
    "--evaluation.random-draws",
    "1",
    "--evaluation.validation-networks",
    "1",
    "--evaluation.workers",
    "1",
    "--outer.threads",
    "1",
    "--images.normalise",
    "channel",
]
STEPS = ["--steps", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of fifteen images of 12 x 10 pixels, of which 26 are for training."""
    folder, source = tmp_path_factory.mktemp("photos"), np.random.Generator(np.random.PCG64(0))
    for split, count in (("train", 15), ("test", 4)):
        for label in range(2):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True)
            for i in range(count):
                pixels = source.integers(0, 200, (10, 12, 3)) + 50 * label
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def done(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done") / "r"
    assert main(["run", "--data", str(photos), *QUICK, *STEPS, "--out", str(folder)]) == 0
    return folder


def test_choices_are_recorded(done: Path) -> None:
    held = yaml.safe_load((done / "config.yaml").read_text())
    assert held["images"]["size"] == 8
    assert held["network"]["depth"] == 2
    assert (held["expert"]["epochs"], held["expert"]["save_every"]) == (18, 3)
    assert (held["matching"]["expert_epochs"], held["matching"]["last_epoch"]) == (8, 4)
    assert held["outer"]["step_size"] is None
    chosen = json.loads((done / "summary.json").read_text())["chosen"]
    assert chosen.pop("outer.step_size") in first_rate.TRIED
    assert chosen == {
        "images.size": 8, "network.depth": 2, "expert.epochs": 18, "expert.save_every": 3,
        "matching.expert_epochs": 8, "matching.last_epoch": 4, "outer.labels": "hard",
    }  # fmt: skip


def test_what_has_no_effect_is_not_recorded_as_chosen(photos: Path, tmp_path: Path) -> None:
    scored = "--evaluation.networks 1 --evaluation.random-draws 0 --evaluation.epochs 2 --evaluation.foreign none"
    flags = ["--method", "dm", "--steps", "2", *scored.split(), "--evaluation.validation-networks", "0"]
    assert main(["run", "--data", str(photos), *flags, "--out", str(tmp_path / "r")]) == 0
    chosen = json.loads((tmp_path / "r" / "summary.json").read_text())["chosen"]
    assert set(chosen) == {"images.size", "network.depth", "baseline.batch", "outer.step_size"}


def test_choices_are_told_and_found_again(photos: Path, done: Path, tmp_path: Path, capsys: Captured) -> None:
    words = ["--data", str(photos), *QUICK, *STEPS, "--out", str(tmp_path / "r")]
    assert main(["distill", *words, "--expert.epochs", "20"]) == 0
    said = capsys.readouterr().err
    assert "chosen: --images.size 8 (the images have 10)\n" in said
    assert "chosen: --expert.save-every 3 (steps between snapshots" in said
    assert "--expert.epochs" not in "".join(line for line in said.splitlines() if line.startswith("chosen"))
    assert "first step size " in said
    assert main(["distill", *words, "--expert.epochs", "20"]) == 0
    said = capsys.readouterr().err
    assert f"settings that were chosen before are as in {tmp_path / 'r' / 'config.yaml'}" in said
    assert "distilled.safetensors is there" in said
    assert main(["distill", *words, "--expert.epochs", "21"]) == 2
    assert "--expert.epochs is 20 there and 21 here" in capsys.readouterr().err


@pytest.mark.parametrize(("method", "decided"), [("satm-bptt", True), ("dm", False)])
def test_experts_decide_the_first_step_size_where_any_step_matches_them(
    method: str, decided: bool, photos: Path, tmp_path: Path, capsys: Captured
) -> None:
    words = ["--data", str(photos), *QUICK, *STEPS, "--out", str(tmp_path / "r"), "--method", method]
    assert main(["distill", *words]) == 0
    said = capsys.readouterr().err
    assert ("chosen: --outer.step-size open (the experts decide it" in said) is decided
    assert ("first step size " in said) is decided


def test_experts_of_a_run_are_those_of_the_same_command(
    photos: Path, done: Path, tmp_path: Path, capsys: Captured
) -> None:
    words = ["--data", str(photos), *QUICK, *STEPS]
    assert main(["distill", *words, "--experts", str(done / "experts"), "--out", str(tmp_path / "r")]) == 0
    assert "is an expert trained with other settings" not in capsys.readouterr().err


def test_experts_that_are_named_decide_how_long_experts_are_trained(
    photos: Path, tmp_path: Path, capsys: Captured
) -> None:
    words = ["--data", str(photos), *QUICK, *STEPS]
    trained = tmp_path / "experts"
    assert main(["experts", *words, "--expert.epochs", "9", "--out", str(trained)]) == 0
    capsys.readouterr()
    named = ["--experts", str(trained), "--out"]
    assert main(["distill", *words, *named, str(tmp_path / "r")]) == 0
    said = capsys.readouterr().err
    assert f"chosen: --expert.epochs 9 (as the experts in {trained} have it)" in said
    assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["expert"]["epochs"] == 9
    assert main(["distill", *words, "--expert.epochs", "8", *named, str(tmp_path / "s")]) == 2
    said = capsys.readouterr().err
    assert "--expert.epochs is 9 there and 8 here; ask for what is there, or choose another folder" in said


def test_a_folder_of_something_else_is_refused_before_images_are_read(
    photos: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["run", "--data", str(photos), "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "is not empty and not a run folder" in said
    assert "read " not in said


def test_minutes_are_kept_to(photos: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trajmatch.run.stages.plan_steps.LONG_ENOUGH", 0.01)
    assert main(["plan", "--data", str(photos), *QUICK, "--minutes", "0.5"]) == 0
    printed = capsys.readouterr()
    assert "chosen: --steps " in printed.err
    assert "fit the run into 0.5 minutes" in printed.err
    assert printed.out.startswith("engine: ")
    assert main(["run", "--data", str(photos), "--minutes", "0", "--out", str(tmp_path / "r")]) == 2
    assert "--minutes is 0" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_sides(photos: Path, tmp_path: Path) -> None:
    assert shorter_side(photos) == 10
    assert shorter_side("digits") == 8
    assert shorter_side("owner/name") is None
    assert shorter_side([(Image.new("L", (4, 4)), 0)]) is None
    np.savez(tmp_path / "a.npz", x_train=np.zeros((6, 20, 9, 3), np.uint8), y_train=np.arange(6) % 2)
    assert shorter_side(tmp_path / "a.npz") == 9
