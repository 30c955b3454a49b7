"""Outer optimisers as pure steps: moments in, moments out, so that a state can be saved, resumed and compared."""

from dataclasses import dataclass
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

# Decay of the running mean of the direction's norms.
NORM_DECAY = 0.9


class Step(NamedTuple):
    """The new value and the optimiser's new moments (2, *shape)."""

    value: Tensor
    moments: Tensor


@dataclass(frozen=True)
class Momentum:
    """SGD with momentum: `v <- mu v + d`, then `value <- value - lr v`."""

    lr: float
    mu: float = 0.5

    def step(self, value: Tensor, d: Tensor, moments: Tensor, count: Tensor | int) -> Step:
        """One descent along d; `count` () is the number of steps taken before, which momentum needs not know."""
        v = self.mu * moments[0] + d
        return Step(value - self.lr * v, torch.stack((v, moments[1])))


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction (arXiv 1412.6980)."""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def step(self, value: Tensor, d: Tensor, moments: Tensor, count: Tensor | int) -> Step:
        """One descent along d; `count` () is the number of steps taken before, of those that moved the moments."""
        m = self.beta1 * moments[0] + (1 - self.beta1) * d
        v = self.beta2 * moments[1] + (1 - self.beta2) * d.square()
        m_hat, v_hat = (x / _share(beta, count, x.dtype) for x, beta in ((m, self.beta1), (v, self.beta2)))
        return Step(value - self.lr * m_hat / (v_hat.sqrt() + self.epsilon), torch.stack((m, v)))


def _share(beta: float, count: Tensor | int, dtype: torch.dtype) -> Tensor | float:
    """1 - beta^(count + 1): what the weights of a moment sum to. Of a tensor on its device, so that no GPU waits."""
    if isinstance(count, int):
        return 1 - beta ** (count + 1)
    return -torch.expm1((count.to(dtype) + 1) * log(beta))


def brought_to(X: Tensor, norm: float) -> Tensor:
    """Images X (n, c, h, w), each scaled to this norm; an image of zeros stays."""
    lengths: Tensor = X.flatten(1).norm(dim=1)
    return X * (norm / lengths.clamp_min(torch.finfo(X.dtype).tiny)).view(-1, 1, 1, 1)


def new_moments(value: Tensor) -> Tensor:
    """Moments (2, *shape) of an optimiser that has taken no step."""
    return torch.zeros(2, *value.shape, dtype=value.dtype, device=value.device)


def clipped(direction: Tensor, mean: Tensor, times: float) -> tuple[Tensor, Tensor]:
    """The direction, made no longer than `times` the running mean () of its lengths in earlier steps; and the new mean.

    The mean is of lengths after clipping, so that a spike of any size lifts the bound of the next step by no more than
    a length at the bound does. The first length above 0 is taken as it is; one that is not finite does not count.
    """
    norm = direction.norm()
    bound = times * torch.where(mean > 0, mean, norm)
    shorter = direction * (bound / norm.clamp_min(1e-30)).clamp_max(1.0)
    length = torch.where(mean > 0, torch.minimum(norm, bound), norm)
    moved = NORM_DECAY * torch.where(mean > 0, mean, norm) + (1 - NORM_DECAY) * length
    return shorter, torch.where(torch.isfinite(norm), moved, mean)
