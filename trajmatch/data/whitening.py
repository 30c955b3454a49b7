"""Input spaces: invertible affine maps from pixels in [0, 1] to what the network sees.

Legend: n images of c x h x w, d = c h w.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from math import prod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from trajmatch.data.called import called
from trajmatch.data.low_rank import leading

_ROWS = 5000  # images mapped at once: 61 MB of float32 at 3 x 32 x 32
# Pixels minus 128 are integers of at most 2^7, so a sum of 2^10 of their products is at most 2^24, up to which float32
# is exact on integers. The covariance then does not depend on the order of summation or on threads, at float32's speed.
_EXACT_ROWS = 1024
DENSE = 3072  # dimensions up to which all directions have a scale each: 3 x 32 x 32, as published
_MOST_DIRECTIONS = 1024  # of a low rank
_SHIFT = 128


@dataclass(frozen=True, eq=False)
class InputSpace:
    """z = forward(x), x = inverse(z).

    kind:  "none": z = x.
           "channel": z = (x - mean) / scale, mean and standard deviation per channel.
           "zca": z = (x - mean) U diag(scale)^-1/2 U', with mean per pixel, U and S the eigenvectors and eigenvalues
           of the covariance of the training pixels, scale = S + eps. So does kornia, which MTT uses. For images of
           more than 3 x 32 x 32, z = (x - mean) (U diag(scale)^-1/2 U' + rest^-1/2 (I - U U')), with the r leading
           eigenvectors: all other directions have one scale, and the inverse stays exact.
    mean:  (0,), (c,) or (d,).
    scale: (0,), (c,) or (d,); (r + 1,) of a low rank, whose last is the rest.
    basis: (d, d), eigenvectors in columns by ascending eigenvalue, or (d, r); (0,) unless zca.
    shape: (c, h, w).
    """

    kind: str
    mean: Tensor
    scale: Tensor
    basis: Tensor
    shape: tuple[int, int, int]

    eps: ClassVar[float] = 0.1

    def forward(self, x: Tensor) -> Tensor:
        """z (n, c, h, w) in the statistics' dtype, from pixels (n, c, h, w): uint8, or floating-point in [0, 1]."""
        return self._apply(x, -0.5)

    def inverse(self, z: Tensor) -> Tensor:
        """Pixels (n, c, h, w) of z (n, c, h, w); they are not clamped, and lie in [0, 1] where z came from there."""
        return self._apply(z, 0.5)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "InputSpace":
        """The same map with its statistics elsewhere or in another precision."""
        mean, scale, basis = (part.to(device=device, dtype=dtype) for part in (self.mean, self.scale, self.basis))
        return InputSpace(self.kind, mean, scale, basis, self.shape)

    def to_tensors(self) -> dict[str, Tensor]:
        """Statistics by name, for a file."""
        return {"mean": self.mean, "scale": self.scale, "basis": self.basis}

    @classmethod
    def from_tensors(cls, kind: str, shape: tuple[int, int, int], tensors: Mapping[str, Tensor]) -> "InputSpace":
        """The inverse of `to_tensors`. Raises ValueError where a statistic is missing or has the wrong shape."""
        _check_kind(kind)
        c, h, w = shape
        d = c * h * w
        r = _rank_of(tensors.get("basis"), d)
        sizes: dict[str, dict[str, tuple[int, ...]]] = {
            "none": {"mean": (0,), "scale": (0,), "basis": (0,)},
            "channel": {"mean": (c,), "scale": (c,), "basis": (0,)},
            "zca": {"mean": (d,), "scale": (d,) if r == d else (r + 1,), "basis": (d, r)},
        }
        for name, size in sizes[kind].items():
            found = tuple(tensors[name].shape) if name in tensors else None
            if found != size:
                raise ValueError(f"'{name}' of the {kind} input space has shape {found}: it must be {size}.")
        return cls(kind, tensors["mean"], tensors["scale"], tensors["basis"], (c, h, w))

    def digest(self) -> str:
        """Hash of the map: its kind, shape and statistics."""
        found = blake2b(repr((self.kind, self.shape)).encode(), digest_size=16)
        for name, tensor in self.to_tensors().items():
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    def wrong(self) -> str | None:
        """Why this is no invertible map between images, in words, or None."""
        for name, tensor in self.to_tensors().items():
            if not tensor.is_floating_point() or not tensor.isfinite().all():
                return f"'{name}' of its input space is not finite"
        if not (self.scale > 0).all():
            return "'scale' of its input space is not above 0"
        if self.kind != "zca":
            return None
        # A vector comes back from orthonormal columns; to multiply the whole basis by itself would take seconds.
        probe = torch.cos(torch.arange(self.basis.shape[1], device=self.basis.device) * 1.7).to(self.basis.dtype)
        back = self.basis.T @ (self.basis @ probe)
        if float((back - probe).norm()) > 1e-2 * float(probe.norm()):
            return "'basis' of its input space is not orthogonal"
        return None

    def _apply(self, x: Tensor, power: float) -> Tensor:
        """forward for power -1/2, inverse for 1/2."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"images of shape {tuple(x.shape[1:])} do not fit an input space of {self.shape}.")
        matrix = self._matrix(power) if self.kind == "zca" and not self._is_low and len(x) > len(self.mean) else None
        out = torch.empty(x.shape, dtype=self.mean.dtype, device=x.device)
        many = min(_ROWS, max(1, _ROWS * DENSE // max(1, prod(self.shape))))
        for start in range(0, len(x), many):
            rows = x[start : start + many].to(self.mean.dtype)
            out[start : start + many] = self._map(rows / 255 if x.dtype == torch.uint8 else rows, power, matrix)
        return out

    @property
    def _is_low(self) -> bool:
        """Whether the basis has fewer columns than rows."""
        return self.kind == "zca" and self.basis.shape[1] < len(self.mean)

    def _matrix(self, power: float) -> Tensor:
        matrix: Tensor = (self.basis * self.scale**power) @ self.basis.T
        return matrix

    def _map(self, rows: Tensor, power: float, matrix: Tensor | None) -> Tensor:
        if self.kind == "none":
            return rows
        forward = power < 0
        if self.kind == "channel":
            mean, scale = self.mean[:, None, None], self.scale[:, None, None]
            return (rows - mean) / scale if forward else rows * scale + mean
        flat = rows.flatten(1)  # (n, d)
        flat = flat - self.mean if forward else flat
        if self._is_low:
            *_, rest = scales = self.scale**power
            flat = flat * rest + flat @ self.basis * (scales[:-1] - rest) @ self.basis.T
        else:
            # Two thin products cost less than building the d x d matrix for fewer than d images.
            flat = flat @ matrix if matrix is not None else flat @ self.basis * self.scale**power @ self.basis.T
        flat = flat if forward else flat + self.mean
        return flat.reshape(rows.shape)


def fit(kind: str, x: Tensor, *, dtype: torch.dtype = torch.float32) -> InputSpace:
    """The input space of training images, as `fitted` has it."""
    return fitted(kind, x, dtype=dtype)[0]


def fitted(kind: str, x: Tensor, *, dtype: torch.dtype = torch.float32) -> tuple[InputSpace, str]:
    """The input space of training images x: uint8 (n, c, h, w), or floating-point in [0, 1]; and what is to be said.

    dtype: of the statistics, and so of what the network sees; they are computed in float64 whatever it is.
    Raises ValueError for an unknown kind, fewer than two images, or (channel) a constant channel.
    Cost of zca: n d^2 multiplications and one eigendecomposition of d x d; memory 3 matrices of d x d in float64. For
    images of more than 3 x 32 x 32 it is that of `low_rank.leading`, and the basis is no larger than theirs.
    """
    _check_kind(kind)
    told = ""
    c, h, w = x.shape[1:]
    if kind == "none":
        mean = scale = basis = torch.empty(0, dtype=torch.float64, device=x.device)
    elif len(x) < 2:
        raise ValueError(f"{len(x)} training image cannot determine the {kind} input space: at least 2 are needed.")
    elif kind == "channel":
        mean, scale, basis = _channel_statistics(x)
    elif c * h * w > DENSE:
        mean, scale, basis, told = _low_statistics(x)
    else:
        mean, scale, basis = _zca_statistics(x)
    return InputSpace(kind, mean.to(dtype), scale.to(dtype), basis.to(dtype), (c, h, w)), told


def rank(n: int, d: int) -> int:
    """Directions that have a scale of their own: the basis takes at most what it does at 3 x 32 x 32, 38 MB."""
    return min(n - 1, d - 1, _MOST_DIRECTIONS, max(1, DENSE**2 // d))


def _rank_of(basis: Tensor | None, d: int) -> int:
    """Columns of a basis (d, r); d where it is none."""
    return int(basis.shape[1]) if basis is not None and basis.dim() == 2 and 0 < basis.shape[1] < d else d


def _check_kind(kind: str) -> None:
    if kind not in ("none", "channel", "zca"):
        raise ValueError(f"the input space is {kind!r}: it must be 'none', 'channel' or 'zca'.")


def _channel_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    channels = x.transpose(0, 1).flatten(1)  # (c, n h w)
    means, deviations = [], []
    for i, values in enumerate(channels):
        if x.dtype == torch.uint8:  # 256 counts say all, exactly and without a float copy
            counts = torch.bincount(values, minlength=256).double()
            levels = torch.arange(256, dtype=torch.float64, device=x.device) / 255
        else:
            levels, counts = values.double(), torch.ones_like(values, dtype=torch.float64)
        mean = (counts * levels).sum() / counts.sum()
        variance = (counts * (levels - mean) ** 2).sum() / counts.sum()
        if values.min() == values.max():
            raise ValueError(
                f"channel {i} of the training images is constant, so it cannot be divided by its standard deviation: "
                f"choose the input space 'none' or 'zca'."
            )
        means.append(mean)
        deviations.append(variance.sqrt())
    return torch.stack(means), torch.stack(deviations), torch.empty(0, dtype=torch.float64, device=x.device)


def _zca_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, covariance = _moments(x)
    eigenvalues, basis = torch.linalg.eigh(covariance)
    return mean, eigenvalues.clamp(min=0) + InputSpace.eps, basis


def _low_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor, str]:
    """Mean, scale and basis of a low rank, and what is said of them."""
    n, d = len(x), x[0].numel()
    mean = _mean(x)
    found = leading(x, mean, rank(n, d), InputSpace.eps)
    scale = torch.cat([found.variances, torch.tensor([found.rest], dtype=torch.float64)]) + InputSpace.eps
    told = (
        f"ZCA of {d} dimensions: the {len(found.variances)} leading directions have a scale each and all others one, "
        f"with which the whitened covariance is {found.error:.1%} off; the inverse is exact"
    )
    return mean, scale, found.basis, told


def _mean(x: Tensor) -> Tensor:
    """Mean (d,) of the pixels in [0, 1], float64."""
    total = torch.zeros(x[0].numel(), dtype=torch.float64, device=x.device)
    for start in range(0, len(x), _EXACT_ROWS):
        total += x[start : start + _EXACT_ROWS].flatten(1).sum(0, dtype=torch.float64)
    return total / len(x) / (255 if x.dtype == torch.uint8 else 1)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d) of the pixels in [0, 1], float64."""
    n, d = len(x), x[0].numel()
    is_exact = x.dtype == torch.uint8
    total = torch.zeros(d, dtype=torch.float64, device=x.device)
    products = torch.zeros(d, d, dtype=torch.float64, device=x.device)
    for start in range(0, n, _EXACT_ROWS):
        rows = x[start : start + _EXACT_ROWS].flatten(1)
        rows = rows.float() - _SHIFT if is_exact else rows.double() * 255 - _SHIFT
        total += rows.sum(0)
        products += rows.T @ rows
    products.addr_(total, total, alpha=-1 / n).div_((n - 1) * 255**2)
    return (total / n + _SHIFT) / 255, products


# How far pixels may be from [0, 1]: resampled images ring, and those of a synthetic set need not keep to the range.
BEYOND = 4.0


def wrong_pixels(pixels: Any) -> str | None:
    """Why a value cannot be real images of uint8 or in [0, 1], in words, or None."""
    if not isinstance(pixels, Tensor):
        hint = ": torch.from_numpy(images)" if isinstance(pixels, np.ndarray) else ""
        return f"images are {called(pixels)} and must be a tensor (n, c, h, w){hint}"
    if not pixels.is_floating_point():
        kind = str(pixels.dtype).removeprefix("torch.")
        return None if pixels.dtype == torch.uint8 else f"images are {kind} and must be uint8, or floats in [0, 1]"
    low, high = (float(pixels.min()), float(pixels.max())) if pixels.numel() else (0.0, 0.0)
    if low >= -BEYOND and high <= 1 + BEYOND:
        return None
    hint = ": divide them by 255, or give uint8" if low >= 0 else ", before any other normalisation"
    return f"images have values from {low:.3g} to {high:.3g} and must be in [0, 1]{hint}"
