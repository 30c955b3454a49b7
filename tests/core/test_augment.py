import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracles import F64, random, relative_error
from trajmatch.core.augment import FAMILIES, Draw, augment, draw, families, sampled

X = random(3, 2, 16, 16, seed=1)
ALL = [name for name in FAMILIES if name != "identity"]


def uniform(n: int, *columns: float) -> Tensor:
    return torch.tensor([columns + (0.5,) * (3 - len(columns))] * n, dtype=F64)


@pytest.mark.parametrize("family", FAMILIES)
def test_shape_dtype_and_repetition(family: str) -> None:
    a = Draw(family, torch.rand(3, 3, generator=torch.Generator().manual_seed(0)))
    found = augment(X.float(), a)
    assert found.shape == X.shape
    assert found.dtype == torch.float32
    assert torch.equal(found, augment(X.float(), a))
    if family != "identity":
        assert not torch.equal(found, X.float())


@pytest.mark.parametrize(
    ("family", "u"),
    [("identity", (0.3,)), ("crop", (0.5, 0.5)), ("scale", (0.2 / (1.2 - 1 / 1.2) * 0.8333333333333334, 0.5))],
)
def test_draws_that_change_nothing(family: str, u: tuple[float, ...]) -> None:
    if family == "scale":  # the draw whose factor is 1: 1 / 1.2 + u (1.2 - 1 / 1.2) = 1
        one = (1 - 1 / 1.2) / (1.2 - 1 / 1.2)
        u = (one, one)
    assert relative_error(augment(X, Draw(family, uniform(3, *u))), X) < 1e-12


def test_rotation_by_nothing_and_back() -> None:
    assert relative_error(augment(X, Draw("rotate", uniform(3, 0.5))), X) < 1e-12
    smooth = torch.ones(1, 1, 17, 17, dtype=F64)
    turned = augment(smooth, Draw("rotate", uniform(1, 1.0)))
    assert float(turned[0, 0, 8, 8]) == pytest.approx(1.0)  # the centre stays
    assert float(turned[0, 0, 0, 0]) < 0.5  # zeros come in at the corners


def test_rotation_angle_and_sense_are_those_of_the_matrix() -> None:
    x = torch.zeros(1, 1, 33, 33, dtype=F64)
    x[0, 0, 16, 28] = 1.0  # twelve pixels right of the centre
    turned = augment(x, Draw("rotate", uniform(1, 1.0)))[0, 0]
    rows, columns = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(33.0) - 16, indexing="ij")
    weight = turned / turned.sum()
    angle = math.degrees(math.atan2(float((weight * rows).sum()), float((weight * columns).sum())))
    assert abs(angle) == pytest.approx(15.0, abs=0.5)  # bilinear sampling moves the centre of mass a little


def test_crop_shifts_by_whole_pixels_within_an_eighth() -> None:
    shifted = augment(X, Draw("crop", uniform(3, 0.0, 0.999)))  # down -2, right +2
    wanted = torch.zeros_like(X)
    wanted[:, :, 2:, :-2] = X[:, :, :-2, 2:]
    assert torch.equal(shifted, wanted)


@pytest.mark.parametrize(
    ("u", "rows"), [((0.0, 0.5), range(4)), ((0.999, 0.5), range(12, 16)), ((0.5, 0.5), range(4, 12))]
)
def test_cutout_zeroes_half_the_side_and_nothing_else(u: tuple[float, float], rows: range) -> None:
    found = augment(X, Draw("cutout", uniform(3, *u)))
    hole = torch.zeros(16, 16, dtype=torch.bool)
    hole[rows.start : rows.stop, 4:12] = True
    assert torch.equal(found == 0, hole.expand_as(X))
    assert torch.equal(found[:, :, ~hole], X[:, :, ~hole])


def test_flip_twice_is_the_identity_and_half_of_them_flip() -> None:
    a = Draw("flip", uniform(3, 0.2))
    assert torch.equal(augment(X, a), X.flip(3))
    assert torch.equal(augment(augment(X, a), a), X)
    assert torch.equal(augment(X, Draw("flip", uniform(3, 0.7))), X)


def test_colour_by_its_formula() -> None:
    u = uniform(3, 0.9, 0.2, 0.6)
    bright = X + 0.4
    grey = bright.mean(1, keepdim=True)
    saturated = (bright - grey) * 0.4 + grey
    mean = torch.stack([image.mean() for image in saturated]).view(-1, 1, 1, 1)
    assert relative_error(augment(X, Draw("color", u)), (saturated - mean) * 1.1 + mean) < 1e-12


@pytest.mark.parametrize("family", ALL)
def test_gradient(family: str) -> None:
    u = torch.rand(2, 3, generator=torch.Generator().manual_seed(3), dtype=F64)
    x = random(2, 2, 6, 6, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, Draw(family, u)), (x,))


@pytest.mark.parametrize("family", ALL)
def test_vmap_over_draws(family: str) -> None:
    u = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(3), dtype=F64)
    together = torch.vmap(lambda u: FAMILIES[family](X, u))(u)
    for k in range(4):
        assert relative_error(together[k], augment(X, Draw(family, u[k]))) < 1e-12


def test_draws_depend_on_the_generator_alone() -> None:
    names = families("color_crop_cutout_flip_scale_rotate")
    a, b = (draw(5, names, torch.Generator().manual_seed(7)) for _ in range(2))
    assert a.family == b.family
    assert torch.equal(a.u, b.u)
    source = torch.Generator().manual_seed(0)
    assert {draw(2, names, source).family for _ in range(200)} == set(names)
    assert draw(2, (), source).family == "identity"


def test_strategies() -> None:
    assert families("none") == ()
    assert families("crop_flip") == ("crop", "flip")
    with pytest.raises(ValueError, match="'zoom' is not a family"):
        families("crop_zoom")


def resampled(rows: list[list[float]]) -> Tensor:
    """X through torch's own affine grid, as the published code builds it."""
    matrix = torch.tensor([rows] * 3, dtype=F64)
    grid = torch.nn.functional.affine_grid(matrix, list(X.shape), align_corners=True)
    return torch.nn.functional.grid_sample(X, grid, padding_mode="zeros", align_corners=True)


def test_scale_stretches_width_and_height_apart() -> None:
    horizontal, vertical = (1 / 1.2 + u * (1.2 - 1 / 1.2) for u in (0.1, 0.8))
    found = augment(X, Draw("scale", uniform(3, 0.1, 0.8)))
    assert relative_error(found, resampled([[horizontal, 0, 0], [0, vertical, 0]])) < 1e-12


def test_rotation_against_the_affine_grid() -> None:
    angle = math.radians((0.9 * 2 - 1) * 15)
    rows = [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]]
    assert relative_error(augment(X, Draw("rotate", uniform(3, 0.9))), resampled(rows)) < 1e-12


TALL = random(4, 2, 6, 9, seed=1) + 3.0  # no pixel is zero, and the sides differ


def parameters(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_is_changed_by_its_own_parameters_alone(family: str) -> None:
    u = parameters(4)
    together = augment(TALL, Draw(family, u))
    alone = torch.cat([augment(TALL[k : k + 1], Draw(family, u[k : k + 1])) for k in range(4)])
    assert relative_error(together, alone) < 1e-12
    if family != "identity":
        assert relative_error(augment(TALL, Draw(family, u.flip(0))), together) > 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_crop_by_a_loop_over_pixels(seed: int) -> None:
    u = parameters(4, seed)
    wanted = torch.zeros_like(TALL)
    for k, row, column in itertools.product(range(4), range(6), range(9)):
        # int(0.125 * 6 + 0.5) = 1 up or down, so one of 3 shifts; int(0.125 * 9 + 0.5) = 1 sideways.
        source = row + int(3 * u[k, 0]) - 1, column + int(3 * u[k, 1]) - 1
        if 0 <= source[0] < 6 and 0 <= source[1] < 9:
            wanted[k, :, row, column] = TALL[k, :, source[0], source[1]]
    assert torch.equal(augment(TALL, Draw("crop", u)), wanted)


@pytest.mark.parametrize("seed", range(4))
def test_cutout_by_a_loop_over_pixels(seed: int) -> None:
    """An odd length (3 of 6) has its centre on one of 6 pixels; of 9, int(4.5 + 0.5) = 5 on one of 9."""
    u = parameters(4, seed)
    wanted = TALL.clone()
    for k, row, column in itertools.product(range(4), range(6), range(9)):
        if abs(row - int(6 * u[k, 0])) <= 1 and abs(column - int(9 * u[k, 1])) <= 2:
            wanted[k, :, row, column] = 0.0
    assert not torch.equal(wanted, TALL)
    assert torch.equal(augment(TALL, Draw("cutout", u)), wanted)


def test_published_ranges_of_colour() -> None:
    """At its ends: brightness +- 1/2, saturation 0 and 2 times, contrast 1/2 and 3/2 times."""
    middle, x = 0.5, TALL[:1]

    def at(*u: float) -> Tensor:
        return augment(x, Draw("color", torch.tensor([u], dtype=F64)))

    assert relative_error(at(middle, middle, middle), x) < 1e-12
    for end, shift in ((0.0, -0.5), (1.0, 0.5)):
        assert relative_error(at(end, middle, middle), x + shift) < 1e-12
    grey = x.mean(1, keepdim=True)
    for end, factor in ((0.0, 0.0), (1.0, 2.0)):
        assert relative_error(at(middle, end, middle), grey + factor * (x - grey)) < 1e-12
    for end, factor in ((0.0, 0.5), (1.0, 1.5)):
        assert relative_error(at(middle, middle, end), x.mean() + factor * (x - x.mean())) < 1e-12


@pytest.mark.parametrize("shape", [(3, 2, 7, 5), (1, 1, 8, 8), (4, 3, 2, 3)])
def test_sampling_by_single_neighbours_is_grid_sample_with_its_derivative(shape: tuple[int, int, int, int]) -> None:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=source, dtype=torch.float64, requires_grad=True)
    # Beyond the borders too, and on the corners' centres.
    grid = 2.8 * torch.rand(shape[0], 6, 4, 2, generator=source, dtype=torch.float64) - 1.4
    grid[:, 0, 0], grid[:, 0, 1] = -1.0, 1.0
    wanted = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    found = sampled(x, grid)
    assert found.is_contiguous()
    assert torch.allclose(found, wanted, rtol=0, atol=1e-14)
    v = torch.randn(found.shape, generator=source, dtype=torch.float64)
    (of_found,), (of_wanted,) = (torch.autograd.grad(one, x, v) for one in (found, wanted))
    assert torch.allclose(of_found, of_wanted, rtol=0, atol=1e-13)
