"""Mixed second derivatives dh/d(theta, z, y) of h = <grad_theta loss, a>, three ways (method.md section 2).

h itself costs nothing: <u_i, a> is known from two iterates (core/hypergradient.py).
Legend: P parameters; z (n, c, h, w) and y (n, C) one mini-batch; a (P,) the adjoint.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jvp

from trajmatch.core.loss import Loss

Three = tuple[Tensor, Tensor, Tensor]
MixedOf = Callable[[Loss, Tensor, Tensor, Tensor, Tensor], Three]


def reverse_over_reverse(loss: Loss, theta: Tensor, z: Tensor, y: Tensor, a: Tensor) -> Three:
    """dh/d(theta, z, y): the gradient's graph is kept, and its product with a differentiated again."""
    h_theta, h_z, h_y = _back_through_gradient(loss, theta, z, y, a, first=0)
    return h_theta, h_z, h_y


def inputs_alone(loss: Loss, theta: Tensor, z: Tensor, y: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """dh/d(z, y) by reverse over reverse: all that TESLA's estimator asks for, at less cost."""
    h_z, h_y = _back_through_gradient(loss, theta, z, y, a, first=1)
    return h_z, h_y


def _back_through_gradient(
    loss: Loss, theta: Tensor, z: Tensor, y: Tensor, a: Tensor, first: int
) -> tuple[Tensor, ...]:
    """Derivatives of h in theta, z, y, from the `first` of them on."""
    inputs = [t.detach().requires_grad_() for t in (theta, z, y)]
    with torch.enable_grad():
        (u,) = torch.autograd.grad(loss(*inputs), inputs[0], create_graph=True)
        # A loss need not couple theta with every input: what is not reached has derivative zero.
        return torch.autograd.grad(u, inputs[first:], a, allow_unused=True, materialize_grads=True)


def forward_over_reverse(loss: Loss, theta: Tensor, z: Tensor, y: Tensor, a: Tensor) -> Three:
    """The same three values: h is the derivative of the loss along a, so push the whole gradient forward along a.

    MixFlow's mixed mode (arXiv 2505.00793).
    """
    along_a = (a, torch.zeros_like(z), torch.zeros_like(y))
    # Three values only with `has_aux`, which the stubs do not tell apart.
    _, pushed = jvp(grad(loss, argnums=(0, 1, 2)), (theta, z, y), along_a)  # type: ignore[misc]
    h_theta, h_z, h_y = pushed
    return h_theta, h_z, h_y


def central_difference(loss: Loss, theta: Tensor, z: Tensor, y: Tensor, a: Tensor, step: float = 1e-4) -> Three:
    """The same three values from gradients at theta +- r a, |r a| = step |theta|: biased, for study only.

    First-order kernels alone, but ReLU kinks and normalisation make the error large at any step.
    """
    r = step * theta.norm() / a.norm()
    gradients = grad(loss, argnums=(0, 1, 2))
    ahead, behind = gradients(theta + r * a, z, y), gradients(theta - r * a, z, y)
    h_theta, h_z, h_y = ((f - b) / (2 * r) for f, b in zip(ahead, behind, strict=True))
    return h_theta, h_z, h_y


MIXED: dict[str, MixedOf] = {
    "reverse-over-reverse": reverse_over_reverse,
    "forward-over-reverse": forward_over_reverse,
    "central-difference": central_difference,
}
