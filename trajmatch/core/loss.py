"""The inner loss l(theta, z, y) and its gradient (method.md section 1).

Legend: n images in a mini-batch, C classes, P parameters.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from trajmatch.core.vector import Forward

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def cross_entropy(forward: Forward) -> Loss:
    """l(theta, z, y) = mean_b - sum_c y_bc log softmax(f(theta; z_b))_c; hard labels are one-hot rows of y (n, C)."""

    def loss(theta: Tensor, z: Tensor, y: Tensor) -> Tensor:
        return -(y * F.log_softmax(forward(theta, z), 1)).sum(1).mean()

    return loss


def lowered(forward: Forward, dtype: torch.dtype) -> Forward:
    """The network in another precision: theta and images are rounded to `dtype`, outputs come back in theta's own."""

    def rounded(theta: Tensor, z: Tensor) -> Tensor:
        return forward(theta.to(dtype), z.to(dtype)).to(theta.dtype)

    return rounded


def gradient(loss: Loss, theta: Tensor, z: Tensor, y: Tensor) -> Tensor:
    """u = grad_theta l(theta, z, y)   (P,), a constant."""
    theta = theta.detach().requires_grad_()
    with torch.enable_grad():
        # torch.func.grad returns the same and takes up to twice as long on small networks.
        (u,) = torch.autograd.grad(loss(theta, z, y), theta)
    return u
