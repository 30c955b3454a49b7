"""What a run will take on this machine, found by doing a little of each of its stages in a temporary folder.

Nothing is guessed from tables: the images are read, the real workers train for some steps at once, and the outer loop
takes some real steps against weights of the right shape. Times are per step, times the number of steps; memory is
what these very processes reached; file sizes are those of the files that they wrote.
"""

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from trajmatch.core.draws import generator
from trajmatch.core.vector import Layout
from trajmatch.data.file_names import CHECKPOINT, METRICS, SET
from trajmatch.data.material import opened, shared
from trajmatch.data.networks.convnet import build
from trajmatch.data.snapshots import snapshot_path
from trajmatch.data.synthetic import save
from trajmatch.data.trajectories import Trajectory, save_trajectory
from trajmatch.machine.determinism import deterministic
from trajmatch.machine.litter import scratch_folder
from trajmatch.machine.memory import peak_memory_mb
from trajmatch.machine.processes import Peak, Report, processes, run_tasks
from trajmatch.machine.progress import duration
from trajmatch.methods import engines
from trajmatch.methods.training import accuracy, train
from trajmatch.pages.tables import as_text
from trajmatch.run.assembly.engine import training_engine
from trajmatch.run.assembly.letters import evaluation_training, expert_training
from trajmatch.run.assembly.setup import Setup, factory
from trajmatch.run.stages.beforehand import check_run, needed_snapshots
from trajmatch.run.stages.experts import named_experts, real
from trajmatch.run.stages.loop import Loop, delivered, snapshot_steps
from trajmatch.run.stages.steps import Matching
from trajmatch.settings.config import Config
from trajmatch.settings.methods import METHODS

# Seconds that each kind of step is measured for, at least three of them, after the first two.
LONG_ENOUGH, WARM = 4.0, 2
# What the pictures, the report and the records of a run take on disk, beside what is counted.
PAGES = 200e3


@dataclass(frozen=True)
class Stage:
    """What one stage needs: seconds, MB of memory at most, MB on disk that stay."""

    name: str
    seconds: float
    memory_mb: float
    disk_mb: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The stages of a run, and what is not one stage's own.

    compute: what was decided about the outer loop's engine, in words. passing_mb: on disk while experts and evaluations
    run. gpu_mb: memory of the GPU, if any.
    """

    stages: tuple[Stage, ...]
    compute: str
    passing_mb: float
    gpu_mb: float | None

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def memory_mb(self) -> float:
        return max(stage.memory_mb for stage in self.stages)

    @property
    def disk_mb(self) -> float:
        return sum(stage.disk_mb for stage in self.stages)

    def lines(self) -> list[str]:
        """The plan as a table."""
        whole = Stage("in all", self.seconds, self.memory_mb, self.disk_mb)
        rows = [
            {"": s.name, "time": duration(s.seconds), "memory": _size(s.memory_mb), "disk": _size(s.disk_mb)}
            for s in (*self.stages, whole)
        ]
        return [
            self.compute,
            *as_text(rows, indent=""),
            *([f"and {_size(self.gpu_mb)} of the GPU's memory"] if self.gpu_mb else []),
            f"and {_size(self.passing_mb)} on disk for shared images while experts and evaluations run",
            "measured by doing a little of each stage here, as the run itself will; other work beside it slows it down",
        ]


def _size(mb: float) -> str:
    return f"{mb / 1000:.2f} GB" if mb >= 1000 else f"{mb:.0f} MB" if mb >= 10 else f"{mb:.1f} MB"


def plan(config: Config, experts: int | Path) -> Plan:
    """What `trajmatch run` of a resolved configuration needs here. Raises what the run itself would.

    experts: how many are to be trained, or the folder where they are.
    """
    began = time.monotonic()
    setup = Setup.load(config)
    place = setup.device
    trajectories = None
    if isinstance(experts, Path) and METHODS[config.method].experts:
        trajectories = named_experts(setup, experts)
    check_run(setup, trajectories)
    stages = [Stage("data", time.monotonic() - began, peak_memory_mb())]
    repeating = deterministic(config.deterministic, place)
    with scratch_folder() as folder, shared(setup.material, folder) as path, repeating:
        passing = path.stat().st_size / 1e6
        if not isinstance(experts, Path) and METHODS[config.method].experts:
            stages.append(_experts(setup, path, experts))
        harmless = Setup(_harmless(config), setup.material)
        loop = Loop(harmless, [_expert_like(setup, folder)], folder)
        stages.append(_distill(harmless, loop))
        stages.append(_evaluate(setup, path))
    gpu = torch.cuda.max_memory_allocated(place) / 1e6 if place.type == "cuda" else None
    return Plan(tuple(stages), loop.compute.words(), passing, gpu)


def per_step(steps: Iterable[object], warm: int = WARM) -> float:
    """Median seconds of a step, after `warm` of them; the iterable may end early."""
    seconds: list[float] = []
    began = time.perf_counter()
    for _ in steps:
        now = time.perf_counter()
        seconds.append(now - began)
        began = now
        if sum(seconds[warm:]) >= LONG_ENOUGH and len(seconds) >= warm + 3:
            break
    return statistics.median(seconds[warm:])


class Probed(NamedTuple):
    """Seconds of a training step, of beginning (opening the images), of testing one image, and of all of the probe."""

    step: float
    begin: float
    test: float
    whole: float


def _probe(material: Path, config: Config, where: str, n: int | None, report: Report) -> Probed:
    """In a worker: train for some steps on n synthetic images, or as an expert on the real ones where n is None."""
    began = time.perf_counter()
    mapped, place = opened(material), torch.device(where)
    training, test = (real(mapped, split, place) for split in ("train", "test"))
    x, y = training.x, F.one_hot(training.y, len(mapped.classes)).to(training.x.dtype)
    if n is None:
        x.sum()  # an expert sees every page of the file in the end, and they count as its process's memory
    else:
        index = torch.arange(n, device=place) % len(x)
        x, y = x[index], y[index]
    recipe = expert_training(config) if n is None else evaluation_training(config, 1e-6)
    make = factory(config.network, mapped.shape, len(mapped.classes))
    network, theta = build(make, 0)
    engine = training_engine(config, network.to(place), place)
    student, forward = engines.student(network, engine), engines.forward(network, engine)
    theta = theta.to(place)
    begin = time.perf_counter() - began
    steps = train(student.gradient, theta, x, y, replace(recipe, lr=1e-9, epochs=10**9, lr_drop=None), 0)
    # A number that is read is waited for, also where a GPU computes it.
    step, few = per_step(float(now.theta[0]) for now in steps), min(len(test.x), 2000)
    tested = time.perf_counter()
    accuracy(forward, theta, test.x[:few], test.y[:few])
    now = time.perf_counter()
    return Probed(step, begin, (now - tested) / few, now - began)


def _probes(setup: Setup, path: Path, workers: int, threads: int, n: int | None, peak: Peak) -> tuple[Probed, float]:
    """The slowest of `workers` probes at once, and the seconds that their processes took to start."""
    where = str(setup.device)
    began = time.monotonic()
    found = [p for _, p in run_tasks(_probe, [(path, setup.config, where, n)] * workers, workers, threads, peak=peak)]
    slowest = Probed(*(max(values) for values in zip(*found, strict=True)))
    return slowest, max(0.0, time.monotonic() - began - slowest.whole) if workers > 1 else 0.0


def _experts(setup: Setup, path: Path, count: int) -> Stage:
    e, dataset, peak = setup.config.expert, setup.dataset, Peak()
    workers = min(count, processes(e.workers, setup.device.type))
    probed, start = _probes(setup, path, workers, e.threads, None, peak)
    num_test, num_train = len(dataset.test), len(dataset.train)
    steps = ceil(num_train / e.batch)
    one = e.epochs * (steps * probed.step + num_test * probed.test) + (num_test + num_train) * probed.test
    rows = 1 + (e.epochs if e.save_every is None else e.epochs * steps // e.save_every)
    held = 4e-6 * Layout.of(setup.network).size * rows  # an expert's snapshots, until they are written
    return Stage(
        "experts",
        start + ceil(count / workers) * (probed.begin + one),
        # Written, they are stacked and turned into bytes: three copies.
        peak_memory_mb() + peak.mb + 3 * held * workers,
        count * (held if e.storage == "float32" else held / 2),
    )


def _harmless(config: Config) -> Config:
    """The same outer loop, moving nothing: the weights that the plan matches are no expert's.

    They classify nothing correctly either; looking for such images takes as long as one test on the training set.
    """
    o = config.outer
    kind = "real" if o.initial == "correct" else o.initial
    return replace(
        config,
        outer=replace(o, initial=kind, lr_images=1e-9, lr_step_size=1e-9, lr_labels=1e-9),
        baseline=replace(config.baseline, lr_images=1e-9),
    )


def _expert_like(setup: Setup, folder: Path) -> Trajectory:
    """A trajectory of the right shape: initial weights, moved at random."""
    _, theta = build(setup.make(), 0)
    source = generator(0, "plan")
    rows = [theta]
    for _ in range(needed_snapshots(setup.config)):
        rows.append(rows[-1] + 0.01 * torch.randn(theta.shape, generator=source))
    path = folder / "expert.safetensors"
    save_trajectory(path, rows, {"index": 0, "settings": {}})
    return Trajectory.open(path)


def _distill(setup: Setup, loop: Loop) -> Stage:
    """Real outer steps. The first one compiles what is to be compiled."""
    config = setup.config
    torch.set_num_threads(loop.compute.threads)
    loop.step()
    first = loop.checkpoint.seconds
    step = first if config.steps <= 5 else seconds_of_step(loop)
    loop.save()
    loop.keep(loop.checkpoint.state)
    done = loop.checkpoint.step
    save(delivered(setup, loop.checkpoint.state), loop.folder / SET)
    log = (loop.folder / METRICS).stat().st_size * config.steps / done
    kept = [loop.folder / CHECKPOINT, loop.folder / SET]
    snapshots = len(snapshot_steps(config)) * snapshot_path(loop.folder, done).stat().st_size
    disk = sum(path.stat().st_size for path in kept) + snapshots + log + PAGES
    return Stage("distill", first + max(0, config.steps - 1) * step, peak_memory_mb(), disk / 1e6)


def seconds_of_step(loop: Loop) -> float:
    """Seconds of an outer step, averaged over a run in which the number of segments may change."""
    m, steps, take = loop.config.matching, loop.config.steps, loop.take
    if not isinstance(take, Matching):
        return per_step((loop.step() for _ in range(steps)), warm=1)
    early = min(1.0, (m.concurrent_from or 0) / steps)
    seconds = 0.0
    for share, segments in ((early, 1), (1 - early, take.schedule.segments)):
        if share > 0:
            loop.take = replace(take, schedule=replace(take.schedule, segments=segments, since=0))
            seconds += share * per_step((loop.step() for _ in range(steps)), warm=1)
    loop.take = take
    return seconds


def _evaluate(setup: Setup, path: Path) -> Stage:
    config, dataset, peak = setup.config, setup.dataset, Peak()
    e = config.evaluation
    assert e.epochs is not None, "resolve() has filled it in"
    n = config.ipc * config.factor**2 * dataset.num_classes
    workers = processes(e.workers, setup.device.type)
    probed, start = _probes(setup, path, workers, 1, n, peak)
    training = probed.begin + e.epochs * ceil(n / e.batch) * probed.step
    on_test = e.networks + e.random_draws + (e.networks if e.validation_networks else 0)
    on_validation = e.validation_networks * len(snapshot_steps(config))
    tests = on_test * len(dataset.test) + on_validation * len(dataset.validation)
    seconds = ((on_test + on_validation) * training + tests * probed.test) / workers
    if e.whole_epochs:
        whole, _ = _probes(setup, path, 1, 1, None, peak)
        seconds += e.whole_epochs * ceil(len(dataset.train) / config.expert.batch) * whole.step
    return Stage("evaluate", 2 * start + seconds, peak_memory_mb() + peak.mb)
