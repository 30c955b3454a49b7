"""Random draws as data: mini-batch indices, noise, and the generators behind them.

Every draw comes from a generator made from (seed, purpose...), on the CPU, so that it is the same on every device,
whatever was drawn before it; two evaluations of one outer step share draws by sharing these values.
Legend: n synthetic images, T inner steps.
"""

from collections.abc import Iterator
from hashlib import blake2b

import torch
from torch import Tensor

# What a draw is for. Names, not numbers: adding one never shifts the others.
Purpose = str | int


def derive(seed: int, *purpose: Purpose) -> int:
    """A 63-bit seed that depends on every part of (seed, purpose...) and on nothing else."""
    digest = blake2b(repr((int(seed), *purpose)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *purpose: Purpose) -> torch.Generator:
    """A CPU generator for one purpose: `generator(seed, "segment", step)`."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def batches(n: int, batch: int | None, source: torch.Generator) -> Iterator[Tensor]:
    """Mini-batch indices b_0, b_1, ...: chunks of one random permutation of n after another, without end.

    `batch` None or n takes the whole set, in order, at every step. The last chunk of a permutation may be short.
    Raises ValueError, at the first one, for a batch that is larger than the set.
    """
    if batch is not None and not 1 <= batch <= n:
        raise ValueError(f"batch is {batch} and must be at least 1 and at most the {n} images of the set")
    if batch is None or batch == n:
        everything = torch.arange(n)
        while True:
            yield everything
    while True:
        yield from torch.randperm(n, generator=source).split(batch)


def smoothing_noise(X: Tensor, gamma: float, source: torch.Generator) -> Tensor:
    """z_j ~ N(0, gamma^2 |x_j|^2 / d I) for each image x_j of d entries; method.md section 3, step 1.

    gamma: RMS of the noise relative to the image's RMS (our choice of units). X: (n, c, h, w).
    """
    noise = torch.randn(X.shape, generator=source, dtype=X.dtype).to(X.device, non_blocking=True)
    rms = X.detach().flatten(1).square().mean(1).sqrt()  # |x_j| / sqrt(d)
    return gamma * rms.view(-1, *[1] * (X.dim() - 1)) * noise
