"""An early stop of the match and the mask of hard weights, with every estimator, derived anew with plain autograd."""

from collections.abc import Collection
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.oracles import ALL_FAMILIES, Y0, Quadratic, central_difference, random, relative_error, small
from trajmatch.core.estimators import ESTIMATORS, Estimate, Estimator, Task, adjoint, stack, tesla, truncated, unrolled
from trajmatch.core.hypergradient import Hypergradient
from trajmatch.core.inner import Problem, rollout
from trajmatch.core.matching import hard, matching, nearest
from trajmatch.core.rate import first_order_rate
from trajmatch.core.student import plain

T = len(ALL_FAMILIES)
MIDDLE = 3


def towards(k: int, alpha: float = 0.0, early: bool = True) -> Task:
    """A task whose target lies beside iterate k of its trajectory, so that the trajectory passes it there."""
    task = small(ALL_FAMILIES, batch=3).task
    thetas = rollout(task.problem, task.s, task.X, task.Y, task.eta, T)
    apart = (thetas[k] - thetas[k - 1]).norm()
    off = random(len(task.s), seed=90)
    return task._replace(g=thetas[k] + 0.2 * apart * off / off.norm(), early=early, alpha=alpha)


class Anew(NamedTuple):
    """What autograd gives for a task."""

    end: int
    loss: Tensor
    q: Tensor
    d: Hypergradient


def anew(task: Task, iota: int = T, by_q_alone: bool = False) -> Anew:
    """The estimate by one graph, from definitions: the end by sorting, the mask by sorting, no sweep.

    by_q_alone: every step's gradient is taken at a constant iterate, as TESLA does.
    """
    X, Y, eta = (t.clone().requires_grad_() for t in (task.X, task.Y, task.eta))
    start = task.s if task.start is None else task.start
    with torch.no_grad():
        values = [start]
        for i in range(task.first, task.T):
            values.append(values[-1] - eta * gradient(task, values[-1], X, Y, i).detach())
    order = range(task.first + 1, task.T + 1)
    lengths = {i: float((values[i - task.first] - task.g).abs().sum()) for i in order}
    end = max(i for i in order if lengths[i] == min(lengths.values())) if task.early else task.T
    since = max(task.first, end - iota)
    theta = values[since - task.first]
    for i in range(since, end):
        at = values[i - task.first] if by_q_alone else theta
        theta = theta - eta * gradient(task, at, X, Y, i)
    e = (theta - task.g).detach() ** 2
    m = torch.ones_like(e)
    m[e.argsort()[: int(task.alpha * len(e))]] = 0
    L = (m * (theta - task.g) ** 2).sum() / (m * (task.s - task.g) ** 2).sum()
    (q,) = torch.autograd.grad(L, theta, retain_graph=True)
    d = torch.autograd.grad(L, (X, Y, eta), allow_unused=True, materialize_grads=True)
    return Anew(end, L.detach(), q, Hypergradient(*d))


def gradient(task: Task, theta: Tensor, X: Tensor, Y: Tensor, i: int) -> Tensor:
    """u_i as a function of theta, X and Y."""
    with torch.enable_grad():
        theta = theta if theta.requires_grad else theta.clone().requires_grad_()
        z, y = task.problem.view(X, Y, i)
        return torch.autograd.grad(task.problem.student.loss(theta, z, y), theta, create_graph=True)[0]


def assert_found(found: Estimate, wanted: Anew, rate: bool = True) -> None:
    assert found.thetas.last == wanted.end
    pairs = [(found.loss, wanted.loss), (found.q, wanted.q), (found.d.X, wanted.d.X), (found.d.Y, wanted.d.Y)]
    for one, other in [*pairs, *([(found.d.eta, wanted.d.eta)] if rate else [])]:
        assert relative_error(one, other) < 1e-10


BOTH = [(True, 0.0), (False, 0.4), (True, 0.25)]


@pytest.mark.parametrize("estimate", [adjoint, unrolled])
@pytest.mark.parametrize(("early", "alpha"), BOTH)
def test_exact_estimators_are_autograd(estimate: Estimator, early: bool, alpha: float) -> None:
    task = towards(MIDDLE, alpha, early)
    wanted = anew(task)
    assert wanted.end == (MIDDLE if early else T)
    assert_found(estimate(task), wanted)
    plain = estimate(task._replace(early=False, alpha=0.0))
    assert relative_error(plain.d.X, wanted.d.X) > 1e-2


@pytest.mark.parametrize("iota", [1, 2, T])
@pytest.mark.parametrize(("early", "alpha"), BOTH)
def test_the_truncated_sweep_starts_at_the_end_that_was_chosen(early: bool, alpha: float, iota: int) -> None:
    task = towards(MIDDLE + 1, alpha, early)
    assert_found(truncated(iota)(task), anew(task, iota))


@pytest.mark.parametrize(("early", "alpha"), BOTH)
def test_tesla_is_autograd_with_a_detached_student(early: bool, alpha: float) -> None:
    task = towards(MIDDLE, alpha, early)
    found, wanted = tesla(task), anew(task, by_q_alone=True)
    assert_found(found, wanted, rate=False)
    total = sum(gradient(task, found.thetas[i], task.X, task.Y, i) for i in range(wanted.end))
    assert relative_error(found.d.eta, -(wanted.q @ total)) < 1e-10
    half = ESTIMATORS["tesla-halved"](T, T)(task)
    assert torch.equal(half.d.X, found.d.X / 2)


@pytest.mark.parametrize("kept", [(), {0}, {2, 5}, range(0, T, 3)])
def test_iterates_that_are_computed_again_change_nothing(kept: Collection[int]) -> None:
    task = towards(MIDDLE)
    for estimate in (adjoint, truncated(2), tesla):
        found, whole = estimate(task._replace(kept=kept)), estimate(task)
        assert found.thetas.last == whole.thetas.last == MIDDLE
        for a, b in zip((found.loss, found.q, *found.d), (whole.loss, whole.q, *whole.d), strict=True):
            assert torch.equal(a, b)
        with pytest.raises(IndexError):
            found.thetas[MIDDLE + 1]


def test_a_trajectory_that_goes_on_from_another_never_ends_at_its_start() -> None:
    task = towards(MIDDLE)
    thetas = adjoint(task._replace(early=False)).thetas
    on = task._replace(first=MIDDLE, start=thetas[MIDDLE])
    for estimate in (adjoint, unrolled, truncated(2)):
        assert_found(estimate(on), anew(on, 2 if estimate not in (adjoint, unrolled) else T))
        assert estimate(on).thetas.last > MIDDLE


def test_central_differences_where_end_and_mask_stay() -> None:
    task = towards(MIDDLE, 0.3)
    found, V = adjoint(task), random(*task.X.shape, seed=91)
    end, m = found.thetas.last, hard(found.thetas[found.thetas.last] - task.g, 0.3)

    def loss(step: float) -> float:
        thetas = rollout(task.problem, task.s, task.X + step * V, task.Y, task.eta, end)
        return float((m * (thetas[end] - task.g) ** 2).sum() / (m * (task.s - task.g) ** 2).sum())

    assert central_difference(loss, 1e-4) == pytest.approx(float((found.d.X * V).sum()), rel=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_closed_form_of_the_step_size_is_exact_for_one_step(alpha: float) -> None:
    quadratic = Quadratic.make(P=8)
    task = Task(quadratic.problem, quadratic.s, quadratic.g, quadratic.x, Y0, quadratic.eta, 1, alpha=alpha)
    found = adjoint(task)
    closed = first_order_rate(found.q, task.s, found.thetas[1], task.eta)
    assert relative_error(closed, anew(task).d.eta) < 1e-12
    # With more steps it is the sum of <q, u_i>, of the q that the mask gives, up to the end that was chosen.
    many = towards(MIDDLE, alpha)
    found = tesla(many)
    total = sum(gradient(many, found.thetas[i], many.X, many.Y, i) for i in range(MIDDLE))
    closed = first_order_rate(found.q, many.s, found.thetas[found.thetas.last], many.eta)
    assert relative_error(closed, -(found.q @ total)) < 1e-10


def test_the_last_of_equals_is_nearest_and_what_is_not_a_number_never() -> None:
    def of(*values: float) -> int:
        return nearest([torch.tensor(value) for value in values])

    assert of(2.0, 1.0, 1.0, 3.0) == 2
    assert of(1.0, 2.0, 3.0) == 0
    assert of(3.0, 1.0, float("nan"), float("inf")) == 1
    assert of(float("nan"), float("inf")) == 1


def test_the_nearest_is_so_by_the_sum_of_absolute_differences() -> None:
    steps = torch.tensor([[1.0, 1.0], [-1.0, 0.7], [3.0, 0.0]], dtype=torch.float64)
    student = plain(lambda theta, x, y: -(theta * x).sum() + 0 * y.sum())
    problem = Problem(lambda X, Y, i: (X[i], Y), student)
    s, g, one = torch.full((2,), 5.0).double(), torch.zeros(2).double(), torch.ones((), dtype=torch.float64)
    task = Task(problem, s, g, steps, Y0, one, 3, first=0, start=g, early=True)
    found = adjoint(task)
    # theta_1 = (1, 1) is nearer by squares, theta_2 = (0, 1.7) by absolute differences.
    assert found.thetas.last == 2
    assert torch.allclose(found.thetas[2], torch.tensor([0.0, 1.7]).double(), atol=1e-7)
    assert float(found.loss) == pytest.approx(1.7**2 / 50)


def test_a_trajectory_that_leaves_the_numbers_is_matched_before_it_does() -> None:
    quadratic = Quadratic.make()
    task = Task(quadratic.problem, quadratic.s, quadratic.g, quadratic.x, Y0, 1e200 * quadratic.eta, 4, early=True)
    assert not adjoint(task._replace(early=False)).loss.isfinite()
    found = adjoint(task)
    assert found.thetas.last == 1
    assert found.thetas[1].isfinite().all()


def test_the_mask_by_hand() -> None:
    gap = torch.tensor([3.0, -1.0, 0.5, 2.0, -4.0])
    for alpha, kept in [(0.0, 5), (0.19, 5), (0.2, 4), (0.5, 3), (0.99, 1)]:
        m = hard(gap, alpha)
        assert int(m.sum()) == kept
        assert gap.abs()[m == 1].min() > gap.abs()[m == 0].max() if kept < 5 else bool((m == 1).all())
    assert hard(torch.tensor([1.0, -1.0, 1.0, 0.0]), 0.5).tolist() == [1, 1, 1, 0]  # equal to the quantile
    rows = torch.stack([gap, gap.flip(0)])
    assert torch.equal(hard(rows, 0.4), torch.stack([hard(gap, 0.4), hard(gap, 0.4).flip(0)]))


def test_a_mask_of_nothing_is_no_mask_to_the_bit() -> None:
    theta, s, g = (random(50, seed=k).float() for k in range(3))
    for found, wanted in zip(matching(theta, s, g, 0.0), matching(theta, s, g), strict=True):
        assert torch.equal(found, wanted)
    L, q = matching(theta, s, g, 0.6)
    m = hard(theta - g, 0.6)
    assert (m == 0).sum() == 30
    assert torch.equal(q == 0, m == 0)
    assert (
        relative_error(q, torch.func.grad(lambda end: (m * (end - g) ** 2).sum() / (m * (s - g) ** 2).sum())(theta))
        < 1e-6
    )
    assert float(L) > float(matching(theta, s, g)[0])


def test_segments_together_have_no_early_stop_and_masks_of_their_own() -> None:
    tasks = [towards(MIDDLE, 0.3), towards(MIDDLE + 2, 0.3)]
    with pytest.raises(ValueError, match="an early stop takes one segment at a time"):
        adjoint(stack(tasks, tasks[0].problem.student))
    rows = [torch.stack([getattr(task, name) for task in tasks]) for name in ("X", "s", "g")]
    theta = torch.stack([adjoint(task).thetas[1] for task in tasks])
    L, q = matching(theta, rows[1], rows[2], 0.3)
    for k, task in enumerate(tasks):
        one = matching(theta[k], task.s, task.g, 0.3)
        assert relative_error(L[k], one[0]) < 1e-12
        assert relative_error(q[k], one[1]) < 1e-12
