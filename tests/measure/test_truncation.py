"""Truncation and reuse against the matrix quadratic, whose errors and constants have closed forms."""

import pytest
import torch

from tests.oracles import F64, Y0, Quadratic, random, relative_error, small
from trajmatch.core.estimators import Task, truncated, unrolled
from trajmatch.core.matching import matching
from trajmatch.measure import truncation as t

T = 12
IOTAS = (1, 2, 3, 4, 6, 12)


@pytest.fixture(params=[0, 7])
def quadratic(request: pytest.FixtureRequest) -> Quadratic:
    return Quadratic.make(seed=request.param)


def task(q: Quadratic) -> Task:
    return Task(q.problem, q.s, q.g, q.x, Y0, q.eta, T)


def eigenvalues(q: Quadratic) -> torch.Tensor:
    return torch.linalg.eigvalsh(q.A)


def test_errors_and_cosines_in_closed_form(quadratic: Quadratic) -> None:
    found = t.truncation(task(quadratic), IOTAS, probes=1, rounds=1)
    q, identity = quadratic.cotangent(T), torch.eye(5, dtype=F64)
    exact = (identity - quadratic.power(T)) @ q
    for k, iota in enumerate(IOTAS):
        left_out = quadratic.power(iota) @ (identity - quadratic.power(T - iota)) @ q
        part = exact - left_out
        assert abs(found.error[k] - float(left_out.norm() / exact.norm())) < 1e-12
        assert abs(found.cosine[k] - float(part @ exact / part.norm() / exact.norm())) < 1e-12
    assert found.error[0] > 0.1, "or nothing is tested"
    assert found.error[-1] < 1e-14


def test_constants_are_the_extreme_eigenvalues(quadratic: Quadratic) -> None:
    thetas = task(quadratic).rollout(T)
    kappa, beta = t.constants(task(quadratic), thetas, probes=1, rounds=2000)
    assert kappa == pytest.approx(float(1 - quadratic.eta * eigenvalues(quadratic)[0]), rel=1e-9)
    assert beta == pytest.approx(float(eigenvalues(quadratic)[-1]), rel=1e-9)


def test_proposition_4_1_holds_and_has_the_papers_form_where_the_loss_is_convex(quadratic: Quadratic) -> None:
    found = t.truncation(task(quadratic), IOTAS, probes=1, rounds=1000)
    _, q = matching(quadratic.theta(T), quadratic.s, quadratic.g)
    exact = unrolled(task(quadratic)).d.X
    m, eta = float(eigenvalues(quadratic)[0]), float(quadratic.eta)
    for error, bound, iota in zip(found.error, found.bound, IOTAS, strict=True):
        assert error <= bound * (1 + 1e-9)
        papers = found.beta * (1 - eta * m) ** iota / m * float(q.norm() / exact.norm())
        assert bound <= papers * (1 + 1e-9)
    assert found.bound[-1] == 0.0


def test_theorem_4_2_in_closed_form_and_its_bound(quadratic: Quadratic) -> None:
    other = quadratic.x + 0.3 * random(5, seed=20)
    found = t.reuse_distance(task(quadratic), other)
    kappa, beta = float(1 - quadratic.eta * eigenvalues(quadratic)[0]), float(eigenvalues(quadratic)[-1])
    apart = float((other - quadratic.x).norm())
    for tau in range(T + 1):
        wanted = (torch.eye(5, dtype=F64) - quadratic.power(tau)) @ (other - quadratic.x)
        assert abs(float(found[tau] - wanted.norm())) < 1e-12
        assert float(found[tau]) <= apart * t.reuse_bound(float(quadratic.eta), kappa, beta, tau) * (1 + 1e-9)
    assert found[0] == 0
    assert found[T] > 0.1


def test_the_bounds_hold_on_a_small_network_with_augmentation() -> None:
    one = small(["flip", "scale", "crop", "color", "cutout", "rotate"]).task
    found = t.truncation(one, (1, 2, 4, 6), probes=6, rounds=60)
    exact = unrolled(one).d.X
    for iota, error, bound in zip((1, 2, 4, 6), found.error, found.bound, strict=True):
        wanted = relative_error(truncated(iota)(one).d.X, exact) if iota < 6 else 0.0
        assert error == pytest.approx(wanted, abs=1e-9)
        assert error <= bound + 1e-9
    noise = one.X + 1e-6 * random(*one.X.shape, seed=4)
    apart = float((noise - one.X).norm())
    distances = t.reuse_distance(one, noise)
    for tau in range(one.T + 1):
        assert float(distances[tau]) <= 1.05 * apart * t.reuse_bound(float(one.eta), found.kappa, found.beta, tau)
    assert float(distances[-1]) > 1e-8


def test_the_coupling_of_a_small_network_is_the_norm_of_its_matrix() -> None:
    one = small(["scale"]).task
    thetas = one.rollout(1)
    rows = []
    for k in range(0, one.X.numel()):
        v = torch.zeros_like(one.X).view(-1)
        v[k] = 1.0
        rows.append(t._transposed(one, thetas[0], 0, v.view_as(one.X)))
    wanted = float(torch.linalg.matrix_norm(torch.stack(rows), 2))
    assert t.constants(one, thetas, 1, 100)[1] == pytest.approx(wanted, rel=1e-6)
