"""What truncating the sweep and reusing a trajectory cost, beside the theory's bounds (SATM, arXiv 2502.01865).

With kappa the largest |I - eta H_i| and beta the largest |d^2 l / dX dtheta| along a trajectory, H_i the inner Hessian:

    Proposition 4.1   |dL/dX - dL/dX truncated to iota|  <=  eta beta |q| sum_{k = iota}^{T-1} kappa^k
    Theorem 4.2       |theta_tau(X + eps) - theta_tau(X + z)|  <=  eta beta |eps - z| sum_{k = 0}^{tau-1} kappa^k

Where the loss is m-strongly convex, kappa = 1 - eta m and the first is at most beta |q| (1 - eta m)^iota / m, the
paper's form. Where kappa >= 1 the bounds grow with what they leave out, and say nothing.
Legend: n synthetic images, P parameters, T inner steps, iota of them differentiated, tau the point of reuse.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trajmatch.core.draws import generator
from trajmatch.core.estimators import Task
from trajmatch.core.hypergradient import sweep
from trajmatch.core.inner import Iterates, pulled_view
from trajmatch.core.matching import matching


class Truncation(NamedTuple):
    """dL/dX truncated to each iota, against the exact one.

    error:  relative error, for each iota.
    cosine: cosine with the exact one, for each iota.
    bound:  Proposition 4.1's bound on the relative error, for each iota.
    kappa:  the largest `|I - eta H_i|`, an estimate from below.
    beta:   the largest `|d^2 l / dX dtheta|`, an estimate from below.
    """

    error: list[float]
    cosine: list[float]
    bound: list[float]
    kappa: float
    beta: float


def truncation(task: Task, iotas: Sequence[int], probes: int = 5, rounds: int = 20) -> Truncation:
    """Errors of truncation on one task. probes, rounds: as `constants` has them.

    Cost: T gradients, T sweep steps, as many more sweep steps as the iotas sum up to, and the probes.
    """
    thetas = task.rollout(task.T)
    _, q = matching(thetas[task.T], task.s, task.g)
    arguments = (task.problem, thetas, q, task.X, task.Y, task.eta)
    exact = sweep(*arguments, since=0).X
    kappa, beta = constants(task, thetas, probes, rounds)
    error, cosine, bound = [], [], []
    for iota in iotas:
        part = sweep(*arguments, since=task.T - iota).X
        error.append(float((part - exact).norm() / exact.norm()))
        cosine.append(float((part * exact).sum() / (part.norm() * exact.norm())))
        bound.append(truncation_bound(float(task.eta), kappa, beta, iota, task.T) * float(q.norm() / exact.norm()))
    return Truncation(error, cosine, bound, kappa, beta)


def truncation_bound(eta: float, kappa: float, beta: float, iota: int, T: int) -> float:
    """The bound of Proposition 4.1 for |q| = 1."""
    return eta * beta * sum(kappa**k for k in range(iota, T))


def reuse_bound(eta: float, kappa: float, beta: float, tau: int) -> float:
    """The bound of Theorem 4.2 for images that are 1 apart."""
    return eta * beta * sum(kappa**k for k in range(tau))


def reuse_distance(task: Task, other: Tensor) -> Tensor:
    """Distances (T + 1,) of two trajectories at tau = 0 to T: on the task's images, and on the other ones."""
    one, two = task.rollout(task.T), task._replace(X=other).rollout(task.T)
    return torch.stack([(one[tau] - two[tau]).norm() for tau in range(task.T + 1)])


def constants(task: Task, thetas: Iterates, probes: int, rounds: int) -> tuple[float, float]:
    """`kappa` and `beta`: the largest over `probes` iterates, each by `rounds` of power iteration, so from below."""
    steps = sorted({round(k) for k in torch.linspace(0, task.T - 1, min(probes, task.T)).tolist()})
    kappa = max(_contraction(task, thetas[i], i, rounds) for i in steps)
    return kappa, max(_coupling(task, thetas[i], i, rounds) for i in steps)


def _contraction(task: Task, theta: Tensor, i: int, rounds: int) -> float:
    """`|I - eta H|` at one iterate: the matrix is symmetric, so its norm is its largest absolute eigenvalue."""
    with torch.no_grad():
        z, y = task.problem.view(task.X, task.Y, i)
    v, size = _start(theta), 0.0
    for _ in range(rounds):
        v = v - task.eta * task.problem.student.mixed(theta, z, y, v)[0]
        size = float(v.norm())
        v = v / size
    return size


def _coupling(task: Task, theta: Tensor, i: int, rounds: int) -> float:
    """`|B|` at one iterate, where `B a = d<u, a>/dX`: the square root of the largest eigenvalue of `B B'`."""
    (z, y), pull = pulled_view(task.problem, task.X, task.Y, i)
    v, size = _start(task.X), 0.0
    for _ in range(rounds):
        a = _transposed(task, theta, i, v)
        v, _ = pull(task.problem.student.inputs_alone(theta, z, y, a))
        size = float(v.norm())
        if size == 0:
            return 0.0
        v = v / size
    return size**0.5


def _transposed(task: Task, theta: Tensor, i: int, v: Tensor) -> Tensor:
    """`B' v = d<dl/dX, v>/dtheta` (P,)."""
    X, theta = task.X.detach().requires_grad_(), theta.detach().requires_grad_()
    with torch.enable_grad():
        z, y = task.problem.view(X, task.Y, i)
        (along,) = torch.autograd.grad(task.problem.student.loss(theta, z, y), X, create_graph=True)
        (found,) = torch.autograd.grad((along * v).sum(), theta)
    return found


def _start(like: Tensor) -> Tensor:
    v = torch.randn(like.shape, generator=generator(0, "power iteration"), dtype=torch.float64).to(like)
    return v / v.norm()
