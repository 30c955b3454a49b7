import pytest
import torch
from torch import Tensor

from tests.oracles import ALL_FAMILIES, F64, Y0, Quadratic, Small, central_difference, random, relative_error, small
from trajmatch.core.augment import Draw
from trajmatch.core.hypergradient import Hypergradient, sweep
from trajmatch.core.inner import Problem, inner_gradient, rollout, training_view
from trajmatch.core.matching import matching
from trajmatch.core.mixed import MIXED, inputs_alone
from trajmatch.core.rate import first_order_rate
from trajmatch.core.student import plain

EXACT = ["reverse-over-reverse", "forward-over-reverse"]
T = 9


@pytest.fixture(params=[0, 1, 2])
def quadratic(request: pytest.FixtureRequest) -> Quadratic:
    return Quadratic.make(seed=17 * request.param)


def swept(q: Quadratic, iota: int, mixed: str = "reverse-over-reverse") -> Hypergradient:
    problem = q.problem_by(mixed)
    thetas = rollout(problem, q.s, q.x, Y0, q.eta, T)
    return sweep(problem, thetas, q.cotangent(T), q.x, Y0, q.eta, T - iota)


def test_rollout_in_closed_form(quadratic: Quadratic) -> None:
    thetas = rollout(quadratic.problem, quadratic.s, quadratic.x, Y0, quadratic.eta, T)
    for k in (1, 4, T):
        assert relative_error(thetas[k], quadratic.theta(k)) < 1e-12


@pytest.mark.parametrize("mixed", EXACT)
@pytest.mark.parametrize("iota", [1, 3, T])
def test_truncation_in_closed_form(quadratic: Quadratic, iota: int, mixed: str) -> None:
    q = quadratic.cotangent(T)
    assert relative_error(swept(quadratic, iota, mixed).X, q - quadratic.power(iota) @ q) < 1e-12


@pytest.mark.parametrize("iota", [1, 2, 4, 7])
def test_truncation_error_and_its_bound(quadratic: Quadratic, iota: int) -> None:
    """SATM Prop. 4.1 on a quadratic: the error is R^iota (I - R^(T - iota)) q, at most (1 - eta m)^iota |q|."""
    q = quadratic.cotangent(T)
    error = swept(quadratic, T).X - swept(quadratic, iota).X
    identity = torch.eye(len(q), dtype=F64)
    assert relative_error(error, quadratic.power(iota) @ (identity - quadratic.power(T - iota)) @ q) < 1e-10
    m = torch.linalg.eigvalsh(quadratic.A).min()
    assert error.norm() <= (1 - quadratic.eta * m) ** iota * q.norm()


def test_step_size_in_closed_form(quadratic: Quadratic) -> None:
    q = quadratic.cotangent(T)
    wanted = -T * (quadratic.A @ quadratic.power(T - 1) @ (quadratic.s - quadratic.x)) @ q
    assert relative_error(swept(quadratic, T).eta, wanted) < 1e-10


def test_first_order_rate_is_minus_q_times_the_sum_of_gradients(quadratic: Quadratic) -> None:
    q, thetas = quadratic.cotangent(T), rollout(quadratic.problem, quadratic.s, quadratic.x, Y0, quadratic.eta, T)
    total = sum(inner_gradient(quadratic.problem, thetas[i], quadratic.x, Y0, 0) for i in range(T))
    found = first_order_rate(q, quadratic.s, thetas[T], quadratic.eta)
    assert relative_error(found, -(q @ total)) < 1e-12
    # Every a_{i+1} replaced by q: exact for T = 1 alone.
    assert relative_error(found, swept(quadratic, T).eta) > 1e-3
    one = rollout(quadratic.problem, quadratic.s, quadratic.x, Y0, quadratic.eta, 1)
    exact = sweep(quadratic.problem, one, q, quadratic.x, Y0, quadratic.eta, 0).eta
    assert relative_error(first_order_rate(q, quadratic.s, one[1], quadratic.eta), exact) < 1e-12


def test_reuse_moves_the_restart_as_theorem_4_2_says(quadratic: Quadratic) -> None:
    """theta_tau on X less theta_tau on X + eps is -(I - R^tau) eps."""
    eps, tau = 0.1 * random(5, seed=3), 4
    plain = rollout(quadratic.problem, quadratic.s, quadratic.x, Y0, quadratic.eta, tau)[tau]
    moved = rollout(quadratic.problem, quadratic.s, quadratic.x + eps, Y0, quadratic.eta, tau)[tau]
    assert relative_error(plain - moved, quadratic.power(tau) @ eps - eps) < 1e-10


def reference(p: Small, start: Tensor, first: int) -> tuple[Tensor, Hypergradient]:
    """Autograd through the whole unroll from a constant theta_first, the loss written out anew."""
    X, Y, eta = (t.clone().requires_grad_() for t in (p.X, p.Y, p.eta))
    theta = start.clone().requires_grad_()
    for i in range(first, p.T):
        z, y = p.problem.view(X, Y, i)
        (u,) = torch.autograd.grad(p.problem.student.loss(theta, z, y), theta, create_graph=True)
        theta = theta - eta * u
    L = ((theta - p.g) ** 2).sum() / ((p.s - p.g) ** 2).sum()
    return L, Hypergradient(*torch.autograd.grad(L, (X, Y, eta)))


@pytest.mark.parametrize("mixed", EXACT)
@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("iota", [1, 3, len(ALL_FAMILIES)])
def test_every_augmentation_batch_order_and_soft_label_against_autograd(
    iota: int, batch: int | None, mixed: str
) -> None:
    p = small(ALL_FAMILIES, batch=batch, mixed=mixed)
    thetas = rollout(p.problem, p.s, p.X, p.Y, p.eta, p.T)
    loss, q = matching(thetas[p.T], p.s, p.g)
    first = p.T - iota
    found = sweep(p.problem, thetas, q, p.X, p.Y, p.eta, first)
    wanted_loss, wanted = reference(p, thetas[first], first)
    assert relative_error(loss, wanted_loss) < 1e-12
    for name, f, w in zip(Hypergradient._fields, found, wanted, strict=True):
        assert relative_error(f, w) < 1e-10, name


def test_against_central_differences_along_a_random_direction() -> None:
    # Smooth: a ReLU's kinks would limit the difference, not the gradient.
    W = random(6, 4, seed=1)

    def loss(theta: Tensor, z: Tensor, y: Tensor) -> Tensor:
        hidden = torch.tanh(z.flatten(1) @ W @ theta[:16].view(4, 4))
        return -(y * torch.log_softmax(hidden @ theta[16:].view(4, 3), 1)).sum(1).mean()

    problem = Problem(lambda X, Y, i: (X.roll(i, 0) * (1 + 0.1 * i), Y), plain(loss))
    X, Y, eta = random(5, 6, seed=2), random(5, 3, seed=3).softmax(1), torch.tensor(0.3, dtype=F64)
    s, g = random(28, seed=4), random(28, seed=5)
    directions = [random(*t.shape, seed=6 + k) for k, t in enumerate((X, Y, eta))]

    def along(t: float) -> float:
        moved = [v + t * d for v, d in zip((X, Y, eta), directions, strict=True)]
        return float(matching(rollout(problem, s, *moved, T=6)[6], s, g)[0])

    thetas = rollout(problem, s, X, Y, eta, 6)
    found = sweep(problem, thetas, matching(thetas[6], s, g)[1], X, Y, eta, 0)
    slope = float(sum((f * d).sum() for f, d in zip(found, directions, strict=True)))
    assert abs(slope) > 1e-4
    assert slope == pytest.approx(central_difference(along, 1e-3), rel=1e-6)


@pytest.mark.parametrize("name", list(MIXED))
def test_mixed_derivatives_agree_on_a_smooth_loss(name: str) -> None:
    A, B = random(4, 4, seed=1), random(4, 3, seed=2)

    def loss(theta: Tensor, z: Tensor, y: Tensor) -> Tensor:
        return (torch.tanh(theta @ A).sum() * (z**3).sum() + (theta @ B @ y).sin()).exp() / 100

    theta, z, y, a = (0.3 * random(k, seed=k) for k in (4, 2, 3, 4))
    found = MIXED[name](loss, theta, z, y, a)
    inputs = [t.clone().requires_grad_() for t in (theta, z, y)]
    (u,) = torch.autograd.grad(loss(*inputs), inputs[0], create_graph=True)
    wanted = torch.autograd.grad(u @ a, inputs)
    # Central differences are of second order in a step of 1e-4 |theta|, and say so.
    tolerance = 1e-6 if name == "central-difference" else 1e-12
    for f, w in zip(found, wanted, strict=True):
        assert relative_error(f, w) < tolerance
    for f, w in zip(inputs_alone(loss, theta, z, y, a), wanted[1:], strict=True):
        assert relative_error(f, w) < 1e-12


def test_the_sweep_moves_no_argument() -> None:
    p = small(("flip", "crop"))
    thetas = rollout(p.problem, p.s, p.X, p.Y, p.eta, p.T)
    arguments = [p.s, p.X, p.Y, p.eta, *[thetas[i] for i in range(p.T + 1)]]
    before = [t.clone() for t in arguments]
    sweep(p.problem, thetas, matching(thetas[p.T], p.s, p.g)[1], p.X, p.Y, p.eta, 0)
    for old, new in zip(before, arguments, strict=True):
        assert torch.equal(old, new)
        assert not new.requires_grad
    assert all(not t.requires_grad for t in p.problem.student.mixed(p.s, p.X, p.Y, p.g))


def test_the_view_takes_images_and_labels_by_the_same_indices() -> None:
    X, Y = random(5, 1, 4, 4, seed=0), random(5, 3, seed=1)
    b = [torch.tensor([3, 0]), torch.tensor([4, 2, 0, 1, 3]), torch.arange(5)]
    view = training_view(b, [Draw("identity", torch.rand(len(i), 3, generator=torch.Generator())) for i in b])
    for i, index in enumerate(b):
        z, y = view(X, Y, i)
        assert torch.equal(z, X[index])
        assert torch.equal(y, Y[index])
