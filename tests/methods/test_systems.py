"""The systems' outer steps: concurrent segments, learned and taught labels, guard, estimators; derived anew."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.oracles import F64, random, relative_error
from trajmatch.core.augment import augment, draw, families
from trajmatch.core.descent import Adam, Momentum, new_moments
from trajmatch.core.draws import generator
from trajmatch.core.loss import cross_entropy
from trajmatch.core.sharpness import SAM, VaSSO
from trajmatch.core.student import plain
from trajmatch.core.vector import functional
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.data.trajectories import Segment
from trajmatch.methods.outer import Rule, outer_step, probabilities
from trajmatch.methods.segment_weights import RULES, weights
from trajmatch.methods.state import OuterState, Record, new_state

T, SEED, STEP, N, C = 6, 11, 5, 6, 3
FAMILIES = families("color_crop_cutout_flip_scale_rotate")
MTT = Rule(T=T, iota=T, images=Momentum(3.0, 0.5), rate=Momentum(0.1, 0.6), families=FAMILIES, label=Momentum(2.0, 0.7))
SATM = replace(MTT, iota=2, sharpness=SAM(0.4), gamma=0.2, tau=4, second_order_rate=False)
LEARNED, TEACHER = replace(MTT, labels="learned"), replace(MTT, labels="teacher")

network, theta = build(lambda: convnet((1, 8, 8), C, depth=2, width=4), 1)
network.double()
FORWARD = functional(network)
LOSS = cross_entropy(FORWARD)
STUDENT = plain(LOSS)._replace(forward=FORWARD)


def segment(k: int) -> Segment:
    """Starts and ends of their own, and of lengths that make late hypergradients smaller."""
    s = theta.double() + 0.05 * random(len(theta), seed=40 + k)
    return Segment(s, s + 0.1 * (1 + k) * random(len(theta), seed=50 + k), k, k)


SEGMENTS = [segment(k) for k in range(3)]


def state(rule: Rule = MTT) -> OuterState:
    """A state in the middle of a run: moments, average and ascent are not zero."""
    Y = random(N, C, seed=4) if rule.labels == "learned" else torch.eye(C, dtype=F64).repeat_interleave(2, 0)
    first = new_state(random(N, 1, 8, 8, seed=3), Y, 0.1)
    fields = ("image_moments", "label_moments", "rate_moments", "ascent", "average")
    moments = {name: 0.1 * random(*getattr(first, name).shape, seed=i) for i, name in enumerate(fields, 60)}
    return first._replace(**moments, steps=torch.tensor(STEP))


class Found(NamedTuple):
    """One trajectory: L and its derivatives, in the labels' parameters and log eta; the iterates."""

    L: Tensor
    X: Tensor
    Y: Tensor
    log_eta: Tensor
    thetas: dict[int, Tensor]


def differentiated(
    rule: Rule, before: OuterState, k: int, X: Tensor, start: Tensor | None = None, first: int = 0, end: int = T,
    q: Tensor | None = None,
) -> Found:  # fmt: skip
    """Segment k by autograd through the last iota steps before `end`, with its draws made anew; or <theta_end, q>."""
    source = generator(SEED, "inner", int(before.steps), *([k] if k else []))
    b = [torch.arange(N)] * T
    if rule.batch:  # the six in two chunks
        b = [chunk for _ in range(T // 2) for chunk in torch.randperm(N, generator=source).split(rule.batch)]
    a = [draw(len(b_i), FAMILIES, source) for b_i in b]
    s, g, *_ = SEGMENTS[k]
    inputs = [t.clone().requires_grad_() for t in (X, before.Y, before.eta.log())]
    Y = inputs[1].softmax(1) if rule.labels == "learned" else inputs[1]
    if rule.labels == "teacher":
        Y = FORWARD(g, before.X).detach().softmax(1)
    at, thetas = s if start is None else start, {}
    for i in range(first, end):
        at = at.detach().requires_grad_() if i <= max(first, end - rule.iota) else at
        thetas[i] = at.detach()
        loss = LOSS(at, augment(inputs[0][b[i]], a[i]), Y[b[i]])
        at = at - inputs[2].exp() * torch.autograd.grad(loss, at, create_graph=i >= end - rule.iota)[0]
    L = (at - g).square().sum() / (s - g).square().sum() if q is None else at @ q
    d = torch.autograd.grad(L, inputs, allow_unused=True, materialize_grads=True)
    return Found(L.detach(), *d, thetas | {end: at.detach()})


def combined(found: Sequence[Found], w: Tensor | None = None) -> Found:
    """The weighted sum of the derivatives, or their mean."""
    w = torch.full((len(found),), 1 / len(found), dtype=F64) if w is None else w
    sums = [sum(w[k] * one[i] for k, one in enumerate(found)) for i in (1, 2, 3)]
    return Found(torch.stack([one.L for one in found]).mean(), *sums, {})  # type: ignore[arg-type]


def weights_anew(combining: str, found: Sequence[Found]) -> Tensor:
    norms = torch.tensor([float(one.X.norm()) for one in found], dtype=F64)
    return torch.full_like(norms, 1 / len(norms)) if combining == "mean" else norms.mean() / norms / len(norms)


def assert_step(rule: Rule, before: OuterState, after: OuterState, d: Found, tolerance: float = 1e-9) -> None:
    """Images, logits and step size went along d by their optimisers, and hard labels nowhere."""
    pairs = [(rule.images, after.X - before.X, before.image_moments, d.X)]
    pairs += [(rule.rate, after.eta.log() - before.eta.log(), before.rate_moments, d.log_eta)]
    if rule.labels == "learned":
        pairs += [(rule.label, after.Y - before.Y, before.label_moments, d.Y)]
    else:
        assert torch.equal(after.label_moments, before.label_moments)
        assert torch.equal(after.Y, before.Y) or rule.labels == "teacher"
    for optimiser, change, moments, along in pairs:
        assert isinstance(optimiser, Momentum)
        assert relative_error(change, -optimiser.lr * (optimiser.mu * moments[0] + along)) < tolerance
    assert int(after.steps) == int(before.steps) + 1


def with_noise(rule: Rule, X: Tensor) -> Tensor:
    """X + z, with the one noise of the step for all segments; images have 64 entries."""
    noise = torch.randn(X.shape, generator=generator(SEED, "noise", STEP), dtype=F64)
    return X + rule.gamma * X.flatten(1).norm(dim=1).view(-1, 1, 1, 1) / 8 * noise


def step(rule: Rule, K: int = 1, before: OuterState | None = None) -> tuple[OuterState, Record]:
    return outer_step(rule, STUDENT, state(rule) if before is None else before, SEGMENTS[:K], SEED)


def assert_equal_states(found: OuterState, wanted: OuterState, *but: str) -> None:
    for name in OuterState._fields:
        if name not in but:
            assert torch.equal(getattr(found, name), getattr(wanted, name)), name


@pytest.mark.parametrize("labels", ["fixed", "learned", "teacher"])
@pytest.mark.parametrize(("K", "batch"), [(1, None), (2, 4), (3, None)])
def test_a_concurrent_step_is_autograd_of_the_mean_of_the_losses(K: int, batch: int | None, labels: str) -> None:
    rule = replace(MTT, labels=labels, batch=batch)
    before = state(rule)
    after, record = step(rule, K)
    d = combined([differentiated(rule, before, k, before.X) for k in range(K)])
    assert relative_error(record.loss, d.L) < 1e-10
    assert record.loss_perturbed is None
    assert relative_error(record.hypergradient_norm, d.X.norm()) < 1e-10
    assert_step(rule, before, after, d)


@pytest.mark.parametrize("combining", ["mean", "adaptive"])
@pytest.mark.parametrize("labels", ["fixed", "learned", "teacher"])
@pytest.mark.parametrize("exact_rate", [False, True])
def test_satm_on_concurrent_segments_derived_anew(exact_rate: bool, labels: str, combining: str) -> None:
    rule = replace(SATM, labels=labels, combining=combining, second_order_rate=exact_rate)
    before = state(rule)
    after, record = step(rule, 3)
    X = before.X
    one = [differentiated(rule, before, k, with_noise(rule, X)) for k in range(3)]
    w = weights_anew(combining, one)
    d1 = combined(one, w)
    eps = 0.4 * d1.X / d1.X.norm()
    two = [differentiated(rule, before, k, X + eps, one[k].thetas[4], first=4) for k in range(3)]
    d2 = combined(two, weights_anew(combining, two))
    ends = zip([found.thetas[T] for found in one], SEGMENTS, strict=True)
    rates = [2 * (end - g) @ (end - s) / (s - g).square().sum() for end, (s, g, *_) in ends]
    log_eta = d1.log_eta if exact_rate else torch.stack(rates) @ w
    assert_step(rule, before, after, d2._replace(log_eta=log_eta))
    assert relative_error(record.loss, d1.L) < 1e-10
    assert record.loss_perturbed is not None
    assert relative_error(record.loss_perturbed, d2.L) < 1e-10
    assert relative_error(record.hypergradient_norm, d2.X.norm()) < 1e-9


@pytest.mark.parametrize("combining", ["pcgrad", "mgda"])
def test_labels_and_step_size_take_the_weights_of_the_images(combining: str) -> None:
    pytest.importorskip("torchjd")
    rule = replace(LEARNED, combining=combining)
    before = state(rule)
    found = [differentiated(rule, before, k, before.X) for k in range(3)]
    rows = torch.stack([one.X.flatten() for one in found])
    w = weights(combining, rows @ rows.T, SEED, STEP)
    assert float((w - 1 / 3).abs().max()) > 1e-2
    assert_step(rule, before, step(rule, 3)[0], combined(found, w), 1e-6)


@pytest.mark.parametrize("rule", [MTT, SATM])
def test_conflict_is_the_smallest_cosine_of_the_first_hypergradients(rule: Rule) -> None:
    before = state()
    d = [differentiated(rule, before, k, with_noise(rule, before.X)).X for k in range(3)]
    cosines = [float((a * b).sum() / (a.norm() * b.norm())) for a, b in combinations(d, 2)]
    for K in (2, 3):
        conflict = step(rule, K)[1].conflict
        assert conflict is not None
        assert float(conflict) == pytest.approx(min(cosines[: 1 if K == 2 else 3]), abs=1e-9)


def test_one_segment_needs_no_rule_of_combining() -> None:
    wanted, record = step(SATM)
    assert record.conflict is None
    for combining in RULES:
        assert_equal_states(step(replace(SATM, combining=combining))[0], wanted)


def test_equal_segments_have_draws_of_their_own() -> None:
    twice = outer_step(MTT, STUDENT, state(), [SEGMENTS[0]] * 2, SEED)
    assert not torch.equal(twice[0].X, step(MTT)[0].X)
    bare = replace(MTT, families=())  # without draws nothing tells them apart
    twice = outer_step(bare, STUDENT, state(), [SEGMENTS[0]] * 2, SEED)
    assert relative_error(twice[0].X, step(bare)[0].X) < 1e-12
    assert float(twice[1].conflict) == pytest.approx(1, abs=1e-9)  # type: ignore[arg-type]


def test_learned_labels_are_the_softmax_of_their_logits() -> None:
    before = state(LEARNED)
    assert torch.equal(probabilities(LEARNED, before), before.Y.softmax(1))
    assert torch.equal(probabilities(MTT, before), before.Y)
    assert torch.equal(probabilities(TEACHER, before), before.Y)
    after = step(LEARNED)[0]
    assert not torch.equal(after.Y, before.Y)
    shifted = step(LEARNED, before=before._replace(Y=before.Y + 3.0))[0]  # a shift of all logits is no change
    assert relative_error(shifted.X, after.X) < 1e-12


def test_a_teacher_says_anew_at_every_step_what_its_segment_ends_with() -> None:
    before = state(TEACHER)
    first = step(TEACHER, 2)[0]
    for now, after in ((before, first), (first, step(TEACHER, 2, first)[0])):
        said = [FORWARD(g, now.X).softmax(1) for _, g, *_ in SEGMENTS[:2]]
        assert relative_error(after.Y, torch.stack(said).mean(0)) < 1e-12
        assert relative_error(after.Y, now.Y) > 1e-3
    assert not first.Y.requires_grad
    # What the labels were before plays no part.
    assert torch.equal(step(TEACHER, 2, before._replace(Y=before.Y.flip(1)))[0].X, first.X)
    with pytest.raises(ValueError, match="forward"):
        outer_step(TEACHER, plain(LOSS), before, SEGMENTS[:1], SEED)


@pytest.mark.parametrize("rule", [MTT, TEACHER, replace(SATM, sharpness=VaSSO(0.4), labels="learned", ema=0.9)])
@pytest.mark.parametrize("K", [1, 3])
def test_the_guard_refuses_a_step_of_a_large_loss_and_changes_no_other(K: int, rule: Rule) -> None:
    before = state(rule)
    free, record = step(rule, K)
    loss = float(record.loss)
    for guard in (loss, 2 * loss):  # L of trajectory 1, and no loss at the guard is above it
        assert_equal_states(step(replace(rule, guard=guard), K)[0], free)
    after, refused = step(replace(rule, guard=loss * (1 - 1e-12)), K)
    assert_equal_states(after, before, "steps")
    assert int(after.steps) == STEP + 1
    assert bool(refused.healthy)
    assert float(refused.loss) == loss
    moved = {name for name in OuterState._fields if not torch.equal(getattr(free, name), getattr(before, name))}
    assert moved >= {"X", "eta", "average", "image_moments", "rate_moments"}  # all of which the guard held


def test_adam_counts_none_of_the_steps_that_the_guard_left_out() -> None:
    rule = replace(MTT, images=Adam(0.01), guard=0.0)
    before = after = state(rule)._replace(image_moments=new_moments(state(rule).X))
    for _ in range(10):
        after = step(rule, 1, after)[0]
    assert_equal_states(after, before, "steps")
    segment, open_ = [SEGMENTS[0]], replace(rule, guard=None)
    late = outer_step(open_, STUDENT, after._replace(steps=before.steps), segment, SEED)[0]
    assert int(late.taken) == int(before.taken) + 1
    assert_equal_states(late, outer_step(open_, STUDENT, before, segment, SEED)[0])


@pytest.mark.parametrize("rule", [MTT, TEACHER, replace(SATM, sharpness=VaSSO(0.4), labels="learned", ema=0.9)])
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_the_guard_leaves_out_a_step_whose_loss_is_not_finite(wrong: float, K: int, rule: Rule) -> None:
    before = state(rule)
    guarded, segments = replace(rule, guard=1e6), [SEGMENTS[k] for k in range(K)]
    segments[0] = segments[0]._replace(g=segments[0].g * wrong)
    unguarded = outer_step(rule, STUDENT, before, segments, SEED)
    assert not bool(unguarded[1].healthy)
    after, record = outer_step(guarded, STUDENT, before, segments, SEED)
    assert not bool(record.loss.isfinite())
    assert bool(record.healthy)
    assert_equal_states(after, before, "steps")
    assert int(after.steps) == STEP + 1
    assert all(bool(value.isfinite().all()) for value in after)


def test_tesla_halved_is_half_for_images_and_labels_and_whole_for_the_step_size() -> None:
    tesla = replace(LEARNED, estimator="tesla", images=Momentum(3.0, 0.0), label=Momentum(2.0, 0.0))
    before = state(tesla)
    whole, half = (step(replace(tesla, estimator=name))[0] for name in ("tesla", "tesla-halved"))
    assert relative_error(half.X - before.X, (whole.X - before.X) / 2) < 1e-12
    assert relative_error(half.Y - before.Y, (whole.Y - before.Y) / 2) < 1e-12
    assert torch.equal(half.eta, whole.eta)
    doubled = replace(tesla, estimator="tesla-halved", images=Momentum(6.0, 0.0), label=Momentum(4.0, 0.0))
    assert relative_error(step(doubled)[0].X - before.X, whole.X - before.X) < 1e-12
    assert relative_error(step(doubled)[0].Y - before.Y, whole.Y - before.Y) < 1e-12


@pytest.mark.parametrize("K", [1, 2])
def test_tesla_puts_the_cotangent_in_place_of_every_adjoint(K: int) -> None:
    rule = replace(LEARNED, estimator="tesla")
    before = state(rule)
    found = []
    for k in range(K):
        one = differentiated(rule, before, k, before.X)
        s, g, *_ = SEGMENTS[k]
        q = 2 * (one.thetas[T] - g) / (s - g).square().sum()
        # Each step by itself: theta_i is a constant, and <theta_{i+1}, q> is what is differentiated.
        alone = replace(rule, iota=1)
        steps = [differentiated(alone, before, k, before.X, one.thetas[i], i, i + 1, q) for i in range(T)]
        found.append(combined(steps, torch.ones(T))._replace(L=one.L))
    assert_step(rule, before, step(rule, K)[0], combined(found))


def test_the_unrolled_graph_and_the_sweep_make_the_same_step() -> None:
    for rule, K in ((LEARNED, 1), (MTT, 2), (replace(SATM, iota=T, tau=3), 2)):
        wanted, found = (step(replace(rule, estimator=name), K)[0] for name in ("truncated", "unrolled"))
        for name in ("X", "Y", "eta"):
            assert relative_error(getattr(found, name), getattr(wanted, name)) < 1e-10


@pytest.mark.parametrize("K", [1, 2])
def test_a_random_window_ends_where_seed_and_step_say(K: int) -> None:
    rule, ends = replace(MTT, iota=2, estimator="random-window"), set()
    for number in range(8):
        before = state()._replace(steps=torch.tensor(number))
        end = int(torch.randint(2, T + 1, (), generator=generator(SEED, "window", number)))
        after, record = step(rule, K, before)
        d = combined([differentiated(rule, before, k, before.X, end=end) for k in range(K)])
        assert relative_error(record.loss, d.L) < 1e-10
        assert_step(rule, before, after, d)
        ends.add(end)
    assert len(ends) > 2
