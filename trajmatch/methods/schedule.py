"""Which segment an outer step matches: the expert e and the start epoch t."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from trajmatch.core.draws import generator


class Choice(NamedTuple):
    """Expert e and start epoch t."""

    e: int
    t: int


@dataclass(frozen=True)
class Uniform:
    """t uniform in [first, last) and e uniform among the experts, as MTT and SATM draw them.

    first, last: T- and T+, in snapshots.
    """

    first: int
    last: int

    def choose(self, num_experts: int, seed: int, step: int) -> Choice:
        """The segment of one outer step: a function of (seed, step), whatever was drawn before."""
        source = generator(seed, "segment", step)
        e = int(torch.randint(num_experts, (), generator=source))
        return Choice(e, int(torch.randint(self.first, self.last, (), generator=source)))
