"""Loss of a fixed panel of segments over the distillation."""

from collections.abc import Callable
from typing import Any

from trajmatch.measure.panel import losses, mean_and_error
from trajmatch.methods.schedule import Choice
from trajmatch.pages.plots import banded, panels, titled
from trajmatch.run.diagnose.diagnosis import Diagnosis
from trajmatch.run.diagnose.subject import Opened
from trajmatch.settings.options import Diagnose


def pieces(run: Opened, options: Diagnose) -> int:
    """A trajectory for every segment, expert and kept point of the run."""
    return len(run.starts(options.starts)) * run.panel_size(options.panel) * len(run.points)


def look(run: Opened, options: Diagnose, advance: Callable[[int], None]) -> dict[str, Any]:
    """The loss of each start epoch at every kept point: mean over experts and standard error."""
    starts = run.starts(options.starts)
    rows: list[dict[str, Any]] = []
    for point in run.points:
        samples = []
        for e in range(run.panel_size(options.panel)):
            samples.append(losses(run.tasks(point, [Choice(e, t) for t in starts])).cpu().double())
            advance(len(starts))
        mean, error = mean_and_error(samples)
        all_mean, all_error = mean_and_error([sample.mean() for sample in samples])
        rows.append(
            {
                "step": point.step,
                "loss": mean.tolist(),
                "error": error.tolist(),
                "mean": float(all_mean),
                "mean_error": float(all_error),
            }
        )
    best = [min(row["loss"][k] for row in rows) for k in range(len(starts))]
    return {
        "segments": run.config.matching.segments,
        "starts": starts,
        "experts": run.panel_size(options.panel),
        "rows": rows,
        # How far the loss of each segment at the end is above the lowest loss of that segment.
        "forgotten": [last - least for last, least in zip(rows[-1]["loss"], best, strict=True)],
    }


def draw(numbers: dict[str, Any]) -> Any:
    """The mean over the panel, all runs in one; and for each run a curve for every start epoch."""
    runs = numbers["runs"]
    figure, axes = panels(1 + len(runs), 4.0)
    for k, (place, run) in enumerate(zip(axes[1:], runs, strict=True)):
        steps = [row["step"] for row in run["rows"]]
        banded(
            axes[0],
            steps,
            [row["mean"] for row in run["rows"]],
            [row["mean_error"] for row in run["rows"]],
            run["name"],
            f"C{k}",
        )
        for j, start in enumerate(run["starts"]):
            shade = 0.15 + 0.75 * j / max(1, len(run["starts"]) - 1)
            place.plot(steps, [row["loss"][j] for row in run["rows"]], color=str(shade), label=f"epoch {start}")
        titled(place, f"{run['name']}: by start epoch", "outer step", "matching loss")
        place.legend(fontsize=6.5)
        place.sharey(axes[1])
    titled(axes[0], "mean over the panel", "outer step", "matching loss")
    axes[0].legend(fontsize=7)
    return figure


DIAGNOSIS = Diagnosis(pieces, look, draw)
