"""Evaluation recipes by name: how networks are trained under each, and that scores of two are never mixed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.small import FLAGS, command, succeed
from trajmatch.methods.training import AdamWTraining, Training
from trajmatch.run.assembly.distilled import base_configuration
from trajmatch.run.assembly.letters import evaluation_rate, evaluation_training
from trajmatch.run.cli import main
from trajmatch.run.scores.evaluate import evaluate_set
from trajmatch.run.stages import trials as jobs
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.evaluation import Evaluation
from trajmatch.settings.flat import parsed
from trajmatch.settings.options import Evaluate
from trajmatch.settings.presets import preset

ADAMW = ["--evaluation.recipe", "adamw"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe") / "run"
    succeed(*command("run", "--method", "random", "--evaluation.whole-epochs", 1, "--out", folder))
    return folder


def recipes(monkeypatch: pytest.MonkeyPatch) -> list[Training]:
    """The recipe of every network that is trained from now on, in this process."""
    seen: list[Training] = []

    def train_and_test(make: Any, X: Tensor, Y: Tensor, recipe: Training, *_: Any) -> float:
        seen.append(recipe)
        return 0.25

    monkeypatch.setattr(jobs, "train_and_test", train_and_test)
    return seen


@pytest.mark.parametrize("name", ["digits-ipc1", "cifar10-16px"])
def test_epochs_that_are_left_open_are_the_recipe_s(name: str) -> None:
    base = replace(preset(name), evaluation=Evaluation())
    assert resolve(base).evaluation.epochs == 1000
    assert resolve(replace(base, evaluation=Evaluation(recipe="adamw"))).evaluation.epochs == 2000
    assert resolve(replace(base, evaluation=Evaluation(recipe="adamw", epochs=7))).evaluation.epochs == 7


def test_the_recipes_as_published() -> None:
    config = resolve(Config(evaluation=Evaluation(augment="flip_crop")))
    assert evaluation_rate(config, 0.03) == 0.03
    assert evaluation_training(config, 0.03) == Training(0.03, 1000, 256, 0.9, 5e-4, ("flip", "crop"), 0.5)
    config = resolve(Config(evaluation=Evaluation(augment="flip_crop", recipe="adamw")))
    assert evaluation_rate(config, 0.03) == 0.001
    wanted = AdamWTraining(0.001, 2000, 256, weight_decay=5e-4, families=("flip", "crop"), mix=0.5)
    assert evaluation_training(config, 0.001) == wanted


def scored(run: Path, options: Evaluate) -> Any:
    flat = {**base_configuration(run), "evaluation.recipe": "adamw", "evaluation.whole_epochs": 1}
    return evaluate_set(run, resolve(parsed(flat)), options)


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        (Evaluate(), {0.0003, 0.001, 0.003}),  # random images have a rate of their own
        (Evaluate(networks=("mlp", "convnet"), rates=(0.01,)), {0.001, 0.01}),
        (Evaluate(sizes=(1,)), {0.001}),
        (Evaluate(ranking=True, rates=(0.01,)), {0.001, 0.01}),
    ],
    ids=["evaluate", "transfer", "sizes", "ranking"],
)
def test_every_score_is_by_the_recipe(
    run: Path, options: Evaluate, rates: set[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "distilled.safetensors").symlink_to(run / "distilled.safetensors")
    seen = recipes(monkeypatch)
    found = scored(tmp_path / "distilled.safetensors", options)
    assert seen
    assert all(isinstance(recipe, AdamWTraining) for recipe in seen)
    assert {recipe.lr for recipe in seen} == rates
    if not options.ranking and not options.sizes and not options.networks:
        assert "epochs of AdamW at 0.001 (halved after each fifth), CutMix in half" in found["distilled"]["how"]
        assert "of AdamW with CutMix" in found["whole"]["how"]
        assert {recipe.epochs for recipe in seen} == {4, 1}


def test_search_and_streams_are_by_the_recipe_too(run: Path, tmp_path: Path, capsys: Any) -> None:
    axes = ["--depths", 1, 2, "--widths", 4, "--norms", "none", "--poolings", "avg"]
    succeed("search", run, *axes, *ADAMW, "--evaluation.workers", 1, "--evaluation.epochs", 2, "--real-epochs", 1)
    how = json.loads((run / "search.json").read_text())["how"]
    assert "by the evaluation's recipe adamw at 0.001" in how["set"]
    flags = ["--method", "random", "--orders", 1, "--class-steps", 2, "--fresh-networks", 1]
    succeed("continual", *FLAGS, *flags, *ADAMW, "--out", tmp_path / "stream")
    stream = tmp_path / "stream"
    assert json.loads((stream / "order-0" / "step-1" / "scores.json").read_text())["rate"] == 0.001
    assert "by the recipe adamw" in json.loads((stream / "continual.json").read_text())["how"]
    capsys.readouterr()
    assert main([str(w) for w in ("continual", *FLAGS, *flags, "--out", stream)]) == 2
    assert "--evaluation.recipe is adamw there and mtt here" in capsys.readouterr().err


def test_tables_tell_the_recipes_apart(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    succeed(*command("run", "--method", "random", "--evaluation.whole-epochs", 1, *ADAMW, "--out", other))
    succeed("compare", run, other, "--out", tmp_path / "both")
    lines = (tmp_path / "both" / "compare.md").read_text().splitlines()
    assert sum("--evaluation.recipe adamw" in line for line in lines) == 1
    assert sum("--evaluation.recipe mtt" in line for line in lines) == 1
    succeed("compare", other, "--out", tmp_path / "one")
    assert "--evaluation.recipe adamw" in (tmp_path / "one" / "compare.md").read_text()
    accuracy = json.loads((other / "summary.json").read_text())["accuracy"]
    assert all("AdamW" in accuracy[key]["how"] for key in ("distilled", "random", "whole"))
    mtt = json.loads((run / "summary.json").read_text())["accuracy"]
    assert accuracy["whole"]["mean"] != mtt["whole"]["mean"]


def test_scores_of_another_recipe_are_not_joined(run: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    recipes(monkeypatch)
    (run / "transfer.json").unlink(missing_ok=True)
    config = resolve(parsed(base_configuration(run)))
    options = Evaluate(networks=("mlp",), rates=(0.01,))
    evaluate_set(run, config, options)
    # As older versions, which knew one recipe, did not say which.
    assert "evaluation.recipe" not in json.loads((run / "transfer.json").read_text())["settings"]
    evaluate_set(run, config, replace(options, networks=("lenet",)))
    assert set(json.loads((run / "transfer.json").read_text())["networks"]) == {"mlp", "lenet"}
    caplog.clear()
    scored(run, replace(options, networks=("vit",)))
    record = json.loads((run / "transfer.json").read_text())
    assert set(record["networks"]) == {"vit"}
    assert record["settings"]["evaluation.recipe"] == "adamw"
    assert "measured in another way" in caplog.text


def test_training_by_adamw_learns(run: Path, tmp_path: Path) -> None:
    (tmp_path / "distilled.safetensors").symlink_to(run / "distilled.safetensors")
    flat = {**base_configuration(run), "evaluation.recipe": "adamw", "evaluation.epochs": 60}
    config = resolve(parsed({**flat, "evaluation.random_draws": 0, "evaluation.networks": 2}))
    found = evaluate_set(tmp_path / "distilled.safetensors", config, Evaluate())
    assert found["distilled"]["mean"] > 0.25  # one image a class; chance is a tenth
    assert torch.get_num_threads() >= 1


def test_momentum_without_effect_is_told(run: Path, caplog: Any) -> None:
    words = [
        "evaluate",
        run,
        *ADAMW,
        "--evaluation.momentum",
        0.5,
        "--evaluation.epochs",
        1,
        "--evaluation.networks",
        1,
    ]
    succeed(*words, "--evaluation.random-draws", 0)
    assert "--evaluation.momentum has no effect with --evaluation.recipe adamw" in caplog.text
