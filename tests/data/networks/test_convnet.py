import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.oracles import random, relative_error
from trajmatch.core.vector import Layout, functional
from trajmatch.data.networks.convnet import build, convnet


@pytest.mark.parametrize(("side", "depth"), [(32, 3), (64, 4), (128, 5)])
def test_the_papers_networks_end_in_2048_features(side: int, depth: int) -> None:
    network, theta = build(lambda: convnet((3, side, side), 10, depth, 128), 0)
    block = 128 * 128 * 9 + 128 + 2 * 128
    assert len(theta) == (3 * 128 * 9 + 128 + 2 * 128) + (depth - 1) * block + 2048 * 10 + 10
    names = Layout.of(network).names
    assert names[:4] == ("0.weight", "0.bias", "1.weight", "1.bias")  # convolution, then norm, as published
    assert names[-2:] == (f"{4 * depth + 1}.weight", f"{4 * depth + 1}.bias")


def test_the_papers_cifar10_network_has_320010_parameters() -> None:
    assert len(build(lambda: convnet((3, 32, 32), 10), 0)[1]) == 320_010


@pytest.mark.parametrize("norm", ["instance", "group", "layer", "none"])
@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
def test_every_norm_and_pooling_runs(norm: str, pooling: str) -> None:
    network, theta = build(lambda: convnet((1, 8, 12), 5, 2, 8, norm, pooling), 0)
    x = torch.rand(3, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    found = functional(network)(theta, x)
    assert found.shape == (3, 5)
    assert torch.equal(found, network(x))
    assert found.std() > 0


def test_instance_norm_does_not_couple_images() -> None:
    network, theta = build(lambda: convnet((3, 8, 8), 4, 2, 8), 0)
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    forward = functional(network.double())
    torch.testing.assert_close(forward(theta.double(), x)[:2], forward(theta.double(), x[:2]), rtol=1e-12, atol=1e-12)


def test_greyscale_images_of_28_pixels_are_padded_to_32() -> None:
    network, theta = build(lambda: convnet((1, 28, 28), 10, 3, 8), 0)
    assert network[0].padding == (3, 3)
    assert functional(network)(theta, torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_weights_are_a_function_of_the_seed() -> None:
    make = lambda: convnet((1, 8, 8), 3, 2, 4)  # noqa: E731
    assert torch.equal(build(make, 1)[1], build(make, 1)[1])
    assert not torch.equal(build(make, 1)[1], build(make, 2)[1])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"depth": 4}, r"needs? sides that 16 divides.*8 x 8"),
        ({"depth": 0}, "at least 1"),
        ({"depth": 3, "shape": (1, 8, 8), "norm": "bath"}, "'bath' is none of"),
        ({"depth": 1, "shape": (1, 1, 1), "pooling": "none"}, "to one pixel"),
        ({"depth": 2, "shape": (1, 2, 2)}, "sides that 4 divides"),
        ({"pooling": "median"}, "'median' is none of"),
    ],
)
def test_refusals(changes: dict[str, object], says: str) -> None:
    arguments = {"shape": (1, 8, 8), "num_classes": 3, "depth": 2, "width": 4, **changes}
    with pytest.raises(ValueError, match=says):
        build(lambda: convnet(**arguments), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [4, 6])
@pytest.mark.parametrize("norm", ["instance", "group", "layer", "none"])
@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
def test_the_network_layer_by_layer(norm: str, pooling: str, width: int) -> None:
    """Convolution, norm over groups of channels, ReLU, pooling, twice; then one linear layer."""
    network, theta = build(lambda: convnet((2, 8, 8), 3, 2, width, norm, pooling), 3)
    theta = theta.double() + 0.1 * random(len(theta), seed=4)  # norms' scales and shifts are then not 1 and 0
    x = random(5, 2, 8, 8, seed=5)
    groups = {"instance": width, "group": 4 if width == 4 else 1, "layer": 1}
    pool = {"avg": lambda x: F.avg_pool2d(x, 2), "max": lambda x: F.max_pool2d(x, 2), "none": lambda x: x}[pooling]
    weights = iter(Layout.of(network).split(theta).values())
    hidden = x
    for _ in range(2):
        hidden = F.conv2d(hidden, next(weights), next(weights), padding=1)
        if norm != "none":
            hidden = F.group_norm(hidden, groups[norm], next(weights), next(weights), eps=1e-5)
        hidden = pool(hidden.relu())
    wanted = F.linear(hidden.flatten(1), next(weights), next(weights))
    assert next(weights, None) is None
    assert relative_error(functional(network.double())(theta, x), wanted) < 1e-12


def test_weights_start_as_torch_starts_them() -> None:
    def make() -> nn.Module:
        return convnet((1, 8, 8), 3, 2, 4)

    network, theta = build(make, 9)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        wanted = Layout.of(network).join(dict(make().named_parameters())).detach()
    assert torch.equal(theta, wanted)
    assert not any(p.requires_grad for p in network.parameters())
    kept = theta.clone()
    with torch.no_grad():
        next(network.parameters()).zero_()
    assert torch.equal(theta, kept)  # theta is no view of the module's weights


def test_only_small_grey_images_are_padded() -> None:
    for shape in ((3, 28, 28), (1, 24, 24), (1, 28, 32)):
        assert convnet_padding(shape) == (1, 1)
    with pytest.raises(ValueError, match=r"8 divides, and the images are 28 x 28"):
        build(lambda: convnet((3, 28, 28), 10, 3, 8), 0)


def convnet_padding(shape: tuple[int, int, int]) -> tuple[int, int]:
    network, _ = build(lambda: convnet(shape, 10, 2, 4), 0)
    return network[0].padding  # type: ignore[index, return-value]
