"""Adam, and SGD with momentum, as inner optimisers, and the adjoints of their steps (method.md section 2).

Legend: n images of c x h x w, C classes, P parameters, T inner steps. An iterate is one tensor: for plain SGD theta_i
(P,); for SGD with momentum (2, P), theta_i and the momentum v_i that step i finds; for Adam (3, P), theta_i and the
moments m_i and v_i.
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from trajmatch.core.descent import Adam, new_moments
from trajmatch.core.hypergradient import Hypergradient, sweep
from trajmatch.core.inner import Iterates, Problem, Seen, inner_gradient, pulled_view, rolled, rollout


class HeavyBall(NamedTuple):
    """SGD with momentum: v_{i+1} = mu v_i + u_i, theta_{i+1} = theta_i - eta v_{i+1}.

    eta: () step size, which may be learned. mu: momentum.
    """

    eta: Tensor
    mu: float


# The inner optimiser: SGD at a step size (), SGD with momentum, or Adam, whose learning rate is fixed.
Inner = Tensor | HeavyBall | Adam


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
    """The iterates of T inner steps from weights `start` (P,), or from an iterate.

    Adam, which counts its steps, goes on from that of step 0 alone. kept: the steps whose iterates stay in memory, as
    in `rollout`. seen: is told every step with its two iterates.
    """
    if isinstance(inner, Tensor):
        return rollout(problem, start, X, Y, inner, T, kept=kept, seen=seen)

    def step(at: Tensor, i: int) -> Tensor:
        u = inner_gradient(problem, at[0], X, Y, i)
        if isinstance(inner, HeavyBall):
            v = inner.mu * at[1] + u
            return torch.stack([at[0] - inner.eta * v, v])
        theta, moments = inner.step(at[0], u, at[1:], i)
        return torch.cat([theta[None], moments])

    return rolled(step, first_iterate(start, inner) if start.dim() == 1 else start, 0, T, kept, seen)


def first_iterate(start: Tensor, inner: Inner) -> Tensor:
    """The iterate before the first step, of weights `start` (P,)."""
    if isinstance(inner, Tensor):
        return start
    return torch.cat([start[None], new_moments(start)[: 1 if isinstance(inner, HeavyBall) else 2]])


def weights(at: Tensor, inner: Inner) -> Tensor:
    """theta (P,) of an iterate."""
    return at if isinstance(inner, Tensor) else at[0]


def gradient_norm(before: Tensor, after: Tensor, inner: Inner) -> Tensor:
    """|u_i| () of the gradient that led from one iterate to the next, without differentiating again."""
    if isinstance(inner, HeavyBall):
        found: Tensor = (after[1] - inner.mu * before[1]).norm()
    elif isinstance(inner, Adam):
        found = _gradient(before, after, inner).norm()
    else:
        found = (before - after).norm() / inner
    return found


def _gradient(before: Tensor, after: Tensor, adam: Adam) -> Tensor:
    """u_i (P,), as the first moment has taken it in."""
    return (after[1] - adam.beta1 * before[1]) / (1 - adam.beta1)


def swept(
    problem: Problem, thetas: Iterates, q: Tensor, X: Tensor, Y: Tensor, inner: Inner, since: int
) -> Hypergradient:
    """Exact dL/d(X, Y, rate) through inner steps since, ..., T - 1 of an optimiser, with the memory of one step.

    The adjoint of an iterate has a part for each of its rows, and starts at (q, 0, ...). Each step back takes

        h_i      = < u_i(theta_i, X, Y), w >    with w, which `_back_by_momentum` and `_back_by_adam` give, a constant
        dL/dX   += dh_i/dX                      (Y alike)
        dL/drate -= < A, (theta_i - theta_{i+1}) / rate >    (with the A before this step)
        A       <- A + dh_i/dtheta

    The moments at step `since` are constants, as the weights there are. Cost: one mixed derivative per step, as for
    plain SGD. thetas: of `trained`. q: (P,) cotangent of theta_T.
    """
    if isinstance(inner, Tensor):
        return sweep(problem, thetas, q, X, Y, inner, since)
    dX, dY, rate = torch.zeros_like(X), torch.zeros_like(Y), torch.zeros_like(q[0])
    ahead = thetas[thetas.last]
    A, moments = q, tuple(torch.zeros_like(q) for _ in ahead[1:])
    for i in reversed(range(since, thetas.last)):
        (z, y), pull = pulled_view(problem, X, Y, i)
        at = thetas[i]
        if isinstance(inner, HeavyBall):
            back = _back_by_momentum(inner, ahead, A, moments)
        else:
            back = _back_by_adam(inner, at, ahead, A, moments, i + 1)
        h_theta, h_z, h_y = problem.student.mixed(at[0], z, y, back.w)
        h_X, h_Y = pull((h_z, h_y))
        dX, dY, rate = dX + h_X, dY + h_Y, rate - (A * back.step).sum()
        A, moments, ahead = A + h_theta, back.moments, at
    return Hypergradient(dX, dY, rate)


class _Back(NamedTuple):
    """The update of one step, gone through backwards.

    w:       (P,) direction of the mixed derivative.
    moments: (P,) each, adjoints of the moments that the step found, in the order of an iterate's rows.
    step:    (P,) what the step moved the weights by, without its rate.
    """

    w: Tensor
    moments: tuple[Tensor, ...]
    step: Tensor


def _back_by_momentum(inner: HeavyBall, ahead: Tensor, A: Tensor, moments: tuple[Tensor, ...]) -> _Back:
    """Momentum's adjoint: with V that of v_{i+1}, V <- V - eta A; w = V; then V <- mu V."""
    V = moments[0] - inner.eta * A
    return _Back(V, (inner.mu * V,), ahead[1])


def _back_by_adam(adam: Adam, at: Tensor, ahead: Tensor, A: Tensor, moments: tuple[Tensor, ...], t: int) -> _Back:
    """Adam's adjoint: with M and V those of m_{i+1} and v_{i+1}, g = u_i, t = i + 1, c1 = 1 - beta1^t,
    c2 = 1 - beta2^t, mh = m_{i+1} / c1, vh = v_{i+1} / c2, s = sqrt(vh) + epsilon, theta_{i+1} = theta_i - lr mh / s:

        M  <- M - lr A / (c1 s)
        V  <- V + lr A mh / (2 c2 s^2 sqrt(vh))      (nothing where v_{i+1} = 0: g was 0 in every step so far)
        w   = (1 - beta1) M + 2 (1 - beta2) g V
        M  <- beta1 M,   V <- beta2 V
    """
    M, V = moments
    c1, c2 = 1 - adam.beta1**t, 1 - adam.beta2**t
    g, m_hat, root = _gradient(at, ahead, adam), ahead[1] / c1, (ahead[2] / c2).sqrt()
    s = root + adam.epsilon
    M = M - adam.lr * A / (c1 * s)
    # Not `if`, and no division by zero: a derivative of the root at 0 would be infinite, and g is 0 there.
    ratio = torch.where(root > 0, m_hat / torch.where(root > 0, root, 1.0), 0.0)
    V = V + adam.lr * A * ratio / (2 * c2 * s.square())
    along = (1 - adam.beta1) * M + 2 * (1 - adam.beta2) * g * V
    return _Back(along, (adam.beta1 * M, adam.beta2 * V), m_hat / s)
