"""The step size's path under the closed form and under the exact derivative, all else being the same."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from trajmatch.data.file_names import METRICS
from trajmatch.pages.plots import panels, titled
from trajmatch.pages.step_log import read_metrics
from trajmatch.run.diagnose.diagnosis import Diagnosis
from trajmatch.run.diagnose.short_runs import changed, distilled, score
from trajmatch.run.diagnose.subject import Opened
from trajmatch.settings.config import Config
from trajmatch.settings.options import Diagnose

RULES = ("closed-form", "exact", "fixed")


def _config(run: Opened, options: Diagnose, rule: str) -> Config:
    made = replace(run.config.matching, rate=rule)  # type: ignore[arg-type]
    return changed(run, made, options.steps or run.config.steps)


def pieces(run: Opened, options: Diagnose) -> int:
    """For each rule, the outer steps of a distillation, and networks trained on its last images."""
    return sum(_config(run, options, rule).steps + options.networks for rule in RULES)


def about(options: Diagnose) -> dict[str, Any]:
    """How the accuracies came about."""
    return {"how": f"test accuracy of {options.networks} networks on the last images"}


def look(run: Opened, options: Diagnose, advance: Callable[[int], None]) -> dict[str, Any]:
    """For each rule, the step size and the loss at every step, and what the images are worth in the end."""
    paths = {}
    for rule in RULES:
        folder = options.folder() / "learning-rate" / run.name / rule
        config = _config(run, options, rule)
        loop = distilled(run, config, folder, advance)
        rows, _ = read_metrics(folder / METRICS)
        paths[rule] = {
            "step_size": [row["step_size"] for row in rows] + [float(loop.checkpoint.state.eta)],
            "loss": [row["loss"] for row in rows],
            "seconds": loop.checkpoint.seconds,
            "accuracy": score(run, loop, options.networks, advance),
        }
    return {"steps": config.steps, "rate": config.outer.lr_step_size, "paths": paths}


def draw(numbers: dict[str, Any]) -> Any:
    """A panel for each run."""
    figure, axes = panels(len(numbers["runs"]), 5.0)
    for place, run in zip(axes, numbers["runs"], strict=True):
        for k, (rule, path) in enumerate(run["paths"].items()):
            accuracy = path["accuracy"]
            label = f"{rule}: {accuracy['mean']:.1%} ± {100 * accuracy['std']:.1f}"
            place.plot(path["step_size"], color=f"C{k}", label=label, linewidth=1.5)
        titled(place, f"{run['name']}: {run['steps']} outer steps", "outer step", "step size")
        place.legend(fontsize=7)
    return figure


DIAGNOSIS = Diagnosis(pieces, look, draw, about)
