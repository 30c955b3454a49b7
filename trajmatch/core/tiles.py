"""Several images in one: what a network sees of stored images that are cut into tiles (IDC, arXiv 2205.14959).

A factor f is the number of tiles along each side. All maps here are linear in the images, and made of slices and sums
alone, so that their derivatives are the same every time on every device.
Legend: n stored images of c x h x w, f^2 n images that a network sees, C classes.
"""

import torch
from torch import Tensor


def tiles(S: Tensor, factor: int) -> Tensor:
    """The tiles (f^2 n, c, h / f, w / f) of images S (n, c, h, w): those of one image together, row by row."""
    n, c, h, w = S.shape
    cut = S.reshape(n, c, factor, h // factor, factor, w // factor)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(n * factor**2, c, h // factor, w // factor)


def joined(parts: Tensor, factor: int) -> Tensor:
    """The images S (n, c, h, w) of which these are the tiles (f^2 n, c, h / f, w / f): the inverse of `tiles`."""
    count, c, h, w = parts.shape
    laid = parts.reshape(count // factor**2, factor, factor, c, h, w).permute(0, 3, 1, 4, 2, 5)
    return laid.reshape(count // factor**2, c, factor * h, factor * w)


def enlarged(x: Tensor, factor: int) -> Tensor:
    """x (n, c, h, w) at `factor` times the size, bilinearly: torch's `interpolate` with corners not aligned."""
    return _stretched(_stretched(x, factor, 2), factor, 3)


def _stretched(x: Tensor, factor: int, dim: int) -> Tensor:
    """`factor` places for each along one side, linearly between the centres of neighbours; the ends are repeated."""
    length = x.shape[dim]
    wide = torch.cat((x.narrow(dim, 0, 1), x, x.narrow(dim, length - 1, 1)), dim)
    phases = []
    for phase in range(factor):
        place = (phase + 0.5) / factor + 0.5  # counted from the centre of the neighbour before
        first = int(place)
        share = place - first
        phases.append((1 - share) * wide.narrow(dim, first, length) + share * wide.narrow(dim, first + 1, length))
    return torch.stack(phases, dim + 1).flatten(dim, dim + 1)


def decoded(S: Tensor, factor: int) -> Tensor:
    """The images (f^2 n, c, h, w) that a network sees of stored ones S (n, c, h, w): each tile at full size."""
    return S if factor == 1 else enlarged(tiles(S, factor), factor)


def repeated(Y: Tensor, factor: int) -> Tensor:
    """The labels (f^2 n, ...) of the images that a network sees, from those of the stored ones (n, ...)."""
    return Y if factor == 1 else Y.repeat_interleave(factor**2, 0)


def encoded(x: Tensor, factor: int) -> Tensor:
    """Stored images S (n, c, h, w) whose tiles are images x (f^2 n, c, h, w), shrunk by averages over f x f pixels."""
    if factor == 1:
        return x
    n, c, h, w = x.shape
    shrunk = x.reshape(n, c, h // factor, factor, w // factor, factor).mean((3, 5))
    return joined(shrunk, factor)
