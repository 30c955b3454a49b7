"""CutMix (arXiv 1905.04899): a rectangle of each image comes from another image, and so does its share of the label.

Pure in (images, labels, draw). Legend: n images of c x h x w, C classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Cut(NamedTuple):
    """The randomness of one call.

    share: of an image that is cut out, before the border cuts the rectangle.
    place: (2,) where its centre is, down and right, as shares of the sides.
    order: (n,) the image from which each one's rectangle comes; empty for a call that mixes nothing.
    """

    share: float
    place: Tensor
    order: Tensor


def draw_cut(n: int, probability: float, source: torch.Generator) -> Cut:
    """A draw for n images that mixes with this probability; share and place are uniform, as is the permutation."""
    u = torch.rand(4, generator=source, dtype=torch.float64)
    order = torch.randperm(n, generator=source)
    return Cut(float(u[1]), u[2:], order if float(u[0]) < probability else order[:0])


def cutmix(x: Tensor, y: Tensor, cut: Cut) -> tuple[Tensor, Tensor]:
    """Images x (n, c, h, w) with labels y (n, C), mixed: of the same shapes. The label follows the rectangle's area."""
    if not len(cut.order):
        return x, y
    (top, bottom), (left, right) = (
        _span(side, cut.share**0.5, float(place)) for side, place in zip(x.shape[2:], cut.place, strict=True)
    )
    order = cut.order.to(x.device, non_blocking=True)
    mixed = x.clone()
    mixed[:, :, top:bottom, left:right] = x[order, :, top:bottom, left:right]
    share = (bottom - top) * (right - left) / (x.shape[2] * x.shape[3])
    return mixed, (1 - share) * y + share * y[order]


def _span(side: int, share: float, place: float) -> tuple[int, int]:
    """From where to where a rectangle reaches along a side, its centre at a pixel, cut by the border."""
    reach, centre = int(share * side) // 2, int(place * side)
    return max(0, centre - reach), min(side, centre + reach)
