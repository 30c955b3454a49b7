"""Multisize condensation: one set whose every leading part is a good smaller set (MDC, arXiv 2403.06075).

To the distance of the whole set is added that of one leading part, the one whose features move fastest: the most
learnable subset, chosen anew every so many networks. The images of the largest smaller part that was chosen before are
frozen meanwhile. As the authors' program does; method.md section 5 has where ours differs.
Legend: C classes of ipc synthetic images c x h x w, sorted by class; d features; parts of 1 to ipc - 1 images a class.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from trajmatch.core.vector import Forward


class Parts(NamedTuple):
    """What is known of the leading parts; empty for methods that do not ask.

    now:      (ipc - 1,) sums of each part's feature distance over the image updates for the network in use, where this
              network is one of those that are measured.
    before:   (ipc - 1,) the same sums for the network that was measured before.
    chosen:   (ipc - 1,) 1 for each part that was chosen earlier; the part in use is left out.
    size:     images of each class in the part in use, 0 for none.
    networks: how many networks have been taken.
    """

    now: Tensor
    before: Tensor
    chosen: Tensor
    size: int
    networks: int

    @classmethod
    def of(cls, packed: Tensor, ipc: int) -> "Parts":
        """From one tensor, as the state keeps it; from an empty one, what holds before the first network.

        Raises ValueError for what an older release kept, which chose parts in another way.
        """
        if not len(packed):
            none = torch.zeros(ipc - 1)
            return cls(none, none, none, 0, 0)
        if len(packed) != 3 * (ipc - 1) + 2:
            raise ValueError("--method is mdc, whose steps an older release began in another way: choose another --out")
        now, before, chosen, rest = packed.split([ipc - 1, ipc - 1, ipc - 1, 2])
        return cls(now, before, chosen, *(int(value) for value in rest))

    def packed(self) -> Tensor:
        """As one tensor (3 ipc - 1,)."""
        numbers = torch.tensor([self.size, self.networks], dtype=self.now.dtype, device=self.now.device)
        return torch.cat([self.now, self.before, self.chosen, numbers])

    @property
    def frozen(self) -> int:
        """Images of each class that do not move: the largest part chosen before that is smaller than the one in use."""
        smaller = self.chosen[: max(0, self.size - 1)].nonzero()
        return int(smaller.max()) + 1 if len(smaller) else 0


def is_measured(network: int, interval: int) -> bool:
    """Whether the distances of parts are measured with a network, by its number from 0.

    They are measured with the first network, and with the last of every `interval` networks, after which a part is
    chosen.
    """
    return network == 0 or (network + 1) % interval == 0


@torch.no_grad()
def part_distances(
    features: Forward, theta: Tensor, synthetic: Sequence[Tensor], real: Sequence[Tensor], tiles: int = 1
) -> Tensor:
    """For parts of 1 to ipc - 1 images: sum over classes of |mean features of the part - those of real images|^2.

    synthetic: for each class (tiles ipc, c, h, w), real: for each class (B, c, h, w). Returns (ipc - 1,).
    tiles: images that a network sees of each synthetic one.
    """
    ipc = len(synthetic[0]) // tiles
    total = torch.zeros(ipc - 1, dtype=theta.dtype, device=theta.device)
    if ipc == 1:
        return total
    sizes = torch.arange(1, ipc, dtype=theta.dtype, device=theta.device)
    for x, r in zip(synthetic, real, strict=True):
        wanted = features(theta, r).flatten(1).mean(0)
        of_each = features(theta, x[: (ipc - 1) * tiles]).flatten(1)
        of_each = of_each if tiles == 1 else of_each.unflatten(0, (-1, tiles)).mean(1)
        means = _running_sums(of_each) / sizes[:, None]
        total = total + (means - wanted).square().sum(1)
    return total


def _running_sums(rows: Tensor) -> Tensor:
    """`rows.cumsum(0)`; elsewhere than on a CPU one sum after another, for torch's own does not repeat to the bit."""
    return rows.cumsum(0) if rows.device.type == "cpu" else torch.stack(list(accumulate(rows)))


def next_network(parts: Parts, interval: int) -> Parts:
    """The parts when a new network is taken, of which every `interval` share a part.

    The first network has no part, and after it the smallest is chosen; later the part whose distance has changed most
    between the last two networks that were measured.
    """
    if not parts.networks or not len(parts.now) or not is_measured(parts.networks - 1, interval):
        return parts._replace(networks=parts.networks + 1)
    size, chosen = 1, parts.chosen.clone()
    if parts.networks > 1:
        size = int((parts.now - parts.before).abs().argmax()) + 1
        chosen[parts.size - 1] = 1
    return Parts(torch.zeros_like(parts.now), parts.now, chosen, size, parts.networks + 1)


def moving(parts: Parts, ipc: int, classes: int) -> Tensor:
    """Which of the images move, (C ipc, 1, 1, 1), as booleans."""
    place = torch.arange(ipc).repeat(classes)
    return (place >= parts.frozen).reshape(-1, 1, 1, 1)
