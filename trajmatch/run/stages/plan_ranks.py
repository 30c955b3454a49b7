"""What the stages of a run take on N ranks of a torchrun job, derived from what they were measured to take on one.

Rank 0 takes the largest share of each stage, so its time is that of the stage.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil, prod

from torch import Tensor

from trajmatch.core.estimators import Estimate, Estimator, Task
from trajmatch.methods.outer import Rule, one_by_one
from trajmatch.run.assembly.budget import held_bytes, step_bytes
from trajmatch.run.assembly.engine import Compute
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages.segments import results_of, sent
from trajmatch.settings.config import Config
from trajmatch.settings.methods import METHODS

# Bytes a second between rank 0 and all others together, and what has so many: 80 % of a common network's 10 Gbit/s.
BANDWIDTH, LINK = 1e9, "as Ethernet of 10 Gbit/s has"


@dataclass(frozen=True)
class Shared:
    """A stage on N ranks: its seconds, and MB of memory of each rank but rank 0."""

    seconds: float
    other_mb: float


@dataclass(frozen=True)
class Stage:
    """What one stage needs: seconds, MB of memory at most, MB on disk that stay; and what it needs on several ranks."""

    name: str
    seconds: float
    memory_mb: float
    disk_mb: float = 0.0
    shared: Shared | None = None

    @property
    def on_ranks(self) -> Shared:
        """The stage on several ranks; as on one where it is not shared out."""
        return self.shared or Shared(self.seconds, self.memory_mb)


@dataclass
class Counted:
    """Computes the estimates here, as one process does, and counts what would travel; an `Each` of methods/outer.py.

    ranks: N. sent, received: bytes that rank 0 sends and receives, of so many calls.
    """

    rule: Rule
    ranks: int
    sent: int = 0
    received: int = 0
    calls: int = 0

    def __call__(self, estimate: Estimator, given: Sequence[Task], seed: int, step: int) -> list[Estimate]:
        found = one_by_one(estimate, given, seed, step)
        self.calls += 1
        for rank in range(1, min(self.ranks, len(given))):
            share = range(rank, len(given), self.ranks)
            self.sent += _bytes(sent([given[k] for k in share]))
            self.received += sum(_bytes(results_of(self.rule, given[k].first, found[k])) for k in share)
        return found


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@dataclass(frozen=True)
class Traffic:
    """Bytes of one outer step that rank 0 sends and receives."""

    sent: float = 0.0
    received: float = 0.0

    @property
    def seconds(self) -> float:
        return (self.sent + self.received) / BANDWIDTH


def chunk_traffic(config: Config, parameters: int, chunks: int, ranks: int) -> Traffic:
    """What rank 0 and its helpers send one another in a trajectory: weights, and derivatives of each chunk.

    chunks: of an inner mini-batch. ranks: that share them, rank 0 among them. Images are left out, for they are few.
    """
    helpers, m = min(ranks, chunks) - 1, config.matching
    if helpers < 1:
        return Traffic()
    away, swept = chunks - ceil(chunks / ranks), m.differentiated_steps or m.inner_steps
    return Traffic(
        4.0 * parameters * helpers * (m.inner_steps + 2 * swept), 4.0 * parameters * away * (m.inner_steps + swept)
    )


def rank_mb(setup: Setup, compute: Compute) -> float:
    """MB that a rank other than rank 0 holds in the outer loop, by count: no real images, and a segment at a time."""
    config, network, shape = setup.config, setup.network, setup.dataset.shape
    total = config.ipc * setup.dataset.num_classes
    one = replace(config, matching=replace(config.matching, segments=1))
    held = held_bytes(one, setup.device, sum(p.numel() for p in network.parameters()), total * prod(shape), 0.0)
    images = compute.engine.micro_batch or config.matching.batch or total
    return (held + step_bytes(network, shape, compute.engine)(images)) / 1e6


def step_share(segments: int, chunks: int, ranks: int) -> float:
    """The part of one process's outer step that its slowest rank takes.

    ceil(K / N) of K segments; where N > K, ceil(c / floor(N / K)) of the c chunks of one segment.
    """
    if ranks <= segments:
        return ceil(segments / ranks) / segments
    return ceil(chunks / (ranks // segments)) / (chunks * segments)


def waiting(stage: str, jobs: int, ranks: int, remedy: str) -> list[str]:
    """What to say of a stage with fewer jobs than ranks; nothing of another."""
    if jobs >= ranks:
        return []
    idle = ranks - jobs
    return [f"{stage}: {idle} of {ranks} ranks {'waits' if idle == 1 else 'wait'}; {remedy}"]


@dataclass(frozen=True)
class OverRanks:
    """What a plan says of N ranks beside its table.

    told: which ranks would wait. traffic: of a step. together: whether one process takes all segments at once.
    """

    ranks: int
    traffic: Traffic = field(default_factory=Traffic)
    told: tuple[str, ...] = ()
    together: bool = False

    def lines(self) -> list[str]:
        """The assumptions and what would wait."""
        t, found = self.traffic, list(self.told)
        found.append(
            f"{self.ranks} ranks: each is taken to be as fast as this process is now, with a GPU of its own or as many "
            "cores as this process may use (taskset gives it fewer)"
        )
        if t.sent or t.received:
            found.append(
                f"in a step rank 0 sends {t.sent / 1e6:.3g} MB and receives {t.received / 1e6:.3g} MB, which takes "
                f"{t.seconds:.2g} s at {BANDWIDTH / 1e9:g} GB/s, {LINK}; the times contain it"
            )
        if self.together:
            found.append("one process takes all segments of a step at once, and several ranks take them one by one")
        return found


def distilling(config: Config, segments: int, chunks: int, ranks: int) -> list[str]:
    """Which ranks would wait while a set is distilled."""
    if METHODS[config.method].steps != "matching":
        return waiting("distill", 1, ranks, f"the steps of {config.method} are not shared out")
    if ranks <= segments:
        return []
    # Rank h >= K has a chunk where the ranks of its segment before it leave one.
    busy = sum(min(chunks, len(range(k, ranks, segments))) for k in range(segments))
    shared = "--micro-batch shares the images of a segment out" if chunks == 1 else "a smaller --micro-batch is shared"
    return waiting("distill", busy, ranks, f"{shared}, and so are more --matching.segments, which change the result")
