"""A panel: segments with draws of their own, on which several sets are compared.

Legend: S segments, n synthetic images of c x h x w, C classes, P parameters, T inner steps.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trajmatch.core.combine import cosine_matrix, gramian
from trajmatch.core.draws import derive
from trajmatch.core.estimators import Task, adjoint
from trajmatch.core.matching import matching
from trajmatch.core.student import Student
from trajmatch.data.trajectories import Segment
from trajmatch.methods.outer import Rule, inner_problem


def panel(
    rule: Rule, student: Student, segments: Sequence[Segment], X: Tensor, Y: Tensor, eta: Tensor, seed: int
) -> list[Task]:
    """A task for each segment on the set X (n, c, h, w), Y (n, C), at the step size eta.

    b_i and a_i are drawn from (seed, expert, start epoch): the same segment on another set of as many images has the
    same ones, and differs in the set alone.
    """
    return [
        Task(inner_problem(rule, student, len(X), derive(seed, "panel", e, int(t)), 0), s, g, X, Y, eta, rule.T)
        for s, g, e, t in segments
    ]


def matching_loss(task: Task) -> Tensor:
    """The matching loss L () of a task. Cost: T inner gradients."""
    return matching(task._replace(kept=()).rollout(task.T)[task.T], task.s, task.g)[0]


def losses(tasks: Sequence[Task]) -> Tensor:
    """The matching loss L of every task (S,)."""
    return torch.stack([matching_loss(task) for task in tasks])


def cosines(tasks: Sequence[Task]) -> Tensor:
    """Cosines (S, S) between the tasks' exact hypergradients dL/dX. Cost: S sweeps."""
    return cosine_matrix(gramian([adjoint(task).d.X for task in tasks]))


def interference(tasks: Sequence[Task], step: Callable[[Tensor], Tensor]) -> Tensor:
    """Relative changes (S, S) of task b's loss, in column b, after an outer step on task a alone, in row a.

    step: dL_a/dX -> the images after a step along this hypergradient.

    Below zero the step helped the other task, above zero the step harmed that task. Cost: S sweeps and S (S + 1)
    trajectories.
    """
    before = losses(tasks)
    rows = []
    for one in tasks:
        moved = step(adjoint(one).d.X)
        rows.append(losses([task._replace(X=moved) for task in tasks]) / before - 1)
    return torch.stack(rows)


def mean_and_error(samples: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean of equal-shaped tensors and its standard error; the error of one sample is not a number.

    >>> mean_and_error([torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0])])
    (tensor([2., 0.]), tensor([1., 0.]))
    """
    stacked = torch.stack(list(samples))
    if len(stacked) == 1:
        return stacked[0], torch.full_like(stacked[0], torch.nan)
    return stacked.mean(0), stacked.std(0) / len(stacked) ** 0.5
