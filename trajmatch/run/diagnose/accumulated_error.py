"""How the error of a student that is never reset to the expert accumulates, and from what."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from trajmatch.core.draws import derive
from trajmatch.core.inner import rollout
from trajmatch.measure.accumulated import Accumulated, accumulated_error
from trajmatch.measure.panel import mean_and_error
from trajmatch.methods.outer import inner_problem
from trajmatch.pages.plots import banded, panels, titled
from trajmatch.run.diagnose.diagnosis import Diagnosis
from trajmatch.run.diagnose.subject import SEED, Opened
from trajmatch.settings.options import Diagnose

PARTS = {
    "total": "accumulated error",
    "initialisation": "from the segment's start",
    "matching": "of the segment itself",
}


def _ends(run: Opened) -> list[int]:
    """Epochs 0, M, 2 M, ... that every expert has."""
    return list(range(0, min(t.num_rows for t in run.trajectories), run.config.matching.expert_epochs))


def pieces(run: Opened, options: Diagnose) -> int:
    """Two trajectories for every segment of every expert."""
    return 2 * (len(_ends(run)) - 1) * run.panel_size(options.panel)


def look(run: Opened, options: Diagnose, advance: Callable[[int], None]) -> dict[str, Any]:
    """The three errors at the end of every segment: means over experts with standard errors."""
    ends, point, T = _ends(run), run.last, run.rule.T
    samples: list[Accumulated] = []
    for e in range(run.panel_size(options.panel)):

        def train(theta: Tensor, j: int, e: int = e) -> Tensor:
            seed = derive(SEED, "accumulated", e, j)
            problem = inner_problem(run.rule, run.student, len(point.X), seed, 0)
            advance(1)
            return rollout(problem, theta, point.X, point.Y, point.eta, T, kept=())[T]

        samples.append(accumulated_error(train, [run.trajectories[e].row(t).to(run.setup.device) for t in ends]))
    found: dict[str, Any] = {"step": point.step, "epochs": ends[1:], "experts": len(samples)}
    for part in PARTS:
        mean, error = mean_and_error([getattr(sample, part).cpu().double() for sample in samples])
        found |= {part: mean.tolist(), f"{part}_error": error.tolist()}
    return found


def draw(numbers: dict[str, Any]) -> Any:
    """A panel for each part, all runs in it."""
    figure, axes = panels(len(PARTS), 4.0)
    for place, (part, title) in zip(axes, PARTS.items(), strict=True):
        for k, run in enumerate(numbers["runs"]):
            banded(place, run["epochs"], run[part], run[f"{part}_error"], run["name"], f"C{k}")
        titled(place, title, "epoch of the expert", "distance / way of the expert")
        place.set_ylim(bottom=0)
        place.sharey(axes[0])
    axes[0].legend(fontsize=7)
    return figure


DIAGNOSIS = Diagnosis(pieces, look, draw)
