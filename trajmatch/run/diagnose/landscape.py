"""The matching loss over a plane of images around a set."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trajmatch.core.draws import generator
from trajmatch.core.estimators import adjoint
from trajmatch.measure.landscape import plane, rise
from trajmatch.measure.panel import losses
from trajmatch.pages.plots import panels
from trajmatch.run.diagnose.diagnosis import Diagnosis
from trajmatch.run.diagnose.subject import SEED, Opened
from trajmatch.settings.options import Diagnose


def pieces(run: Opened, options: Diagnose) -> int:
    """A trajectory for each point of the plane and each segment of the panel, and a sweep for a hypergradient."""
    swept = 1 if options.direction == "hypergradient" else 0
    return run.panel_size(options.panel) * (options.grid**2 + swept)


def about(options: Diagnose) -> dict[str, Any]:
    """The points along each side of the plane, and the first direction."""
    return {"places": _places(options), "direction": options.direction}


def _places(options: Diagnose) -> list[float]:
    places: list[float] = torch.linspace(-options.reach, options.reach, options.grid).tolist()
    return places


def look(run: Opened, options: Diagnose, advance: Callable[[int], None]) -> dict[str, Any]:
    """The mean loss over the panel at every point of the plane."""
    point, count = run.last, run.panel_size(options.panel)
    tasks = run.tasks(point, run.spread_choices(options.panel))
    across, up = (_random(point.X, name) for name in ("across", "up"))
    if options.direction == "hypergradient":
        across = torch.stack([adjoint(task).d.X for task in tasks]).mean(0)
        advance(count)

    def loss(X: Tensor) -> Tensor:
        advance(count)
        return losses([task._replace(X=X) for task in tasks]).mean()

    grid = plane(loss, point.X, across, up, _places(options))
    return {"step": point.step, "loss": grid, "rise": rise(grid), "segments": len(tasks)}


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


DIAGNOSIS = Diagnosis(pieces, look, draw, about)
