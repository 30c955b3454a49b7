"""Random real images in a set's place: what the set has to beat, at the set's learning rate and at a rate of their own.

One draw says little: at one image per class the accuracies of two draws may lie ten points apart. So there are many
draws where a network is trained in a second, and the standard error of their mean is told.
Legend: n images of c x h x w, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

import torch
from torch import Tensor

from trajmatch.core.draws import generator
from trajmatch.data.material import Material
from trajmatch.data.networks.convnet import build
from trajmatch.data.synthetic import class_labels, draw_real, one_hot
from trajmatch.measure.evaluate import Score
from trajmatch.run.assembly.engine import convolution_flops
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages.trials import Bench, Trial, set_trials
from trajmatch.settings.config import Config
from trajmatch.settings.inputs import Network

# So many times the draws that are asked for, where together they cost no more than 20 seconds of one core at 60 billion
# operations a second.
TIMES, CHEAP = 4, 1.2e12
# Rates among which random images get their own, beside the set's, by recipe.
RATES = {"mtt": (0.001, 0.003, 0.01, 0.03, 0.1), "adamw": (0.0003, 0.001, 0.003)}


def draws(setup: Setup, least: int, network: Network | None = None) -> int:
    """How many draws are scored: `least`, and up to TIMES as many where so many trainings are cheap.

    The number depends on the settings, the images and the network alone, and never on a measured time.
    """
    if least == 0:
        return 0
    e, n = setup.config.evaluation, setup.config.ipc * setup.dataset.num_classes
    assert e.epochs is not None, "resolve() has filled it in"
    like = setup.network if network is None else build(setup.make(network), 0)[0]
    work = 3 * e.epochs * convolution_flops(like, (n, *setup.dataset.shape))  # backwards costs twice as much
    return max(least, min(TIMES * least, int(CHEAP / work) if work else least))


def random_set(setup: Setup, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (n, c, h, w) in the input space and labels (n, C): as many random real ones of each class."""
    dataset, ipc = setup.dataset, setup.config.ipc
    index = draw_real(dataset.train, dataset.num_classes, ipc, source)
    Y = one_hot(class_labels(dataset.num_classes, ipc), dataset.num_classes)
    return setup.material.space.forward(dataset.train.x[index]), Y


def chosen_on(material: Material) -> str:
    """The images that a choice is made by, in words, which say where experts and distillation have seen them."""
    return "validation images" + ("" if material.dataset.held_out else ", which are among the training images too")


@dataclass(frozen=True, eq=False)
class RandomImages:
    """Draws of random real images, on each of which one network is trained.

    count:   draws that are scored on test images; a quarter of them tells on validation images what a rate is worth.
    rates:   learning rates among which validation images choose; the first of equals.
    network: None for the configuration's own.
    """

    setup: Setup
    count: int
    rates: tuple[float, ...]
    network: Network | None = None

    @property
    def few(self) -> int:
        """Draws that tell on validation images what a rate is worth."""
        return ceil(self.count / TIMES)

    @cached_property
    def _sets(self) -> list[tuple[Tensor, Tensor]]:
        seed = self.setup.config.seed
        return [random_set(self.setup, generator(seed, "random real images", i)) for i in range(self.count)]

    def trials(self, key: str, rate: float) -> list[Trial]:
        """A network for each draw at a rate, tested on test images."""
        return self.of(key, rate, self.count, "test")

    def choice(self, key: str = "") -> list[Trial]:
        """Networks at every rate, tested on validation images; `chosen` reads what they come to."""
        here = self.few, "validation"
        return [one for rate in self.rates for one in self.of(f"{key}random at {rate}", rate, *here)]

    def chosen(self, found: dict[str, list[float]], key: str = "") -> tuple[float, dict[str, float]]:
        """The rate that validation images like best, and the mean accuracy on them by rate."""
        validation = {rate: sum(of := found[f"{key}random at {rate}"]) / len(of) for rate in self.rates}
        return max(self.rates, key=validation.__getitem__), {str(rate): mean for rate, mean in validation.items()}

    def of(self, key: str, rate: float, count: int, split: str) -> list[Trial]:
        """A network for each of the first `count` draws at a rate, tested on the images of a split."""
        found: list[Trial] = []
        for i, (X, Y) in enumerate(self._sets[:count]):  # the i-th draw meets the i-th network
            one = set_trials(key, self.setup.config, X, Y, rate, i + 1, split)[i]
            found.append(one._replace(network=self.network))
        return found


def beside_set(setup: Setup, rate: float) -> RandomImages:
    """The draws that stand beside a set whose networks are trained at `rate`."""
    e = setup.config.evaluation
    return RandomImages(setup, draws(setup, e.random_draws), rates_of(setup.config, rate))


def rates_of(config: Config, rate: float) -> tuple[float, ...]:
    """The rates among which random images get their own: that of the set, and those that the recipe may want."""
    return tuple(sorted({rate, *RATES[config.evaluation.recipe]}))


def at_set_rate(accuracies: Sequence[float], how: str, what: str) -> dict[str, Any]:
    """The record of random images at the rate of the set. how: how they were obtained; what: whose rate it is."""
    return _record(accuracies, f"{how}; a new draw for each; the rate is {what}")


def at_own_rate(
    on: Bench, images: RandomImages, found: dict[str, list[float]], how: Callable[[float], str], key: str = ""
) -> dict[str, Any]:
    """The record of random images at the rate that validation images like best; `found` has those of `choice`.

    how: (rate) -> how they were obtained.
    """
    rate, validation = images.chosen(found, key)
    accuracies = on.accuracies(images.trials("random tuned", rate))["random tuned"]
    words = ", ".join(f"{one:.4g}" for one in images.rates)
    chosen = f"the best of {words} by {images.few} of the draws on {chosen_on(images.setup.material)}"
    record = _record(accuracies, f"{how(rate)}; a new draw for each; the rate is {chosen}")
    return {**record, "rate": rate, "validation": validation}


def _record(accuracies: Sequence[float], how: str) -> dict[str, Any]:
    score = Score.of(accuracies, how)
    if score.error is None:
        return score.record()
    return {**score.record(), "how": f"{how}; standard error of the mean {score.error:.2%}", "error": score.error}
