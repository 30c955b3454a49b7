"""Every estimator of the hypergradient behind one signature: task -> Estimate (method.md section 2, its table).

Legend: n images of c x h x w, C classes, P parameters, T inner steps, iota of them differentiated.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from trajmatch.core.hypergradient import Hypergradient, sweep
from trajmatch.core.inner import Iterates, Problem, pulled_view, rollout
from trajmatch.core.matching import matching, nearest
from trajmatch.core.rate import first_order_rate, is_valid_rate
from trajmatch.core.student import Student


class Task(NamedTuple):
    """A trajectory to be matched and differentiated.

    problem: the inner problem, with its mini-batches and augmentations.
    s, g:    (P,) start and end of the expert's segment.
    X, Y:    (n, c, h, w) images and (n, C) labels of the synthetic set.
    eta:     () step size of the inner steps.
    T:       number of the last iterate.
    first:   number of the iterate from which the student starts.
    start:   (P,) that iterate, a constant; None starts the student from s at step 0.
    kept:    inner steps whose iterates stay in memory, None for all; the others are computed again when needed.
    stacked: whether the task is K tasks at once (`stack`), in which all tensors but eta have K in front.
    early:   whether the trajectory ends at the iterate behind the first that is nearest to g, by the sum of absolute
             differences, the last of equals (ATT, arXiv 2407.14245), and not at theta_T. Not of K tasks at once.
    alpha:   share of the weights that L leaves out (`core.matching.hard`).
    """

    problem: Problem
    s: Tensor
    g: Tensor
    X: Tensor
    Y: Tensor
    eta: Tensor
    T: int
    first: int = 0
    start: Tensor | None = None
    kept: Collection[int] | None = None
    stacked: bool = False
    early: bool = False
    alpha: float = 0.0

    @property
    def origin(self) -> Tensor:
        """theta_first."""
        return self.s if self.start is None else self.start

    def rollout(self, T: int) -> Iterates:
        """The iterates up to the one that is matched: theta_T, or with an early stop one at or before it."""
        about = self.problem, self.origin, self.X, self.Y, self.eta, T, self.first, self.kept
        if not self.early:
            return rollout(*about)
        distances: list[Tensor] = []
        thetas = rollout(*about, seen=lambda i, before, theta: distances.append(_apart(theta, self.g)))
        return thetas.until(self.first + 1 + nearest(distances))

    def matching(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """L and q of a student that arrived at theta."""
        return matching(theta, self.s, self.g, self.alpha)


def _apart(theta: Tensor, g: Tensor) -> Tensor:
    """|theta - g|_1, a constant."""
    return (theta.detach() - g).abs().sum()


class Estimate(NamedTuple):
    """What an estimator gives for one task.

    thetas: the iterates of the trajectory, up to the one that is matched.
    loss:   () the matching loss L.
    q:      (P,) cotangent of L at the last iterate.
    d:      dL/d(X, Y, eta).
    """

    thetas: Iterates
    loss: Tensor
    q: Tensor
    d: Hypergradient


Estimator = Callable[[Task], Estimate]


def check(task: Task, iota: int = 1) -> None:
    """Raise ValueError for a task that has no hypergradient, or not the one that was asked for.

    iota: the steps to be differentiated. A trajectory that goes on from another (first > 0) was checked with it. Only
    on a CPU eta is read: another device would have to be waited for.
    """
    if not 1 <= iota <= task.T:
        raise ValueError(f"iota is {iota} and must be at least 1 and at most T, {task.T}")
    if task.first > 0:
        return
    if task.eta.device.type == "cpu" and not bool(is_valid_rate(task.eta)):
        raise ValueError(f"eta is {float(task.eta)} and must be finite and positive")
    if task.early and task.stacked:
        raise ValueError("an early stop takes one segment at a time")
    X = task.X.detach().requires_grad_()
    with torch.enable_grad():
        z, _ = task.problem.view(X, task.Y.detach(), 0)
    if not z.requires_grad:
        raise ValueError("view: the images it returns must depend on X differentiably, and they are constants")


def stack(tasks: Sequence[Task], student: Student) -> Task:
    """K tasks of one X, eta and T as one, for a student of K networks at once (`core.student.stacked`).

    Its estimates have K in front: thetas (K, P), loss (K,), dX (K, n, c, h, w), dY (K, n, C), deta (K,).
    """
    views = [task.problem.view for task in tasks]

    def view(X: Tensor, Y: Tensor, i: int) -> tuple[Tensor, Tensor]:
        pairs = [one(X[k], Y[k], i) for k, one in enumerate(views)]
        return torch.stack([z for z, _ in pairs]), torch.stack([y for _, y in pairs])

    s, g, X, Y = (torch.stack([getattr(task, name) for task in tasks]) for name in ("s", "g", "X", "Y"))
    return tasks[0]._replace(problem=Problem(view, student), s=s, g=g, X=X, Y=Y, stacked=True)


def unrolled(task: Task) -> Estimate:
    """One autograd graph through all inner steps, as MTT and FTD do: the reference. It keeps every iterate.

    Cost: as the sweep over all steps; memory grows with T, a full double-backward graph for each step.
    """
    check(task)
    if task.stacked:
        raise ValueError("unrolled takes one segment at a time")
    problem, start = task.problem, task.origin
    inputs = [t.detach().requires_grad_() for t in (task.X, task.Y, task.eta)]
    thetas, graph = Iterates(task.first, task.T, _never), list[Tensor]()
    thetas.keep(task.first, start)
    with torch.enable_grad():
        theta = start.detach().requires_grad_()
        for i in range(task.first, task.T):
            z, y = problem.view(inputs[0], inputs[1], i)
            (u,) = torch.autograd.grad(problem.student.loss(theta, z, y), theta, create_graph=True)
            theta = theta - inputs[2] * u
            thetas.keep(i + 1, theta.detach())
            if task.early:
                graph.append(theta)
        if task.early:
            k = nearest([_apart(one, task.g) for one in graph])
            theta, thetas = graph[k], thetas.until(task.first + 1 + k)
        L, q = task.matching(theta)
        dX, dY, deta = torch.autograd.grad(L, inputs, allow_unused=True, materialize_grads=True)
    return Estimate(thetas, L.detach(), q.detach(), Hypergradient(dX, dY, deta))


def _never(theta: Tensor, i: int) -> Tensor:
    raise AssertionError("every iterate is kept")


def adjoint(task: Task) -> Estimate:
    """The exact hypergradient by the sweep over all steps, with the memory of one of them."""
    check(task)
    return _swept(task, task.T, task.T)


def truncated(iota: int) -> Estimator:
    """The sweep over the last iota steps (SATM eq. 8): exact where that is all of them.

    A trajectory that starts late (first > T - iota) is differentiated from its start.
    """

    def estimate(task: Task) -> Estimate:
        check(task, iota)
        return _swept(task, iota, task.T)

    return estimate


def random_window(iota: int, end: int) -> Estimator:
    """The sweep over the iota steps before step `end`, which the caller draws; the trajectory ends there (RaT-BPTT).

    The estimator raises ValueError for an end that is not after the task's first step and within its T.
    """

    def estimate(task: Task) -> Estimate:
        check(task, iota)
        if not task.first < end <= task.T:
            raise ValueError(f"end is {end} and must be above {task.first} and at most {task.T}")
        return _swept(task, iota, end)

    return estimate


def _swept(task: Task, iota: int, T: int) -> Estimate:
    thetas = task.rollout(T)
    loss, q = task.matching(thetas[thetas.last])
    since = max(task.first, thetas.last - iota)
    d = sweep(task.problem, thetas, q, task.X, task.Y, task.eta, since)
    return Estimate(thetas, loss, q, d)


def tesla(task: Task, halved: bool = False) -> Estimate:
    """The sweep with every adjoint a_{i+1} replaced by q, dropping d theta_i / dX (TESLA, arXiv 2211.10586).

    Two passes, as published, for q is known after the first. Biased. The published program forgets the factor 2 of q
    for X and Y besides; `halved` does so too, to repeat its runs at its learning rates. Cost: per step a gradient, and
    a mixed derivative in the inputs alone.
    """
    check(task)
    problem, X, Y, eta, thetas = task.problem, task.X, task.Y, task.eta, task.rollout(task.T)
    T = thetas.last
    loss, q = task.matching(thetas[T])
    dX, dY = torch.zeros_like(X), torch.zeros_like(Y)
    for i in reversed(range(task.first, T)):
        (z, y), pull = pulled_view(problem, X, Y, i)
        h_X, h_Y = pull(problem.student.inputs_alone(thetas[i], z, y, q))
        dX, dY = dX - eta * h_X, dY - eta * h_Y
    factor = 0.5 if halved else 1.0
    deta = first_order_rate(q, thetas[task.first], thetas[T], eta)
    return Estimate(thetas, loss, q, Hypergradient(factor * dX, factor * dY, deta))


# Every estimator by the name that settings and tables give it: (iota, end) -> Estimator. Only a truncated sweep and a
# random window heed `iota`, the number of differentiated steps, and only a random window heeds `end`, its last step.
ESTIMATORS: dict[str, Callable[[int, int], Estimator]] = {
    "adjoint": lambda iota, end: adjoint,
    "unrolled": lambda iota, end: unrolled,
    "truncated": lambda iota, end: truncated(iota),
    "random-window": random_window,
    "tesla": lambda iota, end: tesla,
    "tesla-halved": lambda iota, end: partial(tesla, halved=True),
}
