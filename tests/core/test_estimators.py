"""Every estimator against autograd written anew with torch.func, and TESLA's in closed form."""

from collections.abc import Collection, Sequence
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad

from tests.oracles import ALL_FAMILIES, F64, Y0, Quadratic, random, relative_error, small
from trajmatch.core.estimators import (
    ESTIMATORS,
    Estimate,
    Task,
    adjoint,
    random_window,
    tesla,
    truncated,
    unrolled,
)
from trajmatch.core.hypergradient import Hypergradient
from trajmatch.core.student import micro_batched
from trajmatch.data.networks.convnet import build, convnet

EXACT = ["reverse-over-reverse", "forward-over-reverse"]
T = len(ALL_FAMILIES)
# The network of `small`, on which the loss is written out anew.
NETWORK = build(lambda: convnet((2, 8, 8), 3, depth=2, width=4), 5)[0].double()


def loss_anew(theta: Tensor, z: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy by torch's own, with the parameters cut out of theta one by one."""
    named, at = {}, 0
    for name, p in NETWORK.named_parameters():
        named[name] = theta[at : at + p.numel()].reshape(p.shape)
        at += p.numel()
    return F.cross_entropy(functional_call(NETWORK, named, (z,)), y)


def distance(task: Task, end: Tensor) -> Tensor:
    """L of a student that arrived at `end`."""
    return ((end - task.g) ** 2).sum() / ((task.s - task.g) ** 2).sum()


def unroll(task: Task, X: Tensor, Y: Tensor, eta: Tensor) -> tuple[Tensor, list[Tensor]]:
    """L and theta_first ... theta_T as a function of X, Y and eta, by gradients inside a function to be derived."""
    thetas = [task.s if task.start is None else task.start]
    for i in range(task.first, task.T):
        z, y = task.problem.view(X, Y, i)
        thetas.append(thetas[-1] - eta * grad(loss_anew)(thetas[-1], z, y))
    return distance(task, thetas[-1]), thetas


def reference(*tasks: Task) -> Hypergradient:
    """Autograd of the mean of the losses of tasks that share one synthetic set."""

    def mean(X: Tensor, Y: Tensor, eta: Tensor) -> Tensor:
        return torch.stack([unroll(task, X, Y, eta)[0] for task in tasks]).mean()

    return Hypergradient(*grad(mean, argnums=(0, 1, 2))(tasks[0].X, tasks[0].Y, tasks[0].eta))


def assert_derivatives(found: Hypergradient, wanted: Hypergradient, tolerance: float = 1e-10) -> None:
    for name, f, w in zip(Hypergradient._fields, found, wanted, strict=True):
        assert f.shape == w.shape, name
        assert relative_error(f, w) < tolerance, name


def assert_autograd(found: Estimate, task: Task) -> None:
    """The estimate is autograd's through all steps of the task."""
    L, thetas = unroll(task, task.X, task.Y, task.eta)
    assert relative_error(found.loss, L) < 1e-12
    assert relative_error(found.q, grad(lambda end: distance(task, end))(thetas[-1])) < 1e-12
    assert (found.thetas.first, found.thetas.last) == (task.first, task.T)
    for i, theta in enumerate(thetas, start=task.first):
        assert relative_error(found.thetas[i], theta) < 1e-12
    assert_derivatives(found.d, reference(task))


def assert_same(found: Estimate, wanted: Estimate) -> None:
    assert (found.thetas.first, found.thetas.last) == (wanted.thetas.first, wanted.thetas.last)
    for i in range(wanted.thetas.first, wanted.thetas.last + 1):
        assert relative_error(found.thetas[i], wanted.thetas[i]) < 1e-10
    assert relative_error(found.loss, wanted.loss) < 1e-10
    assert relative_error(found.q, wanted.q) < 1e-10
    assert_derivatives(found.d, wanted.d)


def late(task: Task, first: int) -> Task:
    """The same from step `first` on, from a start that is on no trajectory."""
    return task._replace(first=first, start=task.s + 0.02 * random(len(task.s), seed=70))


ORDERS: list[tuple[Sequence[str], int | None]] = [(ALL_FAMILIES, None), (ALL_FAMILIES, 3)]
ORDERS += [((family, family, "identity"), 3) for family in ALL_FAMILIES]


@pytest.mark.parametrize(("families", "batch"), ORDERS)
def test_unrolled_is_autograd_of_the_whole(families: Sequence[str], batch: int | None) -> None:
    task = small(families, batch=batch).task
    assert_autograd(unrolled(task), task)


@pytest.mark.parametrize("first", [1, 4, T - 1])
def test_unrolled_from_a_late_start_is_autograd_from_that_constant(first: int) -> None:
    task = late(small(ALL_FAMILIES, batch=3).task, first)
    assert_autograd(unrolled(task), task)


@pytest.mark.parametrize("mixed", EXACT)
@pytest.mark.parametrize(("families", "batch"), ORDERS)
def test_adjoint_is_unrolled(families: Sequence[str], batch: int | None, mixed: str) -> None:
    p = small(families, batch=batch, mixed=mixed)
    assert_same(adjoint(p.task), unrolled(p.task))


@pytest.mark.parametrize("mixed", EXACT)
def test_adjoint_is_unrolled_with_hard_labels(mixed: str) -> None:
    task = small(ALL_FAMILIES, batch=3, mixed=mixed).task
    task = task._replace(Y=torch.eye(3, dtype=F64)[torch.arange(7) % 3])
    assert_same(adjoint(task), unrolled(task))


@pytest.mark.parametrize("mixed", EXACT)
@pytest.mark.parametrize("first", [1, 4, T - 1])
def test_adjoint_is_unrolled_from_a_late_start(first: int, mixed: str) -> None:
    task = late(small(ALL_FAMILIES, batch=3, mixed=mixed).task, first)
    found = adjoint(task)
    assert_same(found, unrolled(task))
    assert task.start is not None
    assert torch.equal(found.thetas[first], task.start)
    assert relative_error(found.d.X, adjoint(task._replace(start=None)).d.X) > 1e-3  # the start counts


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("kept", [(), {0}, {3}, {2, 3, 6}, range(0, T, 2), range(T + 1)])
def test_iterates_that_are_computed_again_change_nothing(kept: Collection[int], first: int) -> None:
    task = late(small(ALL_FAMILIES, batch=3).task, first)
    wanted = unrolled(task)
    assert_same(adjoint(task._replace(kept=kept)), wanted)
    for estimate in (truncated(3), random_window(2, 5), tesla):
        assert_same(estimate(task._replace(kept=kept)), estimate(task))
    assert_same(unrolled(task._replace(kept=kept)), wanted)  # which keeps all of them


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("mixed", EXACT)
def test_micro_batches_change_nothing(size: int, batch: int | None, mixed: str) -> None:
    task = small(ALL_FAMILIES, batch=batch, mixed=mixed).task
    parts = task._replace(problem=task.problem._replace(student=micro_batched(task.problem.student, size)))
    assert_same(adjoint(parts), unrolled(task))
    assert_same(tesla(parts), tesla(task))


def segments(K: int, mixed: str) -> list[Task]:
    """K segments with draws of their own that share one synthetic set."""
    shared = small(ALL_FAMILIES).task
    own = [small(ALL_FAMILIES, batch=3, seed=100 * k, mixed=mixed).task for k in range(K)]
    moved = [task.s + 0.05 * random(len(task.s), seed=80 + k) for k, task in enumerate(own)]
    tasks = zip(own, moved, strict=True)
    return [task._replace(X=shared.X, Y=shared.Y, eta=shared.eta, s=s, g=task.g + s - task.s) for task, s in tasks]


@pytest.mark.parametrize("mixed", EXACT)
@pytest.mark.parametrize("K", [2, 4])
def test_the_mean_over_segments_is_autograd_of_the_mean_of_their_losses(K: int, mixed: str) -> None:
    tasks = segments(K, mixed)
    each = [adjoint(task).d for task in tasks]
    for one, other in pairwise(each):
        assert relative_error(one.X, other.X) > 0.1
    mean = Hypergradient(*(torch.stack(parts).mean(0) for parts in zip(*each, strict=True)))
    assert_derivatives(mean, reference(*tasks))


@pytest.mark.parametrize("mixed", EXACT)
@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("iota", [1, 3, T - 1])
def test_truncated_is_autograd_from_a_constant_iterate(iota: int, batch: int | None, mixed: str) -> None:
    task = small(ALL_FAMILIES, batch=batch, mixed=mixed).task
    found, whole = truncated(iota)(task), unrolled(task)
    assert_derivatives(found.d, reference(task._replace(first=T - iota, start=whole.thetas[T - iota])))
    assert_same(found._replace(d=whole.d), whole)
    assert relative_error(found.d.X, whole.d.X) > 1e-3  # the steps before count


@pytest.mark.parametrize("iota", [1, 2])
def test_truncated_after_a_late_start(iota: int) -> None:
    task = late(small(ALL_FAMILIES, batch=3).task, 3)
    thetas = unroll(task, task.X, task.Y, task.eta)[1]
    assert_derivatives(truncated(iota)(task).d, reference(task._replace(first=T - iota, start=thetas[T - iota - 3])))


@pytest.mark.parametrize(("first", "iota"), [(0, T), (3, T - 3), (3, T - 2), (3, T), (T - 1, 2)])
def test_truncation_to_as_many_steps_as_there_are_or_more_is_the_whole(first: int, iota: int) -> None:
    task = late(small(ALL_FAMILIES, batch=3).task, first)
    assert_same(truncated(iota)(task), unrolled(task))


@pytest.mark.parametrize("mixed", EXACT)
@pytest.mark.parametrize(("iota", "end"), [(1, 1), (1, 4), (2, 4), (4, 4), (6, 4), (3, T), (T, T)])
def test_a_window_is_the_end_of_a_shorter_trajectory(iota: int, end: int, mixed: str) -> None:
    task = small(ALL_FAMILIES, batch=3, mixed=mixed).task
    found, shorter = random_window(iota, end)(task), task._replace(T=end)
    assert_same(found, truncated(min(iota, end))(shorter))
    since = max(0, end - iota)
    theta = unroll(shorter, task.X, task.Y, task.eta)[1][since]
    assert_derivatives(found.d, reference(shorter._replace(first=since, start=theta)))


def test_a_window_after_a_late_start() -> None:
    task = late(small(ALL_FAMILIES).task, 2)
    assert_same(random_window(2, 5)(task), truncated(2)(task._replace(T=5)))
    assert_same(random_window(7, 5)(task), unrolled(task._replace(T=5)))


@pytest.mark.parametrize(("first", "end"), [(0, 0), (0, -1), (0, T + 1), (3, 3), (3, 2)])
def test_a_window_must_end_within_the_trajectory(first: int, end: int) -> None:
    task = late(small(ALL_FAMILIES).task, first)
    with pytest.raises(ValueError, match=rf"end is {end} and must be above {first} and at most {T}$"):
        random_window(1, end)(task)


def quadratic_task(quadratic: Quadratic, steps: int) -> Task:
    return Task(quadratic.problem, quadratic.s, quadratic.g, quadratic.x, Y0, quadratic.eta, steps)


@pytest.mark.parametrize("seed", [0, 17, 34])
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_tesla_in_closed_form(steps: int, seed: int) -> None:
    """u_i = A (theta_i - x), so that d<u_i, q>/dx = -A q at every step, and u_i = A R^i (s - x)."""
    quadratic = Quadratic.make(seed=seed)
    found, q = tesla(quadratic_task(quadratic, steps)), quadratic.cotangent(steps)
    assert relative_error(found.q, q) < 1e-12
    assert relative_error(found.d.X, quadratic.eta * steps * quadratic.A @ q) < 1e-12
    total = sum(quadratic.A @ quadratic.power(i) @ (quadratic.s - quadratic.x) for i in range(steps))
    assert relative_error(found.d.eta, -(q @ total)) < 1e-10
    assert not found.d.Y.any()


def test_tesla_is_exact_for_one_step_alone() -> None:
    quadratic = Quadratic.make()
    one, many = quadratic_task(quadratic, 1), quadratic_task(quadratic, 4)
    assert relative_error(tesla(one).d.X, adjoint(one).d.X) < 1e-12
    assert relative_error(tesla(one).d.eta, adjoint(one).d.eta) < 1e-12
    assert relative_error(tesla(many).d.X, adjoint(many).d.X) > 1e-2
    assert relative_error(tesla(many).d.eta, adjoint(many).d.eta) > 1e-2


def detached_passes(task: Task) -> tuple[Hypergradient, Tensor]:
    """TESLA's two passes by autograd, the student a constant in every step, deta = - <q, sum_i u_i>; and the loss."""
    thetas, total = [task.s if task.start is None else task.start], torch.zeros_like(task.s)
    for i in range(task.first, task.T):
        theta = thetas[-1].clone().requires_grad_()
        (u,) = torch.autograd.grad(loss_anew(theta, *task.problem.view(task.X, task.Y, i)), theta)
        thetas.append(thetas[-1] - task.eta * u)
        total = total + u
    end = thetas[-1].clone().requires_grad_()
    L = distance(task, end)
    (q,) = torch.autograd.grad(L, end)
    X, Y = task.X.clone().requires_grad_(), task.Y.clone().requires_grad_()
    moved = torch.zeros((), dtype=F64)
    for i, constant in enumerate(thetas[:-1], start=task.first):
        theta = constant.clone().requires_grad_()
        (u,) = torch.autograd.grad(loss_anew(theta, *task.problem.view(X, Y, i)), theta, create_graph=True)
        moved = moved - task.eta * (u @ q)
    dX, dY = torch.autograd.grad(moved, (X, Y))
    return Hypergradient(dX, dY, -(q @ total)), L.detach()


@pytest.mark.parametrize("mixed", EXACT)
@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("batch", [None, 3])
def test_tesla_is_autograd_with_a_detached_student(batch: int | None, first: int, mixed: str) -> None:
    task = small(ALL_FAMILIES, batch=batch, mixed=mixed).task
    task = late(task, first) if first else task
    found, (wanted, L) = tesla(task), detached_passes(task)
    assert relative_error(found.loss, L) < 1e-12
    assert_derivatives(found.d, wanted)
    whole = adjoint(task)
    assert_same(found._replace(d=whole.d), whole)  # the trajectory is the same,
    assert relative_error(found.d.X, whole.d.X) > 1e-3  # its derivative is not


def test_every_name_makes_its_estimator() -> None:
    task = small(ALL_FAMILIES, batch=3).task
    for name, wanted in {
        "adjoint": adjoint,
        "unrolled": unrolled,
        "truncated": truncated(2),
        "random-window": random_window(2, 5),
        "tesla": tesla,
    }.items():
        assert_same(ESTIMATORS[name](2, 5)(task), wanted(task))
    whole, half = tesla(task), ESTIMATORS["tesla-halved"](2, 5)(task)
    assert torch.equal(half.d.X, whole.d.X / 2)
    assert torch.equal(half.d.Y, whole.d.Y / 2)
    assert torch.equal(half.d.eta, whole.d.eta)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimate_moves_no_argument_and_holds_no_graph(name: str) -> None:
    estimate = ESTIMATORS[name](2, 5)
    task = late(small(ALL_FAMILIES, batch=3).task, 1)
    arguments = [t for t in task if isinstance(t, Tensor)]
    before = [t.clone() for t in arguments]
    found = estimate(task)
    for old, new in zip(before, arguments, strict=True):
        assert torch.equal(old, new)
        assert not new.requires_grad
    end = found.thetas[found.thetas.last]
    assert not any(t.requires_grad for t in (end, found.thetas[1], found.loss, found.q, *found.d))
    with torch.no_grad():
        assert_same(estimate(task), found)
