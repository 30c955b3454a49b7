"""Norm of the hypergradient over the outer steps, and the sharpness of the loss along the way."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from trajmatch.core.estimators import adjoint
from trajmatch.core.sharpness import SAM
from trajmatch.data.file_names import METRICS
from trajmatch.data.snapshots import Snapshot
from trajmatch.measure.panel import matching_loss, mean_and_error
from trajmatch.measure.series import SPIKE, describe
from trajmatch.methods.schedule import Choice
from trajmatch.pages.plots import banded, panels, titled
from trajmatch.pages.step_log import read_metrics
from trajmatch.run.diagnose.diagnosis import Diagnosis
from trajmatch.run.diagnose.subject import Opened
from trajmatch.settings.options import Diagnose


def _choices(run: Opened, options: Diagnose) -> list[Choice]:
    """Segments of the run's own window, because the steps of the run were taken on those segments."""
    m = run.config.matching
    starts = range(m.first_epoch, m.last_epoch)
    return [Choice(e, t) for e in range(run.panel_size(options.panel)) for t in starts][: 4 * options.panel]


def pieces(run: Opened, options: Diagnose) -> int:
    """A sweep and two trajectories for every segment of the panel and every point."""
    return 3 * len(_choices(run, options)) * len(run.spread_points(options.points))


def about(options: Diagnose) -> dict[str, Any]:
    """The one radius of all runs."""
    return {"radius": options.radius}


def look(run: Opened, options: Diagnose, advance: Callable[[int], None]) -> dict[str, Any]:
    """The norms of the run's log with their statistics, and `L(X + eps) - L(X)` at the radius of all runs."""
    rows = read_metrics(run.folder / METRICS)[0] if run.folder is not None else []
    # Of a step that a guard left out there may be none.
    norms = [row["hypergradient_norm"] for row in rows if row.get("hypergradient_norm") is not None]
    parts = {"all": norms, "first half": norms[: len(norms) // 2], "second half": norms[len(norms) // 2 :]}
    sharpness = []
    for point in run.spread_points(options.points):
        mean, error = mean_and_error(_sharpness(run, point, options, advance))
        sharpness.append({"step": point.step, "mean": float(mean), "error": float(error)})
    return {
        "norms": norms,
        "statistics": {name: describe(part)._asdict() for name, part in parts.items() if part},
        "spike": f"above {SPIKE:g} times the median",
        "sharpness": sharpness,
    }


def _sharpness(run: Opened, point: Snapshot, options: Diagnose, advance: Callable[[int], None]) -> list[Tensor]:
    """`L(X + eps) - L(X)` of every segment of the panel, where `eps` is along the segment's exact hypergradient."""
    assert options.radius is not None, "with_radius() has filled the radius in"
    found = []
    for task in run.tasks(point, _choices(run, options)):
        d = adjoint(task).d.X
        eps = SAM(options.radius).perturbation(d, point.X, d).eps
        found.append((matching_loss(task._replace(X=point.X + eps)) - matching_loss(task)).cpu().double())
        advance(3)
    return found


def draw(numbers: dict[str, Any]) -> Any:
    """Norms over the steps, and sharpness over the points."""
    figure, (left, right) = panels(2, 5.0)
    for k, run in enumerate(numbers["runs"]):
        if run["norms"]:
            deviation = run["statistics"]["all"]["deviation"]
            left.plot(
                range(1, len(run["norms"]) + 1),
                run["norms"],
                color=f"C{k}",
                linewidth=0.7,
                alpha=0.8,
                label=f"{run['name']}: deviation {deviation:.2f} of the mean",
            )
        banded(
            right,
            [row["step"] for row in run["sharpness"]],
            [row["mean"] for row in run["sharpness"]],
            [row["error"] for row in run["sharpness"]],
            run["name"],
            f"C{k}",
        )
    left.set_yscale("log")
    titled(left, "norm of the direction of each step", "outer step", "norm")
    titled(right, f"sharpness at radius {numbers['radius']:g}", "outer step", "L(X + eps) - L(X)")
    for place in (left, right):
        if place.get_legend_handles_labels()[0]:
            place.legend(fontsize=7)
    return figure


DIAGNOSIS = Diagnosis(pieces, look, draw, about)
