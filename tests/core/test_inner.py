"""The inner loop where it starts late, and what a table of closed forms says of its sharpness."""

import pytest
import torch
from torch import Tensor

from tests.oracles import ALL_FAMILIES, F64, Y0, relative_error, small
from trajmatch.core.hypergradient import adjoint
from trajmatch.core.inner import Problem, inner_gradient, rollout
from trajmatch.core.matching import matching
from trajmatch.core.sharpness import SAM


@pytest.mark.parametrize("first", [1, 4, len(ALL_FAMILIES)])
def test_a_rollout_that_starts_late_is_the_tail_of_the_whole(first: int) -> None:
    p = small(ALL_FAMILIES, batch=3)
    whole = rollout(p.problem, p.s, p.X, p.Y, p.eta, p.T)
    tail = rollout(p.problem, whole[first], p.X, p.Y, p.eta, p.T, first)
    assert len(whole) == p.T + 1
    assert len(tail) == p.T - first + 1
    assert not torch.equal(whole[first - 1], whole[first])
    assert all(torch.equal(a, b) for a, b in zip(tail, whole[first:], strict=True))


def test_an_inner_gradient_is_a_constant_and_that_of_its_step() -> None:
    p = small(("identity", "flip"), batch=3)
    X = p.X.clone().requires_grad_()
    found = inner_gradient(p.problem, p.s, X, p.Y, 1)
    assert not found.requires_grad
    theta = p.s.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(p.problem.loss(theta, *p.problem.view(p.X, p.Y, 1)), theta)
    assert relative_error(found, wanted) < 1e-12
    assert relative_error(inner_gradient(p.problem, p.s, p.X, p.Y, 0), wanted) > 1e-2


@pytest.mark.parametrize("x", [-0.7, 0.2, 1.9])
def test_sharpness_of_the_scalar_quadratic_in_closed_form(x: float) -> None:
    """L(x + eps) - L(x) = rho |dL| + (c rho / (s - g))^2 with c = 1 - (1 - eta)^T, for eps = rho dL / |dL|."""
    T, rho = 5, 0.3
    X, s, g, eta = (torch.tensor([v], dtype=F64) for v in (x, 1.3, -0.4, 0.25))
    eta = eta[0]
    problem = Problem(lambda X, Y, i: (X, Y), lambda theta, z, y: (theta - z).square().sum() / 2)

    def arrive(X: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        thetas = rollout(problem, s, X, Y0, eta, T)
        return *matching(thetas[-1], s, g), thetas

    L, q, thetas = arrive(X)
    d = adjoint(problem, thetas, q, X, Y0, eta).X
    eps, _ = SAM(rho).perturbation(d, X, torch.zeros_like(X))
    c = 1 - 0.75**T
    wanted = rho * d.abs() + (c * rho / (s - g)) ** 2
    assert relative_error((arrive(X + eps)[0] - L).view(1), wanted) < 1e-10
