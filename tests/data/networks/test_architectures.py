"""The field's other networks: their published sizes, every side from 8 to 224 pixels, and second derivatives."""

from functools import partial

import pytest
import torch
from torch import nn

from trajmatch.core.loss import cross_entropy
from trajmatch.core.student import plain
from trajmatch.core.vector import functional
from trajmatch.data.networks.architectures import ARCHITECTURES, MeanPixel, alexnet, lenet, resnet18, vgg11
from trajmatch.data.networks.convnet import build

# Parameters at 32 x 32 x 3 and ten classes, as the published programs have them.
PUBLISHED = {"mlp": 411_146, "lenet": 62_006, "alexnet": 1_872_202, "vgg11": 9_231_114, "resnet18": 11_173_962}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_as_published(name: str) -> None:
    assert len(build(lambda: ARCHITECTURES[name]((3, 32, 32), 10), 0)[1]) == PUBLISHED[name]


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "vit"])
@pytest.mark.parametrize("side", [8, 9, 16, 20, 28, 32, 64])
@pytest.mark.parametrize("colours", [1, 3])
def test_every_side_gives_outputs_that_depend_on_the_image(name: str, side: int, colours: int) -> None:
    network, _ = build(lambda: ARCHITECTURES[name]((colours, side, side), 7), 0)
    images = torch.randn(3, colours, side, side, generator=torch.Generator().manual_seed(1))
    found = network(images)
    assert found.shape == (3, 7)
    assert found.isfinite().all()
    # A norm of single pixels would make all images alike.
    assert (found[0] - found[1]).norm() > 1e-4 * found[0].norm()


@pytest.mark.parametrize("side", [8, 16, 32, 64, 224])
def test_a_vit_of_8_by_8_patches(side: int) -> None:
    network, theta = build(lambda: ARCHITECTURES["vit"]((3, side, side), 7), 0)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    found = network(images)
    assert found.shape == (2, 7)
    assert (found[0] - found[1]).norm() > 1e-4 * found[0].norm()
    # 6 layers of width 192: 4 w^2 for attention, 8 w^2 for the perceptron, biases, norms; then tokens and ends.
    w, patch = 192, side // 8
    layers = 6 * (12 * w * w + (3 + 1 + 4 + 1) * w + 4 * w) + 2 * w
    assert len(theta) == layers + 3 * patch * patch * w + w + (1 + 65) * w + 7 * w + 7


def test_a_vit_refuses_sides_that_8_does_not_divide() -> None:
    with pytest.raises(ValueError, match="square images whose side 8 divides, and these are 20 x 20"):
        ARCHITECTURES["vit"]((3, 20, 20), 10)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "vit"])
def test_images_that_are_not_square_and_large_ones(name: str) -> None:
    for shape in ((3, 24, 16), (3, 224, 224)):
        network, _ = build(lambda shape=shape: ARCHITECTURES[name](shape, 5), 0)  # type: ignore[misc]
        assert network(torch.zeros(1, *shape)).shape == (1, 5)


@pytest.mark.parametrize("name", ["lenet", "resnet18"])
def test_images_do_not_couple_within_a_batch(name: str) -> None:
    network, _ = build(lambda: ARCHITECTURES[name]((3, 16, 16), 5), 0)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(network(images)[:2], network(images[:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [7, 257])
def test_sides_out_of_range_are_refused(side: int) -> None:
    with pytest.raises(ValueError, match=f"network: resnet18 takes images of 8 to 256 pixels, and these are {side}"):
        resnet18((3, side, side), 10)


@pytest.mark.parametrize("factory", [lenet, alexnet, vgg11])
def test_28_pixels_of_grey_end_at_the_size_of_32(factory: object) -> None:
    network, _ = build(lambda: factory((1, 28, 28), 10), 0)  # type: ignore[operator]
    last = next(m for m in network.modules() if isinstance(m, nn.Linear))
    wanted, _ = build(lambda: factory((3, 32, 32), 10), 0)  # type: ignore[operator]
    assert last.in_features == next(m for m in wanted.modules() if isinstance(m, nn.Linear)).in_features


def test_the_mixed_derivative_of_a_small_resnet() -> None:
    network, theta = build(lambda: resnet18((1, 8, 8), 3), 0)
    network.double()
    theta = theta.double()
    student = plain(cross_entropy(functional(network)))
    source = torch.Generator().manual_seed(3)
    z, y = torch.randn(2, 1, 8, 8, generator=source, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[[0, 2]]
    a = torch.randn(theta.shape, generator=source, dtype=torch.float64)
    v = torch.randn(z.shape, generator=source, dtype=torch.float64)
    _, h_z, _ = student.mixed(theta, z, y, a)
    step = 1e-6
    ahead, behind = (student.gradient(theta, z + sign * step * v, y) @ a for sign in (1, -1))
    wanted = float((ahead - behind) / (2 * step))
    assert abs(float((h_z * v).sum()) - wanted) < 1e-6 * abs(wanted)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_mean_pixel_is_adaptive_pooling_to_one_pixel(layout: torch.memory_format) -> None:
    x = torch.randn(5, 48, 7, 9, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    assert torch.equal(MeanPixel()(x), nn.AdaptiveAvgPool2d(1)(x))
    for make in (resnet18, vgg11):
        network, _ = build(partial(make, (3, 64, 64), 10), 0)
        kinds = {type(module) for module in network.modules()}
        assert MeanPixel in kinds
        assert nn.AdaptiveAvgPool2d not in kinds
