"""The matching loss over a plane of images around a distilled set.

Legend: n synthetic images of c x h x w.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def scaled_like(direction: Tensor, X: Tensor) -> Tensor:
    """The direction with every image of it as long as X's, so that a step of 1 doubles an image; zeros stay zeros."""
    lengths = direction.flatten(1).norm(dim=1)
    factors = torch.where(lengths > 0, X.flatten(1).norm(dim=1) / lengths, 0.0)
    return direction * factors.view(-1, *[1] * (X.dim() - 1))


def plane(
    loss: Callable[[Tensor], Tensor], X: Tensor, across: Tensor, up: Tensor, places: Sequence[float]
) -> list[list[float]]:
    """The loss at `X + a across + b up`: a row for each b of `places`, a column for each a.

    across, up: (n, c, h, w) directions, which are scaled like X first.
    """
    across, up = scaled_like(across, X), scaled_like(up, X)
    return [[float(loss(X + a * across + b * up)) for a in places] for b in places]


def rise(grid: Sequence[Sequence[float]]) -> float:
    """How much higher than at its centre the loss is on the rim of the plane, on average."""
    size = len(grid)
    rim = [value for r, row in enumerate(grid) for c, value in enumerate(row) if {r, c} & {0, size - 1}]
    return sum(rim) / len(rim) - grid[size // 2][size // 2]
