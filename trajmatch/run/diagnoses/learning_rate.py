"""The step size's path under the closed form and under the exact derivative, all else being the same."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from trajmatch.pages.plots import panels, titled
from trajmatch.run.config import Config
from trajmatch.run.diagnoses.distilling import changed, distilled, log, score, seconds_of_step
from trajmatch.run.diagnosis import Diagnosis, Work
from trajmatch.run.opened import Opened
from trajmatch.run.options import Options

RULES = ("closed-form", "exact", "fixed")


def _config(run: Opened, options: Options, rule: str) -> Config:
    made = replace(run.config.matching, rate=rule)  # type: ignore[arg-type]
    return changed(run, made, options.steps or run.config.steps)


def work(runs: Sequence[Opened], options: Options) -> Work:
    """Of every run, a distillation and its networks for each rule."""
    found = Work()
    for run in runs:
        for rule in RULES:
            config = _config(run, options, rule)
            found += Work(config.steps, config.steps * seconds_of_step(run, config))
            found += Work(options.networks, options.networks * config.evaluation.epochs * run.speed.gradient)
    return found


def compute(runs: Sequence[Opened], options: Options, advance: Callable[[int], None]) -> dict[str, Any]:
    """For each run and rule: the step size and the loss at every step, and what the images are worth in the end."""
    found = []
    for run in runs:
        paths = {}
        for rule in RULES:
            folder = options.folder() / "learning-rate" / run.name / rule
            config = _config(run, options, rule)
            loop = distilled(run, config, folder, advance)
            rows = log(folder)
            paths[rule] = {
                "step_size": [row["step_size"] for row in rows] + [float(loop.checkpoint.state.eta)],
                "loss": [row["loss"] for row in rows],
                "seconds": loop.checkpoint.seconds,
                "accuracy": score(run, loop, options.networks, advance),
            }
        found.append({**run.about, "steps": config.steps, "rate": config.outer.lr_step_size, "paths": paths})
    return {"runs": found, "how": f"test accuracy of {options.networks} networks on the last images"}


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


DIAGNOSIS = Diagnosis(work, compute, draw)
