"""What a hypergradient costs: inner problems of a given size, seconds, and memory at the peak.

Legend: n images of c x h x w, C classes, P parameters, T inner steps.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trajmatch.core.augment import STANDARD, draw, families
from trajmatch.core.draws import generator
from trajmatch.core.estimators import ESTIMATORS, Estimator, Task
from trajmatch.core.inner import Problem, training_view
from trajmatch.core.student import Student

FAMILIES = families(STANDARD)
STEP_SIZE = 0.01
# Inner steps of the computation that goes before the one whose memory is measured.
FIRST = 2


def estimator(name: str, T: int) -> Estimator:
    """An estimator by its name.

    An estimator that differentiates a part of the steps differentiates a third of them; a window ends at two thirds.
    """
    return ESTIMATORS[name](max(1, T // 3), max(1, 2 * T // 3))


def whole_batches(
    student: Student, s: Tensor, g: Tensor, X: Tensor, Y: Tensor, T: int, source: torch.Generator
) -> Task:
    """The segment from `s` to `g` (P,), to be matched on X (n, c, h, w) and Y (n, C) with all images in every step.

    source: draws the augmentation of every step.
    """
    n = len(X)
    view = training_view([torch.arange(n)] * T, [draw(n, FAMILIES, source) for _ in range(T)])
    eta = torch.tensor(STEP_SIZE, dtype=X.dtype, device=X.device)
    return Task(Problem(view, student), s, g, X, Y, eta, T)


def random_task(student: Student, s: Tensor, n: int, shape: tuple[int, int, int], classes: int, T: int) -> Task:
    """A segment from `s` (P,) to random weights, on random images: the values of both cost nothing."""
    source = generator(0, "cost")
    X = torch.randn(n, *shape, generator=source).to(s.device)
    Y = torch.eye(classes)[torch.arange(n) % classes].to(s.device)
    g = s + 0.1 * s.abs().mean() * torch.randn(s.shape, generator=source).to(s.device)
    return whole_batches(student, s, g, X, Y, T, source)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def alternating(sides: Sequence[Callable[[], Any]], rounds: int, device: torch.device) -> list[list[float]]:
    """Seconds of every side in every round; in each round all sides run once, every other round backwards.

    What the machine does beside the measurement then falls on all sides alike. Each side must have been called before.
    """
    seconds: list[list[float]] = [[0.0] * rounds for _ in sides]
    for r in range(rounds):
        order = range(len(sides)) if r % 2 == 0 else reversed(range(len(sides)))
        for k in order:
            synchronise(device)
            began = time.perf_counter()
            sides[k]()
            synchronise(device)
            seconds[k][r] = time.perf_counter() - began
    return seconds


def peak_memory(
    make: Callable[[int], Callable[[], Any]], T: int, peak_over_base: Callable[[Callable[[], Any]], float]
) -> float:
    """MB that a computation of T inner steps holds at its peak over what the process held before.

    make: T -> computation. A short computation runs first, for then libraries load and compile, which is not the
    estimator's memory. peak_over_base: calls a computation and tells its peak, as the machine counts memory.
    """
    make(FIRST)()
    return peak_over_base(make(T))
