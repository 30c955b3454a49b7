"""A student's derivatives: whole, in micro-batches, and in a lower precision."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.oracles import F64, random, relative_error
from trajmatch.core.loss import cross_entropy, lowered
from trajmatch.core.mixed import MIXED
from trajmatch.core.student import Student, micro_batched, plain
from trajmatch.core.vector import Forward, functional
from trajmatch.data.networks.convnet import build, convnet

N = 7
EXACT = ["reverse-over-reverse", "forward-over-reverse"]
Factory = Callable[[], nn.Module]
DERIVATIVES = ("gradient", "mixed", "inputs_alone")


def convolutional() -> nn.Module:
    return convnet((2, 8, 8), 3, depth=2, width=4)


def smooth() -> nn.Module:
    """The same network without kinks."""
    return nn.Sequential(*(nn.Tanh() if isinstance(layer, nn.ReLU) else layer for layer in convolutional().children()))


def batch_normalised() -> nn.Module:
    """A network with batch norm, without running statistics."""
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.AvgPool2d(4)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3))


def made(factory: Factory = convolutional, n: int = N) -> tuple[Forward, tuple[Tensor, ...]]:
    """A network in float64, and theta, n images, soft labels and an adjoint."""
    network, theta = build(factory, 3)
    theta = theta.double()
    values = theta, random(n, 2, 8, 8, seed=1), random(n, 3, seed=2).softmax(1), random(len(theta), seed=3)
    return functional(network.double()), values


def derivatives(student: Student, theta: Tensor, z: Tensor, y: Tensor, a: Tensor) -> dict[str, Tensor]:
    """All of a student's derivatives, by name."""
    found = [student.gradient(theta, z, y), *student.mixed(theta, z, y, a), *student.inputs_alone(theta, z, y, a)]
    names = ("u", "dh/dtheta", "dh/dz", "dh/dy", "dh/dz alone", "dh/dy alone")
    return dict(zip(names, found, strict=True))


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    for name, w in wanted.items():
        assert found[name].shape == w.shape, name
        assert relative_error(found[name], w) < tolerance, name
        assert not found[name].requires_grad, name


@pytest.mark.parametrize("mixed", EXACT)
def test_plain_derivatives_are_those_of_torch_s_own_cross_entropy(mixed: str) -> None:
    forward, (theta, z, y, a) = made()
    student = plain(cross_entropy(forward), MIXED[mixed])
    assert relative_error(student.loss(theta, z, y), F.cross_entropy(forward(theta, z), y)) < 1e-12
    inputs = [t.clone().requires_grad_() for t in (theta, z, y)]
    (u,) = torch.autograd.grad(F.cross_entropy(forward(inputs[0], inputs[1]), inputs[2]), inputs[0], create_graph=True)
    along = torch.autograd.grad(u @ a, inputs)
    wanted = [u.detach(), *along, *along[1:]]
    found = derivatives(student, theta, z, y, a)
    assert_equal(found, dict(zip(found, wanted, strict=True)), 1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("mixed", EXACT)
def test_micro_batches_add_up_to_the_whole(size: int, mixed: str) -> None:
    forward, values = made()
    whole = plain(cross_entropy(forward), MIXED[mixed])
    parts = micro_batched(whole, size)
    assert_equal(derivatives(parts, *values), derivatives(whole, *values), 1e-12)
    assert parts.loss is whole.loss  # which takes the mini-batch as it is


def test_micro_batches_of_micro_batches_add_up_too() -> None:
    forward, values = made()
    whole = plain(cross_entropy(forward))
    assert_equal(derivatives(micro_batched(micro_batched(whole, 2), 5), *values), derivatives(whole, *values), 1e-12)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_micro_batches_of_images_that_batch_norm_couples_do_not_add_up(size: int) -> None:
    forward, values = made(batch_normalised)
    whole = plain(cross_entropy(forward))
    found, wanted = derivatives(micro_batched(whole, size), *values), derivatives(whole, *values)
    for name, w in wanted.items():
        assert relative_error(found[name], w) > 0.01, name
    assert_equal(derivatives(micro_batched(whole, N), *values), wanted, 1e-12)  # one part is the whole


@pytest.mark.parametrize(
    ("size", "parts"),
    [(1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 3, 1]), (6, [6, 1]), (7, [7]), (100, [7])],
)
@pytest.mark.parametrize("name", DERIVATIVES)
def test_a_student_sees_at_most_a_micro_batch_at_a_time(name: str, size: int, parts: list[int]) -> None:
    forward, (theta, z, y, a) = made()
    whole, seen = plain(cross_entropy(forward)), []

    def spy(theta: Tensor, z: Tensor, y: Tensor, *adjoint: Tensor) -> object:
        assert len(z) == len(y)
        seen.append((z, y))
        return getattr(whole, name)(theta, z, y, *adjoint)

    student = micro_batched(whole._replace(**{name: spy}), size)
    getattr(student, name)(*((theta, z, y) if name == "gradient" else (theta, z, y, a)))
    assert [len(zk) for zk, _ in seen] == parts
    assert torch.equal(torch.cat([zk for zk, _ in seen]), z)
    assert torch.equal(torch.cat([yk for _, yk in seen]), y)


def test_a_lowered_network_rounds_what_goes_in_and_returns_in_theta_s_dtype() -> None:
    seen = []

    def forward(theta: Tensor, z: Tensor) -> Tensor:
        seen.append((theta, z))
        return theta * z

    theta, z = random(5, seed=1).float(), random(5, seed=2).float()
    found = lowered(forward, torch.bfloat16)(theta, z)
    assert [t.dtype for t in seen[0]] == [torch.bfloat16, torch.bfloat16]
    assert torch.equal(seen[0][0], theta.bfloat16())
    assert torch.equal(seen[0][1], z.bfloat16())
    assert found.dtype == torch.float32
    assert torch.equal(found, (theta.bfloat16() * z.bfloat16()).float())
    assert not torch.equal(found, theta * z)
    assert lowered(forward, torch.bfloat16)(theta.double(), z.double()).dtype == F64


@pytest.mark.parametrize("mixed", EXACT)
@pytest.mark.parametrize(("factory", "tolerance"), [(smooth, 0.05), (convolutional, 0.2)])
def test_derivatives_of_a_lowered_network_are_float32_and_close(factory: Factory, tolerance: float, mixed: str) -> None:
    """Within 5 %; with ReLU, rounding also moves outputs over its kink, and those few make most of the error."""
    forward, doubles = made(factory, n=32)
    values = [t.float() for t in doubles]
    true = derivatives(plain(cross_entropy(forward), MIXED[mixed]), *values)
    low = derivatives(plain(cross_entropy(lowered(forward, torch.bfloat16)), MIXED[mixed]), *values)
    for name, wanted in true.items():
        assert low[name].dtype == torch.float32, name
        assert 1e-4 < relative_error(low[name], wanted) < tolerance, name
