"""What an outer step on one segment alone does to the loss of another."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from trajmatch.core.descent import new_moments
from trajmatch.data.snapshots import Snapshot
from trajmatch.measure.panel import interference, mean_and_error
from trajmatch.methods.schedule import Choice
from trajmatch.pages.plots import heat_map, panels
from trajmatch.run.diagnose.diagnosis import Diagnosis
from trajmatch.run.diagnose.subject import Opened
from trajmatch.settings.options import Diagnose


def pieces(run: Opened, options: Diagnose) -> int:
    """For every expert and point, a sweep for each segment and its loss before and after every segment's step."""
    size = len(run.starts(options.starts))
    return run.panel_size(options.panel) * len(run.spread_points(options.points)) * size * (size + 2)


def _step(run: Opened, point: Snapshot, d: Tensor) -> Tensor:
    """The images after one step of the run's optimiser, from rest, along a hypergradient."""
    return run.rule.images.step(point.X, d, new_moments(point.X), 0)[0]


def look(run: Opened, options: Diagnose, advance: Callable[[int], None]) -> dict[str, Any]:
    """The mean relative change of every segment's loss after a step on another, with standard errors."""
    starts, samples = run.starts(options.starts), []
    for point in run.spread_points(options.points):
        for e in range(run.panel_size(options.panel)):
            tasks = run.tasks(point, [Choice(e, t) for t in starts])
            samples.append(interference(tasks, partial(_step, run, point)).cpu().double())
            advance(len(starts) * (len(starts) + 2))
    mean, error = mean_and_error(samples)
    others = [(a, b) for a in range(len(starts)) for b in range(len(starts)) if a != b]
    return {
        "starts": starts,
        "change": mean.tolist(),
        "error": error.tolist(),
        "samples": len(samples),
        "own": float(mean.diagonal().mean()),
        "others": sum(float(mean[pair]) for pair in others) / max(1, len(others)),
        "harmed": sum(bool(mean[pair] > 0) for pair in others),
        "harmed_by_two_errors": sum(bool(mean[pair] > 2 * error[pair]) for pair in others),
        "pairs": len(others),
    }


def draw(numbers: dict[str, Any]) -> Any:
    """A heat map for each run, in per cent."""
    figure, axes = panels(len(numbers["runs"]))
    limit = max(abs(100 * value) for run in numbers["runs"] for row in run["change"] for value in row)
    for place, run in zip(axes, numbers["runs"], strict=True):
        title = f"{run['method']}, {run['ipc']} per class: own {run['own']:+.1%}, others {run['others']:+.1%}"
        per_cent = [[100 * value for value in row] for row in run["change"]]
        image = heat_map(place, per_cent, run["starts"], limit or 1.0, title)
        place.set(xlabel="whose loss: start epoch", ylabel="whose step: start epoch")
    figure.colorbar(image, ax=axes, label="change of the loss, %", shrink=0.8)
    return figure


DIAGNOSIS = Diagnosis(pieces, look, draw)
