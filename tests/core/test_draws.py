"""Noise and mini-batches, each from its own generator."""

import itertools

import torch
from torch import Tensor

from tests.oracles import F64, random, relative_error
from trajmatch.core.draws import batches, generator, smoothing_noise


def test_noise_is_scaled_by_each_images_own_norm_and_carries_no_gradient() -> None:
    X = random(3, 2, 5, 5, seed=2) * torch.tensor([0.1, 1.0, 7.0], dtype=F64).view(3, 1, 1, 1)
    z = smoothing_noise(X.clone().requires_grad_(), 0.3, generator(4, "z"))
    standard = torch.randn(X.shape, generator=generator(4, "z"), dtype=F64)
    assert not z.requires_grad
    for k in range(3):
        assert relative_error(z[k], 0.3 * X[k].norm() / 50**0.5 * standard[k]) < 1e-12


def test_batches_depend_on_their_generator_alone() -> None:
    def first(seed: int) -> Tensor:
        return torch.cat(list(itertools.islice(batches(20, 6, generator(seed, "b")), 8)))

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
