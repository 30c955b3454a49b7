"""Scoring a synthetic set beside random real images and the whole dataset, many networks at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trajmatch.core.draws import derive, generator
from trajmatch.data.files import read_tensors
from trajmatch.data.networks import build
from trajmatch.data.synthetic import SyntheticSet, class_labels, draw_real, one_hot
from trajmatch.data.trajectories import Trajectory
from trajmatch.measure.evaluate import Score, train_and_test
from trajmatch.methods.training import Training
from trajmatch.run.assemble import (
    Material,
    device,
    evaluation_training,
    expert_training,
    factory,
    opened,
    shared,
)
from trajmatch.run.compute import training_engine
from trajmatch.run.config import Config
from trajmatch.run.distill_stage import snapshot_path, snapshot_steps
from trajmatch.run.pool import Peak, Report, processes, run_jobs
from trajmatch.run.progress import Meter


class Job(NamedTuple):
    """One network: what it is trained on, at which rate, from which seed, and where it is tested; by name, or None for
    the configuration's.

    X and Y are arrays because tensors travel to a worker through shared memory, which small containers lack.
    """

    key: str
    X: np.ndarray
    Y: np.ndarray
    recipe: Training
    seed: int
    split: str
    network: str | None = None


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
            first += _whole_jobs(config)
        found = accuracies(first)
        scores = {"distilled": Score.of(found["distilled"], _how(config, synthetic.eta, "the last iterate")).record()}
        if candidates:
            scores["chosen"] = _choose(config, accuracies, candidates, found, scores["distilled"])
        if "random" in found:
            how = f"{_how(config, synthetic.eta, 'random real images')}; a new draw for each"
            scores["random"] = Score.of(found["random"], how).record()
        if (whole := _whole(config, found, trajectories)) is not None:
            scores["whole"] = whole.record()
    return scores


def _how(config: Config, eta: float, what: str) -> str:
    e = config.evaluation
    return (
        f"networks trained from scratch on {what}, {e.epochs} epochs at {eta:.4g} (a tenth from half-time), momentum "
        f"{e.momentum:g}, weight decay {e.weight_decay:g}, augmentation {e.augment}; tested once on all test images"
    )


def set_jobs(key: str, config: Config, X: Tensor, Y: Tensor, eta: float, count: int, split: str = "test") -> list[Job]:
    """`count` networks trained on a set at the learning rate eta."""
    recipe = evaluation_training(config, eta)
    # Every set meets the same networks.
    return [Job(key, X.numpy(), Y.numpy(), recipe, derive(config.seed, "evaluation", i), split) for i in range(count)]


def _random_jobs(config: Config, material: Material, eta: float) -> list[Job]:
    jobs, recipe = [], evaluation_training(config, eta)
    for i in range(config.evaluation.random_draws):
        X, Y = random_set(config, material, generator(config.seed, "random real images", i))
        jobs.append(Job("random", X.numpy(), Y.numpy(), recipe, derive(config.seed, "evaluation", i), "test"))
    return jobs


def random_set(config: Config, material: Material, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (n, c, h, w) in the input space and labels (n, C): as many random real ones of each class."""
    dataset = material.dataset
    index = draw_real(dataset.train, dataset.num_classes, config.ipc, source)
    Y = one_hot(class_labels(dataset.num_classes, config.ipc), dataset.num_classes)
    return material.space.forward(dataset.train.x[index]), Y


def _whole_jobs(config: Config) -> list[Job]:
    e, recipe = config.evaluation, expert_training(config)
    assert e.whole_epochs is not None
    recipe = Training(recipe.lr, e.whole_epochs, recipe.batch, e.momentum, e.weight_decay, recipe.families, lr_drop=0.5)
    nothing = np.empty(0)  # the images do not travel to a worker: it finds them in the shared file
    return [Job("whole", nothing, nothing, recipe, derive(config.seed, "whole"), "test")]


def _whole(config: Config, found: dict[str, list[float]], trajectories: Sequence[Trajectory]) -> Score | None:
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
    extra = {"step": best.step, "validation": validation}
    how = f"{_how(config, best.eta, f'the images of step {best.step}')}; the step was chosen on validation images"
    if best.step == config.steps:
        return {**last, "how": how, **extra}
    found = accuracies(set_jobs("chosen", config, best.X, best.Y, best.eta, config.evaluation.networks))
    return {**Score.of(found["chosen"], how).record(), **extra}


def snapshots(config: Config, folder: Path) -> list[Candidate]:
    """The snapshots of a finished run folder. Raises ValueError for a damaged one."""
    found = []
    for step in snapshot_steps(config):
        t = read_tensors(snapshot_path(folder, step))
        found.append(Candidate(step, t["images"].clone(), t["labels"].clone(), float(t["step_size"])))
    return found


def accuracies_of(config: Config, path: Path, peak: Peak, quiet: bool, jobs: Sequence[Job]) -> dict[str, list[float]]:
    """Accuracies by the jobs' keys, in the jobs' order, however they were spread over processes."""
    where = device(config.device)
    workers = processes(config.evaluation.workers, where.type)
    results: dict[int, float] = {}
    arguments = [(path, config, str(where), job) for job in jobs]
    with Meter("evaluate", len(jobs), unit="networks", quiet=quiet) as meter:
        for index, accuracy in run_jobs(_train_one, arguments, workers, threads=1, peak=peak):
            results[index] = accuracy
            meter.advance(f"{jobs[index].key}: {accuracy:.1%}")
    found: dict[str, list[float]] = {}
    for index, job in enumerate(jobs):
        found.setdefault(job.key, []).append(results[index])
    return found


def _train_one(material: Path, config: Config, where: str, job: Job, report: Report) -> float:
    mapped, place = opened(material), torch.device(where)
    t = mapped.tensors
    X, Y = torch.from_numpy(job.X), torch.from_numpy(job.Y)
    if job.key == "whole":
        X, Y = t["train.x"], one_hot(t["train.y"], len(mapped.classes))
    network = config.network if job.network is None else replace(config.network, name=job.network)
    make = factory(network, mapped.shape, len(mapped.classes))
    test_x, test_y = t[f"{job.split}.x"].to(place), t[f"{job.split}.y"].to(place)
    engine = training_engine(config, build(make, 0)[0], place)
    return train_and_test(make, X.to(place), Y.to(place), job.recipe, test_x, test_y, job.seed, engine)
