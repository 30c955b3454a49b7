"""RaT-BPTT: the loss on real images after training on synthetic ones, through a random window of that training.

arXiv 2310.03761, with two departures: the inner optimiser is SGD at the learned step size where theirs is Adam, for the
sweep is of SGD; and its place in a run is that of an outer step, so that sharpness and segments play no part.
Legend: n synthetic images, B real ones, C classes, P parameters, T inner steps, iota of them differentiated.
"""

from dataclasses import replace

import torch
from torch import Tensor

from trajmatch.core.draws import generator
from trajmatch.core.hypergradient import Hypergradient, sweep
from trajmatch.core.inner import Problem, rollout
from trajmatch.core.rate import is_valid_rate
from trajmatch.core.student import Student
from trajmatch.methods.outer import Rule, descend, inner_problem
from trajmatch.methods.state import OuterState, Record


def window_end(rule: Rule, seed: int, step: int) -> int:
    """The step at which the trajectory ends, uniform in iota..T: the window is the iota steps before it."""
    return int(torch.randint(rule.iota, rule.T + 1, (), generator=generator(seed, "window", step)))


def real_loss_gradient(
    problem: Problem,
    start: Tensor,
    X: Tensor,
    Y: Tensor,
    eta: Tensor,
    real: tuple[Tensor, Tensor],
    iota: int,
    end: int,
) -> tuple[Tensor, Hypergradient]:
    """Loss on real images (B, c, h, w) with labels (B, C) after `end` steps, and its derivative through the last iota.

    It is the sweep with q = d loss / d theta in place of the matching loss's. Cost: `end` gradients, iota sweep steps.
    """
    thetas = rollout(problem, start, X, Y, eta, end, kept=range(end - iota, end))
    theta = thetas[end]
    with torch.no_grad():
        loss = problem.student.loss(theta, *real)
    q = problem.student.gradient(theta, *real)
    return loss.detach(), sweep(problem, thetas, q, X, Y, eta, since=end - iota)


def real_loss_step(
    rule: Rule, student: Student, fresh: Tensor, state: OuterState, real: tuple[Tensor, Tensor], seed: int
) -> tuple[OuterState, Record]:
    """One outer step from a new random network, weights `fresh` (P,). A pure function of its arguments."""
    step = int(state.steps)
    problem = inner_problem(rule, student, len(state.X), seed, step)
    end = window_end(rule, seed, step)
    loss, d = real_loss_gradient(problem, fresh, state.X, state.Y, state.eta, real, rule.iota, end)
    after = descend(replace(rule, labels="fixed"), state, d.X, d.Y, d.eta)
    healthy = torch.isfinite(loss) & after.X.isfinite().all() & is_valid_rate(after.eta)
    return after, Record(loss, None, d.X.norm(), state.eta, None, healthy)
