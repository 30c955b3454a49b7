"""`trajmatch search` on the digits: its space, what is trained, correlations, and wrong words."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from tests.run.test_cli import refusal
from tests.small import FLAGS, succeed
from trajmatch.data.file_names import SET
from trajmatch.data.images import Images
from trajmatch.data.networks.convnet import NORMS, POOLINGS
from trajmatch.measure.agreement import spearman
from trajmatch.run.assembly.distilled import base_configuration, opened_set
from trajmatch.run.cli import main
from trajmatch.run.scores import search as module
from trajmatch.run.scores.search import agreement
from trajmatch.run.stages import trials as jobs
from trajmatch.run.stages.trials import Trial
from trajmatch.settings.flat import parsed
from trajmatch.settings.inputs import Norm, Pooling
from trajmatch.settings.options import Search

Captured = pytest.CaptureFixture[str]
SPACE = ["--depths", "1", "2", "--widths", "4", "--norms", "instance", "--real-epochs", "1", "--proxy-networks", "2"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    succeed("distill", *FLAGS, "--method", "random", "--ipc", 2, "--out", tmp_path / "run")
    return tmp_path / "run"


def test_a_table_of_the_space_and_that_it_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    whole, came = jobs.train_and_test, []

    def counted(*arguments: object, **named: object) -> float:
        if len(came) == 5:
            came.append(1)
            raise KeyboardInterrupt
        came.append(1)
        return whole(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "train_and_test", counted)
    assert main(["search", str(folder), *SPACE]) == 130
    succeed("search", folder, *SPACE)
    # Four networks, each trained twice on the set, twice on random images, and once on all; one of them in vain.
    assert len(came) == 4 * 5 + 1
    found = json.loads((folder / "search.json").read_text())
    names = [row["network"] for row in found["networks"]]
    assert len(set(names)) == 4
    assert names[0] == "depth 1, width 4, instance norm, avg pooling"
    columns = {key: [row[key] for row in found["networks"]] for key in ("set", "random", "real")}
    assert found["agreement"]["set"]["spearman"] == pytest.approx(spearman(columns["set"], columns["real"]))
    out = capsys.readouterr().out
    assert "Spearman" in out
    assert all(name in out for name in names)
    assert all(how in out for how in found["how"].values())
    assert str(folder / "search.json") in out


def scored(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """The jobs of a search whose networks are not trained: the n-th job's accuracy is n / 100."""
    came: list[Trial] = []

    def untrained(on: jobs.Bench, asked: list[Trial]) -> dict[str, list[float]]:
        came.extend(asked)
        return {job.key: [k / 100] for k, job in enumerate(asked)}

    monkeypatch.setattr(jobs.Bench, "accuracies", untrained)
    return came


def test_proxies_are_scored_on_validation_images_and_judged_on_test_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    came = scored(monkeypatch)
    succeed("search", folder, *SPACE)
    splits = {(job.key.split(":")[0], job.split) for job in came}
    assert splits == {("set", "validation"), ("random", "validation"), ("real", "test")}
    this, _, _ = opened_set(folder, parsed(base_configuration(folder)))
    material = this.material
    how = json.loads((folder / "search.json").read_text())["how"]
    counts = [len(split) for split in (material.dataset.validation, material.dataset.test, material.dataset.train)]
    assert len(set(counts)) == 3
    assert f"accuracy on {counts[0]} validation images; mean of 2 networks" in how["set"]
    assert "the same validation images" in how["random"]
    assert f"accuracy on {counts[1]} test images" in how["real"]
    assert f"all {counts[2]} training images" in how["real"]
    header = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  network "))
    assert header.split()[1:] == ["all", "(test)", "set", "(validation)", "random", "(validation)"]


def test_validation_images_that_are_trained_on_are_said_to_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(monkeypatch)
    this, synthetic, _ = opened_set(folder, parsed(base_configuration(folder)))
    this = replace(this, material=replace(this.material, dataset=replace(this.dataset, held_out=False)))
    module.search(this, Search((1,), (4, 8)), synthetic, folder / SET, "")
    how = json.loads((folder / "search.json").read_text())["how"]
    assert "validation images, which are among the training images too" in how["set"]


def test_no_validation_images(folder: Path) -> None:
    this, synthetic, _ = opened_set(folder, parsed(base_configuration(folder)))
    none = Images(this.dataset.validation.x[:0], torch.empty(0, dtype=torch.int64))
    this = replace(this, material=replace(this.material, dataset=replace(this.dataset, validation=none)))
    with pytest.raises(ValueError, match=r"^--images\.validation is 0, and search chooses networks by"):
        module.search(this, Search(), synthetic, folder / SET, "")
    assert not (folder / "search.json").exists()


def test_a_network_that_is_named_twice_is_ranked_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(monkeypatch)
    axes = ["--norms", "none", "none", "--poolings", "avg", "avg"]
    succeed("search", folder, "--depths", 1, 1, "--widths", 4, 8, 4, *axes)
    found = json.loads((folder / "search.json").read_text())
    assert [row["network"].split(", ")[1] for row in found["networks"]] == ["width 4", "width 8"]
    assert found["space"] == {"depths": [1], "widths": [4, 8], "norms": ["none"], "poolings": ["avg"]}


def test_the_choice_and_what_it_loses() -> None:
    rows = [{"network": "a", "set": 0.3, "real": 0.5}, {"network": "b", "set": 0.4, "real": 0.45}]
    found = agreement(rows, "set")
    assert found["chosen"] == "b"
    assert found["regret"] == pytest.approx(0.05)
    assert found["spearman"] == pytest.approx(-1)


def test_no_correlation_is_no_number_and_can_be_written() -> None:
    rows = [{"network": name, "set": 0.1, "real": real} for name, real in (("a", 0.5), ("b", 0.4))]
    found = agreement(rows, "set")
    assert (found["spearman"], found["kendall"]) == (None, None)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--real-epochs", "0"], "--real-epochs is 0 and must be at least 1"),
        (["--real-momentum", "2"], "--real-momentum is 2.0 and must be at least 0 and below 1"),
        (["--real-momentum", "1"], "--real-momentum is 1.0 and must be"),
        (["--real-momentum=-1"], "--real-momentum is -1.0 and must be"),
        (["--real-momentum", "nan"], "--real-momentum is nan and must be"),
        (["--depths", "--widths", "4"], "--depths needs at least one value"),
        (["--widths", "8", "0"], "--widths has 0 and must be at least 1"),
        (
            ["--depths", "5"],
            "--depths has 5, whose poolings need sides that 32 divides, and the images are 8 x 8: leave",
        ),
        (["--ipc", "3"], "--ipc is 3, and"),
        (["--method", "mtt"], "was made by random: leave it out"),
        (["--depths", "1", "--widths", "4", "--norms", "none", "--poolings", "avg"], "1 network"),
        (["--depths", "1", "1", "--widths", "4", "--norms", "none", "--poolings", "avg"], "1 network"),
    ],
)
def test_wrong_spaces_are_one_sentence(words: list[str], says: str, folder: Path, capsys: Captured) -> None:
    assert says in refusal(capsys, "search", folder, *words)
    assert not (folder / "search.json").exists()


def test_norms_and_poolings_are_those_of_networks(folder: Path, capsys: Captured) -> None:
    for axis, word, right in (("norms", "instanc", get_args(Norm)), ("poolings", "mean", get_args(Pooling))):
        says = f"--{axis} has '{word}' and must be one of {', '.join(right)}"
        assert refusal(capsys, "search", folder, f"--{axis}", word).startswith(f"trajmatch: {says}")
        wrong: dict[str, Any] = {axis: (word,)}
        with pytest.raises(ValueError, match=f"^{says}"):
            module.check(Search(**wrong))
        nothing: dict[str, Any] = {axis: ()}
        with pytest.raises(ValueError, match=f"^--{axis} is empty and must have at least one value"):
            module.check(Search(**nothing))
    assert get_args(Norm) == NORMS
    assert get_args(Pooling) == POOLINGS
