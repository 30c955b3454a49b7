"""One outer step of trajectory matching: state, segments, seed -> state, record (method.md sections 3 to 5).

Every system is a value of one `Rule`; every ablation changes one of its fields.
Legend: n synthetic images of c x h x w, C classes, P parameters, T inner steps, K segments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from trajmatch.core.augment import draw
from trajmatch.core.combine import combine, cosine_matrix, gramian
from trajmatch.core.descent import Adam, Momentum, brought_to, clipped
from trajmatch.core.draws import batches, generator, smoothing_noise
from trajmatch.core.estimators import ESTIMATORS, Estimate, Estimator, Task, stack
from trajmatch.core.hypergradient import Hypergradient
from trajmatch.core.inner import Memory, Problem, replayed, training_view
from trajmatch.core.rate import first_order_rate, is_valid_rate, logarithmic
from trajmatch.core.sharpness import Sharpness, remembered
from trajmatch.core.student import Student
from trajmatch.core.tiles import decoded
from trajmatch.data.trajectories import Segment
from trajmatch.methods.segment_weights import weights
from trajmatch.methods.state import OuterState, Record, guarded

FIXED = Momentum(0.0)


@dataclass(frozen=True)
class Rule:
    """What an outer step does. The letters are those of method.md, whose section 1 has the units.

    T:          inner steps of a trajectory.
    iota:       how many of the last inner steps are differentiated; T means no truncation.
    images:     optimiser of X.
    rate:       optimiser of log eta.
    batch:      synthetic images in an inner step; None takes all.
    families:   families of augmentation; none leaves the images as they are.
    sharpness:  the ascent's rule; None means no ascent and one trajectory (MTT).
    stale:      whether the ascent goes along the last step's hypergradient, and needs no trajectory of its own.
    gamma:      RMS of the ascent's smoothing noise, relative to that of the image.
    tau:        iterate of trajectory 1 from which trajectory 2 starts; 0 means no reuse.
    second_order_rate: whether the derivative in eta is the sweep's, and not the closed form's.
    clip:       largest norm of the descent direction; None does not clip.
    relative_clip: largest norm of the descent direction in units of the running mean of its norms; None does not clip.
    ema:        decay of the delivered average of X; None delivers X itself.
    estimator:  a name in core.estimators.ESTIMATORS (method.md section 2); truncated is exact where iota = T.
    interval:   one iterate in this many is kept, and the others are computed again, for networks of many parameters.
    combining:  how the hypergradients of K segments become one (methods/segment_weights.py).
    labels:     fixed; learned, as logits; or teacher: what the expert at the segment's end says of the images.
    label:      optimiser of learned labels.
    guard:      largest loss of a step that changes anything; None is no limit.
    together:   whether a student of K networks computes the K segments at once, and not one by one.
    early:      whether a trajectory ends at its iterate that is nearest to the target, and not at theta_T.
    alpha:      share of the weights, those that are nearest to their target, that the matching loss leaves out.
    norm:       norm that every image is brought to after the step; None leaves it free.
    factor:     tiles along each side of an image, each of which a network sees as an image; 1 cuts nothing.
    since:      outer steps that were taken before the first of these.
    memory:     constant images that an inner step takes beside the synthetic ones; None is none.
    """

    T: int
    iota: int
    images: Momentum | Adam
    rate: Momentum
    batch: int | None = None
    families: tuple[str, ...] = ()
    sharpness: Sharpness | None = None
    stale: bool = False
    gamma: float = 0.0
    tau: int = 0
    second_order_rate: bool = True
    clip: float | None = None
    relative_clip: float | None = None
    ema: float | None = None
    estimator: str = "truncated"
    interval: int = 1
    combining: str = "mean"
    labels: str = "fixed"
    label: Momentum = FIXED
    guard: float | None = None
    together: bool = False
    early: bool = False
    alpha: float = 0.0
    norm: float | None = None
    factor: int = 1
    since: int = 0
    memory: Memory | None = None

    def kept(self) -> frozenset[int]:
        """The inner steps whose iterates stay in memory: those that the sweep and trajectory 2 will ask for."""
        since = self.T - self.iota if self.estimator == "truncated" and not self.early else 0
        return frozenset((self.tau, *range(since, self.T, self.interval)))

    def restart(self, end: int) -> int:
        """The iterate from which trajectory 2 starts: as far before the end of trajectory 1 as tau is before T."""
        return max(0, self.tau + end - self.T)

    def task(self, problem: Problem, s: Tensor, g: Tensor, X: Tensor, Y: Tensor, eta: Tensor) -> Task:
        """The task of one segment from its start."""
        return Task(problem, s, g, X, Y, eta, self.T, kept=self.kept(), early=self.early, alpha=self.alpha)


def probabilities(rule: Rule, state: OuterState) -> Tensor:
    """Labels (n, C) that a network is to be trained on."""
    return state.Y.softmax(1) if rule.labels == "learned" else state.Y


def estimator(rule: Rule, seed: int, step: int) -> Estimator:
    """The estimator of one outer step; a random window's end is drawn from (seed, step), uniform in iota..T."""
    end = rule.T
    if rule.estimator == "random-window":
        source = generator(seed, "window", step)
        end = int(torch.randint(rule.iota, rule.T + 1, (), generator=source))
    return ESTIMATORS[rule.estimator](rule.iota, end)


def inner_problem(rule: Rule, student: Student, n: int, seed: int, step: int, k: int = 0) -> Problem:
    """The inner problem of segment k in one outer step on n images: its b_i and a_i, drawn from (seed, step, k)."""
    source = generator(seed, "inner", step, *([k] if k else []))
    stream = batches(n * rule.factor**2, rule.batch, source)
    b = [next(stream) for _ in range(rule.T)]
    a = [draw(len(b_i), rule.families, source) for b_i in b]
    view = training_view(b, a, rule.factor)
    if rule.memory is not None:
        view = replayed(view, rule.memory, a, generator(seed, "memory", step, k))
    return Problem(view, student)


def tasks(rule: Rule, student: Student, state: OuterState, segments: Sequence[Segment], seed: int) -> list[Task]:
    """What one outer step differentiates: a task for each segment, with draws, and a teacher, of its own.

    Where the segments are computed together, there is one task of all of them.
    """
    n, step, Y = len(state.X), int(state.steps), probabilities(rule, state)
    made = []
    for k, (s, g, *_) in enumerate(segments):
        problem = inner_problem(rule, student, n, seed, step, k)
        labels = _teacher(student, g, state.X, rule.factor) if rule.labels == "teacher" else Y
        made.append(rule.task(problem, s, g, state.X, labels, state.eta))
    return [stack(made, student.many)] if rule.together and student.many is not None and len(made) > 1 else made


@torch.no_grad()
def _teacher(student: Student, theta: Tensor, X: Tensor, factor: int) -> Tensor:
    """softmax f(theta; X): the labels that an expert gives the synthetic images (TESLA), means over their tiles."""
    if student.forward is None:
        raise ValueError("student: labels from a teacher need its `forward`")
    labels = student.forward(theta, decoded(X, factor)).softmax(1)
    return labels if factor == 1 else labels.unflatten(0, (len(X), -1)).mean(1)


class Matched(NamedTuple):
    """K trajectories matched.

    estimates: the estimate of each trajectory, or one of all where the trajectories are computed together.
    w:         (K,) weights of the hypergradients.
    loss:      () mean loss.
    d:         the combined hypergradient.
    conflict:  () smallest cosine between two of the hypergradients; None for one segment.
    """

    estimates: list[Estimate]
    w: Tensor
    loss: Tensor
    d: Hypergradient
    conflict: Tensor | None


# (estimator, tasks, seed, step) -> the estimates of all tasks, in their order, wherever they are computed.
Each = Callable[[Estimator, Sequence[Task], int, int], list[Estimate]]


def one_by_one(estimate: Estimator, given: Sequence[Task], seed: int, step: int) -> list[Estimate]:
    """The estimates, computed here."""
    return [estimate(task) for task in given]


def match(
    rule: Rule, estimate: Estimator, given: Sequence[Task], seed: int, step: int, each: Each = one_by_one
) -> Matched:
    """Match every task and combine: weights from the images' hypergradients, the same for labels and step size."""
    estimates = each(estimate, given, seed, step)
    losses = torch.stack([one.loss for one in estimates]).flatten()
    if len(losses) == 1:
        return Matched(estimates, torch.ones_like(losses), losses[0], estimates[0].d, None)
    stacked = given[0].stacked
    d = [Hypergradient(*k) for k in zip(*estimates[0].d, strict=True)] if stacked else [one.d for one in estimates]
    G = gramian([one.X for one in d])
    w = weights(rule.combining, G, seed, step)
    X, Y, eta = (combine([one[j] for one in d], w) for j in range(3))
    return Matched(estimates, w, losses.mean(), Hypergradient(X, Y, eta), cosine_matrix(G).min())


def outer_step(
    rule: Rule, student: Student, state: OuterState, segments: Sequence[Segment], seed: int, each: Each = one_by_one
) -> tuple[OuterState, Record]:
    """One outer step: method.md section 3, its steps numbered here; without a sharpness rule, one trajectory each.

    student:  the inner loss and its derivatives.
    segments: one segment, or the K segments of a concurrent step.
    seed:     of all draws of the run; `state.steps` numbers the step.
    each:     what computes the K estimates of a trajectory.

    The function is pure: it depends on its arguments alone.
    """
    X, step = state.X, int(state.steps)
    given, estimate = tasks(rule, student, state, segments, seed), estimator(rule, seed, step)
    if rule.sharpness is None:
        one = two = match(rule, estimate, given, seed, step, each)
        direction, ascent, loss_perturbed = one.d.X, state.ascent, None
    elif rule.stale:
        # 1 to 4 in one trajectory: it runs on noisy images, moved along the last step's hypergradient.
        moved = _noisy(rule, X, seed, step) + rule.sharpness.perturbation(state.ascent, X, state.ascent).eps
        moved_tasks = [task._replace(X=moved.expand_as(task.X)) for task in given]
        one = two = match(rule, estimate, moved_tasks, seed, step, each)
        direction, loss_perturbed = rule.sharpness.direction(state.ascent, one.d.X), None
        ascent = remembered(rule.sharpness, one.d.X, X, state.ascent)
    else:
        # 1, 2: trajectory 1 on noisy images
        noisy = _noisy(rule, X, seed, step)
        one = match(rule, estimate, [task._replace(X=noisy.expand_as(task.X)) for task in given], seed, step, each)
        # 3: ascent
        eps, ascent = rule.sharpness.perturbation(one.d.X, X, state.ascent)
        # 4: trajectory 2 goes on from theta_tau on X + eps, with the same b_i and a_i
        on = [
            task._replace(X=(X + eps).expand_as(task.X), first=tau, start=found.thetas[tau])
            for task, found in zip(given, one.estimates, strict=True)
            for tau in [rule.restart(found.thetas.last)]
        ]
        two = match(rule, estimate, on, seed, step, each)
        direction, loss_perturbed = rule.sharpness.direction(one.d.X, two.d.X), two.loss
    # 5: descent, on X along the direction, on labels where they are learned, and on log eta
    deta = one.d.eta if rule.second_order_rate else _closed_form(one, state.eta)
    after = descend(rule, state, direction, two.d.Y, deta)._replace(ascent=ascent)
    if rule.labels == "teacher":
        after = after._replace(Y=torch.stack([task.Y for task in given]).view(-1, *state.Y.shape).mean(0))
    norm = direction.norm()
    finite = torch.isfinite(one.loss) & torch.isfinite(two.loss)
    healthy = finite & torch.isfinite(norm) & is_valid_rate(after.eta) & after.X.isfinite().all()
    healthy = healthy & after.Y.isfinite().all()
    if rule.guard is not None:
        # A loss that is not finite is above every guard: nothing of such a step stays, and it is no divergence.
        accepted = finite & (one.loss <= rule.guard)
        after, healthy = guarded(state, after, accepted), healthy | ~accepted
    ends = tuple(e.thetas.last for e in one.estimates) if rule.early else None
    return after, Record(one.loss, loss_perturbed, norm, state.eta, one.conflict, healthy, ends)


def _noisy(rule: Rule, X: Tensor, seed: int, step: int) -> Tensor:
    return X + smoothing_noise(X, rule.gamma, generator(seed, "noise", step))


def _closed_form(one: Matched, eta: Tensor) -> Tensor:
    rates = [first_order_rate(e.q, e.thetas[0], e.thetas[e.thetas.last], eta) for e in one.estimates]
    return torch.stack(rates).flatten() @ one.w


def descend(rule: Rule, state: OuterState, direction: Tensor, dY: Tensor, deta: Tensor) -> OuterState:
    """Step X against the direction, learned logits against their derivative, and log eta against eta dL/deta."""
    count = state.taken
    if rule.clip is not None:
        direction = direction * (rule.clip / direction.norm().clamp_min(1e-30)).clamp_max(1.0)
    mean = state.norm
    if rule.relative_clip is not None:
        direction, mean = clipped(direction, mean, rule.relative_clip)
    moved, image_moments = rule.images.step(state.X, direction, state.image_moments, count)
    # Not `if`: reading the scale would make a GPU wait.
    X = torch.where(state.scale == 1, moved, state.X + state.scale * (moved - state.X))
    X = X if rule.norm is None else brought_to(X, rule.norm)
    log_eta, rate_moments = rule.rate.step(state.eta.log(), logarithmic(deta, state.eta), state.rate_moments, count)
    average = X if rule.ema is None else rule.ema * state.average + (1 - rule.ema) * X
    after = state._replace(
        X=X,
        eta=log_eta.exp(),
        average=average,
        image_moments=image_moments,
        rate_moments=rate_moments,
        norm=mean,
        steps=state.steps + 1,
        taken=count + 1,
    )
    if rule.labels != "learned":
        return after
    Y = state.Y.softmax(1)
    logits, label_moments = rule.label.step(
        state.Y, Y * (dY - (Y * dY).sum(1, keepdim=True)), state.label_moments, count
    )
    return after._replace(Y=logits, label_moments=label_moments)
