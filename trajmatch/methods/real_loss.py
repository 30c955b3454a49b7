"""RaT-BPTT: the loss on real images after training on synthetic ones, through a random window of that training.

arXiv 2311.07025, with two departures: the inner optimiser is SGD at the learned step size where theirs is Adam, for the
sweep is of SGD; and its place in a run is that of an outer step, so that sharpness and segments play no part.
AT-BPTT (arXiv 2510.04838) chooses the window's place and length by the gradients on the way: that window is here, with
stages of equal length where the paper switches by thresholds; its low-rank Hessian is not.
Legend: n synthetic images, B real ones, C classes, P parameters, T inner steps, iota of them differentiated.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trajmatch.core.draws import generator
from trajmatch.core.hypergradient import Hypergradient, sweep
from trajmatch.core.inner import Iterates, Problem, rollout
from trajmatch.core.rate import is_valid_rate
from trajmatch.core.student import Student
from trajmatch.methods.outer import Rule, descend, inner_problem
from trajmatch.methods.state import OuterState, Record
from trajmatch.methods.training import images_at_once

CHUNK = 4096


def window_end(rule: Rule, seed: int, step: int) -> int:
    """The step at which the trajectory ends, uniform in iota..T: the window is the iota steps before it."""
    return int(torch.randint(rule.iota, rule.T + 1, (), generator=generator(seed, "window", step)))


@dataclass(frozen=True)
class Adaptive:
    """AT-BPTT's window.

    radius: most inner steps by which the window's length differs from iota (`d`).
    steps:  outer steps of the run.
    """

    radius: int
    steps: int

    def stage(self, step: int) -> int:
        """0, 1 or 2: early, middle or late in the run."""
        return min(2, 3 * step // max(1, self.steps))


def adaptive_window(norms: Tensor, iota: int, radius: int, stage: int, source: torch.Generator) -> tuple[int, int]:
    """The window [start, end) of T inner steps whose gradients have `norms` (T,).

    Early in the run (stage 0) the start is drawn with the probabilities softmax(norms), and the length is iota - d to
    iota + d by the rank that the change of the norm has at the start. In the middle (stage 1) the start is uniform and
    the length iota + d. Late (stage 2) the start is drawn as early and mirrored, and the length is iota - d.
    """
    T = len(norms)
    length = min(T, max(1, iota + (0, radius, -radius)[stage]))
    if stage == 1:
        start = int(torch.randint(0, T - length + 1, (), generator=source))
        return start, start + length
    drawn = int(torch.multinomial(norms.cpu().double().softmax(0), 1, generator=source))
    if stage == 2:
        start = min(max(0, T - drawn - length), T - length)
        return start, start + length
    change = torch.cat([norms.new_zeros(1), norms.diff().abs()])
    rank = int((change < change[drawn]).sum())
    length = min(T, max(1, iota - radius + 2 * radius * rank // T))
    start = min(drawn, T - length)
    return start, start + length


def real_loss_gradient(
    problem: Problem,
    start: Tensor,
    X: Tensor,
    Y: Tensor,
    eta: Tensor,
    real: tuple[Tensor, Tensor],
    iota: int,
    end: int,
    thetas: Iterates | None = None,
) -> tuple[Tensor, Hypergradient]:
    """Loss on real images (B, c, h, w) with labels (B, C) after `end` steps, and its derivative through the last iota.

    The derivative is the sweep's, from q = d loss / d theta in place of the matching loss's q. Cost: `end` gradients
    and iota sweep steps.

    thetas: the weights after each step, where they are known.
    """
    if thetas is None:
        thetas = rollout(problem, start, X, Y, eta, end, kept=range(end - iota, end))
    loss, q = mean_loss(problem.student, thetas[end], *real)
    return loss, sweep(problem, thetas, q, X, Y, eta, since=end - iota)


def mean_loss(student: Student, theta: Tensor, x: Tensor, y: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """The loss on images x (B, c, h, w) with labels y (B, C), and its gradient (P,).

    chunk: images at a time; None takes as many as have the pixels of CHUNK images of 32 x 32.
    """
    loss, q = torch.zeros((), dtype=theta.dtype, device=theta.device), torch.zeros_like(theta)
    size = chunk or images_at_once(x, CHUNK * 32 * 32)
    for images, labels in zip(x.split(size), y.split(size), strict=True):
        share = len(images) / len(x)
        with torch.no_grad():
            loss = loss + share * student.loss(theta, images, labels)
        q = q + share * student.gradient(theta, images, labels)
    return loss, q


def real_loss_step(
    rule: Rule,
    student: Student,
    fresh: Tensor,
    state: OuterState,
    real: tuple[Tensor, Tensor],
    seed: int,
    adaptive: Adaptive | None = None,
) -> tuple[OuterState, Record]:
    """One outer step from a new random network, weights `fresh` (P,). A pure function of its arguments.

    adaptive: AT-BPTT's window in place of the random one.
    """
    step = int(state.steps)
    problem = inner_problem(rule, student, len(state.X), seed, step)
    at = state.X, state.Y, state.eta
    if adaptive is None:
        end = window_end(rule, seed, step)
        loss, d = real_loss_gradient(problem, fresh, *at, real, rule.iota, end)
    else:
        # The weights on the way are those that the window is chosen by and differentiated at.
        thetas = rollout(problem, fresh, *at, rule.T, kept=range(rule.T))
        norms = torch.stack([(thetas[t] - thetas[t + 1]).norm() / state.eta for t in range(rule.T)])
        norms = norms.nan_to_num(0.0, 0.0, 0.0)  # of a training that diverged: the loss will say so
        source, stage = generator(seed, "window", step), adaptive.stage(step)
        begin, end = adaptive_window(norms, rule.iota, adaptive.radius, stage, source)
        loss, d = real_loss_gradient(problem, fresh, *at, real, end - begin, end, thetas.part(begin, end))
    after = descend(replace(rule, labels="fixed"), state, d.X, d.Y, d.eta)
    norm = d.X.norm()
    healthy = torch.isfinite(loss) & torch.isfinite(norm) & after.X.isfinite().all() & is_valid_rate(after.eta)
    return after, Record(loss, None, norm, state.eta, None, healthy)
