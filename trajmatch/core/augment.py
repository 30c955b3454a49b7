"""Differentiable siamese augmentation (DSA; arXiv 2102.08259), pure in (images, draw).

One family of transformations is drawn for a call, its parameters for each image. A draw is data, so the same one can
be applied again: to the second evaluation of an outer step, or to another set. Every transformation is differentiable
in the images, and each is exact on its own, in the ranges of the published program.
Legend: n images of c x h x w; u (n, 3) uniform numbers in [0, 1) that every family reads its parameters from.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# The field's standard strategy: all six.
STANDARD = "color_crop_cutout_flip_scale_rotate"
BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
CROP, CUTOUT, SCALE, DEGREES = 0.125, 0.5, 1.2, 15.0


class Draw(NamedTuple):
    """The randomness of one call: the family's name and u (n, 3)."""

    family: str
    u: Tensor


def draw(n: int, families: tuple[str, ...], source: torch.Generator) -> Draw:
    """Draw one of `families` for the call and its parameters for each of n images. No families: the identity."""
    u = torch.rand(n, 3, generator=source)
    if not families:
        return Draw("identity", u)
    return Draw(families[int(torch.randint(len(families), (), generator=source))], u)


def augment(x: Tensor, a: Draw) -> Tensor:
    """a(x): images x (n, c, h, w) under the draw a, of the same shape and dtype."""
    return FAMILIES[a.family](x, a.u.to(device=x.device, dtype=x.dtype, non_blocking=True))


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _colour(x: Tensor, u: Tensor) -> Tensor:
    """Brightness, then saturation about each pixel's mean, then contrast about each image's mean."""
    bright, saturate, contrast = (_per_image(column) for column in u.unbind(1))
    x = x + (bright - 0.5) * BRIGHTNESS
    mean = x.mean(1, keepdim=True)
    x = (x - mean) * (saturate * SATURATION) + mean
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (contrast + CONTRAST) + mean


def _crop(x: Tensor, u: Tensor) -> Tensor:
    """Shift by whole pixels, at most an eighth of the side, filling with zeros."""
    h, w = x.shape[2:]
    reach_h, reach_w = int(CROP * h + 0.5), int(CROP * w + 0.5)
    down = (u[:, 0] * (2 * reach_h + 1)).floor().long() - reach_h  # (n,)
    right = (u[:, 1] * (2 * reach_w + 1)).floor().long() - reach_w
    rows = torch.arange(h, device=x.device) + down[:, None] + reach_h  # (n, h) into the padded image
    columns = torch.arange(w, device=x.device) + right[:, None] + reach_w
    padded = F.pad(x, (reach_w, reach_w, reach_h, reach_h))
    padded = padded.gather(2, rows[:, None, :, None].expand(-1, x.shape[1], -1, padded.shape[3]))
    return padded.gather(3, columns[:, None, None, :].expand(-1, x.shape[1], h, -1))


def _cutout(x: Tensor, u: Tensor) -> Tensor:
    """Zero a rectangle of half the side, its centre anywhere, cut by the border."""
    h, w = x.shape[2:]
    inside = []
    for side, place in ((h, u[:, 0]), (w, u[:, 1])):
        length = int(CUTOUT * side + 0.5)
        # An even length has its centre between pixels: one more place for it to be.
        first = (place * (side + 1 - length % 2)).floor() - length // 2  # (n,)
        position = torch.arange(side, device=x.device)
        inside.append((position >= first[:, None]) & (position < first[:, None] + length))  # (n, side)
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return x.masked_fill(hole, 0.0)


def _flip(x: Tensor, u: Tensor) -> Tensor:
    """Mirror left and right with probability one half."""
    return torch.where(_per_image(u[:, 0]) < 0.5, x.flip(3), x)


def _resample(x: Tensor, matrix: Tensor) -> Tensor:
    """Sample x bilinearly at matrix (n, 2, 2) times the position, in coordinates [-1, 1] of the corner pixels' centres.

    The grid is built by a product because `affine_grid` has no vmap rule.
    """
    h, w = x.shape[2:]
    vertical = torch.linspace(-1, 1, h, device=x.device, dtype=x.dtype)
    horizontal = torch.linspace(-1, 1, w, device=x.device, dtype=x.dtype)
    base = torch.stack((horizontal.expand(h, w), vertical[:, None].expand(h, w)), -1)  # (h, w, 2), as (x, y)
    grid = (base.view(1, h * w, 2) @ matrix.transpose(1, 2)).view(-1, h, w, 2)
    if x.device.type != "cpu" and torch.are_deterministic_algorithms_enabled():
        return sampled(x, grid)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def sampled(x: Tensor, grid: Tensor) -> Tensor:
    """What bilinear `grid_sample` gives of x (n, c, h, w) at grid (n, h', w', 2), zero outside, from corners aligned.

    It takes the four neighbours one by one from the flattened images. On CUDA the derivative of `grid_sample` is a sum
    in any order, and that of `index_select` can be asked to keep one.
    """
    n, c, h, w = x.shape
    column, row = (grid[..., 0] + 1) * ((w - 1) / 2), (grid[..., 1] + 1) * ((h - 1) / 2)  # (n, h', w')
    left, top = column.floor(), row.floor()
    pixels = x.permute(0, 2, 3, 1).reshape(n * h * w, c)
    first = torch.arange(n, device=x.device)[:, None, None] * (h * w)
    total = torch.zeros(column.numel(), c, dtype=x.dtype, device=x.device)
    for i, j in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
        share = (1 - (row - i).abs()) * (1 - (column - j).abs()) * inside
        index = first + i.clamp(0, h - 1).long() * w + j.clamp(0, w - 1).long()
        total = total + share.view(-1, 1) * pixels.index_select(0, index.view(-1))
    return total.view(*column.shape, c).permute(0, 3, 1, 2).contiguous()


def _scale(x: Tensor, u: Tensor) -> Tensor:
    """Stretch height and width, independently, by a factor within [1 / 1.2, 1.2]."""
    factors = 1 / SCALE + u[:, :2] * (SCALE - 1 / SCALE)
    return _resample(x, torch.diag_embed(factors))


def _rotate(x: Tensor, u: Tensor) -> Tensor:
    """Turn by up to 15 degrees either way."""
    angle = torch.deg2rad((u[:, 0] * 2 - 1) * DEGREES)
    cos, sin = angle.cos(), angle.sin()
    return _resample(x, torch.stack((torch.stack((cos, -sin), 1), torch.stack((sin, cos), 1)), 1))


def _identity(x: Tensor, u: Tensor) -> Tensor:
    return x


FAMILIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": _identity,
    "color": _colour,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}


def families(strategy: str, setting: str = "augment") -> tuple[str, ...]:
    """The families named in a strategy: "color_crop_cutout_flip_scale_rotate", or "none".

    Raises ValueError, which names the setting, for a name that is not a family.
    """
    if strategy in ("", "none"):
        return ()
    names = tuple(strategy.split("_"))
    for name in names:
        if name not in FAMILIES or name == "identity":
            known = "_".join(list(FAMILIES)[1:])
            raise ValueError(
                f"{setting} is '{strategy}', and '{name}' is not a family of augmentations: join some of {known}, or "
                "say none"
            )
    return names
