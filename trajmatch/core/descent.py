"""Outer optimisers as pure steps: moments in, moments out, so that a state can be saved, resumed and compared."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Step(NamedTuple):
    """The new value and the optimiser's new moments (2, *shape)."""

    value: Tensor
    moments: Tensor


@dataclass(frozen=True)
class Momentum:
    """SGD with momentum: `v <- mu v + d`, then `value <- value - lr v`."""

    lr: float
    mu: float = 0.5

    def step(self, value: Tensor, d: Tensor, moments: Tensor, count: int) -> Step:
        """One descent along d; `count` is the number of steps taken before."""
        v = self.mu * moments[0] + d
        return Step(value - self.lr * v, torch.stack((v, moments[1])))


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction (arXiv 1412.6980)."""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def step(self, value: Tensor, d: Tensor, moments: Tensor, count: int) -> Step:
        """One descent along d; `count` is the number of steps taken before."""
        m = self.beta1 * moments[0] + (1 - self.beta1) * d
        v = self.beta2 * moments[1] + (1 - self.beta2) * d.square()
        m_hat, v_hat = m / (1 - self.beta1 ** (count + 1)), v / (1 - self.beta2 ** (count + 1))
        return Step(value - self.lr * m_hat / (v_hat.sqrt() + self.epsilon), torch.stack((m, v)))


def new_moments(value: Tensor) -> Tensor:
    """Moments (2, *shape) of an optimiser that has taken no step."""
    return torch.zeros(2, *value.shape, dtype=value.dtype, device=value.device)
