"""What a run will take on this machine, found by doing a little of each of its stages in a temporary folder.

Nothing is guessed from tables: the images are read, the real workers train for some steps at once, and the outer loop
takes some real steps against weights of the right shape. Times are per step, times the number of steps; memory is
what these very processes reached; file sizes are those of the files that they wrote.
"""

import time
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trajmatch.core.vector import Layout
from trajmatch.data.material import Material, opened, shared
from trajmatch.data.networks.convnet import build
from trajmatch.machine.determinism import deterministic
from trajmatch.machine.litter import scratch_folder
from trajmatch.machine.memory import peak_memory_mb, resident_mb
from trajmatch.machine.messages import LOGGER
from trajmatch.machine.processes import Peak, Report, processes, run_tasks
from trajmatch.machine.progress import duration
from trajmatch.methods import engines
from trajmatch.methods.experts import Real
from trajmatch.methods.training import Forward, accuracy, train
from trajmatch.pages.tables import as_text
from trajmatch.run.assembly.engine import training_engine
from trajmatch.run.assembly.letters import evaluation_rate, evaluation_training, expert_training
from trajmatch.run.assembly.setup import Setup, factory
from trajmatch.run.stages import foreign
from trajmatch.run.stages.beforehand import check_run
from trajmatch.run.stages.experts import named_experts, real
from trajmatch.run.stages.loop import Loop, snapshot_steps
from trajmatch.run.stages.plan_ranks import OverRanks, Shared, Stage, distilling, waiting
from trajmatch.run.stages.plan_steps import chunks_of, distill, expert_like, harmless, per_step
from trajmatch.run.stages.random_images import beside_set
from trajmatch.run.stages.start import USUAL
from trajmatch.settings.config import Config
from trajmatch.settings.methods import METHODS


@dataclass(frozen=True)
class Plan:
    """The stages of a run, and what is not one stage's own.

    compute: what was decided about the outer loop's engine, in words. passing_mb: on disk while experts and evaluations
    run. gpu_mb: memory of the GPU, if any. over: what is said of several ranks.
    """

    stages: tuple[Stage, ...]
    compute: str
    passing_mb: float
    gpu_mb: float | None
    over: OverRanks | None = None

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
        shared = Shared(sum(s.on_ranks.seconds for s in self.stages), max(s.on_ranks.other_mb for s in self.stages))
        whole = Stage("in all", self.seconds, self.memory_mb, self.disk_mb, shared)
        return [
            self.compute,
            *as_text([self._row(stage) for stage in (*self.stages, whole)], indent=""),
            *(self.over.lines() if self.over else []),
            *([f"and {_size(self.gpu_mb)} of the GPU's memory"] if self.gpu_mb else []),
            f"and {_size(self.passing_mb)} on disk for shared images while experts and evaluations run",
            "measured by doing a little of each stage here, as the run itself will; other work beside it slows it down",
        ]

    def _row(self, s: Stage) -> dict[str, str]:
        """A stage's row."""
        disk, memory = {"disk": _size(s.disk_mb)}, _size(s.memory_mb)
        if self.over is None:
            return {"": s.name, "time": duration(s.seconds), "memory": memory, **disk}
        many = s.on_ranks
        times = {"time with 1": duration(s.seconds), f"with {self.over.ranks}": duration(many.seconds)}
        return {"": s.name, **times, "memory of rank 0": memory, "of another": _size(many.other_mb), **disk}


def _size(mb: float) -> str:
    return f"{mb / 1000:.2f} GB" if mb >= 1000 else f"{mb:.0f} MB" if mb >= 10 else f"{mb:.1f} MB"


def plan(config: Config, experts: int | Path, ranks: int = 1, read: tuple[Material, float] | None = None) -> Plan:
    """What `trajmatch run` of a resolved configuration needs here. Raises what the run itself would.

    experts: how many are to be trained, or the folder where they are. ranks: that would share the work. read: the
    images where they have been read, and the seconds that this took.
    """
    began = time.monotonic() - (read[1] if read else 0.0)
    base = peak_memory_mb()
    setup = Setup(config, read[0]) if read else Setup.load(config)
    place = setup.device
    trajectories = None
    if isinstance(experts, Path) and METHODS[config.method].experts:
        trajectories = named_experts(setup, experts)
    check_run(setup, trajectories)
    seconds = time.monotonic() - began
    stages = [_told(Stage("data", seconds, peak_memory_mb(), shared=Shared(seconds, base)))]
    told: list[str] = []
    repeating = deterministic(config.deterministic, place)
    with scratch_folder() as folder, shared(setup.material, folder) as path, repeating:
        passing = path.stat().st_size / 1e6
        if not isinstance(experts, Path) and METHODS[config.method].experts:
            stages.append(_told(_experts(setup, path, experts, ranks, base)))
            told += waiting("experts", experts, ranks, "more --experts are shared out, and change the result")
        still = Setup(harmless(config), setup.material)
        loop = Loop(still, [expert_like(setup, folder)], folder)
        stage, traffic = distill(still, loop, ranks)
        stages.append(_told(stage))
        told += distilling(config, loop.compute.segments, chunks_of(loop), ranks)
        stages.append(_told(_evaluate(setup, path, ranks, base)))
        if foreign.left_out(setup) is None:
            stages.append(_told(_foreign(setup, path, ranks, base)))
    gpu = torch.cuda.max_memory_allocated(place) / 1e6 if place.type == "cuda" else None
    over = OverRanks(ranks, traffic, tuple(told), loop.compute.together) if ranks > 1 else None
    return Plan(tuple(stages), loop.compute.words(), passing, gpu, over)


def _told(stage: Stage) -> Stage:
    """A stage, which is told at once: the table comes when all are measured."""
    LOGGER.info(f"{stage.name}: {duration(stage.seconds)}, {_size(stage.memory_mb)} of memory")
    return stage


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
    if n is None:
        _seconds_tested(forward, theta, test)  # as an expert is before its first step: memory depends on the order
    # A number that is read is waited for, also where a GPU computes it.
    step = per_step(float(now.theta[0]) for now in steps)
    tested = [_seconds_tested(forward, theta, split) for split in ((test, training) if n is None else (test,))]
    return Probed(step, begin, tested[0], time.perf_counter() - began)


def _seconds_tested(forward: Forward, theta: Tensor, split: Real) -> float:
    """Seconds that a test takes for each of the first images of a split."""
    few, began = min(len(split.x), 2000), time.perf_counter()
    accuracy(forward, theta, split.x[:few], split.y[:few])
    return (time.perf_counter() - began) / few


def _probes(setup: Setup, path: Path, workers: int, threads: int, n: int | None, peak: Peak) -> tuple[Probed, float]:
    """The slowest of `workers` probes at once, and the seconds that their processes took to start."""
    where = str(setup.device)
    began = time.monotonic()
    found = [p for _, p in run_tasks(_probe, [(path, setup.config, where, n)] * workers, workers, threads, peak=peak)]
    slowest = Probed(*(max(values) for values in zip(*found, strict=True)))
    return slowest, max(0.0, time.monotonic() - began - slowest.whole) if workers > 1 else 0.0


def _on_sets(setup: Setup, path: Path, workers: int, peak: Peak) -> tuple[Probed, float, float]:
    """Of networks that are trained on a set of the run's size: the probes, as above, and the seconds of a training."""
    config, e = setup.config, setup.config.evaluation
    assert e.epochs is not None, "resolve() has filled it in"
    n = config.ipc * config.factor**2 * setup.dataset.num_classes
    probed, start = _probes(setup, path, workers, 1, n, peak)
    return probed, start, probed.begin + e.epochs * ceil(n / e.batch) * probed.step


def _reached(peak: Peak, workers: int, base: float, more: float = 0.0) -> tuple[float, float]:
    """MB that this process reaches with its workers, and that another rank does, which has no images of its own.

    base: MB of this process before it had any. more: MB that the probes did not hold.
    """
    memory = max(peak.mb, peak_memory_mb()) + more
    return memory, memory - (resident_mb() - base if workers > 1 else 0.0)


def _experts(setup: Setup, path: Path, count: int, ranks: int, base: float) -> Stage:
    e, dataset, peak = setup.config.expert, setup.dataset, Peak()
    workers = min(count, processes(e.workers, setup.device.type))
    probed, start = _probes(setup, path, workers, e.threads, None, peak)
    num_test, num_train = len(dataset.test), len(dataset.train)
    steps = ceil(num_train / e.batch)
    one = e.epochs * (steps * probed.step + num_test * probed.test) + (num_test + num_train) * probed.test
    rows = 1 + (e.epochs if e.save_every is None else e.epochs * steps // e.save_every)
    held = 4e-6 * Layout.of(setup.network).size * rows  # an expert's snapshots, until they are written
    # Written, they are stacked and turned into bytes: three copies.
    memory, elsewhere = _reached(peak, workers, base, 3 * held * workers)
    seconds = [start + ceil(ceil(count / n) / workers) * (probed.begin + one) for n in (1, ranks)]
    shared = Shared(seconds[1], elsewhere)
    return Stage("experts", seconds[0], memory, count * (held if e.storage == "float32" else held / 2), shared)


def _evaluate(setup: Setup, path: Path, ranks: int, base: float) -> Stage:
    config, dataset, peak = setup.config, setup.dataset, Peak()
    e, workers = config.evaluation, processes(config.evaluation.workers, setup.device.type)
    probed, start, training = _on_sets(setup, path, workers, peak)
    random = beside_set(setup, evaluation_rate(config, config.outer.step_size or USUAL))
    on_test = e.networks + 2 * random.count + (e.networks if e.validation_networks else 0)
    on_validation = e.validation_networks * len(snapshot_steps(config)) + len(random.rates) * random.few
    tests = on_test * len(dataset.test) + on_validation * len(dataset.validation)
    seconds = ((on_test + on_validation) * training + tests * probed.test) / workers
    # The networks of the chosen snapshot, and of random images at a chosen rate, wait for the others.
    after = random.count + (e.networks if e.validation_networks else 0)
    part = sum(ceil(n / ranks) for n in (on_test + on_validation - after, after)) / max(1, on_test + on_validation)
    whole = 0.0
    if e.whole_epochs:
        probed_whole, _ = _probes(setup, path, 1, 1, None, peak)
        whole = e.whole_epochs * ceil(len(dataset.train) / config.expert.batch) * probed_whole.step
    memory, elsewhere = _reached(peak, workers, base)
    shared = Shared(2 * start + seconds * part + whole, elsewhere)
    return Stage("evaluate", 2 * start + seconds + whole, memory, shared=shared)


def _foreign(setup: Setup, path: Path, ranks: int, base: float) -> Stage:
    """The networks of --evaluation.foreign on the set and on random real images, which are tuned first."""
    config, dataset, peak = setup.config, setup.dataset, Peak()
    e, workers = config.evaluation, processes(config.evaluation.workers, setup.device.type)
    other = Setup(replace(config, network=replace(config.network, name=e.foreign)), setup.material)
    probed, start, training = _on_sets(other, path, workers, peak)
    rounds = ((2 * len(foreign.RATES[e.recipe]), dataset.validation), (2 * foreign.networks(config), dataset.test))
    seconds = [
        sum(start + ceil(ceil(count / m) / workers) * (training + len(on) * probed.test) for count, on in rounds)
        for m in (1, ranks)
    ]
    memory, elsewhere = _reached(peak, workers, base)
    return Stage(f"evaluate on {e.foreign}", seconds[0], memory, shared=Shared(seconds[1], elsewhere))
