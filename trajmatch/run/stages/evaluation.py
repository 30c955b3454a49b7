"""Scoring a synthetic set beside random real images and the whole dataset, many networks at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trajmatch.core.draws import derive, generator
from trajmatch.data.checksums import remedy
from trajmatch.data.file_names import SET
from trajmatch.data.material import Material, shared
from trajmatch.data.snapshots import read_snapshot, snapshot_settings
from trajmatch.data.synthetic import SyntheticSet, class_labels, draw_real, one_hot
from trajmatch.data.trajectories import Trajectory
from trajmatch.machine.processes import Peak
from trajmatch.measure.evaluate import Score
from trajmatch.methods.training import Training
from trajmatch.pages.made import check_same, set_settings
from trajmatch.run.assembly.letters import expert_training
from trajmatch.run.stages.loop import snapshot_path, snapshot_steps
from trajmatch.run.stages.trials import Job, accuracies_of, real_job, set_jobs
from trajmatch.settings.config import Config


@dataclass(frozen=True)
class Candidate:
    """The set as it was after an outer step."""

    step: int
    X: Tensor
    Y: Tensor
    eta: float


def evaluate(
    config: Config,
    material: Material,
    synthetic: SyntheticSet,
    trajectories: Sequence[Trajectory],
    folder: Path,
    peak: Peak,
    candidates: Sequence[Candidate] = (),
    quiet: bool = False,
) -> dict[str, dict[str, Any]]:
    """Scores by name: distilled (the last iterate), chosen (by validation, where there are candidates), random, whole.

    folder: where a temporary file of the images may be put. Only real test images count, and each network meets them
    once; the choice among candidates is made on validation images.
    """
    chosen = config.evaluation
    with shared(material, folder) as path:
        accuracies = partial(accuracies_of, config, path, peak, quiet)
        first = set_jobs("distilled", config, synthetic.X, synthetic.Y, synthetic.eta, chosen.networks)
        first += _random_jobs(config, material, synthetic.eta)
        candidates = list(candidates) if chosen.validation_networks else []
        for c in candidates:
            key = f"validation {c.step}"
            first += set_jobs(key, config, c.X, c.Y, c.eta, chosen.validation_networks, "validation")
        if chosen.whole_epochs:
            first += whole_jobs(config)
        found = accuracies(first)
        scores = {
            "distilled": Score.of(found["distilled"], obtained(config, synthetic.eta, "the last iterate")).record()
        }
        if candidates:
            scores["chosen"] = _choose(config, material, accuracies, candidates, found, scores["distilled"])
        if "random" in found:
            how = f"{obtained(config, synthetic.eta, 'random real images')}; a new draw for each"
            scores["random"] = Score.of(found["random"], how).record()
        if (of_all := whole(config, found, trajectories)) is not None:
            scores["whole"] = of_all.record()
    return scores


def obtained(config: Config, eta: float, what: str) -> str:
    """How the accuracy of a set was obtained, in words."""
    e = config.evaluation
    return (
        f"networks trained from scratch on {what}, {e.epochs} epochs at {eta:.4g} (a tenth from half-time), momentum "
        f"{e.momentum:g}, weight decay {e.weight_decay:g}, augmentation {e.augment}; tested once on all test images"
    )


def _random_jobs(config: Config, material: Material, eta: float) -> list[Job]:
    jobs = []
    for i in range(config.evaluation.random_draws):
        X, Y = random_set(config, material, generator(config.seed, "random real images", i))
        jobs += set_jobs("random", config, X, Y, eta, i + 1)[i:]
    return jobs


def random_set(config: Config, material: Material, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (n, c, h, w) in the input space and labels (n, C): as many random real ones of each class."""
    dataset = material.dataset
    index = draw_real(dataset.train, dataset.num_classes, config.ipc, source)
    Y = one_hot(class_labels(dataset.num_classes, config.ipc), dataset.num_classes)
    return material.space.forward(dataset.train.x[index]), Y


def chosen_on(material: Material) -> str:
    """The images that a choice is made by, in words, which say where experts and distillation have seen them."""
    return "validation images" + ("" if material.dataset.held_out else ", which are among the training images too")


def whole_jobs(config: Config) -> list[Job]:
    """The network on all training images of --evaluation.whole-epochs."""
    e, recipe = config.evaluation, expert_training(config)
    assert e.whole_epochs is not None
    recipe = Training(recipe.lr, e.whole_epochs, recipe.batch, e.momentum, e.weight_decay, recipe.families, lr_drop=0.5)
    return [real_job("whole", recipe, derive(config.seed, "whole"))]


def whole(config: Config, found: dict[str, list[float]], trajectories: Sequence[Trajectory]) -> Score | None:
    """The score of the whole data set: by `whole_jobs` where they were done, else the experts', None without any."""
    if "whole" in found:
        epochs = config.evaluation.whole_epochs
        return Score.of(found["whole"], f"one network trained on all training images for {epochs} epochs")
    if not trajectories:
        return None
    accuracies = [float(t.header["test_accuracy"][-1]) for t in trajectories]
    epochs = trajectories[0].header["epochs"]
    how = f"the experts' final test accuracy, each trained for {epochs} epochs"
    return Score.of(accuracies, how)


def _choose(
    config: Config,
    material: Material,
    accuracies: Callable[[Sequence[Job]], dict[str, list[float]]],
    candidates: Sequence[Candidate],
    found: dict[str, list[float]],
    last: dict[str, Any],
) -> dict[str, Any]:
    """The candidate that validation likes best, scored on test images; the earliest of equals."""
    best = max(candidates, key=lambda c: sum(found[f"validation {c.step}"]))
    validation = {
        str(c.step): sum(found[f"validation {c.step}"]) / len(found[f"validation {c.step}"]) for c in candidates
    }
    extra: dict[str, Any] = {"step": best.step, "validation": validation}
    how = (
        f"{obtained(config, best.eta, f'the images of step {best.step}')}; the step was chosen on {chosen_on(material)}"
    )
    if not material.dataset.held_out:
        extra["held_out"] = False
    if best.step == config.steps:
        return {**last, "how": how, **extra}
    found = accuracies(set_jobs("chosen", config, best.X, best.Y, best.eta, config.evaluation.networks))
    return {**Score.of(found["chosen"], how).record(), **extra}


def snapshots(config: Config, folder: Path, like: SyntheticSet | None = None) -> list[Candidate]:
    """The snapshots of a finished run folder; like: its set. Raises ValueError for one that is damaged or unlike it."""
    found = []
    for step in snapshot_steps(config):
        shape, num_classes = (None, None) if like is None else (tuple(like.X.shape[1:]), len(like.classes))
        path = snapshot_path(folder, step)
        snapshot = read_snapshot(path, step, shape, num_classes)
        if like is not None:
            if held := snapshot_settings(path):
                check_same(path, held, folder / SET, set_settings(like.info.get("config", {})))
            if len(snapshot.X) != len(like):
                raise ValueError(f"{path} has {len(snapshot.X)} images and the set here {len(like)}; {remedy(path)}")
        found.append(Candidate(step, snapshot.X, snapshot.Y, float(snapshot.eta)))
    return found
