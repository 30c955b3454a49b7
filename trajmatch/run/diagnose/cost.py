"""Seconds and peak memory of one outer step's hypergradient, as T, the mini-batch and the width grow."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch

from trajmatch.data.networks.convnet import build
from trajmatch.machine.memory import peak_over_base
from trajmatch.machine.processes import run_apart
from trajmatch.measure.cost import alternating, estimator, peak_memory, random_task
from trajmatch.measure.series import exponent
from trajmatch.methods import engines
from trajmatch.methods.engines import Engine
from trajmatch.pages.plots import titled
from trajmatch.run.assembly.engine import prepare_process
from trajmatch.run.assembly.setup import factory
from trajmatch.run.diagnose.diagnosis import Diagnosis
from trajmatch.run.diagnose.subject import Opened
from trajmatch.settings.inputs import Network
from trajmatch.settings.options import Diagnose

COMPARED = ("unrolled", "adjoint", "truncated", "random-window", "tesla")
AXES = {"inner_steps": (5, 10, 20, 40), "batch": (10, 20, 40, 80), "width": (16, 32, 64, 128)}
TITLES = {"inner_steps": "inner steps (T)", "batch": "images in a mini-batch", "width": "channels of the network"}


@dataclass(frozen=True)
class Size:
    """The size of an inner problem, the estimator, and how both are measured."""

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
    """What is measured along each axis; else `T` is 10, a mini-batch has 10 images, and the width is the run's."""
    dataset, device, threads = run.setup.dataset, run.setup.device, torch.get_num_threads()
    engine = engines.choose(run.setup.network, device, 0)[0]
    of = run.config.network, dataset.shape, dataset.num_classes, engine, str(device), threads, rounds
    return {
        axis: [_with(Size(compared, 10, 10, *of), axis, value) for compared in COMPARED for value in values]
        for axis, values in AXES.items()
    }


def _with(base: Size, axis: str, value: int) -> Size:
    if axis == "width":
        return replace(base, network=replace(base.network, width=value))
    return replace(base, inner_steps=value) if axis == "inner_steps" else replace(base, batch=value)


def measure(size: Size) -> tuple[float, float]:
    """Median seconds, and MB at the peak over what was held before; runs in a process of its own."""
    prepare_process()
    torch.set_num_threads(size.threads)
    device = torch.device(size.device)
    network, theta = build(factory(size.network, size.shape, size.classes), 0)
    student, theta = engines.student(network.to(device), Engine(size.engine)), theta.to(device)

    def make(T: int) -> Callable[[], Any]:
        task = random_task(student, theta, size.batch, size.shape, size.classes, T)
        return partial(estimator(size.estimator, T), task)

    memory = peak_memory(make, size.inner_steps, lambda one: peak_over_base(one, device))
    return median(alternating([make(size.inner_steps)], size.rounds, device)[0]), memory


def pieces(run: Opened, options: Diagnose) -> int:
    """Every size of every estimator."""
    return sum(len(chosen) for chosen in sizes(run, options.rounds).values())


def look(run: Opened, options: Diagnose, advance: Callable[[int], None]) -> dict[str, Any]:
    """Along each axis every estimator's seconds and MB, with the exponents of power laws fitted to them."""
    along, found = sizes(run, options.rounds), {}
    for axis, chosen in along.items():
        rows: dict[str, dict[str, Any]] = {name: {"size": [], "seconds": [], "mb": []} for name in COMPARED}
        for size in chosen:
            seconds, memory = run_apart(measure, size)
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
    base = along["batch"][0]
    return {
        "axes": found,
        "base": {"inner_steps": base.inner_steps, "batch": base.batch, "width": run.config.network.width},
        "pixels": run.setup.dataset.shape[1],
        "engine": base.engine,
        "threads": base.threads,
        "device": base.device,
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


DIAGNOSIS = Diagnosis(pieces, look, draw, alone=True)
