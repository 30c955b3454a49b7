"""Adam and momentum inside: steps against torch's, adjoints against autograd through an unrolled graph, in float64."""

import pytest
import torch
from torch import Tensor

from tests.oracles import ALL_FAMILIES, F64, Small, central_difference, random, relative_error, small
from trajmatch.core.descent import Adam
from trajmatch.core.hypergradient import Hypergradient, sweep
from trajmatch.core.inner import Iterates, Problem, inner_gradient, rollout
from trajmatch.core.inner_optimisers import HeavyBall, Inner, gradient_norm, swept, trained, weights
from trajmatch.core.matching import matching
from trajmatch.core.student import micro_batched, plain

ADAM = Adam(0.02, 0.8, 0.95, 1e-6)  # none of torch's defaults, so that no constant is a lucky one
LAST = len(ALL_FAMILIES)


def iterates(p: Small, adam: Adam = ADAM, T: int | None = None) -> Iterates:
    return trained(p.problem, p.s, p.X, p.Y, adam, T or p.T)


def root(v: Tensor) -> Tensor:
    """The square root, with the derivative 0 at 0 as Adam's adjoint takes it."""
    return torch.where(v > 0, torch.where(v > 0, v, 1.0).sqrt(), 0.0)


def unrolled(p: Small, at: Tensor, first: int, lr: Tensor, adam: Adam = ADAM) -> tuple[Tensor, Hypergradient]:
    """The loss and its derivatives by autograd through Adam's steps first, ..., T - 1, written out anew."""
    X, Y, lr = (t.clone().requires_grad_() for t in (p.X, p.Y, lr))
    theta, m, v = at.clone()
    theta = theta.requires_grad_()
    for i in range(first, p.T):
        z, y = p.problem.view(X, Y, i)
        (g,) = torch.autograd.grad(p.problem.student.loss(theta, z, y), theta, create_graph=True)
        m, v = adam.beta1 * m + (1 - adam.beta1) * g, adam.beta2 * v + (1 - adam.beta2) * g * g
        m_hat, v_hat = m / (1 - adam.beta1 ** (i + 1)), v / (1 - adam.beta2 ** (i + 1))
        theta = theta - lr * m_hat / (root(v_hat) + adam.epsilon)
    L = ((theta - p.g) ** 2).sum() / ((p.s - p.g) ** 2).sum()
    return L, Hypergradient(*torch.autograd.grad(L, (X, Y, lr)))


def test_its_steps_are_torchs() -> None:
    p, theta = small(ALL_FAMILIES, batch=3), small(ALL_FAMILIES).s.clone().requires_grad_()
    optimiser = torch.optim.Adam([theta], lr=ADAM.lr, betas=(ADAM.beta1, ADAM.beta2), eps=ADAM.epsilon)
    found = iterates(p)
    for i in range(p.T):
        optimiser.zero_grad()
        p.problem.student.loss(theta, *p.problem.view(p.X, p.Y, i)).backward()
        optimiser.step()
        assert relative_error(weights(found[i + 1], ADAM) - p.s, theta.detach() - p.s) < 1e-9
        assert relative_error(found[i + 1][1], optimiser.state[theta]["exp_avg"]) < 1e-9
        assert relative_error(found[i + 1][2], optimiser.state[theta]["exp_avg_sq"]) < 1e-9


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("iota", [1, 2, 4, LAST])
def test_the_adjoint_is_autograds_through_every_window_batch_and_augmentation(iota: int, batch: int | None) -> None:
    p = small(ALL_FAMILIES, batch=batch)
    found, since = iterates(p), LAST - iota
    loss, q = matching(found[p.T][0], p.s, p.g)
    d = swept(p.problem, found, q, p.X, p.Y, ADAM, since)
    wanted_loss, wanted = unrolled(p, found[since], since, torch.tensor(ADAM.lr, dtype=F64))
    assert relative_error(loss, wanted_loss) < 1e-12
    for name, f, w in zip(Hypergradient._fields, d, wanted, strict=True):
        assert relative_error(f, w) < 1e-10, name


def test_the_adjoint_with_the_constants_that_everyone_takes() -> None:
    p, adam = small(("flip", "rotate", "flip", "identity"), batch=4), Adam(0.001)
    found = iterates(p, adam)
    d = swept(p.problem, found, matching(found[p.T][0], p.s, p.g)[1], p.X, p.Y, adam, 0)
    _, wanted = unrolled(p, found[0], 0, torch.tensor(adam.lr, dtype=F64), adam)
    for name, f, w in zip(Hypergradient._fields, d, wanted, strict=True):
        assert relative_error(f, w) < 1e-8, name  # epsilon 1e-8 leaves fewer digits where gradients are small


def test_a_window_that_ends_before_the_last_step_is_that_of_the_shorter_training() -> None:
    p = small(ALL_FAMILIES, batch=3)
    whole, short, q = iterates(p), iterates(p, T=5), random(len(p.s), seed=1)
    found = swept(p.problem, whole.part(2, 5), q, p.X, p.Y, ADAM, 2)
    for f, w in zip(found, swept(p.problem, short, q, p.X, p.Y, ADAM, 2), strict=True):
        assert torch.equal(f, w)


@pytest.mark.parametrize("kept", [(), (3,), range(0, 9, 2)])
def test_iterates_that_are_not_kept_give_the_same(kept: tuple[int, ...]) -> None:
    p, q = small(ALL_FAMILIES), random(len(small(ALL_FAMILIES).s), seed=1)
    some = trained(p.problem, p.s, p.X, p.Y, ADAM, p.T, kept=kept)
    for thetas, other in ((some, iterates(p)), (some.part(1, 4), iterates(p).part(1, 4))):
        for f, w in zip(*(swept(p.problem, one, q, p.X, p.Y, ADAM, 1) for one in (thetas, other)), strict=True):
            assert torch.equal(f, w)


def test_micro_batches_give_the_same() -> None:
    p, q = small(ALL_FAMILIES), random(len(small(ALL_FAMILIES).s), seed=1)
    parted = p.problem._replace(student=micro_batched(p.problem.student, 3))
    thetas = trained(parted, p.s, p.X, p.Y, ADAM, p.T)
    for f, w in zip(
        swept(parted, thetas, q, p.X, p.Y, ADAM, 0), swept(p.problem, iterates(p), q, p.X, p.Y, ADAM, 0), strict=True
    ):
        assert relative_error(f, w) < 1e-8


def smooth(dead: bool) -> tuple[Problem, Tensor, Tensor, Tensor]:
    """A smooth loss of 6 parameters, of which the last plays no part where it is `dead`; X, Y and the start."""
    W = random(4, 6, seed=1)

    def loss(theta: Tensor, z: Tensor, y: Tensor) -> Tensor:
        used = theta * torch.tensor([1.0] * 5 + [0.0 if dead else 1.0], dtype=F64)
        return (torch.tanh(z @ W * used).sum(1) - y).square().mean()

    problem = Problem(lambda X, Y, i: (X.roll(i, 0) * (1 + 0.1 * i), Y), plain(loss))
    return problem, random(5, 4, seed=2), random(5, seed=3), random(6, seed=4)


def test_against_central_differences_along_a_random_direction() -> None:
    problem, X, Y, s = smooth(dead=False)
    q, directions = random(6, seed=5), [random(5, 4, seed=6), random(5, seed=7)]

    def along(t: float) -> float:
        moved, labels = (v + t * d for v, d in zip((X, Y), directions, strict=True))
        return float(q @ trained(problem, s, moved, labels, ADAM, 6)[6][0])

    d = swept(problem, trained(problem, s, X, Y, ADAM, 6), q, X, Y, ADAM, 0)
    slope = float(sum((f * e).sum() for f, e in zip(d[:2], directions, strict=True)))
    assert abs(slope) > 1e-4
    assert slope == pytest.approx(central_difference(along, 1e-4), rel=1e-6)


def test_a_parameter_without_a_gradient_changes_nothing() -> None:
    """Its second moment is 0, where the square root has no derivative."""
    problem, X, Y, s = smooth(dead=True)
    thetas, q = trained(problem, s, X, Y, ADAM, 6), random(6, seed=5)
    assert float(thetas[6][2][5]) == 0
    assert float(thetas[6][0][5]) == float(s[5])
    d = swept(problem, thetas, q, X, Y, ADAM, 0)
    assert all(part.isfinite().all() for part in d)
    without = swept(problem, thetas, q * torch.tensor([1.0] * 5 + [0.0], dtype=F64), X, Y, ADAM, 0)
    assert relative_error(d.X, without.X) < 1e-12


def test_norms_of_gradients_are_known_from_two_iterates_that_are_told_on_the_way() -> None:
    p = small(ALL_FAMILIES, batch=3)
    told: list[tuple[int, Tensor, Tensor]] = []
    inners: tuple[Inner, ...] = (ADAM, p.eta)
    for inner in inners:
        told.clear()

        def seen(i: int, before: Tensor, after: Tensor) -> None:
            told.append((i, before, after))

        found = trained(p.problem, p.s, p.X, p.Y, inner, p.T, (), seen)
        assert [i for i, _, _ in told] == list(range(p.T))
        for i, before, after in told:
            wanted = inner_gradient(p.problem, weights(before, inner), p.X, p.Y, i).norm()
            assert relative_error(gradient_norm(before, after, inner), wanted) < 1e-9
        assert torch.equal(found[p.T], told[-1][2])


def test_with_a_step_size_it_is_the_sweep_of_sgd() -> None:
    p, q = small(ALL_FAMILIES), random(len(small(ALL_FAMILIES).s), seed=1)
    ours, theirs = trained(p.problem, p.s, p.X, p.Y, p.eta, p.T), rollout(p.problem, p.s, p.X, p.Y, p.eta, p.T)
    found = swept(p.problem, ours, q, p.X, p.Y, p.eta, 2)
    for f, w in zip(found, sweep(p.problem, theirs, q, p.X, p.Y, p.eta, 2), strict=True):
        assert torch.equal(f, w)


def by_momentum(p: Small, at: Tensor, first: int, eta: Tensor, mu: float) -> tuple[Tensor, Hypergradient]:
    """The loss and its derivatives by autograd through steps first, ..., T - 1 with momentum, written out anew."""
    X, Y, eta = (t.clone().requires_grad_() for t in (p.X, p.Y, eta))
    theta, v = at[0].clone().requires_grad_(), at[1]
    for i in range(first, p.T):
        z, y = p.problem.view(X, Y, i)
        (g,) = torch.autograd.grad(p.problem.student.loss(theta, z, y), theta, create_graph=True)
        v = mu * v + g
        theta = theta - eta * v
    L = ((theta - p.g) ** 2).sum() / ((p.s - p.g) ** 2).sum()
    return L, Hypergradient(*torch.autograd.grad(L, (X, Y, eta)))


def test_momentums_steps_are_torchs() -> None:
    p, theta = small(ALL_FAMILIES, batch=3), small(ALL_FAMILIES).s.clone().requires_grad_()
    ball = HeavyBall(p.eta, 0.8)
    optimiser = torch.optim.SGD([theta], lr=float(p.eta), momentum=0.8)
    norms: list[Tensor] = []
    found = trained(p.problem, p.s, p.X, p.Y, ball, p.T, seen=lambda i, a, b: norms.append(gradient_norm(a, b, ball)))
    for i in range(p.T):
        optimiser.zero_grad()
        p.problem.student.loss(theta, *p.problem.view(p.X, p.Y, i)).backward()
        assert theta.grad is not None
        assert relative_error(norms[i], theta.grad.norm()) < 1e-9
        optimiser.step()
        assert relative_error(weights(found[i + 1], ball) - p.s, theta.detach() - p.s) < 1e-9


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("iota", [1, 4, LAST])
def test_momentums_adjoint_is_autograds_through_every_window_batch_and_augmentation(
    iota: int, batch: int | None
) -> None:
    p, ball = small(ALL_FAMILIES, batch=batch), HeavyBall(small(ALL_FAMILIES).eta, 0.9)
    found, since = trained(p.problem, p.s, p.X, p.Y, ball, p.T), LAST - iota
    loss, q = matching(found[p.T][0], p.s, p.g)
    d = swept(p.problem, found, q, p.X, p.Y, ball, since)
    wanted_loss, wanted = by_momentum(p, found[since], since, ball.eta, ball.mu)
    assert relative_error(loss, wanted_loss) < 1e-12
    for name, f, w in zip(Hypergradient._fields, d, wanted, strict=True):
        assert relative_error(f, w) < 1e-10, name


def test_momentum_of_zero_is_plain_sgd() -> None:
    p = small(ALL_FAMILIES, batch=3)
    ball, q = HeavyBall(p.eta, 0.0), random(len(p.s), seed=1)
    found, plain_sgd = (trained(p.problem, p.s, p.X, p.Y, inner, p.T) for inner in (ball, p.eta))
    wanted = sweep(p.problem, plain_sgd, q, p.X, p.Y, p.eta, 1)
    for f, w in zip(swept(p.problem, found, q, p.X, p.Y, ball, 1), wanted, strict=True):
        assert relative_error(f, w) < 1e-10
