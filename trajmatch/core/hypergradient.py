"""Hypergradients: dL/d(X, Y, eta) through the inner steps (method.md section 2).

Legend: n images of c x h x w, C classes, P parameters, T inner steps, iota of them differentiated.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vjp

from trajmatch.core.inner import Problem
from trajmatch.core.matching import matching
from trajmatch.core.mixed import Mixed, reverse_over_reverse


class Hypergradient(NamedTuple):
    """dL/dX (n, c, h, w), dL/dY (n, C), dL/deta ()."""

    X: Tensor
    Y: Tensor
    eta: Tensor


def adjoint(
    problem: Problem,
    thetas: Sequence[Tensor],
    q: Tensor,
    X: Tensor,
    Y: Tensor,
    eta: Tensor,
    first: int = 0,
    mixed: Mixed = reverse_over_reverse,
) -> Hypergradient:
    """Exact dL/d(X, Y, eta) through the inner steps between `thetas`, with the memory of one step.

    For theta_{i+1} = theta_i - eta u_i(theta_i, X, Y), sweep back from a_T = q = dL/dtheta_T:

        h_i      = < u_i, a_{i+1} >
        dL/dX   += - eta dh_i/dX          (Y alike)
        dL/deta += - h_i
        a_i      = a_{i+1} - eta dh_i/dtheta

    All T + 1 iterates give the exact value; the last iota + 1 of them, with first = T - iota, give SATM's truncation
    (eq. 8). The view is pulled back to first order only. Cost: one mixed derivative per step.

    thetas: iterates theta_first, theta_{first+1}, ..., each (P,), constants.
    q:      (P,) cotangent of the last one, e.g. from `matching`.

    >>> from torch import tensor
    >>> from trajmatch.core.inner import rollout
    >>> quadratic = Problem(lambda X, Y, i: (X, Y), lambda theta, x, y: (theta - x).square().sum() / 2)
    >>> x, y, s, q, eta = tensor([0.2]), tensor([0.0]), tensor([1.3]), tensor([1.0]), tensor(0.5)
    >>> thetas = rollout(quadratic, s, x, y, eta, T=3)         # theta_T = x + (1 - eta)^T (s - x)
    >>> adjoint(quadratic, thetas, q, x, y, eta).X             # 1 - (1 - eta)^3
    tensor([0.8750])
    >>> adjoint(quadratic, thetas[-2:], q, x, y, eta, first=2).X        # iota = 1: eta
    tensor([0.5000])
    """
    dX, dY, deta, a = torch.zeros_like(X), torch.zeros_like(Y), torch.zeros_like(eta), q
    for i in reversed(range(len(thetas) - 1)):
        # Three values only with `has_aux`, which the stubs do not tell apart.
        (z, y), pull = vjp(lambda X, Y, i=i: problem.view(X, Y, first + i), X, Y)  # type: ignore[misc]
        h, h_theta, h_z, h_y = mixed(problem.loss, thetas[i], z, y, a)
        h_X, h_Y = pull((h_z, h_y))
        dX, dY, deta = dX - eta * h_X, dY - eta * h_Y, deta - h
        a = a - eta * h_theta
    return Hypergradient(dX, dY, deta)


def unrolled(
    problem: Problem, s: Tensor, g: Tensor, X: Tensor, Y: Tensor, eta: Tensor, T: int, first: int = 0
) -> tuple[Tensor, Hypergradient]:
    """L and dL/d(X, Y, eta) by one autograd graph through inner steps first..T-1, as MTT does: the reference.

    Cost: memory grows with T, a full double-backward graph for each step.
    """
    inputs = [t.detach().requires_grad_() for t in (X, Y, eta)]
    with torch.enable_grad():
        theta = s.detach().requires_grad_()
        for i in range(first, T):
            z, y = problem.view(inputs[0], inputs[1], i)
            (u,) = torch.autograd.grad(problem.loss(theta, z, y), theta, create_graph=True)
            theta = theta - inputs[2] * u
        L, _ = matching(theta, s, g)
        dX, dY, deta = torch.autograd.grad(L, inputs, allow_unused=True, materialize_grads=True)
    return L.detach(), Hypergradient(dX, dY, deta)
