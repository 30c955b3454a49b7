"""The inner problem: training on the synthetic set by SGD (method.md section 1).

Legend: n images in a mini-batch, C classes, P parameters, T inner steps.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trajmatch.core.augment import Draw, augment
from trajmatch.core.vector import Forward

View = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class Problem(NamedTuple):
    """The inner problem, split in two so that the view never enters a second derivative (method.md section 2).

    view: (X, Y, i) -> (z, y), the augmented mini-batch of inner step i.
    loss: (theta, z, y) -> l(f(theta; z), y), a scalar.
    """

    view: View
    loss: Loss


def cross_entropy(forward: Forward) -> Loss:
    """l(theta, z, y) = mean_b - sum_c y_bc log softmax(f(theta; z_b))_c; hard labels are one-hot rows of y (n, C)."""

    def loss(theta: Tensor, z: Tensor, y: Tensor) -> Tensor:
        return -(y * F.log_softmax(forward(theta, z), 1)).sum(1).mean()

    return loss


def training_view(b: list[Tensor], a: list[Draw]) -> View:
    """The view of mini-batches b_i and augmentations a_i; where b_i takes the whole set, it copies nothing."""

    def view(X: Tensor, Y: Tensor, i: int) -> tuple[Tensor, Tensor]:
        if len(b[i]) < len(X) or not torch.equal(b[i], torch.arange(len(X))):
            index = b[i].to(X.device)
            X, Y = X[index], Y[index]
        return augment(X, a[i]), Y

    return view


def inner_gradient(problem: Problem, theta: Tensor, X: Tensor, Y: Tensor, i: int) -> Tensor:
    """u_i = grad_theta l(f(theta; aug(X[b_i]; a_i)), Y[b_i])   (P,), a constant."""
    with torch.no_grad():
        z, y = problem.view(X, Y, i)
    theta = theta.detach().requires_grad_()
    with torch.enable_grad():
        # torch.func.grad returns the same and takes up to twice as long on small networks.
        (u,) = torch.autograd.grad(problem.loss(theta, z, y), theta)
    return u


def rollout(problem: Problem, s: Tensor, X: Tensor, Y: Tensor, eta: Tensor, T: int, first: int = 0) -> list[Tensor]:
    """theta_first = s, theta_{i+1} = theta_i - eta u_i, ..., theta_T: T - first + 1 constants, each (P,).

    Cost: T - first inner gradients; memory of one, beside the iterates.
    """
    thetas = [s]
    for i in range(first, T):
        thetas.append(thetas[-1] - eta * inner_gradient(problem, thetas[-1], X, Y, i))
    return thetas
