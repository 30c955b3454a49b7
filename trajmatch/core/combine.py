"""K hypergradients made into one: every rule is a set of weights over them (method.md section 5).

Legend: K segments, d_k their hypergradients, G (K, K) the Gramian <d_a, d_b>.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def gramian(d: Sequence[Tensor]) -> Tensor:
    """G_ab = <d_a, d_b> of K tensors of one shape."""
    rows = torch.stack([d_k.flatten() for d_k in d])
    return rows @ rows.T


def _norms(G: Tensor) -> Tensor:
    return G.diagonal().clamp_min(0).sqrt()


def _over(norms: Tensor, numerator: Tensor | float) -> Tensor:
    """`numerator / norms`, and zero where a norm is zero."""
    return torch.where(norms > 0, numerator / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)


def cosine_matrix(G: Tensor) -> Tensor:
    """cos(d_a, d_b) from the Gramian; zero where a hypergradient is zero.

    >>> cosine_matrix(gramian([torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0])]))
    tensor([[1.0000, 0.7071],
            [0.7071, 1.0000]])
    """
    inverse = _over(_norms(G), 1.0)
    return G * inverse[:, None] * inverse[None, :]


def mean_weights(G: Tensor) -> Tensor:
    """Weights (K,) of `1 / K` each: the plain concurrent step."""
    return torch.full_like(G[0], 1 / len(G))


def adaptive_weights(G: Tensor) -> Tensor:
    """Weights (K,) that give every segment the same pull: each d_k is scaled to the mean norm, and then averaged.

    Late segments have small hypergradients and would be outvoted (our choice; no paper gives a formula). A
    hypergradient of zero has weight zero.
    """
    norms = _norms(G)
    return _over(norms, norms.mean()) / len(G)


def combine(d: Sequence[Tensor], w: Tensor) -> Tensor:
    """sum_k w_k d_k of K tensors of one shape; w (K,)."""
    stacked = torch.stack(list(d))
    return (w @ stacked.view(len(stacked), -1)).view(stacked.shape[1:])
