"""What truncating the sweep costs: accuracy, error of the hypergradient beside its bound, and the point of reuse."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from trajmatch.core.draws import generator, smoothing_noise
from trajmatch.core.estimators import adjoint
from trajmatch.core.sharpness import SAM
from trajmatch.measure.panel import mean_and_error
from trajmatch.measure.truncation import reuse_bound, reuse_distance, truncation
from trajmatch.pages.plots import banded, panels, titled
from trajmatch.run.diagnose.diagnosis import Diagnosis
from trajmatch.run.diagnose.short_runs import changed, distilled, score
from trajmatch.run.diagnose.subject import SEED, Opened
from trajmatch.settings.config import Config
from trajmatch.settings.options import Diagnose

SHARES = (1 / 6, 1 / 5, 1 / 4, 1 / 3, 1 / 2, 1.0)
PROBES, ROUNDS = 3, 10


def _iotas(run: Opened) -> list[int]:
    return sorted({max(1, round(share * run.rule.T)) for share in SHARES})


def _config(run: Opened, options: Diagnose, iota: int) -> Config:
    """The settings of the run with so many differentiated steps; a run with reuse reuses the steps before them."""
    m, T = run.config.matching, run.rule.T
    restart = T - iota if m.restart_step else 0
    made = replace(m, differentiated_steps=iota, restart_step=restart, estimator="auto")
    return changed(run, made, options.steps or run.config.steps)


def pieces(run: Opened, options: Diagnose) -> int:
    """Four for every expert and point; for every number of differentiated steps, a distillation and its networks."""
    samples = run.panel_size(options.panel) * len(run.spread_points(options.points))
    return 4 * samples + sum(_config(run, options, iota).steps + options.networks for iota in _iotas(run))


def look(run: Opened, options: Diagnose, advance: Callable[[int], None]) -> dict[str, Any]:
    """Errors, distances and accuracies of the run by the number of differentiated steps, and by `tau`."""
    found = {**run.about, "T": run.rule.T}
    found |= _errors(run, options, advance)
    rows = []
    for iota in _iotas(run):
        config = _config(run, options, iota)
        loop = distilled(run, config, options.folder() / "truncation" / f"iota-{iota}", advance)
        accuracy = score(run, loop, options.networks, advance)
        seconds = loop.checkpoint.seconds / config.steps
        rows.append({"iota": iota, "steps": config.steps, "seconds_per_step": seconds, "accuracy": accuracy})
    how = f"test accuracy of {options.networks} networks on the last images of a distillation of its own"
    return found | {"distilled": rows, "how": how}


def _errors(run: Opened, options: Diagnose, advance: Callable[[int], None]) -> dict[str, Any]:
    iotas, samples, apart, bounds = _iotas(run), [], [], []
    for point in run.spread_points(options.points):
        for choice in run.spread_choices(options.panel):
            (task,) = run.tasks(point, [choice])
            one = truncation(task, iotas, PROBES, ROUNDS)
            samples.append(one)
            advance(1)
            noise = smoothing_noise(point.X, run.rule.gamma, generator(SEED, "noise", choice.e))
            d = adjoint(task).d.X
            advance(1)
            eps = SAM(run.config.matching.radius).perturbation(d, point.X, d).eps
            way = float((task.g - task.s).norm())
            apart.append(reuse_distance(task._replace(X=point.X + noise), point.X + eps).cpu().double() / way)
            far = float((eps - noise).norm()) / way
            eta = float(task.eta)
            taus = range(run.rule.T + 1)
            bounds.append(torch.tensor([far * reuse_bound(eta, one.kappa, one.beta, tau) for tau in taus]))
            advance(2)
    found: dict[str, Any] = {"iotas": iotas, "samples": len(samples), "radius": run.config.matching.radius}
    found |= {"smoothing": run.rule.gamma}
    for name in ("error", "cosine", "bound", "kappa", "beta"):
        values = [torch.tensor(getattr(sample, name), dtype=torch.float64) for sample in samples]
        mean, error = mean_and_error(values)
        found |= {name: mean.tolist(), f"{name}_error": error.tolist()}
    distance, distance_error = mean_and_error(apart)
    reuse = {
        "distance": distance.tolist(),
        "error": distance_error.tolist(),
        "bound": mean_and_error(bounds)[0].tolist(),
    }
    return found | {"reuse": reuse}


def draw(numbers: dict[str, Any]) -> Any:
    """Accuracy; error and bound; distance and bound."""
    figure, (left, middle, right) = panels(3, 4.2)
    rows, iotas = numbers["distilled"], numbers["iotas"]
    accuracy = [row["accuracy"] for row in rows]
    left.errorbar(
        [row["iota"] for row in rows],
        [100 * a["mean"] for a in accuracy],
        [100 * a["std"] for a in accuracy],
        marker="o",
        capsize=3,
    )
    titled(left, f"after {rows[0]['steps']} outer steps", "differentiated steps (iota)", "test accuracy, %")
    shown = slice(0, len(iotas) - 1)  # the error of all steps is zero
    banded(middle, iotas[shown], numbers["error"][shown], numbers["error_error"][shown], "relative error", "C0")
    middle.plot(iotas[shown], numbers["bound"][shown], "s--", color="C3", label="Proposition 4.1", markersize=4)
    middle.set_yscale("log")
    titled(middle, f"kappa = {numbers['kappa']:.3f}", "differentiated steps (iota)", "error of dL/dX, relative")
    reuse = numbers["reuse"]
    taus = range(1, len(reuse["distance"]))
    banded(right, taus, reuse["distance"][1:], reuse["error"][1:], "distance", "C0")
    right.plot(taus, reuse["bound"][1:], "--", color="C3", label="Theorem 4.2")
    right.set_yscale("log")
    titled(right, "trajectories on X + z and X + eps", "point of reuse (tau)", "distance / way of the expert")
    for place in (middle, right):
        place.legend(fontsize=7)
    return figure


DIAGNOSIS = Diagnosis(pieces, look, draw, alone=True)
