"""DD-Ranking's scores of a set: every accuracy that they need, measured here under one protocol."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trajmatch.core.augment import STANDARD, families
from trajmatch.core.draws import generator
from trajmatch.data.synthetic import SyntheticSet, class_labels, one_hot
from trajmatch.data.trajectories import Trajectory
from trajmatch.machine.processes import Peak
from trajmatch.measure import ranking
from trajmatch.measure.evaluate import Score
from trajmatch.methods import engines
from trajmatch.pages.tables import as_text, score_lines
from trajmatch.run.assembly.letters import evaluation_rate
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages.evaluation import whole, whole_trials
from trajmatch.run.stages.random_images import chosen_on, random_set
from trajmatch.run.stages.trials import Trial, bench, set_trials

# What is trained on; "otherwise" is without augmentation where the protocol augments, and with it where it does not.
TITLES = {
    "any": "the set, by its own protocol",
    "any otherwise": "the set, augmented otherwise",
    "hard": "the set with hard labels",
    "random": "random images, labelled alike",
    "random otherwise": "random images, augmented otherwise",
}


def rank(
    setup: Setup,
    synthetic: SyntheticSet,
    trajectories: list[Trajectory],
    rates: Sequence[float],
    folder: Path,
    peak: Peak,
) -> dict[str, Any]:
    """HLR, IOR, LRS and ARS of a set, with the accuracies that they are made of.

    Every accuracy is of `config.evaluation.networks` networks, at the learning rate of `rates` and the set's own step
    size (or the recipe's rate) that one network likes best on validation images. The whole data set's is the experts',
    or that of --evaluation.whole-epochs. Random images of a set with soft labels get the experts' mean probabilities.
    Raises ValueError where experts or validation images are missing.
    """
    _check(setup, synthetic, trajectories)
    config = setup.config
    e = config.evaluation
    rates = tuple(dict.fromkeys((evaluation_rate(config, synthetic.eta), *rates)))
    makers = {key: partial(_trials, setup, synthetic, trajectories, key) for key in TITLES}
    with bench(setup, folder, peak) as on:
        tuned, found = on.tuned(makers, rates, e.networks, whole_trials(config) if e.whole_epochs else ())
    how = f"the best of {', '.join(f'{rate:.4g}' for rate in rates)} by one network on {chosen_on(setup.material)}"
    accuracy = {
        key: {**Score.of(of.accuracies, f"{TITLES[key]}; {how}").record(), "rate": of.rate} for key, of in tuned.items()
    }
    real = whole(config, found, trajectories)
    assert real is not None, "checked"
    accuracy["real"] = real.record()
    return {"accuracy": accuracy, **scores({key: score["mean"] for key, score in accuracy.items()})}


def _check(setup: Setup, synthetic: SyntheticSet, trajectories: list[Trajectory]) -> None:
    """Raise ValueError where experts or validation images are missing."""
    if not trajectories and not setup.config.evaluation.whole_epochs:
        raise ValueError(
            "--ranking needs experts, whose accuracy stands for the whole set: score a run folder, name them by "
            "--experts, or give --evaluation.whole-epochs"
        )
    if not trajectories and _is_soft(synthetic.Y):
        raise ValueError(
            "--ranking needs experts, by which random images get soft labels as the set has: name --experts"
        )
    if not len(setup.dataset.validation):
        raise ValueError("--images.validation is 0, and the learning rates of --ranking are chosen on such images")


def scores(mean: dict[str, float]) -> dict[str, float]:
    """The scores from mean accuracies by name."""
    recovery = ranking.hard_label_recovery(mean["real"], mean["hard"])
    improvement = ranking.improvement_over_random(mean["any"], mean["random"])
    otherwise = ranking.improvement_over_random(mean["any otherwise"], mean["random otherwise"])
    return {
        "hlr": recovery,
        "ior": improvement,
        "lrs": ranking.label_robust_score(recovery, improvement),
        "ars": ranking.augmentation_robust_score(improvement, otherwise),
    }


def _trials(
    setup: Setup,
    synthetic: SyntheticSet,
    trajectories: list[Trajectory],
    key: str,
    rate: float,
    count: int,
    split: str,
) -> list[Trial]:
    """`count` networks of one kind at one rate; random images are drawn anew for each."""
    config, num_classes, trials = setup.config, setup.dataset.num_classes, []
    for i in range(count):
        X, Y = synthetic.seen
        if key.startswith("random"):
            X, Y = random_set(setup, generator(config.seed, "random real images", i))
            if _is_soft(synthetic.Y):
                Y = _soft(setup.on_cpu(), trajectories, X)
        elif key == "hard":
            Y = one_hot(class_labels(num_classes, config.ipc * synthetic.factor**2), num_classes)
        one = set_trials(key, config, X, Y, rate, i + 1, split)[i]
        if key.endswith("otherwise"):
            other = () if one.recipe.families else families(STANDARD)
            one = one._replace(recipe=one.recipe.augmented(other))
        trials.append(one)
    return trials


def _is_soft(Y: Tensor) -> bool:
    return bool(((Y != 0) & (Y != 1)).any())


@torch.no_grad()
def _soft(setup: Setup, trajectories: list[Trajectory], X: Tensor) -> Tensor:
    """The experts' mean probabilities (n, C) for images (n, c, h, w)."""
    forward = engines.forward(setup.network, setup.engine)
    return torch.stack([forward(t.row(t.num_rows - 1), X).softmax(1) for t in trajectories]).mean(0)


def lines(found: dict[str, Any]) -> list[str]:
    """The scores and their accuracies as text."""
    names = {
        "hlr": "hard-label recovery (lower is better)",
        "ior": "improvement over random images",
        "lrs": "label-robust score",
        "ars": "augmentation-robust score",
    }
    return [
        *score_lines(found["accuracy"], {**TITLES, "real": "the whole data set"}),
        *as_text([{"of": title, "score": f"{found[key]:.4f}"} for key, title in names.items()], head=False),
    ]
