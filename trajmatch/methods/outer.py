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
from trajmatch.core.hypergradient import Hypergradient, adjoint
from trajmatch.core.inner import Loss, Problem, rollout, training_view
from trajmatch.core.matching import matching
from trajmatch.core.mixed import Mixed, reverse_over_reverse
from trajmatch.core.rate import first_order_rate, is_valid_rate, logarithmic
from trajmatch.core.sharpness import Sharpness
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
    mixed: Mixed = reverse_over_reverse


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


class Match(NamedTuple):
    """One trajectory matched: its iterates, loss, cotangent and hypergradient."""

    thetas: list[Tensor]
    loss: Tensor
    q: Tensor
    d: Hypergradient


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


def match(
    rule: Rule, problem: Problem, X: Tensor, Y: Tensor, eta: Tensor, start: Tensor, segment: Segment, first: int
) -> Match:
    """Train from `start` over inner steps first..T-1 and differentiate the last iota of them (SATM eq. 8)."""
    thetas = rollout(problem, start, X, Y, eta, rule.T, first)
    loss, q = matching(thetas[-1], segment.s, segment.g)
    swept = max(first, rule.T - rule.iota)
    d = adjoint(problem, thetas[swept - first :], q, X, Y, eta, swept, rule.mixed)
    return Match(thetas, loss, q, d)


def inner_problem(rule: Rule, loss: Loss, n: int, seed: int, step: int) -> Problem:
    """The inner problem of one outer step: its mini-batches b_i and augmentations a_i, drawn from (seed, step)."""
    source = generator(seed, "inner", step)
    stream = batches(n, rule.batch, source)
    b = [next(stream) for _ in range(rule.T)]
    return Problem(training_view(b, [draw(len(b_i), rule.families, source) for b_i in b]), loss)


def outer_step(rule: Rule, loss: Loss, state: OuterState, segment: Segment, seed: int) -> tuple[OuterState, Record]:
    """One outer step: method.md section 3, its steps numbered here; without a sharpness rule, MTT's single trajectory.

    loss: inner loss l(theta, z, y). A pure function of its arguments; `state.steps` numbers the step.
    """
    X, Y, eta, step = state.X, state.Y, state.eta, int(state.steps)
    problem = inner_problem(rule, loss, len(X), seed, step)
    if rule.sharpness is None:
        one = match(rule, problem, X, Y, eta, segment.s, segment, first=0)
        direction, ascent, loss_perturbed = one.d.X, state.ascent, None
    else:
        # 1, 2: trajectory 1 on noisy images
        noise = smoothing_noise(X, rule.gamma, generator(seed, "noise", step))
        one = match(rule, problem, X + noise, Y, eta, segment.s, segment, first=0)
        # 3: ascent
        eps, ascent = rule.sharpness.perturbation(one.d.X, X, state.ascent)
        # 4: trajectory 2 goes on from theta_tau on X + eps, with the same b_i and a_i
        two = match(rule, problem, X + eps, Y, eta, one.thetas[rule.tau], segment, first=rule.tau)
        direction, loss_perturbed = rule.sharpness.direction(one.d.X, two.d.X), two.loss
    # 5: descent, on X along the direction and on log eta
    deta = one.d.eta if rule.second_order_rate else first_order_rate(one.q, segment.s, one.thetas[-1], eta)
    after = _descend(rule, state, direction, deta)._replace(ascent=ascent)
    norm = direction.norm()
    healthy = torch.isfinite(one.loss) & torch.isfinite(norm) & is_valid_rate(after.eta) & after.X.isfinite().all()
    return after, Record(one.loss, loss_perturbed, norm, eta, healthy)


def _descend(rule: Rule, state: OuterState, direction: Tensor, deta: Tensor) -> OuterState:
    """Step X against the direction and log eta against eta dL/deta."""
    count = int(state.steps)
    if rule.clip is not None:
        direction = direction * (rule.clip / direction.norm().clamp_min(1e-30)).clamp_max(1.0)
    moved, image_moments = rule.images.step(state.X, direction, state.image_moments, count)
    X = state.X + state.scale * (moved - state.X) if float(state.scale) != 1.0 else moved
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
