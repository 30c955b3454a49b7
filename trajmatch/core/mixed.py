"""The mixed derivative h = <grad_theta loss, a> and dh/d(theta, z, y), three ways (method.md section 2).

Legend: P parameters; z (n, c, h, w) and y (n, C) one mini-batch; a (P,) the adjoint.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jvp

from trajmatch.core.inner import Loss

Four = tuple[Tensor, Tensor, Tensor, Tensor]
Mixed = Callable[[Loss, Tensor, Tensor, Tensor, Tensor], Four]


def reverse_over_reverse(loss: Loss, theta: Tensor, z: Tensor, y: Tensor, a: Tensor) -> Four:
    """h and dh/d(theta, z, y): the gradient's graph is kept, and its product with a differentiated again."""
    theta, z, y = theta.detach().requires_grad_(), z.detach().requires_grad_(), y.detach().requires_grad_()
    with torch.enable_grad():
        (u,) = torch.autograd.grad(loss(theta, z, y), theta, create_graph=True)
        h = u @ a
        # A loss need not couple theta with every input: what is not reached has derivative zero.
        h_theta, h_z, h_y = torch.autograd.grad(h, (theta, z, y), allow_unused=True, materialize_grads=True)
    return h.detach(), h_theta, h_z, h_y


def forward_over_reverse(loss: Loss, theta: Tensor, z: Tensor, y: Tensor, a: Tensor) -> Four:
    """The same four values: h is the derivative of the loss along a, so push the whole gradient forward along a.

    MixFlow's mixed mode (arXiv 2505.00793).
    """
    along_a = (a, torch.zeros_like(z), torch.zeros_like(y))
    # Three values only with `has_aux`, which the stubs do not tell apart.
    gradients, pushed = jvp(grad(loss, argnums=(0, 1, 2)), (theta, z, y), along_a)  # type: ignore[misc]
    h_theta, h_z, h_y = pushed
    return gradients[0] @ a, h_theta, h_z, h_y


def central_difference(loss: Loss, theta: Tensor, z: Tensor, y: Tensor, a: Tensor, step: float = 1e-4) -> Four:
    """The same four values from gradients at theta +- r a, |r a| = step |theta|: biased, for study only.

    First-order kernels alone, but ReLU kinks and normalisation make the error large at any step.
    """
    r = step * theta.norm() / a.norm()
    gradients = grad(loss, argnums=(0, 1, 2))
    ahead, behind = gradients(theta + r * a, z, y), gradients(theta - r * a, z, y)
    h_theta, h_z, h_y = ((f - b) / (2 * r) for f, b in zip(ahead, behind, strict=True))
    return (ahead[0] + behind[0]) @ a / 2, h_theta, h_z, h_y


MIXED: dict[str, Mixed] = {
    "reverse-over-reverse": reverse_over_reverse,
    "forward-over-reverse": forward_over_reverse,
    "central-difference": central_difference,
}
