"""The outer step: derived anew with plain autograd, its identities, and its purity."""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from tests.oracles import F64, random, relative_error
from trajmatch.core.augment import augment, draw, families
from trajmatch.core.descent import Adam, Momentum
from trajmatch.core.draws import generator
from trajmatch.core.loss import cross_entropy
from trajmatch.core.sharpness import ASAM, GSAM, SAM, Perturbation, VaSSO
from trajmatch.core.student import plain
from trajmatch.core.vector import functional
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.data.trajectories import Segment
from trajmatch.methods.outer import Rule, outer_step
from trajmatch.methods.state import OuterState, new_state

T, SEED = 6, 11
FAMILIES = families("color_crop_cutout_flip_scale_rotate")
SATM = Rule(
    T=T, iota=2, images=Momentum(3.0, 0.5), rate=Momentum(0.1, 0.5), families=FAMILIES, sharpness=SAM(0.4), gamma=0.2,
    tau=4, second_order_rate=False,
)  # fmt: skip
MTT = Rule(T=T, iota=T, images=Momentum(3.0, 0.5), rate=Momentum(0.1, 0.5), families=FAMILIES)

network, theta = build(lambda: convnet((1, 8, 8), 3, depth=2, width=4), 1)
network.double()
LOSS = cross_entropy(functional(network))
STUDENT = plain(LOSS)
S = theta.double()
SEGMENT = Segment(S, S + 0.1 * random(len(S), seed=2), 0, 0)


def state() -> OuterState:
    first = new_state(random(6, 1, 8, 8, seed=3), torch.eye(3, dtype=F64).repeat_interleave(2, 0), 0.1)
    return outer_step(MTT, STUDENT, first, [SEGMENT], 0)[0]  # moments that are not zero


def unroll(X: Tensor, eta: Tensor, start: Tensor, first: int, iota: int) -> tuple[Tensor, Tensor, Tensor]:
    """theta_T, L and dL/dX through the last iota steps, by autograd; the draws of step `state().steps` made anew."""
    source = generator(SEED, "inner", 1)
    a = [draw(len(X), FAMILIES, source) for _ in range(T)]
    X = X.clone().requires_grad_()
    Y, at = state().Y, start
    for i in range(first, T):
        at = at.detach() if i <= T - iota else at
        at = at.requires_grad_() if at.is_leaf else at
        (u,) = torch.autograd.grad(LOSS(at, augment(X, a[i]), Y), at, create_graph=i >= T - iota)
        at = at - eta * u
    L = (at - SEGMENT.g).square().sum() / (S - SEGMENT.g).square().sum()
    return at.detach(), L.detach(), torch.autograd.grad(L, X)[0]


def test_satm_step_derived_anew() -> None:
    before = state()
    after, record = outer_step(SATM, STUDENT, before, [SEGMENT], SEED)
    X, eta = before.X, before.eta
    noise = torch.randn(X.shape, generator=generator(SEED, "noise", 1), dtype=F64)
    noisy = X + 0.2 * X.flatten(1).norm(dim=1).view(-1, 1, 1, 1) / 8 * noise
    theta_T, loss, d1 = unroll(noisy, eta, S, 0, 2)
    eps = 0.4 * d1 / d1.norm()
    # The iterate tau of trajectory 1, by running it again that far.
    a_source = generator(SEED, "inner", 1)
    at = S
    for i, a in enumerate([draw(6, FAMILIES, a_source) for _ in range(T)]):
        if i == 4:
            break
        at = at.detach().requires_grad_()
        at = at - eta * torch.autograd.grad(LOSS(at, augment(noisy, a), before.Y), at)[0]
    _, loss2, d2 = unroll(X + eps, eta, at.detach(), 4, 2)
    assert relative_error(record.loss, loss) < 1e-10
    assert record.loss_perturbed is not None
    assert relative_error(record.loss_perturbed, loss2) < 1e-10
    velocity = 0.5 * before.image_moments[0] + d2
    assert relative_error(after.X - X, -3.0 * velocity) < 1e-10
    q = 2 * (theta_T - SEGMENT.g) / (S - SEGMENT.g).square().sum()
    rate = 0.5 * before.rate_moments[0] + q @ (theta_T - S)
    assert relative_error(after.eta.log() - eta.log(), -0.1 * rate) < 1e-10
    assert relative_error(record.hypergradient_norm, d2.norm()) < 1e-10
    assert int(after.steps) == int(before.steps) + 1


def test_mtt_step_derived_anew() -> None:
    before = state()
    after, record = outer_step(MTT, STUDENT, before, [SEGMENT], SEED)
    _, loss, d = unroll(before.X, before.eta, S, 0, T)
    assert relative_error(record.loss, loss) < 1e-10
    assert relative_error(after.X - before.X, -3.0 * (0.5 * before.image_moments[0] + d)) < 1e-10


@pytest.mark.parametrize("sharpness", [SAM(0.0), GSAM(0.0, 0.0), VaSSO(0.0), ASAM(0.0)])
def test_satm_without_its_extras_is_mtt(sharpness: SAM) -> None:
    plain = replace(SATM, sharpness=sharpness, gamma=0.0, iota=T, tau=0, second_order_rate=True)
    ours, theirs = (outer_step(rule, STUDENT, state(), [SEGMENT], SEED)[0] for rule in (plain, MTT))
    for name in ("X", "eta", "image_moments", "rate_moments"):
        assert relative_error(getattr(ours, name), getattr(theirs, name)) < 1e-12, name


@pytest.mark.parametrize(
    "changed",
    [{"gamma": 0.0}, {"tau": 0}, {"iota": T}, {"second_order_rate": True}, {"sharpness": ASAM(0.4)},
     {"sharpness": GSAM(0.4)}, {"sharpness": None}, {"batch": 4}, {"families": ()}],
)  # fmt: skip
def test_every_ablation_changes_the_step(changed: dict[str, object]) -> None:
    ours = outer_step(SATM, STUDENT, state(), [SEGMENT], SEED)[0]
    theirs = outer_step(replace(SATM, **changed), STUDENT, state(), [SEGMENT], SEED)[0]  # type: ignore[arg-type]
    assert not torch.equal(ours.X, theirs.X) or not torch.equal(ours.eta, theirs.eta)


def test_a_step_is_a_pure_function_of_state_segment_and_seed() -> None:
    before = state()
    kept = [t.clone() for t in before]
    one = outer_step(SATM, STUDENT, before, [SEGMENT], SEED)
    outer_step(SATM, STUDENT, before, [SEGMENT], SEED + 1)  # another step in between
    two = outer_step(SATM, STUDENT, before, [SEGMENT], SEED)
    for a, b in zip((*one[0], *one[1]), (*two[0], *two[1]), strict=True):
        assert a is None or torch.equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(kept, before, strict=True))


def test_ema_clip_and_scale() -> None:
    before = state()
    free = outer_step(MTT, STUDENT, before, [SEGMENT], SEED)[0]
    averaged = outer_step(replace(MTT, ema=0.9), STUDENT, before, [SEGMENT], SEED)[0]
    assert relative_error(averaged.average, 0.9 * before.average + 0.1 * free.X) < 1e-12
    assert torch.equal(free.average, free.X)
    halved = outer_step(MTT, STUDENT, before._replace(scale=before.scale / 2), [SEGMENT], SEED)[0]
    assert relative_error(halved.X - before.X, (free.X - before.X) / 2) < 1e-12
    still = before._replace(image_moments=torch.zeros_like(before.image_moments))
    clipped = outer_step(replace(MTT, clip=1e-3), STUDENT, still, [SEGMENT], SEED)[0]
    assert float((clipped.X - still.X).norm()) == pytest.approx(3.0 * 1e-3, rel=1e-9)
    first = still._replace(taken=0 * still.taken)
    adam = outer_step(replace(MTT, images=Adam(0.01)), STUDENT, first, [SEGMENT], SEED)[0]
    assert float((adam.X - still.X).abs().max()) == pytest.approx(0.01, rel=1e-3)  # the first step of Adam is its rate


def test_the_step_size_stays_positive_and_a_lost_one_is_noticed() -> None:
    wild = replace(MTT, rate=Momentum(50.0))
    after, record = outer_step(wild, STUDENT, state(), [SEGMENT], SEED)
    assert float(after.eta) > 0 or not bool(record.healthy)
    lost = state()._replace(X=state().X * float("nan"))
    assert not bool(outer_step(SATM, STUDENT, lost, [SEGMENT], SEED)[1].healthy)
    assert bool(outer_step(SATM, STUDENT, state(), [SEGMENT], SEED)[1].healthy)


@dataclass(frozen=True)
class Scripted:
    """A sharpness rule that records what it is given and answers with what the test chose."""

    eps: Tensor
    way: Tensor
    seen: list[Tensor] = field(default_factory=list)

    def perturbation(self, d: Tensor, X: Tensor, state: Tensor) -> Perturbation:
        self.seen.extend((d, X, state))
        return Perturbation(self.eps, state + 1)

    def direction(self, d: Tensor, d_prime: Tensor) -> Tensor:
        self.seen.extend((d, d_prime))
        return self.way


@pytest.mark.parametrize("tau", [0, 2, 4, 5])
def test_what_the_sharpness_rule_is_given_and_what_becomes_of_its_answer(tau: int) -> None:
    before = state()._replace(ascent=random(6, 1, 8, 8, seed=20))
    rule = Scripted(0.2 * random(6, 1, 8, 8, seed=21), random(6, 1, 8, 8, seed=22))
    after, record = outer_step(replace(SATM, sharpness=rule, tau=tau), STUDENT, before, [SEGMENT], SEED)
    d, X, ascent, d_again, d_prime = rule.seen
    assert torch.equal(X, before.X)  # without the noise
    assert torch.equal(ascent, before.ascent)
    assert torch.equal(d, d_again)
    assert torch.equal(after.ascent, before.ascent + 1)
    assert relative_error(after.X - before.X, -3.0 * (0.5 * before.image_moments[0] + rule.way)) < 1e-10
    assert relative_error(record.hypergradient_norm, rule.way.norm()) < 1e-12
    assert torch.equal(record.step_size, before.eta)
    # Both gradients anew: trajectory 1 on noisy images, trajectory 2 from its iterate tau.
    noise = torch.randn(X.shape, generator=generator(SEED, "noise", 1), dtype=F64)
    noisy = X + 0.2 * X.flatten(1).norm(dim=1).view(-1, 1, 1, 1) / 8 * noise
    assert relative_error(d, unroll(noisy, before.eta, S, 0, 2)[2]) < 1e-10
    restart, source = S, generator(SEED, "inner", 1)
    for a in [draw(6, FAMILIES, source) for _ in range(T)][:tau]:
        restart = restart.detach().requires_grad_()
        u = torch.autograd.grad(LOSS(restart, augment(noisy, a), before.Y), restart)[0]
        restart = restart - before.eta * u
    assert relative_error(d_prime, unroll(X + rule.eps, before.eta, restart.detach(), tau, 2)[2]) < 1e-10


@pytest.mark.parametrize("optimiser", ["momentum", "adam"])
def test_images_over_several_steps_against_torch(optimiser: str) -> None:
    current = new_state(random(6, 1, 8, 8, seed=3), torch.eye(3, dtype=F64).repeat_interleave(2, 0), 0.1)
    theirs = current.X.clone().requires_grad_()
    if optimiser == "momentum":
        ours: Momentum | Adam = Momentum(0.3, 0.5)
        reference: torch.optim.Optimizer = torch.optim.SGD([theirs], lr=0.3, momentum=0.5)
    else:
        ours, reference = Adam(0.3), torch.optim.Adam([theirs], lr=0.3)
    for k in range(4):
        way = random(6, 1, 8, 8, seed=30 + k)
        rule = Scripted(torch.zeros_like(way), way)
        current, _ = outer_step(replace(SATM, sharpness=rule, images=ours), STUDENT, current, [SEGMENT], SEED)
        theirs.grad = way
        reference.step()
        assert int(current.steps) == k + 1
        assert relative_error(current.X, theirs) < 1e-12


def test_the_second_order_rate_by_autograd_through_the_unroll() -> None:
    before = state()
    after, _ = outer_step(MTT, STUDENT, before, [SEGMENT], SEED)
    source, log_eta = generator(SEED, "inner", 1), before.eta.log().requires_grad_()
    at = S.clone().requires_grad_()
    for a in [draw(6, FAMILIES, source) for _ in range(T)]:
        (u,) = torch.autograd.grad(LOSS(at, augment(before.X, a), before.Y), at, create_graph=True)
        at = at - log_eta.exp() * u
    L = (at - SEGMENT.g).square().sum() / (S - SEGMENT.g).square().sum()
    (slope,) = torch.autograd.grad(L, log_eta)
    assert relative_error(before.rate_moments[0], slope) > 1e-3  # the momentum counts
    wanted = -0.1 * (0.5 * before.rate_moments[0] + slope)
    assert relative_error(after.eta.log() - before.eta.log(), wanted) < 1e-10


def still() -> OuterState:
    """The state with no momentum."""
    before = state()
    return before._replace(image_moments=0 * before.image_moments, rate_moments=0 * before.rate_moments)


def rate_slope() -> float:
    """dL / d log eta at `still()`."""
    after, _ = outer_step(replace(MTT, rate=Momentum(1.0)), STUDENT, still(), [SEGMENT], SEED)
    return float(still().eta.log() - after.eta.log())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("change", [2.0, 30.0, 300.0])
def test_a_huge_rate_multiplies_the_step_size_and_keeps_it_positive(change: float, sign: int) -> None:
    """Step eta itself by the same relative change of 2, 30, 300, and one of the two signs turns it negative."""
    rate = Momentum(sign * change / abs(rate_slope()))
    after, record = outer_step(replace(MTT, rate=rate), STUDENT, still(), [SEGMENT], SEED)
    direction = -math.copysign(1, rate_slope()) * sign
    assert float(after.eta) == pytest.approx(float(still().eta) * math.exp(direction * change), rel=1e-9)
    assert float(after.eta) > 0
    assert bool(record.healthy)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_step_size_that_leaves_the_floats_is_noticed(sign: int) -> None:
    rate = Momentum(sign * 2000.0 / abs(rate_slope()))  # e^2000 is infinite, and e^-2000 zero
    after, record = outer_step(replace(MTT, rate=rate), STUDENT, still(), [SEGMENT], SEED)
    assert float(after.eta) in (0.0, math.inf)
    assert after.X.isfinite().all()
    assert not bool(record.healthy)


def test_images_that_leave_the_floats_are_noticed() -> None:
    after, record = outer_step(replace(MTT, images=Momentum(math.inf)), STUDENT, still(), [SEGMENT], SEED)
    assert not after.X.isfinite().all()
    assert after.eta.isfinite()
    assert not bool(record.healthy)


def test_clipping_shortens_and_never_lengthens() -> None:
    free, record = outer_step(MTT, STUDENT, still(), [SEGMENT], SEED)
    norm = float(record.hypergradient_norm)
    loose = outer_step(replace(MTT, clip=2 * norm), STUDENT, still(), [SEGMENT], SEED)[0]
    assert torch.equal(loose.X, free.X)
    tight, kept = outer_step(replace(MTT, clip=norm / 4), STUDENT, still(), [SEGMENT], SEED)
    assert relative_error(tight.X - still().X, (free.X - still().X) / 4) < 1e-12
    assert float(kept.hypergradient_norm) == norm  # what is reported is before the clip


def test_a_step_depends_on_its_number_and_not_on_the_steps_before() -> None:
    before = still()
    far = before._replace(steps=before.steps + 6)
    first, again = (outer_step(SATM, STUDENT, far, [SEGMENT], SEED)[0] for _ in range(2))
    assert torch.equal(first.X, again.X)
    for gamma, names in ((0.2, FAMILIES), (0.2, ()), (0.0, FAMILIES)):  # the noise and the views, each by itself
        rule = replace(SATM, gamma=gamma, families=names)
        here, there = (outer_step(rule, STUDENT, at, [SEGMENT], SEED)[0] for at in (before, far))
        assert not torch.equal(here.X, there.X)


def test_every_field_of_a_new_state_but_the_count_is_on_the_images_device() -> None:
    made = new_state(torch.empty(2, 1, 4, 4, device="meta"), torch.empty(2, 2, device="meta"), 0.1)
    assert {name: value.device.type for name, value in made._asdict().items() if name != "steps"} == {
        name: "meta" for name in made._fields if name != "steps"
    }
