import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.oracles import random, relative_error
from trajmatch.core.loss import cross_entropy, gradient
from trajmatch.core.mixed import inputs_alone, reverse_over_reverse
from trajmatch.core.vector import Layout, functional
from trajmatch.data.networks.convnet import NORMS, POOLINGS, InstanceNorm, convnet
from trajmatch.data.networks.fused import FusedBlock, FusedConvolution, fused
from trajmatch.data.networks.kernels import compiled_kernels

NUM_CLASSES = 3


class Counted:
    """The compiled kernels, counting how often each is called."""

    def __init__(self, kernels: Any) -> None:
        self.kernels, self.calls = kernels, {"forward": 0, "gradient": 0, "curvature": 0}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        self.calls[name] += 1
        return getattr(self.kernels, name)


@pytest.fixture
def kernels() -> Counted:
    """The compiled kernels, where this machine can build them."""
    found = compiled_kernels()
    if isinstance(found, str):
        pytest.skip(found)
    return Counted(found)


@pytest.fixture(autouse=True)
def _layers_draw_weights_as_they_are_made() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


def made(*layers: nn.Module) -> nn.Sequential:
    """A network in float64 with all weights, scales and shifts drawn anew."""
    network = nn.Sequential(*layers).double().requires_grad_(False)
    for i, p in enumerate(network.parameters()):
        p.copy_(random(*p.shape, seed=60 + i) / (p[0].numel() ** 0.5 if p.dim() > 1 else 1))
    return network


def made_convnet(shape: tuple[int, int, int], **fields: Any) -> nn.Sequential:
    return made(*convnet(shape, NUM_CLASSES, **fields))


def block(*rest: nn.Module, inputs: int = 2) -> list[nn.Module]:
    return [nn.Conv2d(inputs, 4, 3, padding=1), InstanceNorm(4), nn.ReLU(), *rest]


def classifier(num_inputs: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(num_inputs, NUM_CLASSES)]


def arguments(network: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """theta, images, soft labels and an adjoint."""
    theta = Layout.of(network).join(dict(network.named_parameters()))
    return theta, random(3, *shape, seed=1), random(3, NUM_CLASSES, seed=2).softmax(1), random(len(theta), seed=3)


def fuse(network: nn.Module, kernels: Counted | None, weigh: bool = True) -> nn.Sequential:
    twin = fused(network, kernels, weigh)
    assert isinstance(twin, nn.Sequential)
    return twin


def twin_of(network: nn.Module, kernels: Counted | None, shape: tuple[int, ...]) -> nn.Sequential:
    """The fused network, once output, gradient and mixed derivative are the network's, with and without `weigh`."""
    twin, swept = fuse(network, kernels), fuse(network, kernels, weigh=False)
    theta, z, y, a = arguments(network, shape)
    assert relative_error(functional(twin)(theta, z), functional(network)(theta, z)) < 1e-12
    train, sweep, wanted = (cross_entropy(functional(f)) for f in (twin, swept, network))
    assert relative_error(gradient(train, theta, z, y), gradient(wanted, theta, z, y)) < 1e-10
    references = reverse_over_reverse(wanted, theta, z, y, a)
    for loss in (train, sweep):
        for found, reference in zip(reverse_over_reverse(loss, theta, z, y, a), references, strict=True):
            assert relative_error(found, reference) < 1e-10
    return twin


def calls(blocks: int) -> dict[str, int]:
    """Of each kernel in `twin_of`: one value, one gradient, two mixed derivatives with two gradients each."""
    return {"forward": 4 * blocks, "gradient": 5 * blocks, "curvature": 2 * blocks}


def types_of(network: nn.Module) -> list[type[nn.Module]]:
    return [type(module) for module in network.modules()]


def pools_of(network: nn.Module) -> list[int]:
    return [module.pool for module in network.modules() if isinstance(module, FusedBlock)]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [4, 5])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_convnet(depth: int, width: int, channels: int, norm: str, pooling: str, kernels: Counted) -> None:
    shape = (channels, 8, 16)
    network = made_convnet(shape, depth=depth, width=width, norm=norm, pooling=pooling)
    # Four channels in four groups are an instance norm by another name.
    if norm in ("none", "layer", "batch") or (norm == "group" and width == 5):
        assert fused(network, kernels) is None
        return
    twin = twin_of(network, kernels, shape)
    assert pools_of(twin) == [2 if pooling == "avg" else 1] * depth
    assert kernels.calls == calls(depth)


def test_shapes_of_other_convnets(kernels: Counted) -> None:
    twin_of(made_convnet((1, 28, 28), depth=2, width=4), kernels, (1, 28, 28))  # which it pads to 32
    assert kernels.calls == calls(2)
    # A layer norm of one channel is an instance norm.
    twin_of(made_convnet((3, 8, 8), depth=2, width=1, norm="layer"), kernels, (3, 8, 8))
    assert kernels.calls == calls(4)


def test_without_kernels_convolutions_alone_are_replaced() -> None:
    for pooling in POOLINGS:
        twin = twin_of(made_convnet((3, 8, 8), depth=2, width=4, pooling=pooling), None, (3, 8, 8))
        assert [m.kernels for m in twin if isinstance(m, FusedBlock)] == [None, None]
        assert [type(m) for m in twin if isinstance(m, nn.Conv2d)] == [FusedConvolution, FusedConvolution]


def test_parameters_and_buffers_are_the_network_s_own() -> None:
    network = made(*block(nn.AvgPool2d(2)), *block(nn.BatchNorm2d(4), inputs=4))
    twin = fuse(network, None)
    assert Layout.of(twin) == Layout.of(network)
    assert len(list(network.buffers())) == 3
    for tensors in (nn.Module.named_parameters, nn.Module.named_buffers):
        for (name, p), (other, q) in zip(tensors(network), tensors(twin), strict=True):
            assert name == other
            assert p is q


def test_the_network_itself_stays_as_it_was() -> None:
    def attributes() -> list[dict[str, Any]]:
        return [{k: v for k, v in vars(m).items() if k[0] != "_"} for m in network.modules()]

    network = made_convnet((3, 8, 8), depth=2, width=4)
    z = random(2, 3, 8, 8, seed=1)
    before = types_of(network), Layout.of(network), attributes(), list(map(id, network.modules()))
    output, state = network(z), copy.deepcopy(network.state_dict())
    twin = fuse(network, None, weigh=False)
    twin(z)
    assert types_of(twin) != types_of(network)
    assert (types_of(network), Layout.of(network), attributes(), list(map(id, network.modules()))) == before
    assert torch.equal(network(z), output)
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "rest",
    [
        lambda: [nn.ReLU(), nn.AvgPool2d(2)],
        lambda: [nn.GroupNorm(1, 4), nn.ReLU(), nn.AvgPool2d(2)],
        lambda: [InstanceNorm(4), nn.Tanh()],
        lambda: [InstanceNorm(4)],
        lambda: [nn.ReLU(), InstanceNorm(4)],
        lambda: [nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()],
        lambda: [],
    ],
)
def test_a_network_without_blocks_is_left_alone(rest: Callable[[], list[nn.Module]]) -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), *rest())
    types = types_of(network)
    assert fused(network, None) is None
    assert types_of(network) == types
    assert fused(nn.Sequential(*rest()), None) is None
    assert fused(network[0], None) is None


def test_odd_sides_fall_back_to_torch(kernels: Counted) -> None:
    for size, pooled in (((9, 8), 4 * 4), ((8, 7), 4 * 3), ((5, 7), 2 * 3)):
        twin = twin_of(made(*block(nn.AvgPool2d(2)), *classifier(4 * pooled)), kernels, (2, *size))
        assert pools_of(twin) == [2]
        assert kernels.calls == calls(0)
    network = made(*block(nn.AvgPool2d(2)), *block(nn.AvgPool2d(2), inputs=4), *classifier(4 * 3 * 2))
    assert pools_of(twin_of(network, kernels, (2, 14, 8))) == [2, 2]
    assert kernels.calls == calls(1)


def test_a_bias_before_an_instance_norm_has_no_gradient(kernels: Counted) -> None:
    network = made_convnet((3, 8, 8), depth=2, width=4)
    theta, z, y, a = arguments(network, (3, 8, 8))
    for engine in (kernels, None):
        twin = fuse(network, engine)
        layout, loss = Layout.of(twin), cross_entropy(functional(twin))
        for flat in (gradient(loss, theta, z, y), reverse_over_reverse(loss, theta, z, y, a)[0]):
            reached = {name for name, piece in layout.split(flat).items() if piece.any()}
            assert reached == set(layout.names) - {"0.bias", "4.bias"}


def test_a_bias_that_no_norm_takes_away_is_kept(kernels: Counted) -> None:
    other = [nn.Conv2d(4, 5, 1), nn.GroupNorm(1, 5), nn.ReLU()]
    unbiased = [nn.Conv2d(5, 4, 3, bias=False), InstanceNorm(4), nn.ReLU(), nn.AvgPool2d(2)]
    network = made(nn.Conv2d(2, 4, 1), *block(inputs=4), *other, *unbiased, nn.Conv2d(4, 3, 2), *classifier(3))
    twin = twin_of(network, kernels, (2, 6, 6))
    convolutions = {name: m.shifted for name, m in twin.named_modules() if isinstance(m, FusedConvolution)}
    assert convolutions == {"0": True, "1": False, "4": True, "7": False, "11": True}


class Residual(nn.Module):
    """A module that is no sequence, of two convolutions whose biases count and one whose does not."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(2, 4, 1)
        self.body = nn.Sequential(*block(nn.Conv2d(4, 4, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


def test_modules_of_other_kinds_with_sequences_inside(kernels: Counted) -> None:
    last = nn.Sequential(InstanceNorm(4), nn.ReLU(), nn.AvgPool2d(2))
    twin = twin_of(made(Residual(), last, *classifier(4 * 3 * 3)), kernels, (2, 6, 6))
    assert pools_of(twin) == [1, 2]
    assert kernels.calls == calls(2)


def test_only_the_first_layer_of_the_network_takes_its_images() -> None:
    for network, outermost in (
        (made(*block(nn.Conv2d(4, 4, 3))), [True, False]),
        (made(nn.Identity(), *block()), [False]),
        (made(nn.Sequential(*block())), [False]),
        (made(Residual()), [False, False, False]),
    ):
        twin = fuse(network, None, weigh=False)
        found = [m for m in twin.modules() if isinstance(m, FusedConvolution)]
        assert [m.outermost for m in found] == outermost
        assert not any(m.weigh for m in found)


@pytest.mark.parametrize("options", [{"padding": 1, "padding_mode": "circular"}, {"padding": "same"}], ids=str)
def test_convolutions_with_paddings_of_other_kinds_are_left_alone(options: dict[str, Any], kernels: Counted) -> None:
    rest = [InstanceNorm(4), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(2)]
    twin = twin_of(made(nn.Conv2d(2, 4, 3, **options), *rest, *classifier(16)), kernels, (2, 6, 6))
    assert [type(m) for m in twin if isinstance(m, nn.Conv2d)] == [nn.Conv2d, FusedConvolution]


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x)


def test_convolutions_of_other_classes_are_left_alone(kernels: Counted) -> None:
    twin = twin_of(made(*block(Doubled(4, 4, 3)), *classifier(4 * 4 * 4)), kernels, (2, 6, 6))
    assert type(twin[3]) is Doubled


def test_every_geometry_of_a_convolution_and_any_eps(kernels: Counted) -> None:
    first = nn.Conv2d(2, 4, (3, 5), stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=2)
    rest = [nn.GroupNorm(4, 4, eps=0.5), nn.ReLU(), nn.AvgPool2d(2), *classifier(4 * 4 * 2)]
    twin_of(made(first, *rest), kernels, (2, 8, 9))
    assert kernels.calls == calls(1)


def test_only_groups_of_one_channel_are_fused(kernels: Counted) -> None:
    rest = [nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.AvgPool2d(2)]
    twin = twin_of(made(*block(*rest), *classifier(4 * 2 * 2)), kernels, (2, 6, 6))
    assert isinstance(twin[1], FusedBlock)
    assert [type(m) for m in twin[4:7]] == [nn.GroupNorm, nn.ReLU, nn.AvgPool2d]


AS_FOLDED = [((2, 2),), (2, (2, 2), (0, 0)), (2, 2, 0, False)]
OTHERWISE = [(3,), (2, 1), ((2, 3),), ((2, 1),), (2, 2, 1), (2, 2, (1, 0), False, False), (2, 2, 0, True)]
POOLED = [(nn.AvgPool2d(*options), 2) for options in AS_FOLDED] + [(nn.AvgPool2d(*options), 1) for options in OTHERWISE]
POOLED += [(m, 1) for m in (nn.AvgPool2d(2, divisor_override=3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2))]


@pytest.mark.parametrize(("pooling", "pool"), POOLED)
@pytest.mark.parametrize("size", [(7, 6), (6, 4)])
def test_which_poolings_are_folded(size: tuple[int, int], pooling: nn.Module, pool: int, kernels: Counted) -> None:
    num_inputs = pooling(torch.zeros(1, 4, *size)).numel()
    assert pools_of(twin_of(made(*block(pooling), *classifier(num_inputs)), kernels, (2, *size))) == [pool]
    assert kernels.calls == calls(0 if pool == 2 and size[0] % 2 else 1)


def test_the_inputs_derivatives_alone(kernels: Counted) -> None:
    network = made_convnet((3, 8, 8), depth=2, width=5)
    twin = fuse(network, kernels, weigh=False)
    found, wanted = (
        inputs_alone(cross_entropy(functional(f)), *arguments(network, (3, 8, 8))) for f in (twin, network)
    )
    for f, w in zip(found, wanted, strict=True):
        assert relative_error(f, w) < 1e-10
