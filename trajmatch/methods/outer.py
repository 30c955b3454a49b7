"""One outer step of trajectory matching: state, segment, seed -> state, record (method.md section 3).

MTT and SATM are values of one `Rule`; every ablation changes one of its fields.
Legend: n synthetic images of c x h x w, C classes, P parameters, T inner steps.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from trajmatch.core.augment import draw
from trajmatch.core.descent import Adam, Momentum, new_moments
from trajmatch.core.draws import batches, generator, smoothing_noise
from trajmatch.core.estimators import Estimate, Estimator, Task, random_window, tesla, truncated, unrolled
from trajmatch.core.inner import Problem, training_view
from trajmatch.core.rate import first_order_rate, is_valid_rate, logarithmic
from trajmatch.core.sharpness import Sharpness
from trajmatch.core.student import Student
from trajmatch.data.trajectories import Segment


@dataclass(frozen=True)
class Rule:
    """What an outer step does. The letters are method.md's; units in section 1.

    iota:       inner steps that are differentiated, the last ones (T: no truncation).
    sharpness:  the ascent's rule, or None for no ascent and one trajectory (MTT).
    gamma:      smoothing noise of the ascent, its RMS relative to the image's.
    tau:        iterate of trajectory 1 from which trajectory 2 starts (0: no reuse).
    second_order_rate: eta's derivative by the sweep instead of the closed form.
    images, rate: optimisers of X and of log eta.
    clip:       largest norm of the descent direction, or None.
    ema:        decay of the delivered average of X, or None to deliver X itself.
    estimator:  sweep (truncated, and exact where iota = T), unrolled, tesla or random-window; method.md section 2.
    interval:   keep one iterate in this many and compute the others again, for networks of many parameters.
    """

    T: int
    iota: int
    images: Momentum | Adam
    rate: Momentum
    batch: int | None = None
    families: tuple[str, ...] = ()
    sharpness: Sharpness | None = None
    gamma: float = 0.0
    tau: int = 0
    second_order_rate: bool = True
    clip: float | None = None
    ema: float | None = None
    estimator: str = "sweep"
    interval: int = 1

    def kept(self) -> frozenset[int]:
        """The inner steps whose iterates stay in memory: those that the sweep and trajectory 2 will ask for."""
        since = self.T - self.iota if self.estimator == "sweep" else 0
        return frozenset((self.tau, *range(since, self.T, self.interval)))


class OuterState(NamedTuple):
    """Everything that an outer step reads and changes; tensors only, so that it can be saved as it is.

    X, Y, eta: the synthetic set. average: its delivered images (X where there is no EMA). ascent: the sharpness
    rule's state. scale: factor on the image learning rate. steps: outer steps taken, ().
    """

    X: Tensor
    Y: Tensor
    eta: Tensor
    average: Tensor
    image_moments: Tensor
    rate_moments: Tensor
    ascent: Tensor
    scale: Tensor
    steps: Tensor


class Record(NamedTuple):
    """What happened in a step, as scalars (): losses at X (or X + noise) and at X + eps, norm of the direction."""

    loss: Tensor
    loss_perturbed: Tensor | None
    hypergradient_norm: Tensor
    step_size: Tensor
    healthy: Tensor


def new_state(X: Tensor, Y: Tensor, eta: float) -> OuterState:
    """The state before the first step, from images (n, c, h, w), labels (n, C) and the inner step size."""
    step_size = torch.tensor(eta, dtype=X.dtype, device=X.device)
    zero = torch.zeros((), dtype=torch.int64)
    return OuterState(
        X,
        Y,
        step_size,
        X,
        new_moments(X),
        new_moments(step_size),
        torch.zeros_like(X),
        torch.ones_like(step_size),
        zero,
    )


def estimator(rule: Rule, seed: int, step: int) -> Estimator:
    """The estimator of one outer step; a random window's end is drawn from (seed, step), uniform in iota..T."""
    if rule.estimator == "random-window":
        source = generator(seed, "window", step)
        return random_window(rule.iota, int(torch.randint(rule.iota, rule.T + 1, (), generator=source)))
    return {"sweep": truncated(rule.iota), "unrolled": unrolled, "tesla": tesla}[rule.estimator]


def inner_problem(rule: Rule, student: Student, n: int, seed: int, step: int) -> Problem:
    """The inner problem of one outer step: its mini-batches b_i and augmentations a_i, drawn from (seed, step)."""
    source = generator(seed, "inner", step)
    stream = batches(n, rule.batch, source)
    b = [next(stream) for _ in range(rule.T)]
    return Problem(training_view(b, [draw(len(b_i), rule.families, source) for b_i in b]), student)


def outer_step(
    rule: Rule, student: Student, state: OuterState, segment: Segment, seed: int
) -> tuple[OuterState, Record]:
    """One outer step: method.md section 3, its steps numbered here; without a sharpness rule, MTT's single trajectory.

    student: the inner loss and its derivatives. A pure function of its arguments; `state.steps` numbers the step.
    """
    X, Y, eta, step = state.X, state.Y, state.eta, int(state.steps)
    problem, estimate = inner_problem(rule, student, len(X), seed, step), estimator(rule, seed, step)
    task = Task(problem, segment.s, segment.g, X, Y, eta, rule.T, kept=rule.kept())
    if rule.sharpness is None:
        one = estimate(task)
        direction, ascent, loss_perturbed = one.d.X, state.ascent, None
    else:
        # 1, 2: trajectory 1 on noisy images
        noise = smoothing_noise(X, rule.gamma, generator(seed, "noise", step))
        one = estimate(task._replace(X=X + noise))
        # 3: ascent
        eps, ascent = rule.sharpness.perturbation(one.d.X, X, state.ascent)
        # 4: trajectory 2 goes on from theta_tau on X + eps, with the same b_i and a_i
        two = estimate(task._replace(X=X + eps, first=rule.tau, start=one.thetas[rule.tau]))
        direction, loss_perturbed = rule.sharpness.direction(one.d.X, two.d.X), two.loss
    # 5: descent, on X along the direction and on log eta
    deta = one.d.eta if rule.second_order_rate else _closed_form(one, eta)
    after = _descend(rule, state, direction, deta)._replace(ascent=ascent)
    norm = direction.norm()
    healthy = torch.isfinite(one.loss) & torch.isfinite(norm) & is_valid_rate(after.eta) & after.X.isfinite().all()
    return after, Record(one.loss, loss_perturbed, norm, eta, healthy)


def _closed_form(one: Estimate, eta: Tensor) -> Tensor:
    return first_order_rate(one.q, one.thetas[0], one.thetas[one.thetas.last], eta)


def _descend(rule: Rule, state: OuterState, direction: Tensor, deta: Tensor) -> OuterState:
    """Step X against the direction and log eta against eta dL/deta."""
    count = int(state.steps)
    if rule.clip is not None:
        direction = direction * (rule.clip / direction.norm().clamp_min(1e-30)).clamp_max(1.0)
    moved, image_moments = rule.images.step(state.X, direction, state.image_moments, count)
    # Not `if`: reading the scale would make a GPU wait.
    X = torch.where(state.scale == 1, moved, state.X + state.scale * (moved - state.X))
    log_eta, rate_moments = rule.rate.step(state.eta.log(), logarithmic(deta, state.eta), state.rate_moments, count)
    average = X if rule.ema is None else rule.ema * state.average + (1 - rule.ema) * X
    return state._replace(
        X=X,
        eta=log_eta.exp(),
        average=average,
        image_moments=image_moments,
        rate_moments=rate_moments,
        steps=state.steps + 1,
    )
