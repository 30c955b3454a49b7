"""The inner problem: training on the synthetic set by SGD (method.md section 1).

Legend: n images in a mini-batch, C classes, P parameters, T inner steps.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vjp

from trajmatch.core.augment import Draw, augment, draw
from trajmatch.core.draws import batches
from trajmatch.core.student import Student
from trajmatch.core.tiles import enlarged, tiles

View = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
# (i, the iterate before step i, the one after it).
Seen = Callable[[int, Tensor, Tensor], None]


class Problem(NamedTuple):
    """The inner problem, split in two so that the view never enters a second derivative (method.md section 2).

    view: (X, Y, i) -> (z, y), the augmented mini-batch of inner step i.
    student: the loss l(f(theta; z), y) and its derivatives.
    """

    view: View
    student: Student


def training_view(b: list[Tensor], a: list[Draw], factor: int = 1) -> View:
    """The view of mini-batches b_i and augmentations a_i; where b_i takes the whole set, it copies nothing.

    factor: tiles along each side of an image, each of which is seen at full size (core/tiles.py); b_i counts tiles.
    """

    def view(X: Tensor, Y: Tensor, i: int) -> tuple[Tensor, Tensor]:
        if factor > 1:
            index = b[i].to(X.device, non_blocking=True)
            return augment(enlarged(tiles(X, factor)[index], factor), a[i]), Y[index // factor**2]
        if len(b[i]) < len(X) or not torch.equal(b[i], torch.arange(len(X))):
            index = b[i].to(X.device, non_blocking=True)  # a GPU need not wait for it
            X, Y = X[index], Y[index]
        return augment(X, a[i]), Y

    return view


class Memory(NamedTuple):
    """Images of classes that are not condensed, which each inner step takes beside those that are: constants.

    X, Y:  (m, c, h, w) images as a network sees them, and (m, C) labels among all C classes.
    batch: images of each inner step, at most m.
    share: of a loss on all classes that is theirs: their classes among the C.
    """

    X: Tensor
    Y: Tensor
    batch: int
    share: float = 0.0


def replayed(view: View, memory: Memory, a: list[Draw], source: torch.Generator) -> View:
    """The view with a mini-batch of the memory behind each mini-batch of the synthetic images.

    A mini-batch is augmented by one family, as where networks are trained on all images together: that of a_i.
    The memory's mini-batches, and the parameters of its augmentations, are drawn from `source`, one for each a_i.
    """
    stream = batches(len(memory.X), memory.batch, source)
    chosen = [next(stream) for _ in a]
    drawn = [a_i._replace(u=draw(len(index), (), source).u) for index, a_i in zip(chosen, a, strict=True)]

    def beside(X: Tensor, Y: Tensor, i: int) -> tuple[Tensor, Tensor]:
        z, y = view(X, Y, i)
        old_X, old_Y = (t[chosen[i].to(t.device, non_blocking=True)].to(y) for t in memory[:2])
        return torch.cat([z, augment(old_X, drawn[i])]), torch.cat([y, old_Y])

    return beside


def pulled_view(
    problem: Problem, X: Tensor, Y: Tensor, i: int
) -> tuple[tuple[Tensor, Tensor], Callable[[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]]:
    """(z, y) of inner step i, and the pull-back that takes derivatives in them to derivatives in (X, Y)."""
    # Three values only with `has_aux`, which the stubs do not tell apart.
    seen, pull = vjp(lambda X, Y: problem.view(X, Y, i), X, Y)  # type: ignore[misc]
    return seen, pull


def inner_gradient(problem: Problem, theta: Tensor, X: Tensor, Y: Tensor, i: int) -> Tensor:
    """u_i = grad_theta l(f(theta; aug(X[b_i]; a_i)), Y[b_i])   (P,), a constant."""
    with torch.no_grad():
        z, y = problem.view(X, Y, i)
    return problem.student.gradient(theta.detach(), z, y)


class Iterates:
    """theta_first ... theta_last of one trajectory, each (P,) and a constant, by their step; Adam's are (3, P).

    Those that are not kept are computed again when they are asked for, from the last kept one before them and up to
    the next, which are then at hand: going backwards through all of them computes each at most once more.
    """

    def __init__(self, first: int, last: int, again: Callable[[Tensor, int], Tensor]) -> None:
        """again: (theta_i, i) -> theta_{i+1}, the inner step."""
        self.first, self.last, self._again = first, last, again
        self._kept: dict[int, Tensor] = {}
        self._between: dict[int, Tensor] = {}

    def keep(self, i: int, theta: Tensor) -> None:
        """Keep theta_i."""
        self._kept[i] = theta

    def __getitem__(self, i: int) -> Tensor:
        """theta_i, for first <= i <= last."""
        if not self.first <= i <= self.last:
            raise IndexError(f"theta_{i} is not among theta_{self.first} to theta_{self.last}")
        if i in self._kept:
            return self._kept[i]
        if i not in self._between:
            start = max(j for j in self._kept if j < i)
            self._between, theta = {}, self._kept[start]
            for j in range(start, min(k for k in self._kept if k > i) - 1):
                theta = self._again(theta, j)
                self._between[j + 1] = theta
        return self._between[i]

    def until(self, last: int) -> "Iterates":
        """theta_first ... theta_last of them."""
        found = Iterates(self.first, last, self._again)
        found._kept = {i: theta for i, theta in self._kept.items() if i < last}
        found.keep(last, self[last])
        return found

    def part(self, first: int, last: int) -> "Iterates":
        """theta_first ... theta_last of them, with those of them that are kept, and the two ends."""
        found = Iterates(first, last, self._again)
        found._kept = {i: theta for i, theta in self._kept.items() if first <= i <= last}
        for end in (last, first):
            found.keep(end, self[end])
        return found


def rollout(
    problem: Problem,
    start: Tensor,
    X: Tensor,
    Y: Tensor,
    eta: Tensor,
    T: int,
    first: int = 0,
    kept: Collection[int] | None = None,
    seen: Seen | None = None,
) -> Iterates:
    """theta_first = start, theta_{i+1} = theta_i - eta u_i, ..., theta_T.

    kept: the steps whose iterates stay in memory (the first and the last always do); None keeps all T - first + 1.
    seen: is told every step. Cost: T - first inner gradients; memory of one, beside the iterates.
    """

    def step(theta: Tensor, i: int) -> Tensor:
        return theta - eta * inner_gradient(problem, theta, X, Y, i)

    return rolled(step, start, first, T, kept, seen)


def rolled(
    step: Callable[[Tensor, int], Tensor],
    start: Tensor,
    first: int,
    T: int,
    kept: Collection[int] | None,
    seen: Seen | None = None,
) -> Iterates:
    """The iterates of any inner step, (theta_i, i) -> theta_{i+1}, from `start` at step `first` to step T."""
    thetas, theta = Iterates(first, T, step), start
    thetas.keep(first, start)
    for i in range(first, T):
        before, theta = theta, step(theta, i)
        if seen is not None:
            seen(i, before, theta)
        if kept is None or i + 1 == T or i + 1 in kept:
            thetas.keep(i + 1, theta)
    return thetas
