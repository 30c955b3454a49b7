"""The inner step size eta: its first-order derivative and its positive update (method.md section 2, SATM eq. 10)."""

import torch
from torch import Tensor


def first_order_rate(q: Tensor, s: Tensor, theta_T: Tensor, eta: Tensor) -> Tensor:
    """dL/deta ~= - <q, sum_i u_i> = <q, theta_T - s> / eta: every adjoint a_{i+1} replaced by q.

    One dot product, no differentiation (SATM eq. 10, appendix A.4); exact for T = 1. q, s, theta_T: (P,), or (K, P) for
    K segments.
    """
    return (q * (theta_T - s)).sum(-1) / eta


def logarithmic(deta: Tensor, eta: Tensor) -> Tensor:
    """dL / d log eta = eta dL/deta: a step along it keeps eta positive (our choice) and needs no unit."""
    return eta * deta


def is_valid_rate(eta: Tensor) -> Tensor:
    """Whether eta is finite and positive, as a boolean scalar."""
    return torch.isfinite(eta) & (eta > 0)
