"""Truncated unrolling and SATM's ascent for another problem than dataset condensation: which labels can be trusted.

A third of the labels of a training set are wrong. Each training example j has a weight sigmoid(x_j), and a linear
classifier theta is trained on the weighted loss for T steps of SGD; its loss on a few clean validation images is the
outer loss, which is differentiated with respect to all x_j. The functions of `trajmatch.core` know nothing of images:
what they call X is any tensor that the inner loss depends on.

    python examples/other_bilevel.py        (half a minute on one core; its output is other_bilevel.txt)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trajmatch.core.descent import Adam, new_moments
from trajmatch.core.draws import derive, generator, smoothing_noise
from trajmatch.core.hypergradient import Hypergradient, sweep
from trajmatch.core.inner import Iterates, Problem, rollout
from trajmatch.core.sharpness import SAM
from trajmatch.core.student import plain
from trajmatch.data.images import load

STEPS, RATE, WRONG = 60, 0.5, 1 / 3


@dataclass(frozen=True)
class Noisy:
    """The digits with labels of which a share is wrong: images (n, d), labels (n, C) one-hot."""

    x: Tensor
    y: Tensor
    is_wrong: Tensor
    clean_x: Tensor
    clean_y: Tensor
    test_x: Tensor
    test_y: Tensor


def noisy_digits(seed: int, dtype: torch.dtype = torch.float32) -> Noisy:
    """300 training images, of which a third have another label than theirs, and 50 clean ones; all test images."""
    digits = load("digits", seed=seed)
    source = generator(seed, "wrong labels")
    x, clean, test = (split.x.flatten(1).to(dtype) / 255 for split in (digits.train, digits.validation, digits.test))
    rows = torch.randperm(len(x), generator=source)[:300]
    few = torch.randperm(len(clean), generator=source)[:50]
    labels = digits.train.y[rows]
    is_wrong = torch.rand(300, generator=source) < WRONG
    other = (labels + torch.randint(1, 10, (300,), generator=source)) % 10
    y = F.one_hot(torch.where(is_wrong, other, labels), 10).to(dtype)
    return Noisy(x[rows], y, is_wrong, clean[few], digits.validation.y[few], test, digits.test.y)


def outputs(theta: Tensor, x: Tensor) -> Tensor:
    """A linear classifier of images x (n, d), whose weights and biases are one flat theta ((d + 1) C,)."""
    w = theta.view(x.shape[1] + 1, -1)
    return x @ w[:-1] + w[-1]


def weighted(data: Noisy) -> Problem:
    """The inner problem: every step sees all examples; z (n, 1) are what their weights are made of."""

    def loss(theta: Tensor, z: Tensor, y: Tensor) -> Tensor:
        each = -(y * F.log_softmax(outputs(theta, data.x), 1)).sum(1)
        return (z.squeeze(1).sigmoid() * each).mean()

    return Problem(lambda logits, labels, i: (logits, labels), plain(loss))


def validation_loss(data: Noisy) -> Callable[[Tensor], Tensor]:
    """The outer loss, a function of theta alone."""
    return lambda theta: F.cross_entropy(outputs(theta, data.clean_x), data.clean_y)


def differentiated(
    problem: Problem, outer: Callable[[Tensor], Tensor], thetas: Iterates, logits: Tensor, labels: Tensor, iota: int
) -> tuple[Tensor, Hypergradient]:
    """The outer loss at the end of a trajectory, and its derivatives through the last iota inner steps.

    The cotangent q of the last weights is all that `sweep` asks of an outer loss.
    """
    last = thetas[thetas.last].detach().requires_grad_()
    loss = outer(last)
    (q,) = torch.autograd.grad(loss, last)
    since = max(thetas.first, thetas.last - iota)
    return loss.detach(), sweep(problem, thetas, q, logits, labels, last.new_tensor(RATE), since)


@dataclass(frozen=True)
class Method:
    """How the outer loss is differentiated: the last iota of T inner steps, at logits moved by an ascent of radius rho.

    gamma: strength of the ascent's smoothing noise. The second trajectory starts where differentiation begins.
    """

    inner: int
    iota: int
    rho: float = 0.0
    gamma: float = 0.0


def direction(method: Method, data: Noisy, logits: Tensor, start: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The outer loss and the direction to descend along: SATM's step without its parts for condensation."""
    problem, outer, eta = weighted(data), validation_loss(data), start.new_tensor(RATE)
    moved = logits + smoothing_noise(logits, method.gamma, generator(seed, "noise")) if method.gamma else logits
    thetas = rollout(problem, start, moved, data.y, eta, method.inner)
    loss, d = differentiated(problem, outer, thetas, moved, data.y, method.iota)
    if not method.rho:
        return loss, d.X
    rule = SAM(method.rho)
    moved = logits + rule.perturbation(d.X, logits, torch.zeros_like(logits)).eps
    tau = method.inner - method.iota  # what came before is reused
    thetas = rollout(problem, thetas[tau], moved, data.y, eta, method.inner, first=tau)
    loss, ahead = differentiated(problem, outer, thetas, moved, data.y, method.iota)
    return loss, rule.direction(d.X, ahead.X)


def learned(method: Method, data: Noisy, seed: int, steps: int = STEPS) -> Tensor:
    """Logits (n, 1) of the examples' weights after so many outer steps of Adam."""
    logits = torch.full((len(data.x), 1), 0.1, dtype=data.x.dtype)
    adam, moments = Adam(0.1), new_moments(logits)
    for step in range(steps):
        start = torch.zeros((data.x.shape[1] + 1) * data.y.shape[1], dtype=data.x.dtype)
        _, d = direction(method, data, logits, start, derive(seed, "step", step))
        logits, moments = adam.step(logits, d, moments, step)
    return logits


def accuracy(data: Noisy, logits: Tensor, steps: int) -> float:
    """Test accuracy of a classifier that is trained with these weights."""
    start = torch.zeros((data.x.shape[1] + 1) * data.y.shape[1], dtype=data.x.dtype)
    theta = rollout(weighted(data), start, logits, data.y, start.new_tensor(RATE), steps, kept=())[steps]
    return float((outputs(theta, data.test_x).argmax(1) == data.test_y).double().mean())


METHODS = {
    "all examples alike": None,
    "exact, 60 inner steps": Method(60, 60),
    "the last 20 of 60": Method(60, 20),
    "the last 20 of 60, ascent": Method(60, 20, rho=1.0, gamma=0.05),
}


def main(seeds: int = 3, steps: int = STEPS) -> None:
    """Print test accuracies and weights of right and wrong examples, means over seeds."""
    torch.set_num_threads(1)
    print(f"{'outer gradient':<26} {'accuracy':>8} {'weight of right':>16} {'of wrong':>9}")
    for name, method in METHODS.items():
        rows = []
        for seed in range(seeds):
            data = noisy_digits(seed)
            even = torch.full((len(data.x), 1), 0.1)
            logits = even if method is None else learned(method, data, seed, steps)
            weights = logits.sigmoid().squeeze(1)
            means = weights[~data.is_wrong].mean(), weights[data.is_wrong].mean()
            rows.append(torch.tensor([accuracy(data, logits, 60), *means]))
        found = torch.stack(rows).mean(0).tolist()
        print(f"{name:<26} {found[0]:>8.1%} {found[1]:>16.2f} {found[2]:>9.2f}")


if __name__ == "__main__":
    main()
