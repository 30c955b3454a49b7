"""Input spaces: inverses, statistics against naive formulas, whitened covariance."""

import re

import pytest
import torch
from torch import Tensor

from trajmatch.data import low_rank, whitening
from trajmatch.data.whitening import InputSpace, fit

KINDS = ["none", "channel", "zca"]


def correlated_images(n: int, c: int = 3, side: int = 4, seed: int = 0) -> Tensor:
    """uint8 images whose pixels are correlated, so that whitening has something to do."""
    generator = torch.Generator().manual_seed(seed)
    d = c * side * side
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
    pixels = 120 + 45 * torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing
    return pixels.clamp(0, 255).to(torch.uint8).reshape(n, c, side, side)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [5, 200])  # fewer and more images than pixels: the two ways to multiply
def test_inverse_undoes_forward(kind: str, n: int) -> None:
    x = correlated_images(200)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        space = fit(kind, x, dtype=dtype)
        z = space.forward(x[:n])
        assert z.dtype == dtype
        assert z.shape == x[:n].shape
        assert (space.inverse(z) - x[:n].double() / 255).abs().max() <= tolerance
        assert kind == "none" or (z - x[:n].double() / 255).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_inverse_is_not_clamped(kind: str) -> None:
    space = fit(kind, correlated_images(100), dtype=torch.float64)
    outside = torch.full((2, 3, 4, 4), 1.5, dtype=torch.float64)
    torch.testing.assert_close(space.inverse(space.forward(outside)), outside, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_float_and_uint8_pixels_agree(kind: str) -> None:
    x = correlated_images(100)
    pixels = x.double() / 255
    from_bytes, from_floats = fit(kind, x, dtype=torch.float64), fit(kind, pixels, dtype=torch.float64)
    torch.testing.assert_close(from_bytes.forward(x), from_floats.forward(pixels), rtol=0, atol=1e-10)


def test_zca_matches_the_formula() -> None:
    x = correlated_images(300)
    flat = x.flatten(1).double() / 255
    covariance = torch.cov(flat.T)
    left, values, _ = torch.linalg.svd(covariance)  # as kornia does it
    naive = (flat - flat.mean(0)) @ (left @ torch.diag((values + 0.1) ** -0.5) @ left.T)
    z = fit("zca", x, dtype=torch.float64).forward(x)
    torch.testing.assert_close(z.flatten(1), naive, rtol=0, atol=1e-12)


def test_zca_whitens_up_to_epsilon() -> None:
    """In the eigenbasis the covariance of z is diag(S / (S + eps))."""
    x = correlated_images(400)
    space = fit("zca", x, dtype=torch.float64)
    z = space.forward(x).flatten(1)
    values = space.scale - InputSpace.eps
    assert values.max() > 0.1 * InputSpace.eps  # else the assertion below is about zeros
    in_basis = space.basis.T @ torch.cov(z.T) @ space.basis
    torch.testing.assert_close(in_basis, torch.diag(values / space.scale), rtol=0, atol=1e-12)
    torch.testing.assert_close(z.mean(0), torch.zeros_like(z[0]), rtol=0, atol=1e-12)


def test_zca_matrix_is_symmetric_and_the_basis_orthogonal() -> None:
    space = fit("zca", correlated_images(100), dtype=torch.float64)
    d = len(space.mean)
    eye = torch.eye(d, dtype=torch.float64)
    matrix = space.forward(eye.reshape(d, 3, 4, 4)).flatten(1) - space.forward(torch.zeros(1, 3, 4, 4)).flatten(1)
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(space.basis.T @ space.basis, eye, rtol=0, atol=1e-12)


def test_zca_with_fewer_images_than_pixels() -> None:
    x = correlated_images(10)
    space = fit("zca", x, dtype=torch.float64)
    assert (space.scale >= InputSpace.eps).all()
    torch.testing.assert_close(space.inverse(space.forward(x)), x.double() / 255, rtol=0, atol=1e-10)


def test_moments_are_exact_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Integer sums: the same bits whatever the chunks, and the naive value in 64-bit integers."""
    x = correlated_images(2500)
    mean, covariance = whitening._moments(x)
    monkeypatch.setattr(whitening, "_EXACT_ROWS", 7)
    other_mean, other_covariance = whitening._moments(x)
    assert torch.equal(mean, other_mean)
    assert torch.equal(covariance, other_covariance)
    flat = x.flatten(1).long()
    n, total = len(flat), flat.sum(0)
    naive = (n * (flat.T @ flat) - total[:, None] * total).double() / (n * (n - 1) * 255**2)
    torch.testing.assert_close(covariance, naive, rtol=1e-12, atol=1e-15)


def test_moments_are_exact_at_the_extremes() -> None:
    """All 0 or 255: the largest sums of products that a chunk of float32 has to hold."""
    generator = torch.Generator().manual_seed(0)
    x = 255 * torch.randint(0, 2, (4096, 1, 2, 2), generator=generator, dtype=torch.uint8)
    x[:, :, 0, 0] = 0
    _, covariance = whitening._moments(x)
    torch.testing.assert_close(covariance, torch.cov(x.flatten(1).double().T / 255), rtol=1e-12, atol=1e-15)


def test_forward_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = correlated_images(100)
    space = fit("zca", x, dtype=torch.float64)
    whole = space.forward(x)
    monkeypatch.setattr(whitening, "_ROWS", 7)
    torch.testing.assert_close(space.forward(x), whole, rtol=0, atol=1e-13)


def test_channel_statistics() -> None:
    x = correlated_images(100)
    space = fit("channel", x, dtype=torch.float64)
    pixels = x.double() / 255
    torch.testing.assert_close(space.mean, pixels.mean((0, 2, 3)), rtol=1e-12, atol=0)
    torch.testing.assert_close(space.scale, pixels.std((0, 2, 3), correction=0), rtol=1e-12, atol=0)
    z = space.forward(x)
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0)


def test_gradients_pass_through() -> None:
    space = fit("zca", correlated_images(100), dtype=torch.float64)
    z = space.forward(correlated_images(3, seed=1)).requires_grad_()
    space.inverse(z).sum().backward()
    assert z.grad is not None
    expected = (space.basis * space.scale**0.5) @ space.basis.T @ torch.ones(48, dtype=torch.float64)
    torch.testing.assert_close(z.grad.flatten(1), expected.expand(3, 48), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_round_trip(kind: str) -> None:
    x = correlated_images(60)
    space = fit(kind, x)
    again = InputSpace.from_tensors(kind, space.shape, space.to_tensors())
    assert torch.equal(again.forward(x), space.forward(x))
    wide = space.to(dtype=torch.float64)
    assert wide.forward(x).dtype == torch.float64


def test_errors_are_one_sentence() -> None:
    x = correlated_images(20)
    with pytest.raises(ValueError, match="'whiten': it must be 'none', 'channel' or 'zca'"):
        fit("whiten", x)
    x[:, 1] = 7
    with pytest.raises(ValueError, match="channel 1 of the training images is constant"):
        fit("channel", x)
    with pytest.raises(ValueError, match="1 training image cannot determine the zca"):
        fit("zca", x[:1])
    with pytest.raises(ValueError, match=r"shape \(1, 4, 4\) do not fit an input space of \(3, 4, 4\)"):
        fit("zca", x).forward(x[:, :1])
    tensors = fit("zca", x).to_tensors()
    with pytest.raises(ValueError, match=r"'mean' of the zca input space has shape \(48,\): it must be \(12,\)"):
        InputSpace.from_tensors("zca", (3, 2, 2), tensors)
    with pytest.raises(ValueError, match="'basis' of the zca input space has shape None"):
        InputSpace.from_tensors("zca", (3, 4, 4), {key: value for key, value in tensors.items() if key != "basis"})


def falling_images(n: int) -> Tensor:
    """uint8 images (n, 3, 4, 4) whose variances fall from direction to direction, as photographs' do."""
    generator = torch.Generator().manual_seed(1)
    directions = torch.linalg.qr(torch.randn(48, 48, generator=generator, dtype=torch.float64))[0]
    scales = 100 / torch.arange(1, 49, dtype=torch.float64).sqrt()
    pixels = 127 + torch.randn(n, 48, generator=generator, dtype=torch.float64) * scales @ directions.T
    return pixels.clamp(0, 255).to(torch.uint8).reshape(n, 3, 4, 4)


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """48 dimensions are many, of which 12 have a scale of their own; few enough others are carried along."""
    monkeypatch.setattr(whitening, "DENSE", 24)
    monkeypatch.setattr(low_rank, "_SPARE", 8)


@pytest.mark.usefixtures("low")
@pytest.mark.parametrize("n", [5, 200])
def test_a_low_rank_has_an_exact_inverse(n: int) -> None:
    x = falling_images(200)
    space = fit("zca", x, dtype=torch.float64)
    assert space.basis.shape == (48, 12)
    assert space.scale.shape == (13,)
    assert (space.inverse(space.forward(x[:n])) - x[:n].double() / 255).abs().max() <= 1e-8
    outside = torch.full((2, 3, 4, 4), 1.5, dtype=torch.float64)
    torch.testing.assert_close(space.inverse(space.forward(outside)), outside, rtol=0, atol=1e-8)
    again = InputSpace.from_tensors("zca", space.shape, space.to_tensors())
    assert torch.equal(again.forward(x), space.forward(x))
    assert space.wrong() is None


@pytest.mark.usefixtures("low")
def test_a_low_rank_is_the_dense_map_where_images_have_no_more_directions() -> None:
    x = falling_images(10)  # 9 directions of 48: all others have no variance, in either
    space = fit("zca", x, dtype=torch.float64)
    mean, scale, basis = whitening._zca_statistics(x)
    dense = InputSpace("zca", mean, scale, basis, space.shape)
    assert space.basis.shape == (48, 9)
    probe = torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(space.forward(probe), dense.forward(probe), rtol=0, atol=1e-5)
    torch.testing.assert_close(float(space.scale[-1]), InputSpace.eps, rtol=0, atol=1e-7)


@pytest.mark.usefixtures("low")
def test_a_low_rank_against_the_dense_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_rank, "_PASSES", 200)  # to the end, as far as float32 goes
    monkeypatch.setattr(low_rank, "_PROBES", 4000)  # so that what is left out is measured to a percent here too
    x = falling_images(300)
    space, told = whitening.fitted("zca", x, dtype=torch.float64)
    mean, covariance = whitening._moments(x)
    S, U = torch.linalg.eigh(covariance)
    torch.testing.assert_close(space.mean, mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(space.scale[:-1], S[-12:] + InputSpace.eps, rtol=1e-4, atol=0)
    left = S[:-12]
    torch.testing.assert_close(float(space.scale[-1]), float(left.square().sum() / left.sum()) + 0.1, rtol=2e-3, atol=0)
    whitened = torch.cov(space.forward(x).flatten(1).T)
    wanted = U @ torch.diag(S / (S + InputSpace.eps)) @ U.T
    error = float((whitened - wanted).norm() / wanted.norm())
    assert 0.001 < error < 0.1
    found = re.search(r"48 dimensions: the 12 leading .* is ([0-9.]+)% off; the inverse is exact", told)
    assert found is not None
    assert float(found[1]) / 100 == pytest.approx(error, rel=0.15)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_error_of_a_low_rank_is_a_number_where_few_large_images_are_nearly_black(n: int) -> None:
    white = torch.rand(n, 3, 33, 33, generator=torch.Generator().manual_seed(n)) < 0.002
    told = whitening.fitted("zca", 255 * white.to(torch.uint8))[1]
    found = re.search(r"is ([0-9.]+)% off", told)
    assert found is not None, told
    assert float(found[1]) < 1


def test_images_of_64_pixels_have_a_low_rank_no_larger_than_the_basis_of_32(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def leading(x: Tensor, mean: Tensor, rank: int, eps: float) -> low_rank.Directions:
        asked.append(rank)
        return low_rank.Directions(torch.zeros(len(mean), rank), torch.zeros(rank), 0.0, 0.0)

    monkeypatch.setattr(whitening, "leading", leading)
    monkeypatch.setattr(whitening, "_zca_statistics", lambda x: pytest.fail("a dense decomposition"))
    fit("zca", torch.zeros(2000, 3, 64, 64, dtype=torch.uint8))
    assert asked == [768]
    for d in (3 * 33**2, 64**2, 3 * 64**2, 3 * 224**2):
        assert 1 <= whitening.rank(10**6, d) <= 1024
        assert whitening.rank(10**6, d) * d <= 3072**2


def test_images_of_32_pixels_are_whitened_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whitening, "leading", lambda *_: pytest.fail("a low rank"))
    dense = torch.zeros(3072), torch.ones(3072), torch.eye(3072)
    monkeypatch.setattr(whitening, "_zca_statistics", lambda x: dense)
    assert fit("zca", torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).basis.shape == (3072, 3072)
