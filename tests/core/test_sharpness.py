"""Every rule on a two-dimensional bowl: in one dimension the orthogonal parts vanish and hide errors."""

import math

import pytest
import torch
from torch import Tensor

from tests.oracles import F64, relative_error
from trajmatch.core.sharpness import ASAM, GSAM, SAM, Sharpness, VaSSO

X = torch.tensor([[1.5, -0.4]], dtype=F64)
ZERO = torch.zeros_like(X)
A = torch.tensor([[3.0, 0.5], [0.5, 1.0]], dtype=F64)
RHO = 0.3


def gradient(x: Tensor) -> Tensor:
    return x @ A


D = gradient(X)


def test_sam() -> None:
    eps, _ = SAM(RHO).perturbation(D, X, ZERO)
    a, b = D[0].tolist()
    wanted = torch.tensor([[RHO * a / math.hypot(a, b), RHO * b / math.hypot(a, b)]], dtype=F64)
    assert relative_error(eps, wanted) < 1e-12
    assert torch.equal(SAM(RHO).direction(D, gradient(X + eps)), gradient(X + eps))


def test_asam_is_sam_in_the_scaled_coordinates() -> None:
    c = 0.05
    T = torch.diag(X[0].abs() + c)
    v = T @ D[0]
    wanted = RHO * T @ T @ D[0] / math.sqrt(float(v @ v))
    eps, _ = ASAM(RHO, c).perturbation(D, X, ZERO)
    assert relative_error(eps[0], wanted) < 1e-12
    # |T^-1 eps| = rho: the ball is round in X / T_X.
    assert float((torch.linalg.inv(T) @ eps[0]).norm()) == pytest.approx(RHO, rel=1e-12)


def test_gsam_descends_the_surrogate_gap_and_keeps_the_perturbed_direction() -> None:
    eps, _ = GSAM(RHO, 0.7).perturbation(D, X, ZERO)
    assert relative_error(eps, SAM(RHO).perturbation(D, X, ZERO).eps) < 1e-15
    d_prime = gradient(X + eps)
    found = GSAM(RHO, 0.7).direction(D, d_prime)
    unit = d_prime / d_prime.norm()
    normal = torch.stack((-unit[0, 1], unit[0, 0]))
    wanted = d_prime[0] - 0.7 * (D[0] @ normal) * normal
    assert abs(float(D[0] @ normal)) > 1e-3
    assert relative_error(found[0], wanted) < 1e-12
    assert float((found * unit).sum()) == pytest.approx(float(d_prime.norm()), rel=1e-12)


def test_vasso_averages_over_calls() -> None:
    rule, k = VaSSO(RHO, 0.25), 0.25
    second = gradient(X + 1.0)
    first = rule.perturbation(D, X, ZERO)
    eps, state = rule.perturbation(second, X, first.state)
    m = (1 - k) * k * D + k * second
    assert relative_error(state, m) < 1e-12
    assert relative_error(eps, RHO * m / math.sqrt(float((m * m).sum()))) < 1e-12


@pytest.mark.parametrize("rule", [GSAM(RHO, 0.0), VaSSO(RHO, 1.0), ASAM(RHO, 1e9)])
def test_rules_that_reduce_to_sam(rule: Sharpness) -> None:
    eps, _ = rule.perturbation(D, X, ZERO)
    eps = eps / 1e9 if isinstance(rule, ASAM) else eps  # T_X is 1e9 everywhere, up to |X|
    assert relative_error(eps, SAM(RHO).perturbation(D, X, ZERO).eps) < 1e-8
    d_prime = gradient(X + eps)
    assert relative_error(rule.direction(D, d_prime), d_prime) < 1e-12


@pytest.mark.parametrize("rule", [SAM(RHO), ASAM(RHO), GSAM(RHO), VaSSO(RHO)])
def test_a_flat_point_is_not_perturbed(rule: Sharpness) -> None:
    eps, _ = rule.perturbation(ZERO, X, ZERO)
    assert torch.equal(eps, ZERO)
    assert torch.equal(rule.direction(ZERO, ZERO), ZERO)


@pytest.mark.parametrize("rule", [SAM(RHO), GSAM(RHO), VaSSO(RHO)])
def test_the_norm_is_over_the_whole_set(rule: Sharpness) -> None:
    d = torch.linspace(-1, 2, 24, dtype=F64).view(2, 3, 2, 2)
    assert float(rule.perturbation(d, d, torch.zeros_like(d)).eps.norm()) == pytest.approx(RHO, rel=1e-12)
