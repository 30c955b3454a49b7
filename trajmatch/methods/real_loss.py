"""RaT-BPTT and AT-BPTT: the loss on real images after training on synthetic ones, through a window of that training.

RaT-BPTT (arXiv 2311.07025) takes a random window; AT-BPTT (2510.04838) chooses its place and length by the gradients on
the way, by another rule in each of three stages. The inner optimiser is Adam, as published, or SGD at the learned step
size, with or without the momentum of scores. Ours: the window is chosen at every step, from the gradients of the very
training that is differentiated, and Hessians are exact where AT-BPTT's are of low rank (method.md section 5).
Legend: n synthetic images, B real ones, C classes, P parameters, T inner steps, iota of them differentiated.
"""

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from trajmatch.core.augment import augment, draw
from trajmatch.core.descent import Adam
from trajmatch.core.draws import generator
from trajmatch.core.hypergradient import Hypergradient
from trajmatch.core.inner import Iterates, Problem
from trajmatch.core.inner_optimisers import HeavyBall, Inner, first_iterate, gradient_norm, swept, trained, weights
from trajmatch.core.rate import is_valid_rate
from trajmatch.core.student import Student
from trajmatch.methods.end_loss import Part, kept_part, loss_of_parts, share_right
from trajmatch.methods.kept_students import Kept, of_student, with_student
from trajmatch.methods.outer import Rule, descend, inner_problem, probabilities
from trajmatch.methods.state import OuterState, Record

# AT-BPTT's stages, early and middle: the stage ends when the accuracy on real batches, averaged over an epoch of them,
# has risen by less than GAIN in PATIENCE T epochs on end (of its authors' program).
GAIN, PATIENCE = (0.015, 0.01), (0.15, 0.125)


def window_end(rule: Rule, seed: int, step: int) -> int:
    """The step at which the trajectory ends, uniform in iota..T: the window is the iota steps before it."""
    return int(torch.randint(rule.iota, rule.T + 1, (), generator=generator(seed, "window", step)))


@dataclass(frozen=True)
class Adaptive:
    """AT-BPTT's window.

    radius: most inner steps by which the window's length differs from iota (`d`).
    steps:  outer steps that have such a window.
    epoch:  outer steps in which as many real images are drawn as there are, where stages end by accuracies; None ends
            them after a third and two thirds of the steps.
    """

    radius: int
    steps: int
    epoch: int | None = None

    def stage(self, step: int) -> int:
        """0, 1 or 2: early, middle or late in the run, in thirds."""
        return min(2, 3 * step // max(1, self.steps))


@dataclass(frozen=True)
class RealLoss:
    """How the loss on real images is differentiated, beside what a `Rule` says.

    adam:     the inner optimiser; None is SGD at the state's step size.
    momentum: of SGD as the inner optimiser.
    kept:     students that go on from step to step, of whose T inner steps the last iota are differentiated; None for a
              new network in every step.
    adaptive: AT-BPTT's window in place of the random one.
    chunk:    real images at a time; None takes as many as have the pixels of CHUNK images of 32 x 32.
    families: of augmentation of the real images; none leaves them as they are.
    """

    adam: Adam | None = None
    adaptive: Adaptive | None = None
    chunk: int | None = None
    momentum: float = 0.0
    kept: Kept | None = None
    families: tuple[str, ...] = ()

    def inner(self, eta: Tensor) -> Inner:
        """The inner optimiser at the state's step size."""
        if self.adam is not None:
            return self.adam
        return HeavyBall(eta, self.momentum) if self.momentum else eta


RAT = RealLoss()


class Progress(NamedTuple):
    """What is known of a run's stages where accuracies end them.

    stage:  0, 1 or 2: early, middle or late.
    still:  epochs on end that gained too little.
    before: mean accuracy of the epoch before this one, in [0, 1].
    taken:  steps of this epoch.
    total:  sum of their accuracies.
    """

    stage: int
    still: int
    before: float
    taken: int
    total: float

    @classmethod
    def of(cls, packed: Tensor) -> "Progress":
        """From one tensor (5,), as the state keeps it; from an empty one, what holds before the first step."""
        if not len(packed):
            return cls(0, 0, 0.0, 0, 0.0)
        stage, still, before, taken, total = packed.tolist()
        return cls(int(stage), int(still), before, int(taken), total)

    def packed(self, accuracy: Tensor) -> Tensor:
        """As one tensor (5,), with the accuracy () of one more step."""
        kept = torch.tensor([self.stage, self.still, self.before, self.taken + 1, self.total], dtype=accuracy.dtype)
        more = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0], dtype=accuracy.dtype)
        device = accuracy.device
        return kept.to(device, non_blocking=True) + more.to(device, non_blocking=True) * accuracy

    def next_step(self, epoch: int, T: int) -> "Progress":
        """After an epoch is over: whether it was the last of its stage. Within an epoch, as it is."""
        if self.taken < epoch or self.stage == 2:
            return self
        mean = self.total / self.taken
        still = self.still + 1 if mean - self.before < GAIN[self.stage] else 0
        if still >= ceil(PATIENCE[self.stage] * T):
            return Progress(self.stage + 1, 0, mean, 0, 0.0)
        return Progress(self.stage, still, mean, 0, 0.0)


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
    thetas: Iterates,
    X: Tensor,
    Y: Tensor,
    inner: Inner,
    real: tuple[Tensor, Tensor],
    since: int,
    chunk: int | None = None,
    beside: Part | None = None,
) -> tuple[Tensor, Hypergradient]:
    """Loss on real images (B, c, h, w) with labels (B, C) at the last of the iterates, and its derivative.

    beside: images of a memory and their share of the loss, of which the real images have the rest.

    The derivative is the sweep's, through the inner steps from `since` on, from q = d loss / d theta in place of the
    matching loss's q. Cost: a gradient on the real images, and a mixed derivative for each step that is differentiated.
    """
    parts = [Part(*real)] if beside is None else [Part(*real, 1.0 - beside.share), beside]
    loss, q = loss_of_parts(problem.student, weights(thetas[thetas.last], inner), parts, chunk)
    return loss, swept(problem, thetas, q, X, Y, inner, since)


def real_loss_step(
    rule: Rule,
    student: Student,
    fresh: Tensor,
    state: OuterState,
    real: tuple[Tensor, Tensor],
    seed: int,
    how: RealLoss = RAT,
) -> tuple[OuterState, Record]:
    """One outer step from a new random network, weights `fresh` (P,), or of a student that goes on.

    A pure function of its arguments.
    """
    problem = inner_problem(rule, student, len(state.X), seed, int(state.steps))
    inner = how.inner(state.eta)
    progress = _progress(rule, state, how)
    if how.kept is not None:
        thetas, state = _going_on(rule, problem, fresh, state, seed, how, how.kept)
    else:
        thetas = _window(rule, problem, fresh, state, seed, how, progress)
    Y = probabilities(rule, state)
    real = _augmented(real, how, seed, int(state.steps))
    beside = None
    if rule.memory is not None:
        source = generator(seed, "memory loss", int(state.steps))
        beside = kept_part(rule.memory, rule.families, state.X, source)
    loss, d = real_loss_gradient(problem, thetas, state.X, Y, inner, real, thetas.first, how.chunk, beside)
    after = descend(rule, state, d.X, d.Y, d.eta)
    if how.adam is not None:  # whose rate is fixed: the step size is for networks that learn from the set by SGD
        after = after._replace(eta=state.eta, rate_moments=state.rate_moments)
    if progress is not None:
        theta = weights(thetas[thetas.last], inner)
        after = after._replace(parts=progress.packed(share_right(student, theta, *real, how.chunk)))
    norm = d.X.norm()
    healthy = torch.isfinite(loss) & torch.isfinite(norm) & after.X.isfinite().all() & is_valid_rate(after.eta)
    healthy = healthy & after.Y.isfinite().all()
    return after, Record(loss, None, norm, state.eta, None, healthy)


def _augmented(real: tuple[Tensor, Tensor], how: RealLoss, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """The real images (B, c, h, w) of an outer step under one draw of augmentation, with their labels (B, C)."""
    if not how.families:
        return real
    return augment(real[0], draw(len(real[0]), how.families, generator(seed, "real augmentation", step))), real[1]


def _going_on(
    rule: Rule, problem: Problem, fresh: Tensor, state: OuterState, seed: int, how: RealLoss, kept: Kept
) -> tuple[Iterates, OuterState]:
    """The last iota of the T inner steps of the student whose turn it is, and the state with it after them."""
    step, n, inner, T = int(state.steps), len(state.X), how.inner(state.eta), rule.T
    on, turn = (state.X, probabilities(rule, state), inner, T), kept.turn(step - rule.since, T)

    def train(at: Tensor, number: int) -> Tensor:
        thetas = trained(inner_problem(rule, problem.student, n, seed, step, 1 + number), at, *on, kept=())
        return thetas[thetas.last]

    at = of_student(state.network, turn, first_iterate(fresh, inner), T, train)
    begin = T - rule.iota
    thetas = trained(problem, at, *on, range(begin, T, rule.interval)).part(begin, T)
    return thetas, state._replace(network=with_student(state.network, kept, turn, thetas[T]))


def _progress(rule: Rule, state: OuterState, how: RealLoss) -> Progress | None:
    """The stage of this step, where accuracies end stages."""
    if how.adaptive is None or how.adaptive.epoch is None:
        return None
    return Progress.of(state.parts).next_step(how.adaptive.epoch, rule.T)


def _window(
    rule: Rule,
    problem: Problem,
    fresh: Tensor,
    state: OuterState,
    seed: int,
    how: RealLoss,
    progress: Progress | None,
) -> Iterates:
    """The iterates of the window that is differentiated, of a training from the weights `fresh`."""
    step, adaptive = int(state.steps), how.adaptive
    norms: list[Tensor] = []
    inner = how.inner(state.eta)
    at = problem, fresh, state.X, probabilities(rule, state), inner
    if adaptive is None:
        end = window_end(rule, seed, step)
        begin = end - rule.iota
        return trained(*at, end, range(begin, end, rule.interval)).part(begin, end)

    def seen(i: int, before: Tensor, after: Tensor) -> None:
        norms.append(gradient_norm(before, after, inner))

    # The weights on the way are those that the window is chosen by and differentiated at.
    thetas = trained(*at, rule.T, range(0, rule.T, rule.interval), seen)
    found = torch.stack(norms).nan_to_num(0.0, 0.0, 0.0)  # of a training that diverged: the loss will say so
    stage = adaptive.stage(step - rule.since) if progress is None else progress.stage
    source = generator(seed, "window", step)
    return thetas.part(*adaptive_window(found, rule.iota, adaptive.radius, stage, source))
