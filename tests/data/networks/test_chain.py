"""A chain's derivatives by one call are autograd's, for every shape that a ConvNet can have; others are left alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.oracles import F64, random, relative_error
from trajmatch.core.loss import cross_entropy
from trajmatch.core.student import Student, plain
from trajmatch.core.vector import functional
from trajmatch.data.networks import chain
from trajmatch.data.networks.chain import Chain
from trajmatch.data.networks.convnet import InstanceNorm, build, convnet, drawn, keep_frozen
from trajmatch.data.networks.kernels import CompiledKernels, compiled_kernels
from trajmatch.methods.engines import Engine, student

Four = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def kernels() -> CompiledKernels:
    """The kernels, where this machine can build them."""
    if isinstance(found := compiled_kernels(), str):
        pytest.skip(found)
    return found


def reference(network: nn.Module) -> Student:
    return plain(cross_entropy(functional(network)))


def values(network: nn.Module, n: int, shape: tuple[int, int, int], classes: int, seed: int = 0) -> Four:
    """Weights away from where they began, images, labels that do not sum to one, and an adjoint."""
    theta = torch.cat([p.detach().flatten() for p in network.parameters()]).double()
    theta = theta + 0.1 * random(len(theta), seed=seed)
    return theta, random(n, *shape, seed=1), random(n, classes, seed=2).abs(), random(len(theta), seed=3)


def derivatives(made: Student, given: Four) -> list[Tensor]:
    theta, z, y, a = given
    return [made.gradient(theta, z, y), *made.mixed(theta, z, y, a), *made.inputs_alone(theta, z, y, a)]


def found_in(network: nn.Module, kernels: CompiledKernels) -> Chain:
    found = chain.chain(network, kernels)
    assert found is not None
    return found


def never(*arguments: Any) -> Any:
    raise AssertionError("the kernels take these")


def alone(network: nn.Module, kernels: CompiledKernels) -> Student:
    """The derivatives of the kernels and of nothing else."""
    found = found_in(network, kernels)
    made = chain.gradient(found, never), chain.mixed(found, never), chain.inputs_alone(found, never)
    return Student(never, *made)


@pytest.mark.parametrize("worth", [1, 10**9])  # tiles of 4 x 4 wherever they are fewer multiplications, and nowhere
@pytest.mark.parametrize(
    ("shape", "width", "depth", "n", "pooling"),
    [
        ((3, 8, 8), 32, 3, 10, "avg"),
        ((1, 28, 28), 1, 3, 1, "avg"),  # one channel everywhere, one image, three pixels of padding
        ((2, 7, 9), 17, 2, 2, "none"),  # odd sides: tiles that are not whole
        ((3, 1, 5), 3, 3, 2, "none"),
        ((5, 12, 20), 33, 2, 3, "avg"),
        ((3, 16, 16), 65, 1, 5, "avg"),  # no layer but the first
        ((4, 6, 6), 130, 1, 1, "avg"),
        ((3, 8, 8), 70, 3, 3, "avg"),  # the last norm sees 2 x 2
    ],
)
def test_every_derivative_is_autograd_s(
    shape: tuple[int, int, int],
    width: int,
    depth: int,
    n: int,
    pooling: str,
    worth: int,
    kernels: CompiledKernels,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chain, "WORTH_LARGE_TILES", worth)
    network = build(lambda: convnet(shape, 7, depth, width, "instance", pooling), 0)[0].double()
    given = values(network, n, shape, 7)
    wanted, found = derivatives(reference(network), given), derivatives(alone(network, kernels), given)
    for w, f in zip(wanted, found, strict=True):
        assert f.shape == w.shape
        assert relative_error(f, w) < 1e-10
    single = [t.float() for t in given]
    for w, f in zip(wanted, derivatives(alone(network, kernels), (single[0], *single[1:])), strict=True):
        assert f.dtype == torch.float32
        assert relative_error(f.double(), w) < 1e-2  # a ReLU may open or close


@pytest.mark.parametrize(("n", "h", "w", "side"), [
    (8, 8, 8, 4), (7, 8, 8, 2),  # 32 tiles, and 28
    (2, 16, 16, 4), (1, 16, 16, 2), (32, 4, 4, 4), (31, 4, 4, 2),
    (100, 2, 2, 2), (100, 6, 6, 2), (100, 2, 8, 2),  # no fewer multiplications
    (100, 7, 7, 4), (100, 3, 3, 4), (100, 1, 5, 2),
])  # fmt: skip
def test_tiles_are_large_where_they_are_many_and_save_multiplications(n: int, h: int, w: int, side: int) -> None:
    assert chain.tile_side(n, h, w) == side


@pytest.mark.parametrize(("n", "some"), [(8, 8), (10, 10), (15, 15), (16, 8), (17, 9), (100, 9)])
def test_parts_of_a_mini_batch_have_tiles_enough_and_equal_sizes(
    n: int, some: int, kernels: CompiledKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(lambda: convnet((3, 32, 32), 10, 3, 128), 0)[0]
    plan = found_in(network, kernels).plan(n, (3, 32, 32))
    assert plan is not None
    assert plan[2] == some  # of which each has 4 tiles in the last layer, and 8 images have the 32 that pay
    monkeypatch.setattr(chain, "WORTH_LARGE_TILES", 10**9)
    small = found_in(network, kernels).plan(n, (3, 32, 32))
    assert small is not None
    assert small[2] == 2


def test_large_tiles_round_a_few_times_as_much_as_a_convolution(
    kernels: CompiledKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a ReLU that opens or closes: every channel is shifted far above zero.
    network = build(lambda: convnet((3, 16, 16), 4, 2, 64), 0)[0].double()
    theta, z, y, _ = values(network, 8, (3, 16, 16), 4)
    at = 0
    for name, parameter in network.named_parameters():
        if name in ("1.bias", "5.bias"):
            theta[at : at + 64] = 20
        at += parameter.numel()
    wanted = reference(network).gradient(theta, z, y)
    single = theta.float(), z.float(), y.float()
    errors = [relative_error(reference(network.float()).gradient(*single).double(), wanted)]
    for worth in (1, 10**9):
        monkeypatch.setattr(chain, "WORTH_LARGE_TILES", worth)
        errors.append(relative_error(alone(network, kernels).gradient(*single).double(), wanted))
    assert errors[1] < 6 * max(errors[0], errors[2])


@pytest.mark.parametrize("worth", [1, 10**9])
@pytest.mark.parametrize("at_once", [1, 10_000, 10**9])
def test_images_may_go_through_in_parts(
    at_once: int, worth: int, kernels: CompiledKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "WORTH_LARGE_TILES", worth)
    network = build(lambda: convnet((3, 8, 8), 4, 2, 12), 0)[0].double()
    given = values(network, 7, (3, 8, 8), 4)
    wanted = derivatives(alone(network, kernels), given)
    monkeypatch.setattr(chain, "AT_ONCE", at_once)
    for w, f in zip(wanted, derivatives(alone(network, kernels), given), strict=True):
        assert relative_error(f, w) < 1e-12


def test_the_number_of_threads_changes_no_bit(kernels: CompiledKernels) -> None:
    network = build(lambda: convnet((3, 16, 16), 4, 3, 40), 0)[0]
    theta, z, y, a = (t.float() for t in values(network, 9, (3, 16, 16), 4))
    made, threads, found = alone(network, kernels), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(derivatives(made, (theta, z, y, a)))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_images_may_lie_in_memory_in_any_order_and_nothing_is_changed(kernels: CompiledKernels) -> None:
    network = build(lambda: convnet((3, 8, 8), 4, 2, 6), 0)[0].double()
    given = values(network, 5, (3, 8, 8), 4)
    kept, made = [t.clone() for t in given], alone(network, kernels)
    theta, z, y, a = given
    turned = (theta, z.contiguous(memory_format=torch.channels_last), y.t().contiguous().t(), a)
    for one, two in zip(derivatives(made, given), derivatives(made, turned), strict=True):
        assert torch.equal(one, two)
    assert all(torch.equal(one, two) for one, two in zip(given, kept, strict=True))


@pytest.mark.parametrize("where", ["weights", "images"])
def test_what_is_not_a_number_stays_so(where: str, kernels: CompiledKernels) -> None:
    network = build(lambda: convnet((3, 8, 8), 4, 2, 6), 0)[0].double()
    theta, z, y, a = values(network, 3, (3, 8, 8), 4)
    (theta if where == "weights" else z[1]).view(-1)[5] = float("nan")
    for found in (alone(network, kernels).gradient(theta, z, y), alone(network, kernels).mixed(theta, z, y, a)[0]):
        assert found.isnan().any()
    h_z = alone(network, kernels).mixed(theta, z, y, a)[1]
    assert h_z[1].isnan().any()
    assert where == "weights" or h_z[[0, 2]].isfinite().all()  # images do not meet


def with_frozen() -> nn.Module:
    network = convnet((3, 8, 8), 4, 2, 6)
    network[0].bias.requires_grad_(False)
    keep_frozen(network)
    return network


def watched() -> nn.Module:
    network = convnet((3, 8, 8), 4, 2, 6)
    network[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    return network


def blocks(*middle: nn.Module, flat: int = 6 * 16) -> nn.Sequential:
    return nn.Sequential(*middle, nn.Flatten(), nn.Linear(flat, 4))


def other_networks() -> dict[str, Callable[[], nn.Module]]:
    def convolution(**options: Any) -> nn.Conv2d:
        return nn.Conv2d(3, 6, **{"kernel_size": 3, "padding": 1, **options})

    def block(**options: Any) -> Callable[[], nn.Module]:
        return lambda: blocks(convolution(**options), InstanceNorm(6), nn.ReLU(), nn.AvgPool2d(2))

    return {
        "group norm": lambda: convnet((3, 8, 8), 4, 2, 8, "group"),
        "no norm": lambda: convnet((3, 8, 8), 4, 2, 8, "none"),
        "max pooling": lambda: convnet((3, 8, 8), 4, 2, 8, "instance", "max"),
        "frozen": with_frozen,
        "watched": watched,
        "stride": block(stride=2),
        "kernel": block(kernel_size=5),
        "dilated": block(dilation=2),
        "grouped": block(groups=3),
        "reflected": block(padding_mode="reflect"),
        "same": block(padding="same"),
        "no bias": block(bias=False),
        "no blocks": lambda: blocks(flat=192),
        "nothing": nn.Sequential,
    }


@pytest.mark.parametrize("name", other_networks())
def test_other_networks_are_no_chains(name: str, kernels: CompiledKernels) -> None:
    network = drawn(other_networks()[name], 0)
    assert chain.chain(network, kernels) is None


def test_what_the_kernels_do_not_take_is_left_to_autograd(kernels: CompiledKernels) -> None:
    network = build(lambda: convnet((3, 8, 8), 4, 2, 6), 0)[0].double()
    found, (theta, z, y, _) = found_in(network, kernels), values(network, 3, (3, 8, 8), 4)
    for wrong in (
        (theta, z.float(), y),
        (theta.to(torch.bfloat16), z.to(torch.bfloat16), y.to(torch.bfloat16)),
        (theta, z[:, :2], y),
        (theta, z[..., :6], y),
        (theta, z, y[:2]),
        (theta, z[:0], y[:0]),
    ):
        assert found.derive(*wrong, None, True) is None
    assert chain.gradient(found, lambda *given: torch.ones(1))(theta, z[..., :6], y) == 1


def test_the_fused_engine_uses_it_where_nothing_is_rounded(
    kernels: CompiledKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(lambda: convnet((3, 8, 8), 4, 2, 6), 0)[0]
    theta, z, y, a = (t.float() for t in values(network, 3, (3, 8, 8), 4))
    taken: list[str] = []
    real = Chain.derive

    def derive(self: Chain, *given: Any, **options: Any) -> Any:
        taken.append("gradient" if given[3] is None else "mixed" if options["in_theta"] else "inputs")
        return real(self, *given, **options)

    monkeypatch.setattr(Chain, "derive", derive)
    for engine, calls in (
        (Engine("fused"), ["gradient", "mixed", "inputs"]),
        (Engine("fused", micro_batch=2), ["gradient"] * 2 + ["mixed"] * 2 + ["inputs"] * 2),
        (Engine("fused", "bf16-sweep"), ["gradient"]),
        (Engine("fused", "bf16"), []),
        (Engine("fused", mixed="central-difference"), ["gradient"]),
        (Engine("eager"), []),
    ):
        taken.clear()
        derivatives(student(network, engine), (theta, z, y, a))
        assert taken == calls, engine
    assert theta.dtype != F64
