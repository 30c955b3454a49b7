"""A set's worth to networks that it was not distilled for, each at a learning rate chosen on validation images."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from trajmatch.data.synthetic import SyntheticSet
from trajmatch.machine.processes import Peak
from trajmatch.measure.evaluate import Score
from trajmatch.pages.tables import as_text, mean_and_std
from trajmatch.run.assembly.letters import evaluation_rate
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages.evaluation import WHOSE, obtained
from trajmatch.run.stages.random_images import RandomImages, at_own_rate, chosen_on, draws
from trajmatch.run.stages.trials import Trial, bench, set_trials
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.flat import parsed
from trajmatch.settings.options import Evaluate

# The rate of a score that was not tuned, by recipe: the title of its column.
TITLES = {"mtt": "learned step size", "adamw": "rate of adamw"}


def transfer(
    setup: Setup, synthetic: SyntheticSet, options: Evaluate, folder: Path, peak: Peak
) -> dict[str, dict[str, Any]]:
    """Test accuracies by network, of `options.networks`: tuned, and at the learned step size.

    tuned: at that of `options.rates` which one network likes best on validation images; the network for which
    the step size was learned is not tuned. learned: at the step size of the set, as the published programs do, or at
    the recipe's own rate. random: of random real images, at that of `options.rates` and the set's own rate which they
    like best.
    folder: where a temporary file of the images may be put. Raises ValueError where there are no validation images.
    """
    config, material = setup.config, setup.material
    e, names, rates = config.evaluation, options.networks, options.rates
    if not len(material.dataset.validation):
        raise ValueError("--images.validation is 0, and the learning rates of --networks are chosen on such images")
    held = synthetic.info.get("config")  # a set that was not made here names no network
    own = resolve(parsed(dict(held))).network if held else None
    foreign = [name for name in names if replace(config.network, name=name) != own]
    makers = {name: partial(_trials, config, synthetic, name) for name in names}
    own_rate = evaluation_rate(config, synthetic.eta)
    others = [one for name in names for one in makers[name](own_rate, e.networks, "test")]
    random = {name: _random(setup, name, tuple(sorted({own_rate, *rates}))) for name in names}
    others += [one for name in names for one in random[name].choice(f"{name} ")]
    with bench(setup, folder, peak) as on:
        tuned, found = on.tuned({name: makers[name] for name in foreign}, rates, e.networks, others)
        told = partial(obtained, config, what="random real images")
        chance = {name: at_own_rate(on, random[name], found, told, f"{name} ") for name in names}
    scores: dict[str, dict[str, Any]] = {}
    for name in names:
        scores[name] = {"learned": _score(config, found[f"{name} learned"], own_rate, WHOSE[e.recipe])}
        scores[name]["random"] = chance[name]
        if name in foreign:
            how = f"the best of {', '.join(map(str, rates))} by one network on {chosen_on(material)}"
            scores[name]["tuned"] = _score(config, tuned[name].accuracies, tuned[name].rate, how)
            scores[name]["validation"] = {str(rate): value for rate, value in tuned[name].validation.items()}
    return scores


def _trials(config: Config, synthetic: SyntheticSet, name: str, rate: float, count: int, split: str) -> list[Trial]:
    """Networks of one name at one rate; the same seeds whatever the rate."""
    trials = set_trials(f"{name} learned", config, *synthetic.seen, rate, count, split)
    return [one._replace(network=replace(config.network, name=name)) for one in trials]


def _random(setup: Setup, name: str, rates: tuple[float, ...]) -> RandomImages:
    """As many draws of random real images as the set has networks, or more where they are cheap."""
    network = replace(setup.config.network, name=name)
    return RandomImages(setup, draws(setup, setup.config.evaluation.networks, network), rates, network)


def _score(config: Config, accuracies: Sequence[float], rate: float, how: str) -> dict[str, Any]:
    return {**Score.of(accuracies, f"{obtained(config, rate, 'the set')}; the rate is {how}").record(), "rate": rate}


def lines(scores: dict[str, dict[str, Any]], recipe: str) -> list[str]:
    """The scores as a table."""

    def cell(score: dict[str, Any] | None) -> str | None:
        return f"{mean_and_std(score)} ({score['rate']:.3g})" if score else None

    return as_text(
        [
            {
                "network": name,
                "tuned rate": cell(of.get("tuned")),
                TITLES[recipe]: cell(of["learned"]),
                "n": of["learned"]["n"],
                "random images, best rate": cell(of.get("random")),
                "n random": of["random"]["n"] if "random" in of else None,
            }
            for name, of in scores.items()
        ]
    )
