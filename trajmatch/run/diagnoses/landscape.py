"""The matching loss over a plane of images around a set."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trajmatch.core.draws import generator
from trajmatch.core.estimators import adjoint
from trajmatch.measure.landscape import plane, rise
from trajmatch.measure.panel import losses
from trajmatch.methods.schedule import Choice
from trajmatch.pages.plots import panels
from trajmatch.run.diagnosis import Diagnosis, Work
from trajmatch.run.opened import SEED, Opened
from trajmatch.run.options import Options


def _choices(run: Opened, options: Options) -> list[Choice]:
    m = run.config.matching
    return [Choice(e, m.first_epoch + e % (m.last_epoch - m.first_epoch)) for e in range(run.panel_size(options.panel))]


def work(runs: Sequence[Opened], options: Options) -> Work:
    """A trajectory for each point of the plane and each segment of the panel."""
    found = Work()
    for run in runs:
        count = run.panel_size(options.panel)
        found += Work.trajectories(run, options.grid**2 * count)
        if options.direction == "hypergradient":
            found += Work.sweeps(run, count)
    return found


def compute(runs: Sequence[Opened], options: Options, advance: Callable[[int], None]) -> dict[str, Any]:
    """For each run the mean loss over the panel at every point of the plane."""
    places = torch.linspace(-options.reach, options.reach, options.grid).tolist()
    found = []
    for run in runs:
        point, count = run.last, run.panel_size(options.panel)
        tasks = run.tasks(point, _choices(run, options))
        across, up = (_random(point.X, name) for name in ("across", "up"))
        if options.direction == "hypergradient":
            across = torch.stack([adjoint(task).d.X for task in tasks]).mean(0)
            advance(count)

        def loss(X: Tensor, tasks: Sequence[Any] = tasks, count: int = count) -> Tensor:
            advance(count)
            return losses([task._replace(X=X) for task in tasks]).mean()

        grid = plane(loss, point.X, across, up, places)
        found.append({**run.about, "step": point.step, "loss": grid, "rise": rise(grid), "segments": len(tasks)})
    return {"places": places, "direction": options.direction, "runs": found}


def _random(X: Tensor, name: str) -> Tensor:
    """A random direction, the same for every set of this shape."""
    return torch.randn(X.shape, generator=generator(SEED, "landscape", name)).to(X)


def draw(numbers: dict[str, Any]) -> Any:
    """Contours for each run, on one scale."""
    runs, places = numbers["runs"], numbers["places"]
    figure, axes = panels(len(runs))
    values = [value for run in runs for row in run["loss"] for value in row]
    for place, run in zip(axes, runs, strict=True):
        image = place.contourf(places, places, run["loss"], levels=20, vmin=min(values), vmax=max(values))
        place.plot(0, 0, "w+")
        place.set_title(f"{run['name']}: the rim is {run['rise']:.3f} above the centre", fontsize=9)
        place.set(xlabel=f"{numbers['direction']} direction", ylabel="random direction")
        figure.colorbar(image, ax=place, shrink=0.8)
    return figure


DIAGNOSIS = Diagnosis(work, compute, draw)
