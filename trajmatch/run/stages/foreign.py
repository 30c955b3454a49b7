"""A set's worth to one network that it was not made for, beside that of as many random real images."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from logging import INFO, WARNING
from typing import Any

from trajmatch.data.networks.convnet import build
from trajmatch.data.synthetic import SyntheticSet
from trajmatch.machine.messages import LOGGER
from trajmatch.measure.evaluate import Score
from trajmatch.pages.facts import carried
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages.random_images import RandomImages
from trajmatch.run.stages.trials import Bench, Maker, Trial, set_trials
from trajmatch.settings.config import Config

# The learning rates among which a foreign network is given the best, by the evaluation's recipe.
RATES = {"mtt": (0.003, 0.01, 0.03), "adamw": (0.0003, 0.001, 0.003)}
MOST_NETWORKS = 3


def networks(config: Config) -> int:
    """How many foreign networks are tested on each of the two sets."""
    return min(MOST_NETWORKS, config.evaluation.networks)


def left_out(setup: Setup) -> str | None:
    """Why no foreign network is trained, in words; None where one is."""
    config, name = setup.config, setup.config.evaluation.foreign
    if name == "none":
        return "--evaluation.foreign is none"
    if name == config.network.name:
        return f"--evaluation.foreign is {name}, which is the set's own network"
    try:
        build(setup.make(replace(config.network, name=name)), 0)
    except ValueError as error:
        return f"--evaluation.foreign is {name}, which these images do not fit: {error}"
    return None


def scores(
    on: Bench,
    synthetic: SyntheticSet,
    told: Callable[[float, str], str],
) -> dict[str, dict[str, Any]]:
    """Scores "foreign" and "foreign random" of the network of --evaluation.foreign; nothing where it is left out.

    Each is at the learning rate that one network likes best on validation images.
    told: (rate, what it was trained on) -> how a score was obtained.
    """
    config = on.setup.config
    if (why := left_out(on.setup)) is not None:
        if config.evaluation.foreign != "none":
            LOGGER.info(f"no other network is trained on the set: {why}")
        return {}
    name = config.evaluation.foreign
    network, count = replace(config.network, name=name), networks(config)
    random = RandomImages(on.setup, count, RATES[config.evaluation.recipe], network)

    def on_set(rate: float, count: int, split: str) -> list[Trial]:
        trials = set_trials("foreign", config, *synthetic.seen, rate, count, split)
        return [one._replace(network=network) for one in trials]

    makers: dict[str, Maker] = {"foreign": on_set, "foreign random": partial(random.of, "foreign")}
    what = {"foreign": "the last iterate", "foreign random": "random real images, a new draw for each"}
    tuned, _ = on.tuned(makers, random.rates, count)
    return {
        key: {**Score.of(of.accuracies, told(of.rate, what[key])).record(), "network": name, "rate": of.rate}
        for key, of in tuned.items()
    }


def tell(accuracy: Mapping[str, Any], num_classes: int) -> None:
    """Say whether a set carries over to the foreign network, as a warning where it does not."""
    if (found := carried(accuracy, num_classes)) is not None:
        is_worth, sentence = found
        LOGGER.log(INFO if is_worth else WARNING, sentence)
