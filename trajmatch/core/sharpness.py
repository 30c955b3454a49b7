"""Sharpness rules: how the ascent perturbs, and which way the descent goes (method.md section 4).

A rule is a frozen record of options with two pure methods: `perturbation` turns the gradient d at the current point
into eps, `direction` turns d and the gradient d' at the perturbed point into the descent direction. VaSSO alone
carries a state, its average m; the others pass it through. The same rules perturb images and expert weights.
Every norm is over the whole set.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Perturbation(NamedTuple):
    """eps, of X's shape, and the rule's next state."""

    eps: Tensor
    state: Tensor


class Sharpness(Protocol):
    """What every rule offers."""

    def perturbation(self, d: Tensor, X: Tensor, state: Tensor) -> Perturbation:
        """The perturbation eps at X, whose gradient is d, and the next state (zeros of X's shape at the start)."""
        ...

    def direction(self, d: Tensor, d_prime: Tensor) -> Tensor:
        """The direction to step against, from the gradients d at X and d' at X + eps."""
        ...


def _radial(rho: float, v: Tensor) -> Tensor:
    """`rho v / |v|`, and zero for `v = 0`: a flat point is not perturbed."""
    norm = v.norm()
    return torch.where(norm > 0, rho / norm.clamp_min(torch.finfo(v.dtype).tiny), 0.0) * v


def _surrogate(d: Tensor, d_prime: Tensor, alpha: float) -> Tensor:
    """The direction `d' - alpha d_perp`, where `d_perp` is the part of `d` orthogonal to `d'`."""
    along = (d * d_prime).sum() / d_prime.square().sum().clamp_min(torch.finfo(d.dtype).tiny)
    return d_prime - alpha * (d - along * d_prime)


def remembered(rule: Sharpness, d: Tensor, X: Tensor, state: Tensor) -> Tensor:
    """What the next ascent goes along where it has no gradient of its own: this step's, or VaSSO's average with it."""
    return rule.perturbation(d, X, state).state if isinstance(rule, VaSSO) else d


@dataclass(frozen=True)
class SAM:
    """`eps = rho d / |d|`; the step goes along `d'` (arXiv 2010.01412; SATM eq. 7)."""

    rho: float

    def perturbation(self, d: Tensor, X: Tensor, state: Tensor) -> Perturbation:
        return Perturbation(_radial(self.rho, d), state)

    def direction(self, d: Tensor, d_prime: Tensor) -> Tensor:
        return d_prime


@dataclass(frozen=True)
class ASAM:
    """`eps = rho T_X^2 d / |T_X d|` with `T_X = |X| + c`; the step goes along `d'` (arXiv 2102.11600)."""

    rho: float
    c: float = 0.01

    def perturbation(self, d: Tensor, X: Tensor, state: Tensor) -> Perturbation:
        T_X = X.abs() + self.c
        return Perturbation(T_X * _radial(self.rho, T_X * d), state)

    def direction(self, d: Tensor, d_prime: Tensor) -> Tensor:
        return d_prime


@dataclass(frozen=True)
class GSAM:
    """SAM's eps; the step goes along `d' - alpha d_perp`, `d_perp` as in `_surrogate` (arXiv 2203.08065)."""

    rho: float
    alpha: float = 0.3

    def perturbation(self, d: Tensor, X: Tensor, state: Tensor) -> Perturbation:
        return Perturbation(_radial(self.rho, d), state)

    def direction(self, d: Tensor, d_prime: Tensor) -> Tensor:
        return _surrogate(d, d_prime, self.alpha)


@dataclass(frozen=True)
class FlatGSAM:
    """FTD's rule for experts: ASAM's `eps` with `c = 0`, and GSAM's direction (arXiv 2211.11004)."""

    rho: float = 0.01
    alpha: float = 0.3

    def perturbation(self, d: Tensor, X: Tensor, state: Tensor) -> Perturbation:
        return Perturbation(X.abs() * _radial(self.rho, X.abs() * d), state)

    def direction(self, d: Tensor, d_prime: Tensor) -> Tensor:
        return _surrogate(d, d_prime, self.alpha)


@dataclass(frozen=True)
class VaSSO:
    """`m <- (1 - k) m + k d`, `eps = rho m / |m|`; the step goes along `d'` (Li & Giannakis 2023)."""

    rho: float
    k: float = 0.2

    def perturbation(self, d: Tensor, X: Tensor, state: Tensor) -> Perturbation:
        m = (1 - self.k) * state + self.k * d
        return Perturbation(_radial(self.rho, m), m)

    def direction(self, d: Tensor, d_prime: Tensor) -> Tensor:
        return d_prime


@dataclass(frozen=True)
class Ascent:
    """An ascent that is any function, `eps = f(d, X, rho)` of X's shape; the step goes along `d'`.

    Left out, f is SAM's. `perturbation` raises ValueError for an eps of another shape.
    """

    rho: float
    f: Callable[[Tensor, Tensor, float], Tensor] = lambda d, X, rho: _radial(rho, d)

    def perturbation(self, d: Tensor, X: Tensor, state: Tensor) -> Perturbation:
        eps = self.f(d, X, self.rho)
        if eps.shape != X.shape:
            raise ValueError(f"sharpness: the rule gives eps of shape {tuple(eps.shape)} for {tuple(X.shape)}")
        return Perturbation(eps, state)

    def direction(self, d: Tensor, d_prime: Tensor) -> Tensor:
        return d_prime
