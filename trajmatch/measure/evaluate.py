"""Accuracy of a network trained from scratch on a set: the one protocol (README.md, "What the numbers mean").

Legend: n images of c x h x w, C classes.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trajmatch.core.draws import derive
from trajmatch.core.loss import cross_entropy
from trajmatch.core.loss import gradient as gradient_of
from trajmatch.core.student import Gradient
from trajmatch.core.vector import keeps_statistics, with_parameters
from trajmatch.data.networks.convnet import build
from trajmatch.methods import engines
from trajmatch.methods.engines import EAGER, Engine
from trajmatch.methods.training import Training, answers, train


@dataclass(frozen=True)
class Score:
    """What some accuracies in [0, 1] come to.

    mean: their mean.
    std:  their population standard deviation.
    n:    their number.
    how:  how they were obtained, in words.
    """

    mean: float
    std: float
    n: int
    how: str

    @classmethod
    def of(cls, accuracies: Sequence[float], how: str) -> "Score":
        """The score of some accuracies. Population standard deviation, as the published programs print it."""
        return cls(statistics.fmean(accuracies), statistics.pstdev(accuracies), len(accuracies), how)

    @property
    def error(self) -> float | None:
        """Standard error of the mean, from the unbiased variance; None where there is one accuracy alone."""
        return self.std / (self.n - 1) ** 0.5 if self.n > 1 else None

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.mean:.2%} +- {self.std:.2%} (n = {self.n})"


def train_and_test(
    factory: Callable[[], nn.Module],
    X: Tensor,
    Y: Tensor,
    recipe: Training,
    test_x: Tensor,
    test_y: Tensor,
    seed: int,
    engine: Engine = EAGER,
    tell: Callable[[Tensor], object] = lambda given: None,
) -> float:
    """Accuracy on test_x of one network, initialised from `seed`, trained on X (n, c, h, w) with labels Y (n, C).

    tell: is told the class that the network gives each test image, (m,) for m images.
    The network is tested once, at the end: nothing is chosen here. Batch norm keeps running statistics in training and
    is tested with them; dropout is on in training, as `seed` says, and off in the test.
    """
    network, theta = build(factory, derive(seed, "weights"))
    network, theta = network.to(X.device).train(), theta.to(X.device)
    stateful = keeps_statistics(network) is not None
    gradient = gradient_with_state(network) if stateful else engines.student(network, engine).gradient
    with torch.random.fork_rng(devices=[X.device] if X.device.type == "cuda" else []):
        torch.manual_seed(derive(seed, "dropout"))
        for now in train(gradient, theta, X, Y, recipe, derive(seed, "batches")):
            theta = now.theta
    network.eval()
    forward = with_parameters(network) if stateful else engines.forward(network, engine)
    given = answers(forward, theta, test_x)
    tell(given)
    return int((given == test_y).sum()) / len(test_x)


def gradient_with_state(network: nn.Module) -> Gradient:
    """The gradient of the cross-entropy, of a network whose buffers change with every call."""
    return partial(gradient_of, cross_entropy(with_parameters(network)))
