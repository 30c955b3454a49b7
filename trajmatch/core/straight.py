"""A trajectory made straight: how far along the way each layer is at each snapshot (MCT, arXiv 2406.19827).

Legend: P parameters, R snapshots theta_0 ... theta_{R-1}, W layers; a layer is one tensor of parameters.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor


def movement(rows: Iterable[Tensor], sizes: Sequence[int]) -> Tensor:
    """sum_{k <= t} |theta_k - theta_{k-1}| of every layer, (R, W), from 0 on.

    sizes: (W,) numbers of each layer, in their order in theta (P,). Only two rows are looked at at once.
    """
    steps = [torch.stack([part.norm() for part in (b - a).split(list(sizes))]) for a, b in pairwise(rows)]
    return torch.stack([torch.zeros(len(sizes)).to(steps[0]), *steps]).cumsum(0)


def shares(moved: Tensor, knots: Sequence[int]) -> Tensor:
    """lambda (R, W): which share of a layer's movement from the last knot to the next is behind each snapshot.

    moved: (R, W) of `movement`. knots: numbers of the snapshots that the pieces of the way join, the first and the last
    among them. A knot's own share is 0, as of the piece that begins there; that of the last is 1, and so is that of a
    layer that does not move.
    """
    found = torch.ones_like(moved)
    for a, b in pairwise(knots):
        way = moved[b] - moved[a]
        found[a:b] = torch.where(way > 0, (moved[a:b] - moved[a]) / way.clamp_min(torch.finfo(way.dtype).tiny), 1.0)
    return found


def between(start: Tensor, end: Tensor, share: Tensor, sizes: Sequence[int]) -> Tensor:
    """theta_a + lambda (theta_b - theta_a) (P,), lambda (W,) layer by layer."""
    along = share.to(start).repeat_interleave(torch.tensor(list(sizes), device=start.device))
    return start + along * (end - start)
