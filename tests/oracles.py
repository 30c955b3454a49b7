"""Independent references: a quadratic whose every estimator has a closed form, a small network, finite differences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trajmatch.core.augment import FAMILIES, Draw
from trajmatch.core.estimators import Task
from trajmatch.core.inner import Problem, training_view
from trajmatch.core.loss import cross_entropy
from trajmatch.core.mixed import MIXED
from trajmatch.core.student import plain
from trajmatch.core.vector import functional
from trajmatch.data.networks.convnet import build, convnet

F64 = torch.float64


def random(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|; the reference must not be trivial."""
    found, wanted = found.detach(), wanted.detach()
    assert wanted.norm() > 1e-12, "a reference of zeros proves nothing"
    return float((found - wanted).norm() / wanted.norm())


@dataclass(frozen=True)
class Quadratic:
    """l(theta; x) = (theta - x)' A (theta - x) / 2 with one "image" x of P numbers; R = I - eta A."""

    A: Tensor
    x: Tensor
    s: Tensor
    g: Tensor
    eta: Tensor

    @classmethod
    def make(cls, P: int = 5, seed: int = 0) -> "Quadratic":
        """A random positive definite A with eta |A| < 1."""
        B = random(P, P, seed=seed)
        A = B @ B.T / P + 0.3 * torch.eye(P, dtype=F64)
        eta = 0.7 / torch.linalg.matrix_norm(A, 2)
        return cls(A, random(P, seed=seed + 1), random(P, seed=seed + 2), random(P, seed=seed + 3), eta)

    @property
    def problem(self) -> Problem:
        """The inner problem; labels play no part."""
        return self.problem_by("reverse-over-reverse")

    def problem_by(self, mixed: str) -> Problem:
        """The same with a mixed derivative of another kind."""

        def loss(theta: Tensor, z: Tensor, y: Tensor) -> Tensor:
            return (theta - z) @ self.A @ (theta - z) / 2 + 0 * y.sum()

        return Problem(lambda X, Y, i: (X, Y), plain(loss, MIXED[mixed]))

    def power(self, k: int) -> Tensor:
        """R^k."""
        return torch.linalg.matrix_power(torch.eye(len(self.x), dtype=F64) - self.eta * self.A, k)

    def theta(self, k: int) -> Tensor:
        """theta_k = x + R^k (s - x)."""
        return self.x + self.power(k) @ (self.s - self.x)

    def cotangent(self, T: int) -> Tensor:
        """q."""
        return 2 * (self.theta(T) - self.g) / (self.s - self.g).square().sum()


Y0 = torch.zeros(1, dtype=F64)


@dataclass(frozen=True)
class Small:
    """A small ConvNet's inner problem in float64 with given draws."""

    problem: Problem
    s: Tensor
    g: Tensor
    X: Tensor
    Y: Tensor
    eta: Tensor
    T: int

    @property
    def task(self) -> Task:
        """What an estimator is asked for: all T steps from s."""
        return Task(self.problem, self.s, self.g, self.X, self.Y, self.eta, self.T)


def small(
    families: Sequence[str], n: int = 7, batch: int | None = None, seed: int = 0, mixed: str = "reverse-over-reverse"
) -> Small:
    """One inner step per family; mini-batches in an order with a short last chunk where `batch` is given."""
    network, theta = build(lambda: convnet((2, 8, 8), 3, depth=2, width=4), 5)
    network.double()
    s = theta.double()
    g = s + 0.1 * random(len(s), seed=seed + 10)
    T, source = len(families), torch.Generator().manual_seed(seed)
    order = [torch.randperm(n, generator=source) for _ in range(T)]
    chunks = [chunk for permutation in order for chunk in permutation.split(batch or n)]
    b = [torch.arange(n)] * T if batch is None else chunks[:T]
    a = [Draw(f, torch.rand(len(i), 3, generator=source, dtype=F64)) for f, i in zip(families, b, strict=True)]
    X, Y = random(n, 2, 8, 8, seed=seed + 11), random(n, 3, seed=seed + 12).softmax(1)
    problem = Problem(training_view(b, a), plain(cross_entropy(functional(network)), MIXED[mixed]))
    return Small(problem, s, g, X, Y, torch.tensor(0.2, dtype=F64), T)


ALL_FAMILIES = tuple(FAMILIES)


def central_difference(f: Callable[[float], float], step: float) -> float:
    """df/dt at 0 to fourth order."""
    return (8 * (f(step) - f(-step)) - (f(2 * step) - f(-2 * step))) / (12 * step)
