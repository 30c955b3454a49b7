"""The matching loss L(phi, eta) and its cotangent q (method.md section 1), and what it looks at."""

from collections.abc import Sequence

import torch
from torch import Tensor


def matching(theta_T: Tensor, s: Tensor, g: Tensor, alpha: float = 0.0) -> tuple[Tensor, Tensor]:
    """L = |theta_T - g|^2 / |s - g|^2 and q = dL / d theta_T = 2 (theta_T - g) / |s - g|^2.

    theta_T, s, g: (P,), where the student arrived, where the segment starts, where the expert went; or (K, P) for K
    segments at once, with L (K,) and q (K, P).
    alpha: share of the weights that both norms leave out, those of `hard` mask 0; the mask counts as a constant.
    """
    gap, way = theta_T - g, s - g
    if alpha > 0:
        m = hard(gap.detach(), alpha)
        gap, way = m * gap, m * way
    distance = way.square().sum(-1)
    return gap.square().sum(-1) / distance, 2 * gap / distance.unsqueeze(-1)


def hard(gap: Tensor, alpha: float) -> Tensor:
    """The mask m of the weights that are farthest from their target: 1 where gap_j^2 is at or above its alpha-quantile.

    gap: (P,) or (K, P), each row with a mask of its own. int(alpha P) weights have 0, fewer where several are equal to
    the quantile (PAD, arXiv 2408.03360). Cost: a selection among P numbers.

    >>> hard(torch.tensor([1.0, -3.0, 2.0, 0.5]), 0.5)
    tensor([0., 1., 1., 0.])
    """
    e, P = gap.abs(), gap.shape[-1]
    # `topk`, because torch's `kthvalue` and `quantile` do not repeat to the bit on a GPU, or take few numbers.
    quantile = e.topk(P - int(alpha * P), dim=-1, sorted=False).values.amin(-1, keepdim=True)
    return (e >= quantile).to(gap.dtype)


def nearest(distances: Sequence[Tensor]) -> int:
    """Index of the smallest of several distances (), the last of equals; one that is not a number is the farthest.

    A GPU is waited for: what is differentiated depends on it (ATT, arXiv 2407.14245).
    """
    backwards = torch.stack(list(distances)).flip(0).nan_to_num(torch.inf, torch.inf)
    return len(distances) - 1 - int(backwards.argmin())
