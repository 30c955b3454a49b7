"""Several images in one, from the command line to every score: each trains on what a network sees."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.small import FLAGS, command, rows, succeed
from trajmatch.core.tiles import decoded
from trajmatch.data import synthetic as sets
from trajmatch.data.files import read_header
from trajmatch.pages.report import write_report
from trajmatch.run.assembly.distilled import base_configuration
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.cli import main
from trajmatch.run.scores.evaluate import evaluate_set
from trajmatch.run.stages import trials as jobs
from trajmatch.run.stages.start import first_images
from trajmatch.settings.checks import resolve
from trajmatch.settings.flat import parsed
from trajmatch.settings.options import Evaluate

SHAPE = (40, 1, 8, 8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("factor") / "run"
    succeed(*command("run", "--factor", 2, "--method", "satm-da", "--steps", 4, "--experts", 2, "--out", folder))
    return folder


def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The images of every network that is trained from now on, in this process."""
    seen: list[torch.Tensor] = []

    def train_and_test(make: Any, X: torch.Tensor, Y: torch.Tensor, *_: Any) -> float:
        assert len(X) == len(Y)
        seen.append(X)
        return 0.25

    monkeypatch.setattr(jobs, "train_and_test", train_and_test)
    return seen


def test_the_file_stores_compact_images_and_their_factor(run: Path) -> None:
    assert read_header(run / "distilled.safetensors")["factor"] == 2
    found = sets.load(run)
    assert found.X.shape == (10, 1, 8, 8)
    assert found.images.shape == SHAPE
    assert len(rows(run)) == 4


def test_every_tile_starts_as_another_real_image_of_its_class(run: Path) -> None:
    config = resolve(parsed({**base_configuration(run), "outer.initial": "real"}))
    setup = Setup.load(config)
    X = first_images(setup, [])
    real = setup.material.space.forward(setup.dataset.train.x)
    shrunk = real.reshape(-1, 1, 4, 2, 4, 2).mean((3, 5))
    taken = []
    for k, image in enumerate(X):
        for tile in image.unfold(1, 4, 4).unfold(2, 4, 4).reshape(4, 1, 4, 4):
            near = (shrunk - tile).abs().amax((1, 2, 3))
            assert float(near.min()) < 1e-5
            taken.append(int(near.argmin()))
            assert int(setup.dataset.train.y[taken[-1]]) == k
    assert len(set(taken)) == 40


def test_summary_report_and_scores_tell_the_factor(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads((run / "summary.json").read_text())["factor"] == 2
    assert "each cut into 2 x 2 tiles, which a network sees as 4 images" in write_report(run).read_text("utf8")


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        (Evaluate(), {40, 10}),  # beside as many real images as the set stores
        (Evaluate(networks=("mlp",), rates=(0.01,)), {40, 10}),
        (Evaluate(sizes=(1,)), {40}),
        (Evaluate(ranking=True, rates=(0.01,)), {40, 10}),
    ],
    ids=["evaluate", "transfer", "sizes", "ranking"],
)
def test_every_score_trains_on_what_a_network_sees(
    run: Path, options: Evaluate, counts: set[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    for file in run.iterdir():
        if file.name not in ("networks.json", ".lock"):
            (copy / file.name).symlink_to(file)
    seen, wanted = trained_on(monkeypatch), sets.load(run).images
    config = resolve(parsed({**base_configuration(run), "factor": 4}))  # the set's own factor counts
    evaluate_set(copy, config, options)
    assert {len(X) for X in seen} == counts
    assert any(torch.equal(X, wanted) for X in seen)


def test_diagnoses_search_and_streams_take_tiles(run: Path, tmp_path: Path) -> None:
    for name in ("nearest", "correlation", "accumulated-error"):
        succeed("diagnose", name, "--run", run, "--panel", 1, "--points", 1, "--out", tmp_path)
    nearest = json.loads((tmp_path / "nearest.json").read_text())["runs"][0]
    assert len(nearest["distance"]) == 40
    axes = ["--depths", 1, 2, "--widths", 4, "--norms", "none", "--poolings", "avg"]
    succeed("search", run, *axes, "--evaluation.workers", 1, "--evaluation.epochs", 2, "--real-epochs", 1)
    flags = ["--factor", 2, "--method", "random", "--orders", 1, "--class-steps", 2, "--fresh-networks", 1]
    succeed("continual", *FLAGS, *flags, "--out", tmp_path / "stream")
    scores = json.loads((tmp_path / "stream" / "order-0" / "step-1" / "scores.json").read_text())
    assert scores["images"] == 40


def test_a_row_of_its_own_and_a_word_in_every_row(run: Path, tmp_path: Path) -> None:
    shared = ["--method", "satm-da", "--steps", 4, "--experts", run / "experts"]
    succeed(*command("run", *shared, "--out", tmp_path / "plain"))
    succeed("compare", run, tmp_path / "plain", "--out", tmp_path / "both")
    lines = (tmp_path / "both" / "compare.md").read_text().splitlines()
    assert sum("--factor 2" in line for line in lines) == 1
    assert sum("--factor 1" in line for line in lines) == 1
    succeed("compare", run, "--out", tmp_path / "one")
    assert "--factor 2" in (tmp_path / "one" / "compare.md").read_text()
    succeed("compare", tmp_path / "plain", "--out", tmp_path / "none")
    assert "--factor" not in (tmp_path / "none" / "compare.md").read_text()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--factor", 3], "--factor is 3 and must divide both sides of images of 8 x 8 pixels"),
        (["--factor", 0], "--factor is 0 and must be at least 1"),
        (["--factor", 2, "--ipc", 60], "--factor is 2, with which 240 real images of each class start as the tiles"),
        (["--factor", 2, "--matching.batch", 41], "--matching.batch is 41 and must be at most the 40 synthetic images"),
    ],
)
def test_what_cannot_be_cut_is_refused(flags: list[Any], says: str, capsys: Any, tmp_path: Path) -> None:
    assert main([str(word) for word in command("distill", *flags, "--out", tmp_path / "run")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["dm", "dsa", "mdc", "rat-bptt", "random", "herding", "tesla"])
def test_every_kind_of_method_distils_tiles(method: str, tmp_path: Path) -> None:
    flags = ["--baseline.batch", 4, "--baseline.updates", 1, "--matching.batch", 20, "--ipc", 2, "--experts", 1]
    succeed(*command("distill", "--factor", 2, "--method", method, "--steps", 2, *flags, "--out", tmp_path / "run"))
    found = sets.load(tmp_path / "run")
    assert found.X.shape == (20, 1, 8, 8)
    assert torch.equal(found.images, decoded(found.X, 2))
