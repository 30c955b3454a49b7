"""Scoring a synthetic set beside random real images and the whole dataset, many networks at once."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trajmatch.core.draws import derive
from trajmatch.data.checksums import remedy
from trajmatch.data.file_names import SET
from trajmatch.data.snapshots import Snapshot, read_snapshot, snapshot_path, snapshot_settings
from trajmatch.data.synthetic import SyntheticSet, seen
from trajmatch.data.trajectories import Trajectory
from trajmatch.machine.messages import counted
from trajmatch.machine.processes import Peak
from trajmatch.measure.evaluate import Score
from trajmatch.pages.made import check_same, set_settings
from trajmatch.run.assembly.letters import evaluation_rate, evaluation_training, expert_training
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages import foreign
from trajmatch.run.stages.experts import told_foreign
from trajmatch.run.stages.loop import snapshot_steps
from trajmatch.run.stages.random_images import at_own_rate, at_set_rate, beside_set, chosen_on
from trajmatch.run.stages.trials import Bench, Trial, bench, real_trial, set_trials
from trajmatch.settings.config import Config

# Whose the rate is that a set is scored at where no other is asked for, by recipe.
WHOSE = {"mtt": "the set's learned step size", "adamw": "the recipe's own"}


def evaluate(
    setup: Setup,
    synthetic: SyntheticSet,
    trajectories: Sequence[Trajectory],
    folder: Path,
    peak: Peak,
    candidates: Sequence[Snapshot] = (),
) -> dict[str, dict[str, Any]]:
    """Scores by name: distilled (the last iterate), chosen (by validation, where there are candidates), random, whole.

    "random" is at the rate of the set, "random tuned" at the one that validation images like best; "foreign" and
    "foreign random" are of another network. Where answers were counted, a score has accuracies "by_class" too, in the
    order of the classes.

    folder: where a temporary file of the images may be put. Only real test images count, and each network meets them
    once; the choice among candidates is made on validation images.
    """
    config = setup.config
    chosen, rate = config.evaluation, evaluation_rate(config, synthetic.eta)
    with bench(setup, folder, peak) as on:
        first = set_trials("distilled", config, *synthetic.seen, rate, chosen.networks)
        random = beside_set(setup, rate)
        first += [*random.trials("random", rate), *random.choice()]
        candidates = list(candidates) if chosen.validation_networks else []
        for c in candidates:
            key = f"validation {c.step}"
            images = seen(c.X, c.Y, synthetic.factor)
            at = evaluation_rate(config, float(c.eta))
            first += set_trials(key, config, *images, at, chosen.validation_networks, "validation")
        if chosen.whole_epochs:
            first += whole_trials(config)
        tested = on.tested(first)
        found = {key: [one.accuracy for one in of] for key, of in tested.items()}
        scores = {"distilled": Score.of(found["distilled"], obtained(config, rate, "the last iterate")).record()}
        if candidates:
            scores["chosen"] = _choose(on, candidates, found, scores["distilled"])
        if random.count:
            how = partial(obtained, config, what="random real images")
            scores["random"] = at_set_rate(found["random"], how(rate), WHOSE[chosen.recipe])
            scores["random tuned"] = at_own_rate(on, random, found, how)
        if (of_all := whole(config, found, trajectories)) is not None:
            epochs = config.evaluation.whole_epochs or trajectories[0].header["epochs"]
            scores["whole"] = {**of_all.record(), "epochs": epochs}
        scores |= foreign.scores(on, synthetic, partial(_tuned, setup))
    classes = torch.bincount(setup.dataset.test.y, minlength=setup.dataset.num_classes)
    for key in scores.keys() & tested.keys():
        scores[key] |= by_class([one.right for one in tested[key]], classes.tolist())
    return scores


def by_class(right: Sequence[Sequence[int]], counts: Sequence[int]) -> dict[str, list[float | None]]:
    """The mean share of the test images of each class that networks get right, None for a class without test images.

    right: of each network, test images by class that it gets right; counts: test images by class. Nothing where a
    network's were not counted, as older versions did not.

    >>> by_class([(1, 0), (2, 0)], (2, 0)), by_class([()], (2, 0))
    ({'by_class': [0.75, None]}, {})
    """
    if not all(right):
        return {}
    sums = [sum(of) for of in zip(*right, strict=True)]
    return {"by_class": [s / (len(right) * n) if n else None for s, n in zip(sums, counts, strict=True)]}


def _tuned(setup: Setup, rate: float, what: str) -> str:
    """How the accuracy of a set was obtained at a rate that was chosen for it, in words."""
    rates = ", ".join(map(str, foreign.RATES[setup.config.evaluation.recipe]))
    how = f"the rate is the best of {rates} by one network on {chosen_on(setup.material)}"
    return f"{obtained(setup.config, rate, what)}; {how}"


def obtained(config: Config, rate: float, what: str) -> str:
    """How the accuracy of a set was obtained, in words."""
    e = config.evaluation
    how = f"at {rate:.4g} (a tenth from half-time), momentum {e.momentum:g}"
    if e.recipe == "adamw":
        how = f"of AdamW at {rate:.4g} (halved after each fifth), CutMix in half of the mini-batches"
    epochs = counted(e.epochs or 0, "epoch")
    return (
        f"networks trained from scratch on {what}, {epochs} {how}, weight decay {e.weight_decay:g}, "
        f"augmentation {e.augment}; tested once on all test images"
    )


def whole_trials(config: Config) -> list[Trial]:
    """The network on all training images of --evaluation.whole-epochs."""
    epochs, of_expert = config.evaluation.whole_epochs, expert_training(config)
    assert epochs is not None
    recipe = evaluation_training(config, evaluation_rate(config, of_expert.lr))
    recipe = replace(recipe, epochs=epochs, batch=of_expert.batch, families=of_expert.families)
    return [real_trial("whole", recipe, derive(config.seed, "whole"))]


def whole(config: Config, found: dict[str, list[float]], trajectories: Sequence[Trajectory]) -> Score | None:
    """The score of the whole data set: by `whole_trials` where they were done, else the experts', None without any."""
    if "whole" in found:
        for_epochs = f"for {counted(config.evaluation.whole_epochs or 0, 'epoch')}"
        by = " of AdamW with CutMix" if config.evaluation.recipe == "adamw" else ""
        return Score.of(found["whole"], f"one network trained on all training images {for_epochs}{by}")
    if not trajectories:
        return None
    accuracies = [float(t.header["test_accuracy"][-1]) for t in trajectories]
    epochs = trajectories[0].header["epochs"]
    told = told_foreign(trajectories)
    how = f"the final test accuracy of experts{told}" if told else "the experts' final test accuracy"
    how += f", each trained for {counted(epochs, 'epoch')}"
    return Score.of(accuracies, how)


def _choose(
    on: Bench, candidates: Sequence[Snapshot], found: dict[str, list[float]], last: dict[str, Any]
) -> dict[str, Any]:
    """The candidate that validation likes best, scored on test images; the earliest of equals."""
    config, material = on.setup.config, on.setup.material
    best = max(candidates, key=lambda c: sum(found[f"validation {c.step}"]))
    validation = {
        str(c.step): sum(found[f"validation {c.step}"]) / len(found[f"validation {c.step}"]) for c in candidates
    }
    extra: dict[str, Any] = {"step": best.step, "validation": validation}
    rate = evaluation_rate(config, float(best.eta))
    how = obtained(config, rate, f"the images of step {best.step}")
    how += f"; the step was chosen on {chosen_on(material)}"
    if not material.dataset.held_out:
        extra["held_out"] = False
    if best.step == config.steps:
        return {**last, "how": how, **extra}
    images = seen(best.X, best.Y, config.factor)
    found = on.accuracies(set_trials("chosen", config, *images, rate, config.evaluation.networks))
    return {**Score.of(found["chosen"], how).record(), **extra}


def snapshots(config: Config, folder: Path, like: SyntheticSet | None = None) -> list[Snapshot]:
    """The snapshots of a finished run folder; like: its set. Raises ValueError for one that is damaged or unlike it."""
    fits = (None, None) if like is None else (tuple(like.X.shape[1:]), len(like.classes))
    found = [read_snapshot(snapshot_path(folder, step), step, *fits) for step in snapshot_steps(config)]
    if like is not None:
        for one in found:
            _check_of(snapshot_path(folder, one.step), one, like, folder / SET)
    return found


def _check_of(path: Path, snapshot: Snapshot, like: SyntheticSet, file: Path) -> None:
    """Raise ValueError where a snapshot is of another run than the set beside it."""
    if held := snapshot_settings(path):
        check_same(path, held, file, set_settings(like.info.get("config", {})))
    if len(snapshot.X) != len(like.X):
        raise ValueError(f"{path} has {len(snapshot.X)} images and the set here {len(like.X)}; {remedy(path)}")
