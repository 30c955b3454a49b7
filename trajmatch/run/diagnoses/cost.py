"""Seconds and peak memory of one outer step's hypergradient, as T, the mini-batch and the width grow."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch

from trajmatch.core.augment import STANDARD, families
from trajmatch.core.augment import draw as draw_augmentation
from trajmatch.core.draws import generator
from trajmatch.core.estimators import Estimator, Task, adjoint, random_window, tesla, truncated, unrolled
from trajmatch.core.inner import Problem, training_view
from trajmatch.data.networks import build
from trajmatch.measure.series import exponent
from trajmatch.methods import engines
from trajmatch.methods.engines import Engine
from trajmatch.pages.plots import titled
from trajmatch.run import assemble
from trajmatch.run.compute import prepare_process
from trajmatch.run.config import Network
from trajmatch.run.diagnosis import Diagnosis, Work
from trajmatch.run.opened import Opened
from trajmatch.run.options import Options
from trajmatch.run.resident import peak_over_base

ESTIMATORS = ("unrolled", "adjoint", "truncated", "random-window", "tesla")
AXES = {"inner_steps": (5, 10, 20, 40), "batch": (10, 20, 40, 80), "width": (16, 32, 64, 128)}
TITLES = {"inner_steps": "inner steps (T)", "batch": "images in a mini-batch", "width": "channels of the network"}


@dataclass(frozen=True)
class Size:
    """What is measured."""

    estimator: str
    inner_steps: int
    batch: int
    network: Network
    shape: tuple[int, int, int]
    classes: int
    engine: str
    device: str
    threads: int
    rounds: int


def sizes(run: Opened, rounds: int) -> dict[str, list[Size]]:
    """What is measured along each axis; the other two are as in the middle of it, the width the run's."""
    dataset, config = run.material.dataset, run.config
    make = assemble.factory(config.network, dataset.shape, dataset.num_classes)
    name = engines.choose(build(make, 0)[0].to(run.device), run.device, 0)[0]
    found: dict[str, list[Size]] = {}
    for axis, values in AXES.items():
        found[axis] = []
        for estimator in ESTIMATORS:
            base = Size(
                estimator,
                10,
                10,
                config.network,
                dataset.shape,
                dataset.num_classes,
                name,
                str(run.device),
                torch.get_num_threads(),
                rounds,
            )
            for value in values:
                found[axis].append(_with(base, axis, value))
    return found


def _with(base: Size, axis: str, value: int) -> Size:
    if axis == "width":
        return replace(base, network=replace(base.network, width=value))
    return replace(base, inner_steps=value) if axis == "inner_steps" else replace(base, batch=value)


def _task(size: Size) -> Task:
    """A segment between random weights, on random images: what they are costs nothing."""
    device = torch.device(size.device)
    network, theta = build(assemble.factory(size.network, size.shape, size.classes), 0)
    network, theta, source = network.to(device), theta.to(device), generator(0, "cost")
    student = engines.student(network, Engine(size.engine))
    X = torch.randn(size.batch, *size.shape, generator=source).to(device)
    Y = torch.eye(size.classes)[torch.arange(size.batch) % size.classes].to(device)
    kinds = families(STANDARD)
    T = size.inner_steps
    view = training_view(
        [torch.arange(size.batch)] * T, [draw_augmentation(size.batch, kinds, source) for _ in range(T)]
    )
    target = theta + 0.1 * theta.abs().mean() * torch.randn(theta.shape, generator=source).to(device)
    return Task(Problem(view, student), theta, target, X, Y, torch.tensor(0.01).to(device), T)


def estimator(name: str, T: int) -> Estimator:
    """An estimator by its name: a third of the steps where it differentiates a part, from the middle for a window."""
    third = max(1, T // 3)
    return {
        "unrolled": unrolled,
        "adjoint": adjoint,
        "truncated": truncated(third),
        "random-window": random_window(third, max(1, 2 * T // 3)),
        "tesla": tesla,
    }[name]


def measure(size: Size) -> tuple[float, float]:
    """Median seconds, and MB at the peak over what was held before; in a process of its own."""
    prepare_process()
    torch.set_num_threads(size.threads)
    estimate, short = estimator(size.estimator, size.inner_steps), replace(size, inner_steps=2)
    estimator(size.estimator, 2)(_task(short))  # libraries load now; that is not the estimator's memory
    task = _task(size)
    memory = peak_over_base(lambda: estimate(task), torch.device(size.device))
    seconds = []
    for _ in range(size.rounds):
        began = time.perf_counter()
        float(estimate(task).loss)
        seconds.append(time.perf_counter() - began)
    return median(seconds), memory


def work(runs: Sequence[Opened], options: Options) -> Work:
    """Every size of every estimator, in the time that the sweep takes there; and the start of a process for each."""
    run, found = runs[0], Work()
    n, width = len(run.last.X), run.config.network.width
    for size in (size for axis in sizes(run, options.rounds).values() for size in axis):
        part = size.batch / (run.config.matching.batch or n) * (size.network.width / width) ** 1.5
        step = part * (run.speed.gradient + run.speed.sweep)
        found += Work(1, (options.rounds + 1) * size.inner_steps * step + 4)
    return found


def compute(runs: Sequence[Opened], options: Options, advance: Callable[[int], None]) -> dict[str, Any]:
    """Along each axis every estimator's seconds and MB, with the exponents of power laws fitted to them."""
    run, found = runs[0], {}
    for axis, chosen in sizes(run, options.rounds).items():
        rows: dict[str, dict[str, Any]] = {name: {"size": [], "seconds": [], "mb": []} for name in ESTIMATORS}
        for size in chosen:
            with ProcessPoolExecutor(1, get_context("spawn")) as executor:
                seconds, memory = executor.submit(measure, size).result()
            row = rows[size.estimator]
            row["size"].append(size.network.width if axis == "width" else getattr(size, axis))
            row["seconds"].append(seconds)
            row["mb"].append(memory)
            advance(1)
        for row in rows.values():
            # Less than a megabyte is below what can be told from the process's own.
            row["seconds_exponent"] = exponent(row["size"], row["seconds"])
            row["mb_exponent"] = exponent(row["size"], [max(1.0, mb) for mb in row["mb"]])
        found[axis] = rows
    about = sizes(run, options.rounds)["batch"][0]
    return {
        "axes": found,
        "base": {"inner_steps": about.inner_steps, "batch": about.batch, "width": run.config.network.width},
        "pixels": run.material.dataset.shape[1],
        "engine": about.engine,
        "threads": about.threads,
        "device": about.device,
        "how": f"median of {options.rounds}; memory over what the process held before",
    }


def draw(numbers: dict[str, Any]) -> Any:
    """Two rows: seconds and memory; a column for each axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.4), layout="constrained")
    grid = figure.subplots(2, len(numbers["axes"]))
    for column, (axis, rows) in enumerate(numbers["axes"].items()):
        for line, (key, title) in enumerate((("seconds", "seconds"), ("mb", "peak MB"))):
            place = grid[line][column]
            for name, row in rows.items():
                label = f"{name}: {row[f'{key}_exponent']:.2f}"
                place.loglog(row["size"], row[key], "o-", label=label, markersize=4)
            titled(place, "", TITLES[axis], title)
            place.set_xticks(row["size"], row["size"])
            place.minorticks_off()
            place.legend(fontsize=7, title="exponent", title_fontsize=7)
    base = numbers["base"]
    figure.suptitle(
        f"T {base['inner_steps']}, mini-batch {base['batch']}, width {base['width']}, {numbers['pixels']} pixels where "
        f"they don't vary; engine {numbers['engine']}",
        fontsize=10,
    )
    return figure


DIAGNOSIS = Diagnosis(work, compute, draw)
