"""What the outer loop of a run takes on this machine, found by some real steps against weights of the right shape."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import NamedTuple

import torch

from trajmatch.core.draws import generator
from trajmatch.core.vector import Layout
from trajmatch.data.file_names import CHECKPOINT, METRICS, SET, WHITENING
from trajmatch.data.networks.convnet import build
from trajmatch.data.snapshots import snapshot_path
from trajmatch.data.synthetic import save
from trajmatch.data.trajectories import Trajectory, save_trajectory
from trajmatch.machine.memory import peak_memory_mb
from trajmatch.machine.messages import LOGGER
from trajmatch.machine.progress import duration
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages.loop import Loop, delivered, snapshot_steps
from trajmatch.run.stages.plan_ranks import Counted, Shared, Stage, Traffic, chunk_traffic, rank_mb, step_share
from trajmatch.run.stages.start import USUAL
from trajmatch.run.stages.steps import Matching, Refined, Take, ThroughTraining
from trajmatch.settings.checks import needed_snapshots
from trajmatch.settings.config import Config

# Seconds that each kind of step is measured for, at least three of them, after the first two.
LONG_ENOUGH, WARM = 4.0, 2
# Seconds after which a kind of step is measured no further, whatever it has come to: a plan answers in two minutes.
PATIENCE = 15.0
# Inner steps of the short steps that tell how long a whole one would take, before one is taken.
SHORT = (1, 3)
# What the pictures, the report and the records of a run take on disk, beside what is counted.
PAGES = 200e3


def per_step(steps: Iterable[object], warm: int = WARM) -> float:
    """Median seconds of a step, after `warm` of them; of the last where `PATIENCE` or the iterable ends earlier."""
    seconds: list[float] = []
    began = time.perf_counter()
    for _ in steps:
        now = time.perf_counter()
        seconds.append(now - began)
        began = now
        enough = sum(seconds[warm:]) >= LONG_ENOUGH and len(seconds) >= warm + 3
        if enough or sum(seconds) >= PATIENCE:
            break
    return statistics.median(seconds[warm:] or seconds[-1:])


def harmless(config: Config) -> Config:
    """The same outer loop, moving nothing: the weights that the plan matches are no expert's.

    They classify nothing correctly either; looking for such images takes as long as one test on the training set.
    """
    o = config.outer
    kind = "real" if o.initial == "correct" else o.initial
    return replace(
        config,
        outer=replace(
            o, initial=kind, lr_images=1e-9, lr_step_size=1e-9, lr_labels=1e-9, step_size=o.step_size or USUAL
        ),
        baseline=replace(config.baseline, lr_images=1e-9),
    )


def expert_like(setup: Setup, folder: Path) -> Trajectory:
    """A trajectory of the right shape: initial weights, moved at random."""
    _, theta = build(setup.make(), 0)
    source = generator(0, "plan")
    rows = [theta]
    for _ in range(needed_snapshots(setup.config.matching)):
        rows.append(rows[-1] + 0.01 * torch.randn(theta.shape, generator=source))
    path = folder / "expert.safetensors"
    save_trajectory(path, rows, {"index": 0, "settings": {}})
    return Trajectory.open(path)


def chunks_of(loop: Loop) -> int:
    """Chunks of an inner mini-batch."""
    size = loop.compute.engine.micro_batch
    return 1 if size is None else ceil((loop.config.matching.batch or len(loop.first.X)) / size)


def distill(setup: Setup, loop: Loop, ranks: int) -> tuple[Stage, Traffic]:
    """Real outer steps, and what rank 0 sends and receives in one. The first one compiles what is to be compiled."""
    config = setup.config
    torch.set_num_threads(loop.compute.threads)
    once, more_mb = _seconds(loop.prepare), 0.0
    phases = too_long(loop)
    if briefly := bool(phases):
        first, more_mb = max(p.seconds for p in phases), iterates_mb(setup)
    else:
        loop.step()
        first = loop.checkpoint.seconds
        # Of long steps the first one is all there is time for: what it compiled counts in every step then.
        few = config.steps <= 5 or first >= 2 * PATIENCE
        phases = [Phase(1.0, loop.compute.segments, first)] if few else seconds_of_step(loop)
    traffic = _traffic(loop, ranks, briefly)
    loop.save()
    loop.keep(loop.checkpoint.state)
    done = loop.checkpoint.step
    save(delivered(setup, loop.checkpoint.state), loop.folder / SET)
    # By its rows, for steps may have been passed over.
    log = config.steps * len(written := (loop.folder / METRICS).read_bytes()) / written.count(b"\n")
    kept = [loop.folder / CHECKPOINT, loop.folder / SET, *loop.folder.glob(WHITENING.format("*"))]
    snapshots = len(snapshot_steps(config)) * snapshot_path(loop.folder, done).stat().st_size
    disk = sum(path.stat().st_size for path in kept) + snapshots + log + PAGES
    matched = isinstance(loop.take, Matching)
    share = [step_share(p.segments, chunks_of(loop), ranks) if matched else 1.0 for p in phases]
    rest, memory = max(0, config.steps - 1), peak_memory_mb() + more_mb
    one = sum(p.weight * p.seconds for p in phases)
    many = sum(p.weight * p.seconds * part for p, part in zip(phases, share, strict=True)) + traffic.seconds
    shared = Shared(once + first + rest * many, min(memory, rank_mb(setup, loop.compute)))
    return Stage("distill", once + first + rest * one, memory, disk / 1e6, shared), traffic


def _seconds(prepare: Callable[[], None]) -> float:
    began = time.monotonic()
    prepare()
    return time.monotonic() - began


def _traffic(loop: Loop, ranks: int, briefly: bool) -> Traffic:
    """What rank 0 sends and receives in a step of all segments, counted on a step.

    briefly: count a step of one or two inner steps, for a whole one takes too long. As much travels in it: weights
    and derivatives do, of no inner step but the last and, where trajectory 2 starts within 1, the one it starts from.
    """
    take, segments = loop.take, loop.compute.segments
    if not isinstance(take, Matching) or ranks == 1:
        return Traffic()
    rule = take.rule
    if briefly:
        T, tau = (2, 1) if 0 < rule.tau < rule.T else (1, 0)
        rule = replace(rule, T=T, iota=T, tau=tau)
    each = Counted(rule, ranks)
    if not take.rule.together:
        schedule = replace(take.schedule, segments=segments, since=0)
        loop.take = replace(take, rule=rule, schedule=schedule, each=each)
        loop.step()
        loop.take = take
    size = Layout.of(take.setup.network).size
    chunks = chunk_traffic(loop.config, size, chunks_of(loop), len(range(0, ranks, segments)))
    times = max(1, each.calls)
    return Traffic(each.sent + times * chunks.sent, each.received + times * chunks.received)


class Phase(NamedTuple):
    """A part of a run's steps, as a share of all, with so many segments, and the seconds of each step."""

    weight: float
    segments: int
    seconds: float


class Part(NamedTuple):
    """A part of a run's steps of one kind: its share of all, its segments, what takes a step, and its first one."""

    weight: float
    segments: int
    take: Take
    first: int = 0


def parts(take: Take, config: Config) -> list[Part]:
    """The parts of a run, in which the loss or the number of segments may change."""
    steps = config.steps
    if isinstance(take, Refined):
        before = replace(config, steps=take.since)
        matched = parts(take.matching, before) if take.since else []
        matched = [p._replace(weight=p.weight * take.since / steps) for p in matched]
        both = [*matched, Part(1 - take.since / steps, 1, take, take.since)]
    elif isinstance(take, Matching):
        early = min(1.0, (config.matching.concurrent_from or 0) / steps)
        both = [
            Part(share, segments, replace(take, schedule=replace(take.schedule, segments=segments, since=0)))
            for share, segments in ((early, 1), (1 - early, take.schedule.segments))
        ]
    else:
        both = [Part(1.0, 1, take)]
    return [part for part in both if part.weight > 0]


def at_part(loop: Loop, part: Part) -> None:
    """Make a part's steps the next ones of a loop."""
    loop.take = part.take
    if part.first:  # from which on the optimiser of these steps takes its first
        state = loop.checkpoint.state._replace(steps=torch.tensor(part.first))
        loop.checkpoint = replace(loop.checkpoint, state=state)


def seconds_of_step(loop: Loop) -> list[Phase]:
    """Seconds of an outer step in each part of a run."""
    config, take, found = loop.config, loop.take, []
    for part in parts(take, config):
        at_part(loop, part)
        seconds = per_step((loop.step() for _ in range(config.steps - part.first)), warm=1)
        found.append(Phase(part.weight, part.segments, seconds))
    loop.take = take
    return found


def shortened(take: Take, T: int) -> Take | None:
    """The same kind of step with T inner steps, all of them differentiated; None where it has no more, or none."""
    if isinstance(take, Refined):
        short = shortened(take.real_loss, T)
        return replace(take, real_loss=short) if isinstance(short, ThroughTraining) else None
    if not isinstance(take, Matching | ThroughTraining) or take.rule.T <= T:
        return None
    return replace(take, rule=replace(take.rule, T=T, iota=T, tau=0))


def too_long(loop: Loop) -> list[Phase]:
    """The parts of a run, from short steps, where a whole step takes longer than a plan may; else none.

    A step's seconds are linear in T where all its inner steps are differentiated, and fewer where they are not: the
    estimate is an upper bound.
    """
    take, begun = loop.take, loop.checkpoint
    found = [Phase(p.weight, p.segments, s) for p in parts(take, loop.config) if (s := by_short_steps(loop, p))]
    # What the short steps took stays, for the first of them compiled.
    loop.take, loop.checkpoint = take, replace(begun, seconds=loop.checkpoint.seconds)
    longest = max((phase.seconds for phase in found), default=0.0)
    if longest < 2 * PATIENCE:
        return []
    LOGGER.info(
        f"distill: a step would take {duration(longest)} here, so its time follows from steps of at most "
        f"{SHORT[1]} inner steps, all of them differentiated"
    )
    return found


def by_short_steps(loop: Loop, part: Part) -> float | None:
    """The seconds of a part's whole step that follow from its short ones; None where it is short itself."""
    few, more = SHORT
    if shortened(part.take, more) is None:
        return None
    whole = part.take.real_loss if isinstance(part.take, Refined) else part.take
    assert isinstance(whole, Matching | ThroughTraining)
    seconds: list[float] = []
    for T in (few, few, more):  # the first one compiles
        short = shortened(part.take, T)
        assert short is not None
        at_part(loop, part._replace(take=short))
        before = loop.checkpoint.seconds
        loop.step()
        seconds.append(loop.checkpoint.seconds - before)
        if len(seconds) < 3 and sum(seconds) > PATIENCE:  # there is no time for more
            return seconds[-1] * whole.rule.T / few
    return seconds[2] + (whole.rule.T - more) * max(0.0, seconds[2] - seconds[1]) / (more - few)


def iterates_mb(setup: Setup) -> float:
    """Iterates theta_i of an outer step, in MB, which short steps do not hold."""
    m = setup.config.matching
    return 4e-6 * Layout.of(setup.network).size * m.inner_steps / m.keep_every
