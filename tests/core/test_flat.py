"""FTD's rule for experts, FlatGSAM: its formula, its relatives, and training with it derived anew."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from tests.oracles import F64, random, relative_error
from trajmatch.core.augment import augment, draw
from trajmatch.core.draws import generator
from trajmatch.core.loss import cross_entropy, gradient
from trajmatch.core.sharpness import ASAM, GSAM, SAM, FlatGSAM, Sharpness, VaSSO
from trajmatch.core.vector import functional
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.methods.training import Training, train

RHO, ALPHA = 0.3, 0.7
A = torch.tensor([[3.0, 0.5], [0.5, 1.0]], dtype=F64)
X = torch.tensor([1.5, -0.4], dtype=F64)
ZERO = torch.zeros(2, dtype=F64)
D = A @ X


def bowl(x: Tensor) -> float:
    return float(x @ A @ x / 2)


def test_the_perturbation_by_hand() -> None:
    eps, _ = FlatGSAM(RHO).perturbation(D, X, ZERO)
    (a, b), (x, y) = D.tolist(), X.tolist()
    length = math.hypot(x * a, y * b)
    assert relative_error(eps, RHO / length * torch.tensor([x * x * a, y * y * b], dtype=F64)) < 1e-12


def test_the_perturbation_is_asams_without_an_offset_and_its_direction_gsams() -> None:
    x, d, d_prime = random(4, 3, seed=1), random(4, 3, seed=2), random(4, 3, seed=3)
    nothing = torch.zeros_like(x)
    flat = FlatGSAM(RHO, ALPHA)
    assert relative_error(flat.perturbation(d, x, nothing).eps, ASAM(RHO, 0.0).perturbation(d, x, nothing).eps) < 1e-12
    assert relative_error(flat.perturbation(d, x, nothing).eps, ASAM(RHO, 0.1).perturbation(d, x, nothing).eps) > 1e-2
    assert torch.equal(flat.direction(d, d_prime), GSAM(RHO, ALPHA).direction(d, d_prime))
    across = d - (d * d_prime).sum() / d_prime.square().sum() * d_prime
    assert relative_error(flat.direction(d, d_prime), d_prime - ALPHA * across) < 1e-12
    assert relative_error(FlatGSAM(RHO, 0.0).direction(d, d_prime), d_prime) < 1e-12


def test_the_radius_is_relative_to_the_weights() -> None:
    x, d = random(20, seed=4), random(20, seed=5)
    eps = FlatGSAM(RHO).perturbation(d, x, torch.zeros_like(x)).eps
    assert float((eps / x).norm()) == pytest.approx(RHO, rel=1e-12)  # the ball is round in units of the weights
    longer = FlatGSAM(RHO).perturbation(d, 10 * x, torch.zeros_like(x)).eps
    assert relative_error(longer, 10 * eps) < 1e-12
    # Along the gradient, whatever a weight's sign.
    assert bool((eps * d > 0).all())
    assert relative_error(FlatGSAM(RHO).perturbation(d, -x, torch.zeros_like(x)).eps, eps) < 1e-12
    assert relative_error(FlatGSAM(RHO).perturbation(100 * d, x, torch.zeros_like(x)).eps, eps) < 1e-12


def test_published_numbers_are_the_defaults() -> None:
    assert (FlatGSAM().rho, FlatGSAM().alpha) == (0.01, 0.3)


@pytest.mark.parametrize("start", [(1.5, -0.4), (-0.2, 2.0), (1.0, 1.0), (-1.0, -3.0)])
def test_on_a_bowl_the_perturbation_climbs(start: tuple[float, float]) -> None:
    x = torch.tensor(start, dtype=F64)
    eps, _ = FlatGSAM(RHO).perturbation(A @ x, x, ZERO)
    assert bowl(x + eps) > bowl(x)
    # Steeper than anywhere else on the ball |eps / x| = rho, to first order.
    for angle in torch.linspace(0, 6.2, 50, dtype=F64).tolist():
        other = RHO * x.abs() * torch.tensor([math.cos(angle), math.sin(angle)], dtype=F64)
        assert float(other @ (A @ x)) <= float(eps @ (A @ x)) + 1e-12


def test_a_weight_of_zero_and_a_flat_point_stay_and_the_state_passes_through() -> None:
    rule, state = FlatGSAM(RHO), random(2, seed=6)
    x = torch.tensor([0.0, 2.0], dtype=F64)
    found = rule.perturbation(D, x, state)
    assert relative_error(found.eps, torch.tensor([0.0, 2 * math.copysign(RHO, float(D[1]))], dtype=F64)) < 1e-12
    assert torch.equal(found.state, state)
    for d, at in ((ZERO, X), (D, ZERO)):
        assert torch.equal(rule.perturbation(d, at, ZERO).eps, ZERO)
    assert torch.equal(rule.direction(ZERO, ZERO), ZERO)


# Training with it: ten images of three classes, mini-batches of four.
IMAGES, LABELS = random(10, 1, 8, 8, seed=1), torch.eye(3, dtype=F64)[torch.arange(10) % 3]
FAMILIES = ("crop", "scale")
NETWORK, INITIAL = build(lambda: convnet((1, 8, 8), 3, depth=2, width=4), 0)
NETWORK.double()
START = INITIAL.double()


def end_of(recipe: Training, seed: int = 3) -> Tensor:
    """Where training ends."""
    return list(train(partial(gradient, cross_entropy(functional(NETWORK))), START, IMAGES, LABELS, recipe, seed))[-1][
        0
    ]


def slope(theta: Tensor, z: Tensor, y: Tensor) -> Tensor:
    """The gradient of the loss in theta, by torch's own cross-entropy."""
    theta = theta.detach().requires_grad_()
    named, at = {}, 0
    for name, p in NETWORK.named_parameters():
        named[name] = theta[at : at + p.numel()].reshape(p.shape)
        at += p.numel()
    return torch.autograd.grad(F.cross_entropy(functional_call(NETWORK, named, (z,)), y), theta)[0]


def test_flat_training_by_an_independent_loop() -> None:
    """Both gradients on one mini-batch as augmented; weight decay and momentum as SGD's, on the direction."""
    lr, mu, decay = 0.1, 0.9, 1e-2
    flat = Training(lr, 3, 4, mu, decay, FAMILIES, sharpness=FlatGSAM(RHO, ALPHA))
    source, theta, velocity = generator(3, "training"), START, torch.zeros_like(START)
    for _ in range(3):
        for index in torch.randperm(10, generator=source).split(4):
            z, y = augment(IMAGES[index], draw(len(index), FAMILIES, source)), LABELS[index]
            u = slope(theta, z, y)
            scaled = theta.abs() * u
            u_prime = slope(theta + RHO * theta.square() * u / scaled.norm(), z, y)
            across = u - (u @ u_prime) / (u_prime @ u_prime) * u_prime
            velocity = mu * velocity + (u_prime - ALPHA * across) + decay * theta
            theta = theta - lr * velocity
    assert relative_error(end_of(flat) - START, theta - START) < 1e-8


@pytest.mark.parametrize(
    "changed",
    [{"sharpness": FlatGSAM(RHO / 2, ALPHA)}, {"sharpness": FlatGSAM(RHO, 0.0)}, {"momentum": 0.0},
     {"weight_decay": 0.0}, {"sharpness": None}, {"sharpness": SAM(RHO)}],
)  # fmt: skip
def test_every_part_of_flat_training_counts(changed: dict[str, object]) -> None:
    kept: dict[str, object] = {"momentum": 0.9, "weight_decay": 1e-1, "sharpness": FlatGSAM(RHO, ALPHA)}
    whole, other = (Training(0.1, 2, 4, **given) for given in (kept, kept | changed))  # type: ignore[arg-type]
    assert relative_error(end_of(other) - START, end_of(whole) - START) > 1e-4


@pytest.mark.parametrize("alpha", [0.0, ALPHA])
def test_a_vanishing_radius_is_plain_training(alpha: float) -> None:
    """The surrogate's orthogonal part vanishes too, for d and d' become one; the difference is of first order."""
    plain = end_of(Training(0.1, 2, 4, 0.9))
    far, near, none = (
        float((end_of(Training(0.1, 2, 4, 0.9, sharpness=FlatGSAM(rho, alpha))) - plain).norm())
        for rho in (1e-4, 1e-6, 0.0)
    )
    assert near < 0.05 * far < 1e-3
    assert none < 1e-12


def test_training_carries_the_rules_state_from_step_to_step() -> None:
    """VaSSO's average is over steps: with its newest gradient alone it is SAM, and else it is not."""
    sam, alone, average = (
        end_of(Training(0.1, 2, 4, sharpness=rule)) for rule in (SAM(RHO), VaSSO(RHO, 1.0), VaSSO(RHO, 0.2))
    )
    assert relative_error(alone, sam) < 1e-12
    assert relative_error(average - START, sam - START) > 1e-4
    first = generator(3, "training")
    theta, m = START, torch.zeros_like(START)
    for _ in range(2):
        for index in torch.randperm(10, generator=first).split(4):
            torch.rand(len(index), 3, generator=first)  # the augmentation's numbers, of no effect here
            m = 0.8 * m + 0.2 * slope(theta, IMAGES[index], LABELS[index])
            theta = theta - 0.1 * slope(theta + RHO * m / m.norm(), IMAGES[index], LABELS[index])
    assert relative_error(average - START, theta - START) < 1e-8


@pytest.mark.parametrize("rule", [None, SAM(RHO), FlatGSAM(RHO, ALPHA)])
def test_the_price_of_flatness_is_a_second_gradient(rule: Sharpness | None) -> None:
    asked: list[Tensor] = []

    def counted(theta: Tensor, z: Tensor, y: Tensor) -> Tensor:
        asked.append(theta)
        return slope(theta, z, y)

    steps = list(train(counted, START, IMAGES, LABELS, Training(0.1, 1, 5, sharpness=rule), 0))
    assert len(asked) == (2 if rule else 1) * len(steps)
    assert torch.equal(asked[0], START)
