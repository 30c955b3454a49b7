"""The matching loss L(phi, eta) and its cotangent q (method.md section 1)."""

from torch import Tensor


def matching(theta_T: Tensor, s: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """L = |theta_T - g|^2 / |s - g|^2 and q = dL / d theta_T = 2 (theta_T - g) / |s - g|^2.

    theta_T, s, g: (P,), where the student arrived, where the segment starts, where the expert went; or (K, P) for K
    segments at once, with L (K,) and q (K, P).
    """
    distance = (s - g).square().sum(-1)
    gap = theta_T - g
    return gap.square().sum(-1) / distance, 2 * gap / distance.unsqueeze(-1)
