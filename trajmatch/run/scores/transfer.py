"""A set's worth to networks that it was not distilled for, each at a learning rate chosen on validation images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trajmatch.data.material import shared
from trajmatch.data.synthetic import SyntheticSet
from trajmatch.machine.processes import Peak
from trajmatch.measure.evaluate import Score
from trajmatch.pages.tables import as_text, mean_and_std
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages.evaluation import chosen_on, obtained
from trajmatch.run.stages.trials import Job, accuracies_of, set_jobs
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.flat import parsed
from trajmatch.settings.options import Evaluate as Scored


def transfer(
    setup: Setup,
    synthetic: SyntheticSet,
    options: Scored,
    folder: Path,
    peak: Peak,
    quiet: bool = False,
) -> dict[str, dict[str, Any]]:
    """Test accuracies by network, of `options.networks`: tuned, and at the learned step size.

    tuned: at that of `options.rates` which one network likes best on validation images; the network for which
    the step size was learned is not tuned. learned: at the step size of the set, as the published programs do.
    folder: where a temporary file of the images may be put. Raises ValueError where there are no validation images.
    """
    config, material = setup.config, setup.material
    e, names, rates = config.evaluation, options.networks, options.rates
    if not len(material.dataset.validation):
        raise ValueError("--images.validation is 0, and the learning rates of --networks are chosen on such images")
    own = resolve(parsed(dict(synthetic.info["config"]))).network
    foreign = [name for name in names if replace(config.network, name=name) != own]
    with shared(material, folder) as path:
        tried = {f"{name} {rate}": (name, rate) for name in foreign for rate in rates}
        jobs = [
            job for key, (name, rate) in tried.items() for job in _jobs(config, synthetic, key, name, rate, 1, True)
        ]
        seen = accuracies_of(config, path, peak, quiet, jobs)
        validation = {name: {rate: seen[f"{name} {rate}"][0] for rate in rates} for name in foreign}
        best = {name: max(rates, key=lambda rate, name=name: validation[name][rate]) for name in foreign}  # type: ignore[misc]
        jobs = []
        for name in names:
            jobs += _jobs(config, synthetic, f"{name} learned", name, synthetic.eta, e.networks)
            if name in foreign:
                jobs += _jobs(config, synthetic, f"{name} tuned", name, best[name], e.networks)
        found = accuracies_of(config, path, peak, quiet, jobs)
    scores: dict[str, dict[str, Any]] = {}
    for name in names:
        scores[name] = {
            "learned": _score(config, found[f"{name} learned"], synthetic.eta, "the set's learned step size")
        }
        if name in foreign:
            how = f"the best of {', '.join(map(str, rates))} by one network on {chosen_on(material)}"
            scores[name]["tuned"] = _score(config, found[f"{name} tuned"], best[name], how)
            scores[name]["validation"] = {str(rate): value for rate, value in validation[name].items()}
    return scores


def _jobs(
    config: Config, synthetic: SyntheticSet, key: str, name: str, rate: float, count: int, validation: bool = False
) -> list[Job]:
    """Networks of one name at one rate; the same seeds whatever the rate."""
    split = "validation" if validation else "test"
    jobs = set_jobs(key, config, synthetic.X, synthetic.Y, rate, count, split)
    return [job._replace(network=replace(config.network, name=name)) for job in jobs]


def _score(config: Config, accuracies: Sequence[float], rate: float, how: str) -> dict[str, Any]:
    return {**Score.of(accuracies, f"{obtained(config, rate, 'the set')}; the rate is {how}").record(), "rate": rate}


def lines(scores: dict[str, dict[str, Any]]) -> list[str]:
    """The scores as a table."""

    def cell(score: dict[str, Any] | None) -> str | None:
        return f"{mean_and_std(score)} ({score['rate']:.3g})" if score else None

    return as_text(
        [
            {
                "network": name,
                "tuned rate": cell(of.get("tuned")),
                "learned step size": cell(of["learned"]),
                "n": of["learned"]["n"],
            }
            for name, of in scores.items()
        ]
    )
