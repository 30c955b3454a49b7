"""The covariance of large images, without ever building it: its leading directions, and one number for all others.

Legend: n images of c x h x w, d = c h w, C their covariance (d, d), k directions of which r are kept.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from trajmatch.core.draws import generator

_SEARCHED = 10_000  # images among which directions are looked for; their variances are then those of all images
_PASSES = 4  # over these images; the spectrum of photographs falls slowly, and fewer leave twice the error
_SPARE = 64  # directions beyond r that are carried along, so that the last ones of r converge too
_PROBES = 16  # random vectors that measure what is left out, to about a percent
_SOLVED = 1e-12  # share of a squared residual that is noise: products are float32
_ITERATIONS = 12  # of conjugate gradients: enough for a condition of 10, and 64 pixels have 2
_ENTRIES = 2**23  # pixels that are made floating-point at once: 32 MB

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Directions:
    """C is about U diag(S) U' + rest (I - U U').

    basis:     U (d, r), orthonormal columns, float64.
    variances: S (r,), by ascending variance.
    rest:      of all other directions: the mean of their variances, each weighted by itself. It whitens better than the
               plain mean does, which directions without any variance draw to 0.
    error:     relative error, in the Frobenius norm, of the covariance that whitened images have.
    """

    basis: Tensor
    variances: Tensor
    rest: float
    error: float


def leading(x: Tensor, mean: Tensor, rank: int, eps: float) -> Directions:
    """The `rank` directions of the greatest variance of images x (n, c, h, w), by subspace iteration in float32.

    mean: (d,), of the pixels in [0, 1]. eps: what is added to every variance in whitening.
    Cost: 5 passes over at most 10,000 images and one over all, each 4 d k multiplications an image.
    """
    few = x[:: ceil(len(x) / _SEARCHED)]  # evenly, so that every class has its share
    d, source = len(mean), generator(0, "low rank")
    q = torch.randn(d, min(d, rank + _SPARE), generator=source, dtype=torch.float64)
    for _ in range(_PASSES):
        q = torch.linalg.qr(_times(few, mean, q))[0]
    probes = _outside(q, torch.randn(d, _PROBES, generator=source, dtype=torch.float64))
    products = _times(x, mean, torch.cat([q, probes], 1))
    inner = q.T @ products[:, : q.shape[1]]
    values, vectors = torch.linalg.eigh((inner + inner.T) / 2)
    kept, spare = values[-rank:].clamp(min=0), values[:-rank].clamp(min=0)
    basis = q @ vectors[:, -rank:]
    left = max(0.0, _trace(x, mean) - float(kept.sum()))
    # Of the squares: E |P C P g|^2 is the sum over the directions outside, for a random g there.
    squares = float(_outside(q, products[:, q.shape[1] :]).square().sum()) / _PROBES + float(spare.square().sum())
    # Rounding leaves a little of nothing where there are fewer images than directions.
    rest = min(squares / left, float(kept[0])) if left > 1e-6 * float(kept.sum()) else 0.0
    error = _error(few, mean, basis, rest, eps) / float((kept / (kept + eps)).norm().clamp(min=1e-12))
    return Directions(basis, kept, rest, error)


def _error(x: Tensor, mean: Tensor, basis: Tensor, rest: float, eps: float) -> float:
    """Frobenius norm of C / (rest + eps) - C / (C + eps) outside of the basis, by random probes."""
    probes = torch.randn(len(mean), _PROBES, generator=generator(1, "low rank"), dtype=torch.float64)

    def product(v: Tensor) -> Tensor:
        return _outside(basis, _times(x, mean, v))

    right = product(_outside(basis, probes))
    found = right / (rest + eps) - _solved(lambda v: product(v) + eps * v, right)
    return float(found.square().sum() / _PROBES) ** 0.5


def _solved(product: Product, right: Tensor) -> Tensor:
    """Solutions of A w = v for the columns v of `right`, by conjugate gradients.

    A column whose solution is found stands still: what is left of it is noise, along which A need not be positive.
    """
    found, left = torch.zeros_like(right), right.clone()
    step, size = right.clone(), right.square().sum(0)
    tiny, enough = torch.finfo(right.dtype).tiny, _SOLVED * size
    for _ in range(_ITERATIONS):
        moved = product(step)
        curved = (step * moved).sum(0)
        along = torch.where((curved > 0) & (size > enough), size / curved.clamp(min=tiny), 0.0)
        found += along * step
        left -= along * moved
        before, size = size, left.square().sum(0)
        step = left + size / before.clamp(min=tiny) * step
    return found


def _outside(basis: Tensor, v: Tensor) -> Tensor:
    """What of the columns v lies in no direction of an orthonormal basis."""
    return v - basis @ (basis.T @ v)


def _times(x: Tensor, mean: Tensor, v: Tensor) -> Tensor:
    """C v (d, k) of columns v (d, k); sums over many images are float64."""
    out = torch.zeros(v.shape, dtype=torch.float64)
    narrow, middle = v.float(), mean.float()
    for rows in _chunks(x):
        rows = rows - middle
        out += rows.T @ (rows @ narrow)
    return out / (len(x) - 1)


def _trace(x: Tensor, mean: Tensor) -> float:
    """The sum of all variances."""
    squares = sum(float((rows - mean.float()).square().sum(dtype=torch.float64)) for rows in _chunks(x))
    return squares / (len(x) - 1)


def _chunks(x: Tensor) -> Iterator[Tensor]:
    """Some images (m, d) at a time, as float32 pixels in [0, 1]."""
    many = max(1, _ENTRIES // x[0].numel())
    for start in range(0, len(x), many):
        rows = x[start : start + many].flatten(1)
        yield rows.float() / 255 if x.dtype == torch.uint8 else rows.float()
