"""`trajmatch evaluate SET --networks ...`, and networks by name."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.run.test_cli import refusal
from tests.small import command, succeed
from trajmatch.core.vector import functional
from trajmatch.data import synthetic as sets
from trajmatch.data.networks.convnet import build
from trajmatch.run.assembly import setup
from trajmatch.run.assembly.distilled import base_configuration, opened_set
from trajmatch.run.scores import ranking
from trajmatch.run.stages.experts import open_experts
from trajmatch.settings.checks import resolve
from trajmatch.settings.flat import DEFAULTS, difference, parsed

Captured = pytest.CaptureFixture[str]
FEW = ["--evaluation.networks", "2", "--evaluation.epochs", "4", "--evaluation.workers", "1"]
MINE = """
from torch import nn

def tiny(shape, num_classes):
    c, h, w = shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, num_classes))

def one_less(shape, num_classes):
    return tiny(shape, num_classes - 1)

def large(shape, num_classes):
    return nn.Sequential(nn.MaxPool2d(64), tiny(shape, num_classes))

def no_size(num_classes):
    return nn.Linear(3, num_classes)
"""


def test_a_table_of_networks_each_at_a_rate_of_its_own(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (tmp_path / "mine_for_tests.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    names = ["convnet", "mlp", "mine_for_tests:tiny"]
    succeed("evaluate", folder, *FEW, "--networks", *names, "--evaluation.rates", "0.001", "0.1")
    found = json.loads((folder / "transfer.json").read_text())["networks"]
    assert list(found) == names
    for name in names[1:]:
        validation = {float(rate): value for rate, value in found[name]["validation"].items()}
        assert set(validation) == {0.001, 0.1}
        assert validation[found[name]["tuned"]["rate"]] == max(validation.values())
        assert found[name]["tuned"]["n"] == found[name]["learned"]["n"] == 2
        assert "validation images" in found[name]["tuned"]["how"]
        assert "4 epochs" in found[name]["tuned"]["how"]
    assert "tuned" not in found["convnet"]
    out = capsys.readouterr().out
    assert all(name in out for name in names)
    succeed("evaluate", folder, *FEW)
    distilled = next(line for line in capsys.readouterr().out.splitlines() if "last iterate" in line)
    assert f"{found['convnet']['learned']['mean']:.2%}" in distilled, "the same networks, the same numbers"


def test_scores_join_those_measured_alike_and_replace_others(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    rates, file = ("--evaluation.rates", "0.01", "0.1"), folder / "transfer.json"
    succeed("evaluate", folder, *FEW, "--networks", "mlp", "mlp", *rates)
    first = json.loads(file.read_text())
    assert first["networks"]["mlp"]["learned"]["n"] == 2, "a name given twice counts once"
    assert first["settings"]["evaluation.epochs"] == 4
    succeed("evaluate", folder, *FEW, "--networks", "lenet", *rates)
    both = json.loads(file.read_text())
    assert list(both["networks"]) == ["mlp", "lenet"]
    assert both["networks"]["mlp"] == first["networks"]["mlp"]
    succeed("evaluate", folder, *FEW[:-4], "--evaluation.epochs", "5", "--networks", "lenet", *rates)
    assert list(json.loads(file.read_text())["networks"]) == ["lenet"]
    shutil.copy(folder / "distilled.safetensors", tmp_path / "mine.safetensors")
    succeed("evaluate", tmp_path / "mine.safetensors", *FEW, "--sizes", "1", "1")
    assert json.loads((tmp_path / "mine.sizes.json").read_text())["sizes"]["1"]["n"] == 2


def test_the_network_of_the_set_is_the_one_that_is_not_tuned(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    words = ("--networks", "convnet", "--evaluation.rates", "0.01")
    succeed("evaluate", folder, *FEW, *words, "--network.width", "12")
    assert "tuned" in json.loads((folder / "transfer.json").read_text())["networks"]["convnet"]


def test_real_images_are_seen_through_the_input_space_of_the_set(whole: Path, tmp_path: Path) -> None:
    made = sets.load(whole)
    shifted = replace(made, space=replace(made.space, mean=made.space.mean + 1))
    sets.save(shifted, tmp_path / "shifted.safetensors")
    config = parsed(base_configuration(whole))
    this, _, _ = opened_set(tmp_path / "shifted.safetensors", config)
    assert torch.equal(this.material.space.mean, shifted.space.mean)
    this, _, _ = opened_set(whole, config)
    assert torch.equal(this.material.space.mean, setup.load_material(resolve(config)).space.mean)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--seed", "3"], "--seed is 0 there and 3 here; leave it out"),
        (["--images.normalise", "none"], "--images.normalise is channel there and none here; leave it out"),
        (["--networks", "mlp", "--sizes", "1"], "--networks and --sizes are scored one by one: give one of them"),
        (["--networks"], "--networks needs at least one value"),
        (["--evaluation.rates", "--networks", "mlp"], "--evaluation.rates needs at least one value"),
    ],
)
def test_other_splits_and_spaces_and_unclear_wishes_are_refused(
    words: list[str], says: str, whole: Path, capsys: Captured
) -> None:
    assert says in refusal(capsys, "evaluate", whole, *words)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("one_less", "whose outputs for 2 images of 10 classes are (2, 9) and must be (2, 10)"),
        ("large", "which can't take images of 1 x 8 x 8: "),
        ("no_size", "which can't take images of 1 x 8 x 8: no_size() takes 1 positional argument but 2 were given"),
    ],
)
def test_networks_that_do_not_fit_are_refused_before_any_is_trained(
    name: str, says: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (tmp_path / "unfit_for_tests.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    told = refusal(capsys, "evaluate", whole, *FEW, "--networks", "convnet", f"unfit_for_tests:{name}")
    assert f"--network.name is unfit_for_tests:{name}, {says}" in told
    assert not (whole / "transfer.json").exists()
    words = command("distill", "--network.name", f"unfit_for_tests:{name}", "--out", tmp_path / "r")
    assert f"--network.name is unfit_for_tests:{name}, {says}" in refusal(capsys, *words)


def test_experts_of_another_network_and_a_set_distilled_with_it(tmp_path: Path) -> None:
    words = command("distill", "--experts", 1, "--network.name", "lenet", "--steps", 2, "--out", tmp_path / "r")
    succeed(*words)
    assert (tmp_path / "r" / "distilled.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--networks", "alexnett"], "--network.name is 'alexnett'; did you mean alexnet?"),
        (["--networks", "nowhere:made"], "--network.name is nowhere:made, which can't be imported"),
        (["--networks", "math:tau_of"], "--network.name is math:tau_of, which can't be imported"),
        (["--networks", "mlp", "--evaluation.rates", "0"], "(0.0,) and must be one or more numbers above 0"),
    ],
)
def test_wrong_names_are_one_sentence(words: list[str], says: str, whole: Path, capsys: Captured) -> None:
    assert says in refusal(capsys, "evaluate", whole, *words)
    assert not (whole / "transfer.json").exists()


def test_records_without_a_younger_setting_had_its_default() -> None:
    old = {"network.width": 32}
    assert difference(old, {"network.width": 32, "network.name": DEFAULTS["network.name"]}) is None
    assert difference(old, {"network.width": 32, "network.name": "lenet"}) is not None
    assert difference({**old, "network.name": "lenet"}, {"network.width": 32, "network.name": "convnet"}) is not None


def test_ranking_by_its_accuracies(whole: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    succeed("evaluate", folder, *FEW, "--ranking", "--evaluation.rates", "0.01", "0.1")
    found = json.loads((folder / "ranking.json").read_text())
    mean = {key: score["mean"] for key, score in found["accuracy"].items()}
    assert found["hlr"] == mean["real"] - mean["hard"]
    assert found["ior"] == mean["any"] - mean["random"]
    assert mean["any"] == mean["hard"], "this set has hard labels"
    alpha = (found["ior"] - found["hlr"]) / 2
    assert found["lrs"] == pytest.approx((math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1)))
    out = capsys.readouterr().out
    assert "label-robust score" in out
    assert f"{mean['random otherwise']:7.2%}" in out


def test_random_images_of_a_set_with_soft_labels_are_labelled_by_experts(experts: Path, tmp_path: Path) -> None:
    words = command("distill", "--experts", experts, "--steps", 2, "--outer.labels", "learned", "--out", tmp_path / "r")
    succeed(*words)
    config = resolve(parsed(base_configuration(tmp_path / "r")))
    this, synthetic = setup.Setup.load(config), sets.load(tmp_path / "r" / "distilled.safetensors")
    trajectories = open_experts(this, experts)
    given = (this, synthetic, trajectories)
    soft, hard = (ranking._trials(*given, key, 0.1, 2, "test") for key in ("random", "hard"))
    X, Y = torch.from_numpy(soft[1].X), torch.from_numpy(soft[1].Y)
    network, _ = build(this.make(), 0)
    rows = [t.row(t.num_rows - 1) for t in trajectories]
    wanted = torch.stack([functional(network)(row, X).softmax(1) for row in rows]).mean(0)
    assert torch.allclose(Y, wanted, rtol=1e-4, atol=1e-6)
    assert not torch.equal(X, torch.from_numpy(soft[0].X)), "a new draw for each network"
    assert torch.equal(torch.from_numpy(hard[0].Y), torch.eye(10))
    (other,) = ranking._trials(*given, "any otherwise", 0.1, 1, "test")
    assert hard[0].recipe.families == (), "digits are not augmented"
    assert len(other.recipe.families) == 6


def test_a_network_on_all_images_can_stand_for_the_experts_in_the_ranking(whole: Path, tmp_path: Path) -> None:
    shutil.copy(whole / "distilled.safetensors", tmp_path / "set.safetensors")
    words = ("--ranking", "--experts", "2", "--evaluation.rates", "0.1", "--evaluation.whole-epochs", "2")
    succeed("evaluate", tmp_path / "set.safetensors", *FEW, *words)
    real = json.loads((tmp_path / "set.ranking.json").read_text())["accuracy"]["real"]
    assert (real["n"], "2 epochs" in real["how"]) == (1, True)


def test_ranking_needs_experts(whole: Path, tmp_path: Path, capsys: Captured) -> None:
    shutil.copy(whole / "distilled.safetensors", tmp_path / "set.safetensors")
    words = ("evaluate", tmp_path / "set.safetensors", "--ranking", "--experts", "2")
    assert "--ranking needs experts" in refusal(capsys, *words)


def test_batch_norm_is_for_scoring_and_not_for_experts(whole: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    succeed("evaluate", folder, *FEW, "--networks", "vgg11-batch", "--evaluation.rates", "0.01")
    found = json.loads((folder / "transfer.json").read_text())["networks"]["vgg11-batch"]
    assert 0 < found["tuned"]["mean"] < 1
    assert "keeps running statistics" in refusal(
        capsys, *command("distill", "--experts", 1, "--network.norm", "batch", "--out", tmp_path / "r")
    )
    assert not list((tmp_path / "r").rglob("expert_*"))
