"""The inner loop where it starts late, and what a table of closed forms says of its sharpness."""

import pytest
import torch
from torch import Tensor

from tests.oracles import ALL_FAMILIES, F64, Y0, relative_error, small
from trajmatch.core.hypergradient import sweep
from trajmatch.core.inner import Iterates, Problem, inner_gradient, rollout
from trajmatch.core.matching import matching
from trajmatch.core.sharpness import SAM
from trajmatch.core.student import plain


@pytest.mark.parametrize("first", [1, 4, len(ALL_FAMILIES)])
def test_a_rollout_that_starts_late_is_the_tail_of_the_whole(first: int) -> None:
    p = small(ALL_FAMILIES, batch=3)
    whole = rollout(p.problem, p.s, p.X, p.Y, p.eta, p.T)
    tail = rollout(p.problem, whole[first], p.X, p.Y, p.eta, p.T, first)
    assert (tail.first, tail.last, whole.last) == (first, p.T, p.T)
    assert not torch.equal(whole[first - 1], whole[first])
    assert all(torch.equal(tail[i], whole[i]) for i in range(first, p.T + 1))
    for i in (first - 1, p.T + 1):
        with pytest.raises(IndexError, match=f"theta_{i} is not among theta_{first} to theta_{p.T}"):
            tail[i]


@pytest.mark.parametrize("kept", [(), (0,), (2, 5), (1, 2, 3), (3,), range(0, 9, 3)])
def test_iterates_that_are_not_kept_come_back_the_same_and_once(kept: tuple[int, ...]) -> None:
    p, calls = small(ALL_FAMILIES), []

    def counted(theta: Tensor, z: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return p.problem.student.gradient(theta, z, y)

    problem = p.problem._replace(student=p.problem.student._replace(gradient=counted))
    whole = rollout(p.problem, p.s, p.X, p.Y, p.eta, p.T)
    some = rollout(problem, p.s, p.X, p.Y, p.eta, p.T, kept=kept)
    assert len(calls) == p.T
    calls.clear()
    assert all(torch.equal(some[i], whole[i]) for i in reversed(range(p.T + 1)))
    assert len(calls) == len(set(range(1, p.T)) - set(kept))  # each of the others once, and never the last step


def test_iterates_hold_what_they_keep_and_one_stretch_between() -> None:
    one = torch.zeros(1)
    thetas = Iterates(0, 9, lambda theta, i: theta + 1)
    for i in (0, 4, 9):
        thetas.keep(i, one + i)
    assert [int(thetas[i]) for i in (8, 5, 6, 2, 1, 7)] == [8, 5, 6, 2, 1, 7]
    thetas[2]
    assert sorted(thetas._between) == [1, 2, 3]


def test_an_inner_gradient_is_a_constant_and_that_of_its_step() -> None:
    p = small(("identity", "flip"), batch=3)
    X = p.X.clone().requires_grad_()
    found = inner_gradient(p.problem, p.s, X, p.Y, 1)
    assert not found.requires_grad
    theta = p.s.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(p.problem.student.loss(theta, *p.problem.view(p.X, p.Y, 1)), theta)
    assert relative_error(found, wanted) < 1e-12
    assert relative_error(inner_gradient(p.problem, p.s, p.X, p.Y, 0), wanted) > 1e-2


@pytest.mark.parametrize("x", [-0.7, 0.2, 1.9])
def test_sharpness_of_the_scalar_quadratic_in_closed_form(x: float) -> None:
    """L(x + eps) - L(x) = rho |dL| + (c rho / (s - g))^2 with c = 1 - (1 - eta)^T, for eps = rho dL / |dL|."""
    T, rho = 5, 0.3
    X, s, g, eta = (torch.tensor([v], dtype=F64) for v in (x, 1.3, -0.4, 0.25))
    eta = eta[0]
    problem = Problem(lambda X, Y, i: (X, Y), plain(lambda theta, z, y: (theta - z).square().sum() / 2))

    def arrive(X: Tensor) -> tuple[Tensor, Tensor, Iterates]:
        thetas = rollout(problem, s, X, Y0, eta, T)
        return *matching(thetas[T], s, g), thetas

    L, q, thetas = arrive(X)
    d = sweep(problem, thetas, q, X, Y0, eta, 0).X
    eps, _ = SAM(rho).perturbation(d, X, torch.zeros_like(X))
    c = 1 - 0.75**T
    wanted = rho * d.abs() + (c * rho / (s - g)) ** 2
    assert relative_error((arrive(X + eps)[0] - L).view(1), wanted) < 1e-10
