"""What of a run fits into some minutes: experts, steps and networks of the scores. No torch here."""

from collections.abc import Collection
from math import ceil
from typing import NamedTuple

from trajmatch.settings.choices import Choice
from trajmatch.settings.config import Config
from trajmatch.settings.evaluation import Evaluation
from trajmatch.settings.methods import METHODS
from trajmatch.settings.ranges import is_count

# Settings that are chosen by the time that there is, where nobody gives them.
FIT = (
    "experts", "steps", "evaluation.networks", "evaluation.random_draws", "evaluation.validation_networks",
    "evaluation.epochs",
)  # fmt: skip
# Networks of the set, of random images and for each snapshot that is chosen among, and epochs: from the best score to
# the quickest.
SCORES = ((5, 5, 2, 1000), (5, 5, 1, 1000), (3, 3, 1, 1000), (3, 3, 0, 1000), (2, 2, 0, 500), (2, 1, 0, 300))
# The most that experts and scores may take of the time, and what is left for what nobody foresees.
EXPERTS, EVALUATE, SPARE = 0.4, 0.25, 0.1
# Fewest and most outer steps: the published runs take so many.
FEWEST, MOST = 20, 5000


class Measured(NamedTuple):
    """Seconds that the stages of a configuration take; experts: 0 where there are none to train."""

    experts: float
    distill: float
    evaluate: float


def networks(e: Evaluation, snapshots: int) -> int:
    """Networks that are trained to score a set with so many snapshots."""
    chosen = e.validation_networks * snapshots + (e.networks if e.validation_networks else 0)
    return e.networks + e.random_draws + chosen


def fitting(config: Config, open_: Collection[str], measured: Measured, seconds: float, workers: int) -> list[Choice]:
    """The choices with which a run takes no longer than so many seconds from now.

    config: resolved, and measured. open_: names of the settings that may be chosen. workers: experts trained at once.

    Raises ValueError where the least run takes longer.
    """
    found: list[Choice] = []
    left, method = (1 - SPARE) * seconds, METHODS[config.method]
    scored = _scores(config, open_, measured, EVALUATE * left)
    found += scored.choices
    experts, count = measured.experts, int(config.experts) if is_count(config.experts) else 0
    if count and method.experts:
        rounds, one = ceil(count / workers), measured.experts / ceil(count / workers)
        if "experts" in open_:
            rounds = max(1, min(rounds, int(EXPERTS * left / one)))
            count = min(count, rounds * workers)
            found.append(Choice("experts", str(count), f"{_seconds(rounds * one)} for all"))
        experts = rounds * one
    if method.still:
        return found
    step, rest = measured.distill / config.steps, left - experts - scored.seconds
    if "steps" not in open_:
        rest -= config.steps * step
        if rest < 0:
            raise ValueError(_too_few(seconds, -rest))
        return found
    steps = min(MOST, int(rest / step))
    if steps < FEWEST:
        raise ValueError(_too_few(seconds, FEWEST * step - rest))
    found.append(Choice("steps", steps, f"{step:.2g} s each, {_seconds(steps * step)} for all"))
    return found


class _Scored(NamedTuple):
    """How a set is scored, and how long that takes."""

    choices: list[Choice]
    seconds: float


def _scores(config: Config, open_: Collection[str], measured: Measured, most: float) -> _Scored:
    """The best score that takes no longer than `most` seconds; else the quickest."""
    e, snapshots = config.evaluation, min(config.outer.snapshots, max(1, config.steps))
    assert e.epochs is not None, "resolve() has filled it in"
    one = measured.evaluate / max(1, networks(e, snapshots)) / e.epochs
    names = ("networks", "random_draws", "validation_networks", "epochs")
    keys = [f"evaluation.{name}" for name in names]
    given = [getattr(e, name) for name in names]
    if not set(keys) & set(open_):
        return _Scored([], measured.evaluate)
    for candidate in SCORES:
        # A recipe, or a flag, may want another number of epochs: then its share is taken.
        scaled = [*candidate[:3], max(1, given[3] * candidate[3] // 1000)]
        values = [new if key in open_ else old for key, old, new in zip(keys, given, scaled, strict=True)]
        tried = Evaluation(networks=values[0], random_draws=values[1], validation_networks=values[2], epochs=values[3])
        seconds = one * values[3] * networks(tried, snapshots)
        if seconds <= most:
            break
    chosen = [
        Choice(key, new, f"{_seconds(seconds)} for all scores")
        for key, old, new in zip(keys, given, values, strict=True)
        if new != old
    ]
    return _Scored(chosen, seconds)


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _too_few(seconds: float, more: float) -> str:
    return (
        f"--minutes leaves {_seconds(seconds)} after the images are read and stages measured, and the "
        f"shortest run of these settings takes {_seconds(more)} more: give more minutes, or a smaller --network.width, "
        "--images.size or --expert.epochs"
    )
