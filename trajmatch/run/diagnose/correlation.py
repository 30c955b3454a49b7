"""Cosines between the hypergradients of segments that start at different epochs."""

from collections.abc import Callable
from typing import Any

from trajmatch.measure.panel import cosines, mean_and_error
from trajmatch.methods.schedule import Choice
from trajmatch.pages.plots import heat_map, panels
from trajmatch.run.diagnose.diagnosis import Diagnosis
from trajmatch.run.diagnose.subject import Opened
from trajmatch.settings.options import Diagnose


def pieces(run: Opened, options: Diagnose) -> int:
    """A sweep for every segment, expert and point."""
    return len(run.starts(options.starts)) * run.panel_size(options.panel) * len(run.spread_points(options.points))


def look(run: Opened, options: Diagnose, advance: Callable[[int], None]) -> dict[str, Any]:
    """The mean cosine of every two start epochs with its standard error, over experts and points."""
    starts, samples, points = run.starts(options.starts), [], []
    off = [(a, b) for a in range(len(starts)) for b in range(a)]
    for point in run.spread_points(options.points):
        here = []
        for e in range(run.panel_size(options.panel)):
            here.append(cosines(run.tasks(point, [Choice(e, t) for t in starts])).cpu().double())
            advance(len(starts))
        samples += here
        mean, _ = mean_and_error(here)
        points.append({"step": point.step, "mean": sum(float(mean[pair]) for pair in off) / max(1, len(off))})
    mean, error = mean_and_error(samples)
    below = [pair for pair in off if mean[pair] < 0]
    sure = [pair for pair in below if mean[pair] < -2 * error[pair]]
    return {
        "starts": starts,
        "cosine": mean.tolist(),
        "error": error.tolist(),
        "samples": len(samples),
        "mean_of_pairs": sum(float(mean[pair]) for pair in off) / max(1, len(off)),
        "negative_pairs": len(below),
        "negative_by_two_errors": len(sure),
        "pairs": len(off),
        "points": points,
    }


def draw(numbers: dict[str, Any]) -> Any:
    """A heat map for each run."""
    figure, axes = panels(len(numbers["runs"]))
    for place, run in zip(axes, numbers["runs"], strict=True):
        title = f"{run['method']}, {run['ipc']} per class: mean {run['mean_of_pairs']:.2f}, n = {run['samples']}"
        image = heat_map(place, run["cosine"], run["starts"], 1.0, title)
        place.set(xlabel="start epoch", ylabel="start epoch")
    figure.colorbar(image, ax=axes, label="cosine of hypergradients", shrink=0.8)
    return figure


DIAGNOSIS = Diagnosis(pieces, look, draw)
