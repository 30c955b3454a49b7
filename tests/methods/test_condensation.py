"""DC, DSA and DM: losses by plain loops, derivatives by finite differences, steps and what lies between them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracles import F64, random, relative_error
from trajmatch.core.augment import augment, families
from trajmatch.core.descent import Momentum
from trajmatch.core.draws import derive, generator
from trajmatch.core.loss import cross_entropy
from trajmatch.core.student import plain
from trajmatch.core.vector import Layout, functional
from trajmatch.data.networks.convnet import build, convnet, embedding
from trajmatch.methods import condensation as b
from trajmatch.methods.state import OuterState, new_state
from trajmatch.methods.training import Training, train

NETWORK, THETA = build(lambda: convnet((2, 8, 8), 3, depth=2, width=4), 1)
NETWORK.double()
THETA = THETA.double()
LAYOUT, FORWARD = Layout.of(NETWORK), functional(NETWORK)
FEATURES = functional(embedding(NETWORK))
STUDENT = plain(cross_entropy(FORWARD))
ALL = families("color_crop_cutout_flip_scale_rotate")
REAL = [random(5, 2, 8, 8, seed=10 + k) for k in range(3)]
DM = b.Condensation(b.MEAN_FEATURES, Momentum(2.0, 0.5), ALL)
DSA = b.Condensation(b.GRADIENTS, Momentum(0.3, 0.5), ALL, 3, Training(0.1, 2, 4, 0.5, families=ALL))


def state() -> OuterState:
    first = new_state(random(6, 2, 8, 8, seed=3), torch.eye(3, dtype=F64).repeat_interleave(2, 0), 0.01)
    return first._replace(image_moments=random(2, 6, 2, 8, 8, seed=4))


def draws(count: int = 3) -> list[b.Draw]:
    source = generator(7)
    return [b.shared_draw(ALL, source) for _ in range(count)]


def seen(x: Tensor, a: b.Draw) -> Tensor:
    return torch.cat([augment(one[None], a) for one in x])


def test_every_image_of_a_class_is_augmented_alike() -> None:
    for a in draws(20):
        assert a.u.shape == (1, 3)
        twice = torch.cat([REAL[0][:1], REAL[0][:1]])
        found = b._seen(twice, a)
        assert torch.equal(found[0], found[1])


def test_the_distance_of_mean_features_by_a_plain_loop() -> None:
    X, a = state().X.split(2), draws()
    found = b.feature_distance(FEATURES, THETA, X, REAL, a)
    wanted = sum(
        float((FEATURES(THETA, seen(r, one)).mean(0) - FEATURES(THETA, seen(x, one)).mean(0)).square().sum())
        for x, r, one in zip(X, REAL, a, strict=True)
    )
    assert wanted > 0.1
    assert float(found) == pytest.approx(wanted, rel=1e-10)


def test_the_distance_of_gradients_by_a_plain_loop() -> None:
    X, a = state().X.split(2), draws()
    found = b.gradients_distance(FORWARD, LAYOUT, THETA, X, b.real_gradients(STUDENT, THETA, REAL, a), a)
    total = 0.0
    for label in range(3):
        sides = []
        for images in (REAL[label], X[label]):
            parameters = {k: v.clone().requires_grad_() for k, v in LAYOUT.split(THETA).items()}
            outputs = torch.func.functional_call(NETWORK, parameters, (seen(images, a[label]),))
            loss = F.cross_entropy(outputs, torch.full((len(images),), label))
            sides.append(torch.autograd.grad(loss, list(parameters.values())))
        for one, two in zip(*sides, strict=True):
            if one.dim() > 1:
                for row, other in zip(one.reshape(len(one), -1), two.reshape(len(two), -1), strict=True):
                    total += 1 - float(row @ other / (row.norm() * other.norm()))
    assert total > 1
    assert float(found.detach()) == pytest.approx(total, rel=1e-9)


def test_equal_gradients_are_at_no_distance_whatever_their_lengths() -> None:
    u = random(LAYOUT.size, seed=5)
    assert float(b.gradient_distance(LAYOUT, u, 3 * u)) == pytest.approx(0, abs=1e-12)
    rows = sum(shape[0] for shape in LAYOUT.shapes if len(shape) > 1)
    assert float(b.gradient_distance(LAYOUT, u, -u)) == pytest.approx(2 * rows)


@pytest.mark.parametrize("rule", [DM, DSA], ids=["dm", "dsa"])
def test_a_step_goes_along_the_derivative(rule: b.Condensation) -> None:
    before = state()
    forward = FEATURES if rule.matched == b.MEAN_FEATURES else FORWARD
    after, record = b.condensation_step(rule, forward, LAYOUT, STUDENT, THETA, before, REAL, 9)
    d = (before.X - after.X) / rule.images.lr - 0.5 * before.image_moments[0]
    source = generator(9, "condensation", 0)
    a = [b.shared_draw(ALL, source) for _ in REAL]

    def loss(X: Tensor) -> float:
        if rule.matched == b.MEAN_FEATURES:
            return float(b.feature_distance(forward, THETA, X.split(2), REAL, a))
        gradients = b.real_gradients(STUDENT, THETA, REAL, a)
        return float(b.gradients_distance(forward, LAYOUT, THETA, X.split(2), gradients, a).detach())

    v, step = random(*before.X.shape, seed=6), 1e-6
    wanted = (loss(before.X + step * v) - loss(before.X - step * v)) / (2 * step)
    assert float((d * v).sum()) == pytest.approx(wanted, rel=1e-5)
    assert float(record.loss) == pytest.approx(loss(before.X))
    assert float(record.hypergradient_norm) == pytest.approx(float(d.norm()))
    assert bool(record.healthy)
    assert int(after.steps) == 1


def test_a_network_is_trained_on_the_images_between_updates_and_then_replaced() -> None:
    before = state()
    network = DSA.network
    assert network is not None
    first, _ = b.condensation_step(DSA, FORWARD, LAYOUT, STUDENT, THETA, before, REAL, 9)
    *_, now = train(STUDENT.gradient, THETA, first.X, first.Y, network, derive(9, "network", 0))
    assert relative_error(first.network, now.theta) < 1e-12
    assert relative_error(first.network, THETA) > 1e-6
    other = random(LAYOUT.size, seed=8)
    second, _ = b.condensation_step(DSA, FORWARD, LAYOUT, STUDENT, other, first, REAL, 9)
    again, _ = b.condensation_step(DSA, FORWARD, LAYOUT, STUDENT, THETA, first, REAL, 9)
    assert torch.equal(second.X, again.X), "a fresh network counts at every third step alone"
    third, _ = b.condensation_step(DSA, FORWARD, LAYOUT, STUDENT, other, second, REAL, 9)
    assert torch.equal(third.network, second.network), "it is about to be replaced, and not trained again"
    fourth = [b.condensation_step(DSA, FORWARD, LAYOUT, STUDENT, t, third, REAL, 9)[0] for t in (THETA, 0.5 * THETA)]
    assert not torch.equal(fourth[0].X, fourth[1].X)


def test_dc_is_dsa_without_augmentation_and_half_the_rate_is_half_the_way() -> None:
    before = state()
    dc = replace(DSA, families=())
    after, _ = b.condensation_step(dc, FORWARD, LAYOUT, STUDENT, THETA, before, REAL, 9)
    other, _ = b.condensation_step(dc, FORWARD, LAYOUT, STUDENT, THETA, before, REAL, 10)
    assert torch.equal(after.X, other.X), "nothing else is drawn"
    half = before._replace(scale=before.scale / 2)
    slow, _ = b.condensation_step(dc, FORWARD, LAYOUT, STUDENT, THETA, half, REAL, 9)
    assert relative_error(slow.X - before.X, (after.X - before.X) / 2) < 1e-12
