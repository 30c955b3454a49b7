"""Adam as the inner optimiser, and the adjoint of its steps (method.md section 2).

Legend: n images of c x h x w, C classes, P parameters, T inner steps. An iterate is one tensor (3, P): theta_i and the
moments m_i and v_i that step i finds.
"""

from collections.abc import Collection

import torch
from torch import Tensor

from trajmatch.core.descent import Adam, new_moments
from trajmatch.core.hypergradient import Hypergradient, sweep
from trajmatch.core.inner import Iterates, Problem, Seen, inner_gradient, pulled_view, rolled, rollout

# The inner optimiser: SGD at a step size (), or Adam, whose learning rate is fixed.
Inner = Tensor | Adam


def trained(
    problem: Problem,
    start: Tensor,
    X: Tensor,
    Y: Tensor,
    inner: Inner,
    T: int,
    kept: Collection[int] | None = None,
    seen: Seen | None = None,
) -> Iterates:
    """The iterates of T inner steps from weights `start` (P,): (P,) each for SGD, and (3, P) for Adam.

    kept: the steps whose iterates stay in memory, as in `rollout`. seen: is told every step with its two iterates.
    """
    if not isinstance(inner, Adam):
        return rollout(problem, start, X, Y, inner, T, kept=kept, seen=seen)

    def step(at: Tensor, i: int) -> Tensor:
        theta, moments = inner.step(at[0], inner_gradient(problem, at[0], X, Y, i), at[1:], i)
        return torch.cat([theta[None], moments])

    return rolled(step, torch.cat([start[None], new_moments(start)]), 0, T, kept, seen)


def weights(at: Tensor, inner: Inner) -> Tensor:
    """theta (P,) of an iterate."""
    return at[0] if isinstance(inner, Adam) else at


def gradient_norm(before: Tensor, after: Tensor, inner: Inner) -> Tensor:
    """|u_i| () of the gradient that led from one iterate to the next, without differentiating again."""
    found: Tensor = (
        _gradient(before, after, inner).norm() if isinstance(inner, Adam) else (before - after).norm() / inner
    )
    return found


def _gradient(before: Tensor, after: Tensor, adam: Adam) -> Tensor:
    """u_i (P,), as the first moment has taken it in."""
    return (after[1] - adam.beta1 * before[1]) / (1 - adam.beta1)


def swept(
    problem: Problem, thetas: Iterates, q: Tensor, X: Tensor, Y: Tensor, inner: Inner, since: int
) -> Hypergradient:
    """Exact dL/d(X, Y, rate) through inner steps since, ..., T - 1 of SGD or of Adam, with the memory of one step.

    Adam's adjoint has three parts (A, M, V), of theta_{i+1}, m_{i+1} and v_{i+1}, and starts at (q, 0, 0). With
    g = u_i, t = i + 1, c1 = 1 - beta1^t, c2 = 1 - beta2^t, mh = m_{i+1} / c1, vh = v_{i+1} / c2, s = sqrt(vh) + epsilon
    and theta_{i+1} = theta_i - lr mh / s, each step back takes

        M  <- M - lr A / (c1 s)
        V  <- V + lr A mh / (2 c2 s^2 sqrt(vh))      (nothing where v_{i+1} = 0: g was 0 in every step so far)
        h_i      = < u_i(theta_i, X, Y), (1 - beta1) M + 2 (1 - beta2) g V >    with the second argument a constant
        dL/dX   += dh_i/dX                           (Y alike)
        dL/dlr  -= < A, mh / s >                     (with the A before this step)
        A  <- A + dh_i/dtheta,   M <- beta1 M,   V <- beta2 V

    The moments at step `since` are constants, as the weights there are. Cost: one mixed derivative per step, as for
    SGD. thetas: of `trained`. q: (P,) cotangent of theta_T.
    """
    if not isinstance(inner, Adam):
        return sweep(problem, thetas, q, X, Y, inner, since)
    dX, dY, rate = torch.zeros_like(X), torch.zeros_like(Y), torch.zeros_like(q[0])
    A, M, V = q, torch.zeros_like(q), torch.zeros_like(q)
    ahead = thetas[thetas.last]
    for i in reversed(range(since, thetas.last)):
        (z, y), pull = pulled_view(problem, X, Y, i)
        at = thetas[i]
        along, M, V, step = _back(inner, at, ahead, (A, M, V), i + 1)
        h_theta, h_z, h_y = problem.student.mixed(at[0], z, y, along)
        h_X, h_Y = pull((h_z, h_y))
        dX, dY, rate = dX + h_X, dY + h_Y, rate - (A * step).sum()
        A, ahead = A + h_theta, at
    return Hypergradient(dX, dY, rate)


def _back(
    adam: Adam, at: Tensor, ahead: Tensor, adjoint: tuple[Tensor, Tensor, Tensor], t: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Through the update of step t: the direction of the mixed derivative, M and V before it, and mh / s."""
    A, M, V = adjoint
    c1, c2 = 1 - adam.beta1**t, 1 - adam.beta2**t
    g, m_hat, root = _gradient(at, ahead, adam), ahead[1] / c1, (ahead[2] / c2).sqrt()
    s = root + adam.epsilon
    M = M - adam.lr * A / (c1 * s)
    # Not `if`, and no division by zero: a derivative of the root at 0 would be infinite, and g is 0 there.
    ratio = torch.where(root > 0, m_hat / torch.where(root > 0, root, 1.0), 0.0)
    V = V + adam.lr * A * ratio / (2 * c2 * s.square())
    along = (1 - adam.beta1) * M + 2 * (1 - adam.beta2) * g * V
    return along, adam.beta1 * M, adam.beta2 * V, m_hat / s
