"""Which segments an outer step matches: experts e and start epochs t."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from trajmatch.core.draws import generator


class Choice(NamedTuple):
    """Expert e and start epoch t, which may lie between epochs where the expert's path is straight."""

    e: int
    t: float


@dataclass(frozen=True)
class Window:
    """Start epochs from [first, U), whose upper end U may grow during distillation, from easy to hard.

    first:    `T-`, in snapshots.
    last:     `T+`, in snapshots.
    start:    U at step 0, in snapshots (DATM's curriculum, arXiv 2310.05773); None is `last`, as MTT and SATM draw.
    grows:    outer steps after which U is `last`.
    segments: K from step `since` on.
    since:    outer step before which K is 1.
    continuous: whether any real number of the window may be drawn, and not whole ones alone (MCT, arXiv 2406.19827).
    """

    first: int
    last: int
    start: int | None = None
    grows: int = 0
    segments: int = 1
    since: int = 0
    continuous: bool = False

    def concurrent(self, step: int) -> int:
        """K at an outer step."""
        return self.segments if step >= self.since else 1

    def upper(self, step: int) -> int:
        """U at an outer step: min(T+, T + int((T+ - T) step / E))."""
        if self.start is None or self.grows == 0:
            return self.last
        return min(self.last, self.start + int((self.last - self.start) * step / self.grows))

    def choose(self, num_experts: int, seed: int, step: int, K: int = 1) -> list[Choice]:
        """The K segments of one outer step: a function of (seed, step), whatever was drawn before.

        The start epochs come one from each of K strata of the window, uniform in the stratum; strata share epochs where
        K exceeds the window's width. The experts are different ones where there are enough.
        """
        source, width = generator(seed, "segment", step), self.upper(step) - self.first
        if K == 1:
            experts = [int(torch.randint(num_experts, (), generator=source))]
        else:
            order = torch.randperm(num_experts, generator=source).tolist()
            experts = [order[k % num_experts] for k in range(K)]
        chosen = []
        for k, e in enumerate(experts):
            if self.continuous:
                start, end = (self.first + j * width / K for j in (k, k + 1))
                chosen.append(Choice(e, start + (end - start) * float(torch.rand((), generator=source))))
                continue
            low = self.first + k * width // K
            high = max(low + 1, self.first + (k + 1) * width // K)
            chosen.append(Choice(e, int(torch.randint(low, high, (), generator=source))))
        return chosen
