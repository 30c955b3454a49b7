"""RaT-BPTT and AT-BPTT: derivatives against plain autograd, windows, stages, and clipping by the running mean."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.methods.test_outer import LOSS, STUDENT, S, T, network, state
from tests.oracles import F64, random, relative_error
from trajmatch.core.augment import augment, draw, families
from trajmatch.core.descent import Adam, Momentum
from trajmatch.core.draws import generator
from trajmatch.core.inner import Memory
from trajmatch.core.inner_optimisers import gradient_norm, trained
from trajmatch.core.student import micro_batched
from trajmatch.core.vector import functional
from trajmatch.methods import real_loss
from trajmatch.methods.end_loss import Part, kept_part, loss_of_parts, mean_loss, share_right
from trajmatch.methods.outer import Rule, descend, inner_problem
from trajmatch.methods.real_loss import (
    GAIN,
    PATIENCE,
    Adaptive,
    Progress,
    RealLoss,
    adaptive_window,
    real_loss_gradient,
    real_loss_step,
    window_end,
)
from trajmatch.methods.state import OuterState, new_state

FAMILIES = families("color_crop_cutout_flip_scale_rotate")
RULE = Rule(T=T, iota=2, images=Adam(0.01), rate=Momentum(0.1, 0.5), families=FAMILIES)
REAL = (random(9, 1, 8, 8, seed=41), torch.eye(3, dtype=F64)[torch.arange(9) % 3])


def by_autograd(X: Tensor, eta: Tensor, end: int, iota: int, seed: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """The loss on real images, and its derivatives in X and eta through the last iota of `end` steps."""
    source = generator(seed, "inner", step)
    a = [draw(len(X), FAMILIES, source) for _ in range(T)]
    X, eta = X.clone().requires_grad_(), eta.clone().requires_grad_()
    at = S
    for i in range(end):
        late = i >= end - iota
        at = at if late and i > end - iota else at.detach().requires_grad_()
        (u,) = torch.autograd.grad(LOSS(at, augment(X, a[i]), state().Y), at, create_graph=late)
        at = at - (eta if late else eta.detach()) * u
    loss = LOSS(at, *REAL)
    return (loss.detach(), *torch.autograd.grad(loss, (X, eta)))


@pytest.mark.parametrize(("end", "iota"), [(6, 6), (6, 2), (4, 2), (5, 5), (3, 1)])
def test_the_derivative_is_autograds(end: int, iota: int) -> None:
    before = state()
    problem = inner_problem(RULE, STUDENT, 6, 5, 1)
    thetas = trained(problem, S, before.X, before.Y, before.eta, end)
    loss, d = real_loss_gradient(problem, thetas, before.X, before.Y, before.eta, REAL, end - iota)
    wanted, dX, deta = by_autograd(before.X, before.eta, end, iota, 5, 1)
    assert relative_error(loss, wanted) < 1e-12
    assert relative_error(d.X, dX) < 1e-9
    assert relative_error(d.eta, deta) < 1e-9


def test_real_images_are_mirrored_before_their_loss_is_differentiated() -> None:
    before, flip = new_state(state().X, state().Y, 0.1), RealLoss(families=("flip",))
    half = draw(9, ("flip",), generator(5, "real augmentation", 0)).u[:, 0] < 0.5
    assert 0 < half.sum() < 9
    mirrored = torch.stack([x.flip(2) if turn else x for x, turn in zip(REAL[0], half, strict=True)])
    after, record = real_loss_step(RULE, STUDENT, S, before, REAL, 5, flip)
    wanted, told = real_loss_step(RULE, STUDENT, S, before, (mirrored, REAL[1]), 5)
    assert torch.equal(after.X, wanted.X)
    assert torch.equal(record.loss, told.loss)
    assert not torch.equal(after.X, real_loss_step(RULE, STUDENT, S, before, REAL, 5)[0].X)


MEMORY = Memory(random(4, 1, 8, 8, seed=43), torch.eye(3, dtype=F64)[[2, 1, 2, 1]], 3, 0.25)


def with_memory(X: Tensor, eta: Tensor, end: int, iota: int) -> tuple[Tensor, Tensor, Tensor]:
    """`by_autograd` with the memory in every inner step and a quarter of the loss, for seed 5 and outer step 0."""
    problem = inner_problem(replace(RULE, memory=MEMORY), STUDENT, 6, 5, 0)
    X, eta, at = X.clone().requires_grad_(), eta.clone().requires_grad_(), S
    for i in range(end):
        late = i >= end - iota
        at = at if late and i > end - iota else at.detach().requires_grad_()
        z, y = problem.view(X, state().Y, i)
        assert len(z) == len(y) == (9 if i % 2 == 0 else 7)  # chunks of permutations of the four
        (u,) = torch.autograd.grad(LOSS(at, z, y), at, create_graph=late)
        at = at - (eta if late else eta.detach()) * u
    seen = augment(MEMORY.X, draw(4, FAMILIES, generator(5, "memory loss", 0)))
    loss = 0.75 * LOSS(at, *REAL) + 0.25 * LOSS(at, seen, MEMORY.Y)
    return (loss.detach(), *torch.autograd.grad(loss, (X, eta)))


def test_a_memory_is_trained_on_and_is_a_part_of_the_loss() -> None:
    rule = replace(RULE, memory=MEMORY, images=Momentum(1.0, 0.0))
    before = new_state(state().X, state().Y, 0.1)
    after, record = real_loss_step(rule, STUDENT, S, before, REAL, 5)
    loss, dX, deta = with_memory(before.X, before.eta, window_end(RULE, 5, 0), 2)
    assert relative_error(record.loss, loss) < 1e-12
    assert relative_error(before.X - after.X, dX) < 1e-9
    assert relative_error(after.eta.log() - before.eta.log(), -0.1 * before.eta * deta) < 1e-9
    without, _ = real_loss_step(replace(rule, memory=None), STUDENT, S, before, REAL, 5)
    assert not torch.equal(without.X, after.X)


def test_a_loss_of_parts_is_their_weighted_sum() -> None:
    parts = [Part(*REAL, 0.75), kept_part(MEMORY, (), S, generator(5, "memory loss", 0))]
    assert torch.equal(parts[1].x, MEMORY.X), "without families the images are as they are"
    loss, q = loss_of_parts(STUDENT, S, parts)
    at = S.clone().requires_grad_()
    wanted = 0.75 * LOSS(at, *REAL) + 0.25 * LOSS(at, MEMORY.X, MEMORY.Y)
    assert relative_error(loss, wanted.detach()) < 1e-12
    assert relative_error(q, torch.autograd.grad(wanted, at)[0]) < 1e-12
    alone = loss_of_parts(STUDENT, S, [Part(*REAL)])
    assert all(torch.equal(one, other) for one, other in zip(alone, mean_loss(STUDENT, S, *REAL), strict=True))


def test_windows_end_anywhere_they_fit_and_follow_the_step() -> None:
    ends = [window_end(RULE, 3, step) for step in range(200)]
    assert set(ends) == {2, 3, 4, 5, 6}
    assert ends == [window_end(RULE, 3, step) for step in range(200)]


def test_a_step_descends_on_the_real_loss() -> None:
    before = new_state(state().X, state().Y, 0.1)
    after, record = real_loss_step(RULE, STUDENT, S, before, REAL, 5)
    loss, dX, deta = by_autograd(before.X, before.eta, window_end(RULE, 5, 0), 2, 5, 0)
    assert relative_error(record.loss, loss) < 1e-12
    moved = dX.abs() > 1e-4  # Adam's first step is a sign where its epsilon does not count
    assert moved.any()
    assert relative_error((after.X - before.X)[moved], -0.01 * dX.sign()[moved]) < 1e-3
    assert relative_error(after.eta.log() - before.eta.log(), -0.1 * before.eta * deta) < 1e-9
    assert int(after.steps) == 1
    other, _ = real_loss_step(RULE, STUDENT, 0.9 * S, before, REAL, 5)
    assert not torch.equal(other.X, after.X)


def test_the_direction_is_clipped_by_the_running_mean_of_norms() -> None:
    rule = replace(RULE, images=Momentum(1.0, 0.0), relative_clip=2.0)
    now = new_state(state().X, state().Y, 0.1)
    nothing, mean = torch.zeros_like(now.Y), None
    for length in (1.0, 1.5, 10.0, 4.0, 0.1):
        d = random(*now.X.shape, seed=7)
        d = length * d / d.norm()
        after = descend(rule, now, d, nothing, torch.zeros((), dtype=F64))
        mean = length if mean is None else mean
        assert float((after.X - now.X).norm()) == pytest.approx(min(length, 2 * mean))
        mean = 0.9 * mean + 0.1 * min(length, 2 * mean)
        assert float(after.norm) == pytest.approx(mean)
        now = after
    plain = descend(replace(rule, relative_clip=None), now, 100 * d, nothing, torch.zeros((), dtype=F64))
    assert float((plain.X - now.X).norm()) == pytest.approx(10.0)


def clipped(lengths: list[float]) -> tuple[list[float], OuterState]:
    """How far steps of these lengths move the images, and the state after them."""
    rule, d = replace(RULE, images=Momentum(1.0, 0.0), relative_clip=2.0), random(*state().X.shape, seed=7)
    now, moved = new_state(torch.zeros_like(state().X), state().Y, 0.1), []
    for length in lengths:
        after = descend(rule, now, length * d / d.norm(), torch.zeros_like(now.Y), torch.zeros((), dtype=F64))
        moved.append(float((after.X - now.X).norm()))
        now = after
    return moved, now


def test_a_spike_lifts_the_bound_of_the_steps_after_it_by_a_tenth() -> None:
    moved, _ = clipped([1.0] * 20 + [170.0] * 4 + [1.0])
    assert moved[:20] == pytest.approx([1.0] * 20)
    assert moved[20:] == pytest.approx([2.0, 2.2, 2.42, 2.662, 1.0])


def test_a_clip_begins_with_the_first_length_there_is() -> None:
    moved, after = clipped([0.0, 0.0, 3.0, 7.0])
    assert moved == pytest.approx([0.0, 0.0, 3.0, 6.0])
    assert float(after.norm) == pytest.approx(0.9 * 3 + 0.1 * 6)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_length_that_is_not_finite_leaves_the_mean_as_it_was(wrong: float) -> None:
    for before in ([], [1.0, 1.5]):
        assert torch.equal(clipped([*before, wrong])[1].norm, clipped(before)[1].norm)


def test_a_hypergradient_whose_norm_overflows_is_a_divergence() -> None:
    huge = new_state(state().X, state().Y, 0.1)
    _, record = real_loss_step(RULE, STUDENT, S, huge, (REAL[0], 1e200 * REAL[1]), 5)
    assert not bool(record.hypergradient_norm.isfinite())
    assert not bool(record.healthy)


def adaptive_starts(stage: int, norms: Tensor, iota: int = 4, radius: int = 2) -> list[tuple[int, int]]:
    return [adaptive_window(norms, iota, radius, stage, generator(seed)) for seed in range(400)]


def test_early_windows_start_where_gradients_are_large_and_late_ones_mirror_them() -> None:
    norms = torch.zeros(20)
    norms[6] = 50.0
    # The change at 6 is the largest but for the equal one at 7: 18 of 20 are smaller.
    length = 4 - 2 + 2 * 2 * 18 // 20
    assert set(adaptive_starts(0, norms)) == {(6, 6 + length)}
    assert set(adaptive_starts(2, norms)) == {(20 - 6 - 2, 20 - 6)}
    start = {first for first, _ in adaptive_starts(0, torch.cat([norms[:19], torch.tensor([100.0])]))}
    assert start == {20 - (4 - 2 + 2 * 2 * 19 // 20)}  # as late as the window fits


def test_starts_have_the_probabilities_of_a_softmax() -> None:
    norms = torch.log(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    found = [first for first, _ in adaptive_starts(0, norms, iota=1, radius=0)]
    for k, wanted in enumerate((0.1, 0.2, 0.3, 0.4)):
        assert abs(found.count(k) / len(found) - wanted) < 0.08


def test_windows_in_the_middle_are_uniform_and_long() -> None:
    found = adaptive_starts(1, torch.zeros(10))
    assert {end - first for first, end in found} == {6}
    assert {first for first, _ in found} == set(range(5))


def test_an_adaptive_step_is_the_derivative_through_its_window() -> None:
    before = new_state(state().X, state().Y, 0.1)._replace(steps=torch.tensor(1))
    rule, adaptive = replace(RULE, images=Momentum(1.0, 0.0)), Adaptive(radius=1, steps=9)
    assert [adaptive.stage(step) for step in (0, 2, 3, 5, 6, 8)] == [0, 0, 1, 1, 2, 2]
    thetas, problem = [S], inner_problem(rule, STUDENT, 6, 5, 1)
    for i in range(T):
        z, y = problem.view(before.X, before.Y, i)
        thetas.append(thetas[-1] - before.eta * STUDENT.gradient(thetas[-1], z, y))
    norms = torch.stack([(a - b).norm() / before.eta for a, b in pairwise(thetas)])
    begin, end = adaptive_window(norms, 2, 1, 0, generator(5, "window", 1))
    after, record = real_loss_step(rule, STUDENT, S, before, REAL, 5, RealLoss(adaptive=adaptive))
    loss, dX, _ = by_autograd(before.X, before.eta, end, end - begin, 5, 1)
    assert relative_error(record.loss, loss) < 1e-10
    assert relative_error(after.X - before.X, -dX) < 1e-8


def test_a_diverged_training_is_an_unhealthy_step_and_no_error() -> None:
    before = new_state(state().X, state().Y, 1e30)
    _, record = real_loss_step(RULE, STUDENT, S, before, REAL, 5, RealLoss(adaptive=Adaptive(radius=1, steps=9)))
    assert not bool(record.healthy)


def test_labels_that_overflow_are_an_unhealthy_step() -> None:
    rule = replace(RULE, labels="learned", label=Momentum(float("inf"), 0.0))
    after, record = real_loss_step(rule, STUDENT, S, new_state(state().X, state().Y, 0.1), REAL, 5)
    assert not after.Y.isfinite().all()
    assert not bool(record.healthy)


def test_the_stages_of_a_window_begin_where_the_loss_on_real_images_does(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = []

    def seen(norms: Tensor, iota: int, radius: int, stage: int, source: torch.Generator) -> tuple[int, int]:
        stages.append(stage)
        return adaptive_window(norms, iota, radius, stage, source)

    monkeypatch.setattr(real_loss, "adaptive_window", seen)
    how, rule = RealLoss(adaptive=Adaptive(radius=1, steps=3)), replace(RULE, since=6)
    for step in (6, 7, 8):
        real_loss_step(rule, STUDENT, S, state()._replace(steps=torch.tensor(step)), REAL, 5, how)
    assert stages == [0, 1, 2]


def test_the_loss_on_real_images_does_not_depend_on_how_many_are_taken_at_once() -> None:
    whole, parts = (mean_loss(STUDENT, S, *REAL, chunk=size) for size in (9, 4))
    for one, other in zip(whole, parts, strict=True):
        assert relative_error(one, other) < 1e-12
    assert relative_error(whole[1], STUDENT.gradient(S, *REAL)) < 1e-12


ADAM = Adam(0.01, 0.8, 0.95, 1e-6)
# With the network's outputs, by which accuracies are told.
SEEING = STUDENT._replace(forward=functional(network))


def by_autograd_with_adam(X: Tensor, begin: int, end: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """The loss on real images, and its derivative in X through Adam's steps begin, ..., end - 1."""
    source = generator(seed, "inner", step)
    a = [draw(len(X), FAMILIES, source) for _ in range(T)]
    X = X.clone().requires_grad_()
    at, m, v = S.clone().requires_grad_(), torch.zeros_like(S), torch.zeros_like(S)
    for i in range(end):
        if i <= begin:
            at, m, v = at.detach().requires_grad_(), m.detach(), v.detach()
        (u,) = torch.autograd.grad(LOSS(at, augment(X, a[i]), state().Y), at, create_graph=i >= begin)
        m, v = ADAM.beta1 * m + (1 - ADAM.beta1) * u, ADAM.beta2 * v + (1 - ADAM.beta2) * u * u
        root = torch.where(v > 0, torch.where(v > 0, v, 1.0).sqrt(), 0.0) / (1 - ADAM.beta2 ** (i + 1)) ** 0.5
        at = at - ADAM.lr * m / (1 - ADAM.beta1 ** (i + 1)) / (root + ADAM.epsilon)
    loss = LOSS(at, *REAL)
    return loss.detach(), torch.autograd.grad(loss, X)[0]


def test_a_step_with_adam_inside_is_the_derivative_through_its_window() -> None:
    before = new_state(state().X, state().Y, 0.1)
    rule = replace(RULE, images=Momentum(1.0, 0.0))
    after, record = real_loss_step(rule, STUDENT, S, before, REAL, 5, RealLoss(adam=ADAM))
    end = window_end(rule, 5, 0)
    loss, dX = by_autograd_with_adam(before.X, end - 2, end, 5, 0)
    assert relative_error(record.loss, loss) < 1e-10
    assert relative_error(after.X - before.X, -dX) < 1e-8
    assert torch.equal(after.eta, before.eta)  # it is no step size of Adam's
    assert torch.equal(after.rate_moments, before.rate_moments)


@pytest.mark.parametrize("interval", [1, 2, 4])
def test_an_adaptive_step_with_adam_inside_is_the_derivative_through_its_window(interval: int) -> None:
    before = new_state(state().X, state().Y, 0.1)._replace(steps=torch.tensor(1))
    rule, how = replace(RULE, images=Momentum(1.0, 0.0), interval=interval), RealLoss(ADAM, Adaptive(radius=1, steps=9))
    problem = inner_problem(rule, STUDENT, 6, 5, 1)
    thetas = trained(problem, S, before.X, before.Y, ADAM, T)
    gradients = [STUDENT.gradient(thetas[i][0], *problem.view(before.X, before.Y, i)) for i in range(T)]
    norms = torch.stack([u.norm() for u in gradients])
    begin, end = adaptive_window(norms, 2, 1, 0, generator(5, "window", 1))
    after, record = real_loss_step(rule, STUDENT, S, before, REAL, 5, how)
    loss, dX = by_autograd_with_adam(before.X, begin, end, 5, 1)
    assert relative_error(record.loss, loss) < 1e-10
    assert relative_error(after.X - before.X, -dX) < 1e-8


@pytest.mark.parametrize("how", [RealLoss(), RealLoss(ADAM), RealLoss(ADAM, Adaptive(radius=1, steps=9, epoch=2))])
def test_iterates_that_are_not_kept_and_images_in_parts_give_the_same_step(how: RealLoss) -> None:
    before = new_state(state().X, state().Y, 0.1)
    whole, record = real_loss_step(RULE, SEEING, S, before, REAL, 5, how)
    again, _ = real_loss_step(replace(RULE, interval=3), SEEING, S, before, REAL, 5, how)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    rule, how = replace(RULE, images=Momentum(1.0, 0.0)), replace(how, chunk=4)
    whole, _ = real_loss_step(rule, SEEING, S, before, REAL, 5, replace(how, chunk=None))
    parts, other = real_loss_step(rule, micro_batched(SEEING, 4), S, before, REAL, 5, how)
    assert relative_error(other.loss, record.loss) < 1e-10
    assert relative_error(parts.X - before.X, whole.X - before.X) < 1e-8
    assert torch.equal(parts.parts, whole.parts)


def test_stages_end_when_an_epoch_s_accuracy_has_not_risen_for_long() -> None:
    """As in the authors' program: 30 epochs on end that gain less than 1.5 points, then 25 less than 1, of T = 200."""
    assert (GAIN, PATIENCE) == ((0.015, 0.01), (0.15, 0.125))
    progress, stages = Progress.of(torch.empty(0)), []
    accuracies = [0.02 * (k + 1) for k in range(20)] + [0.41] * 29 + [0.5] + [0.5] * 70
    for accuracy in accuracies:
        for share in (accuracy - 0.1, accuracy + 0.1):  # two steps an epoch, of which the mean counts
            progress = Progress.of(progress.packed(torch.tensor(share, dtype=F64))).next_step(2, 200)
        stages.append(progress.stage)
    # 29 epochs of standing still are one too few, and the rise to 0.5 begins the count anew.
    assert stages.index(1) == 20 + 29 + 1 + 30 - 1
    assert stages.index(2) == stages.index(1) + 25
    assert set(stages[stages.index(2) :]) == {2}


def test_a_stage_that_accuracies_end_is_kept_in_the_state() -> None:
    how = RealLoss(ADAM, Adaptive(radius=1, steps=9, epoch=2))
    now, wanted = new_state(state().X, state().Y, 0.1), []
    for step in range(3):
        before = now
        now, _ = real_loss_step(RULE, SEEING, S, before, REAL, 5, how)
        problem = inner_problem(RULE, STUDENT, 6, 5, step)
        thetas = trained(problem, S, before.X, before.Y, ADAM, T)
        norms = [gradient_norm(thetas[i], thetas[i + 1], ADAM) for i in range(T)]
        _, end = adaptive_window(torch.stack(norms), 2, 1, 0, generator(5, "window", step))
        wanted.append(float(share_right(SEEING, thetas[end][0], *REAL)))
    assert now.parts.tolist() == pytest.approx([0, int(sum(wanted[:2]) / 2 < 0.015), sum(wanted[:2]) / 2, 1, wanted[2]])
    assert sum(wanted) > 0
    late = now._replace(parts=torch.tensor([2.0, 0.0, 0.5, 1.0, 0.5], dtype=F64))
    early = now._replace(parts=torch.tensor([0.0, 0.0, 0.5, 1.0, 0.5], dtype=F64))
    assert not torch.equal(*(real_loss_step(RULE, SEEING, S, one, REAL, 5, how)[0].X for one in (late, early)))
    with pytest.raises(ValueError, match="an accuracy needs its `forward`"):
        real_loss_step(RULE, STUDENT, S, now, REAL, 5, how)
