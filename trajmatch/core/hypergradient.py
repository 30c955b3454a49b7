"""The sweep: dL/d(X, Y, eta) through inner steps whose iterates are given (method.md section 2).

Legend: n images of c x h x w, C classes, P parameters, T inner steps, iota of them differentiated.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trajmatch.core.inner import Iterates, Problem, pulled_view


class Hypergradient(NamedTuple):
    """dL/dX (n, c, h, w), dL/dY (n, C), dL/deta ()."""

    X: Tensor
    Y: Tensor
    eta: Tensor


def sweep(
    problem: Problem, thetas: Iterates, q: Tensor, X: Tensor, Y: Tensor, eta: Tensor, since: int
) -> Hypergradient:
    """Exact dL/d(X, Y, eta) through inner steps since, ..., T - 1, with the memory of one step.

    For theta_{i+1} = theta_i - eta u_i(theta_i, X, Y), sweep back from a_T = q = dL/dtheta_T:

        h_i      = < u_i, a_{i+1} >  =  < theta_i - theta_{i+1}, a_{i+1} > / eta
        dL/dX   += - eta dh_i/dX          (Y alike)
        dL/deta += - h_i
        a_i      = a_{i+1} - eta dh_i/dtheta

    From step 0 on it is the exact value; from T - iota on it is SATM's truncation (eq. 8). The view is pulled back to
    first order only. Cost: one mixed derivative per step.

    thetas: the iterates of `rollout`, up to theta_T.
    q:      (P,) cotangent of theta_T, e.g. from `matching`.

    >>> from torch import tensor
    >>> from trajmatch.core.inner import rollout
    >>> from trajmatch.core.student import plain
    >>> student = plain(lambda theta, x, y: (theta - x).square().sum() / 2)
    >>> quadratic = Problem(lambda X, Y, i: (X, Y), student)
    >>> x, y, s, q, eta = tensor([0.2]), tensor([0.0]), tensor([1.3]), tensor([1.0]), tensor(0.5)
    >>> thetas = rollout(quadratic, s, x, y, eta, T=3)         # theta_T = x + (1 - eta)^T (s - x)
    >>> sweep(quadratic, thetas, q, x, y, eta, since=0).X             # 1 - (1 - eta)^3
    tensor([0.8750])
    >>> sweep(quadratic, thetas, q, x, y, eta, since=2).X             # iota = 1: eta
    tensor([0.5000])
    """
    dX, dY, along, a = torch.zeros_like(X), torch.zeros_like(Y), torch.zeros_like(q[..., 0]), q
    ahead = thetas[thetas.last]
    for i in reversed(range(since, thetas.last)):
        (z, y), pull = pulled_view(problem, X, Y, i)
        theta = thetas[i]
        h_theta, h_z, h_y = problem.student.mixed(theta, z, y, a)
        h_X, h_Y = pull((h_z, h_y))
        dX, dY, along = dX - eta * h_X, dY - eta * h_Y, along + ((ahead - theta) * a).sum(-1)
        a, ahead = a - eta * h_theta, theta
    return Hypergradient(dX, dY, along / eta)
