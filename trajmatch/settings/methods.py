"""The methods by name: a table of the settings that each fills in where they are left open. No torch here.

A method is nothing but these values: any of them can be changed by its flag, and any combination is allowed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from trajmatch.settings.config import Config
from trajmatch.settings.kinds import get, with_setting

# A setting is open where it has one of these values.
LEFT_OPEN = (None, "auto")
# The share of a run's steps over which FTD's outer average reaches back: 0.9995 over 10,000 steps, as published, is a
# fifth of them.
AVERAGED_SHARE = 0.2
# What the setting `sharpness` means by the word satm: sam with noise of this strength (gamma).
SATM_NOISE = 0.05
# Images per class from which satm-bptt keeps its students: measured at 1 and at 10.
MANY = 5
# Fewest steps of satm-bptt that match segments, where a run has so many (docs/LOG.md).
MATCHED = 80
# Real images of each class in a later step of satm-bptt.
OF_A_CLASS = 50

# A value, or what gives it from a configuration in which all settings that stand earlier in `OPEN` are filled in.
Fill = Any | Callable[[Config], Any]


def every_step(config: Config) -> int:
    """All inner steps are differentiated."""
    return config.matching.inner_steps


def last_third(config: Config) -> int:
    """The last third of the inner steps is differentiated, and at least one of them (SATM)."""
    return max(1, config.matching.inner_steps // 3)


def all_or_half(config: Config) -> int:
    """Of the inner steps of a student that goes on all are differentiated, of a new network's the later half."""
    b = config.baseline
    T = b.inner_steps or 1
    return T if b.students else max(1, T // 2)


def many(config: Config) -> bool:
    """Whether a network takes hundreds of steps to learn all that the synthetic images hold."""
    return config.ipc >= MANY


def where_differentiation_begins(config: Config) -> int:
    """The second trajectory, where there is one, starts where the first begins to be differentiated."""
    m = config.matching
    return max(0, m.inner_steps - (m.differentiated_steps or 0)) if m.ascent == "fresh" else 0


def where_there_is_an_ascent(config: Config) -> float:
    """SATM's noise smooths the ascent; without an ascent there is nothing to smooth."""
    return 0.0 if config.matching.sharpness == "none" else SATM_NOISE


def if_all_are_differentiated(name: str) -> Callable[[Config], str]:
    """An estimator that differentiates every step, and the truncated sweep where fewer are to be."""
    return lambda c: name if c.matching.differentiated_steps == c.matching.inner_steps else "truncated"


def first_part(config: Config) -> int:
    """Steps that match segments, before the loss on real images: of many images' much cheaper steps twice as many.

    In short runs all, or MATCHED of them: until then a set learns more from its experts.
    """
    return max((2 if many(config) else 1) * config.steps // 3, min(config.steps, MATCHED))


def half_of_the_window(config: Config) -> int:
    """At first the window of start epochs reaches over the first half of it (DATM)."""
    m = config.matching
    return m.first_epoch + max(1, (m.last_epoch - m.first_epoch) // 2)


def over_a_fifth_of_the_steps(config: Config) -> float:
    """The decay of an average that reaches back over a fifth of the outer steps; 0, no average, in very short runs."""
    return max(0.0, 1 - 1 / (AVERAGED_SHARE * config.steps))


# Every setting that may be left open, with what MTT does (arXiv 2203.11932): the exact hypergradient of one segment,
# hard labels, the images themselves.
OPEN: dict[str, Fill] = {
    "outer.seed": lambda c: c.seed,
    "baseline.batch": 256,
    "baseline.since": None,  # here, for the first steps' segments depend on it
    "baseline.rate_factor": 1.0,
    "baseline.rate": "learned",
    "baseline.students": 0,
    "baseline.inner": "sgd",
    "baseline.window": "random",
    "baseline.window_stages": "thirds",
    "outer.initial": "real",
    "outer.labels": "hard",
    "outer.ema": 0.0,
    "outer.relative_clip": 0.0,
    "outer.guard": 0.0,
    "expert.flat": "no",
    "evaluation.epochs": lambda c: 2000 if c.evaluation.recipe == "adamw" else 1000,
    "matching.differentiated_steps": every_step,
    "matching.ascent": "fresh",
    "matching.restart_step": 0,
    "matching.sharpness": "none",
    "matching.smoothing": 0.0,
    "matching.rate": "exact",
    "matching.estimator": if_all_are_differentiated("adjoint"),
    "matching.window_start": lambda c: c.matching.last_epoch,
    "matching.window_steps": lambda c: max(1, c.steps // 10),
    "matching.segments": 1,
    "matching.concurrent_from": 0,
}

# Smoothing, ascent, truncation, reuse, closed-form step size (arXiv 2502.01865).
SATM: dict[str, Fill] = {
    "matching.differentiated_steps": last_third,
    "matching.restart_step": where_differentiation_begins,
    "matching.sharpness": "sam",
    "matching.smoothing": where_there_is_an_ascent,
    "matching.rate": "closed-form",
}
FLAT: dict[str, Fill] = {"expert.flat": "yes"}
# A growing window of start epochs, images that experts classify correctly, learned labels, a guard (arXiv 2310.05773).
CURRICULUM: dict[str, Fill] = {
    "outer.initial": "correct",
    "outer.labels": "learned",
    "outer.guard": 1.0,
    "matching.window_start": half_of_the_window,
}
FIXED_RATE: dict[str, Fill] = {"matching.rate": "fixed"}
# A window of the last third, a step size that Adam has none of, images' steps clipped by the running mean of norms.
THROUGH_TRAINING: dict[str, Fill] = {
    "matching.differentiated_steps": last_third,
    "matching.restart_step": where_differentiation_begins,
    "matching.rate": lambda c: "fixed" if c.baseline.inner == "adam" else "exact",
    "outer.relative_clip": 2.0,
}
# Adam inside, and a window that is chosen by the gradients on the way, in stages that accuracies end. Our images have
# norms of about the root of their number of pixels, and theirs 1: hence not the published rate of 0.001.
AUTOMATIC: dict[str, Fill] = {
    "baseline.inner": "adam",
    "baseline.window": "adaptive",
    "baseline.window_stages": "accuracy",
    "baseline.lr_images": 0.02,
}
# SATM for a part of the steps; then the loss on real images, through a training with the optimiser of scores. With
# many images its first steps are those of satm-contra, and students go on from step to step (docs/LOG.md).
REFINED: dict[str, Fill] = {
    "baseline.since": first_part,
    "matching.ascent": lambda c: "previous" if many(c) else "fresh",
    "matching.segments": lambda c: 2 if many(c) else 1,
    "matching.concurrent_from": lambda c: 2 * (c.baseline.since or 0) // 3 if many(c) else 0,
    "outer.labels": lambda c: "learned" if many(c) else "hard",
    "baseline.inner": "momentum",
    "baseline.students": lambda c: 10 if many(c) else 0,
    "baseline.inner_steps": lambda c: c.matching.inner_steps if c.baseline.students else 2 * c.matching.inner_steps,
    "baseline.differentiated_steps": all_or_half,
    "baseline.inner_batch": lambda c: c.evaluation.batch if c.baseline.students else None,
    "baseline.batch": OF_A_CLASS,
    "baseline.lr_images": lambda c: 0.03 if many(c) else 0.01,
    "outer.relative_clip": 2.0,
}


@dataclass(frozen=True)
class Method:
    """What makes a method.

    fills:    values of settings that are left open, over those of `OPEN`.
    steps:    what takes an outer step: segments of experts are matched (matching); real and synthetic batches are
              compared (condensation); the loss on real images is differentiated (real loss), in the later steps alone
              (matching, then real loss); or nothing takes one (none): the initial images are delivered as they are.
    experts:  whether the method needs trained experts.
    features: whether condensation compares mean features, and not gradients.
    parts:    whether condensation compares the gradients of leading parts of the images, too.
    augments: whether condensation augments real and synthetic images.
    """

    fills: Mapping[str, Fill] = field(default_factory=dict)
    steps: Literal["matching", "matching, then real loss", "condensation", "real loss", "none"] = "matching"
    experts: bool = True
    features: bool = False
    parts: bool = False
    augments: bool = True

    @property
    def still(self) -> bool:
        """Whether the initial images are delivered as they are."""
        return self.steps == "none"

    @property
    def matches(self) -> bool:
        """Whether there are steps that match segments of experts."""
        return self.steps in ("matching", "matching, then real loss")

    @property
    def condenses(self) -> bool:
        """Whether no step matches trajectories."""
        return self.steps in ("condensation", "real loss")

    @property
    def through_training(self) -> bool:
        """Whether there are steps that differentiate the loss on real images after a training on the synthetic ones."""
        return self.steps in ("real loss", "matching, then real loss")

    @property
    def trains_networks(self) -> bool:
        """Whether the networks under which batches are compared are trained on the synthetic images in between."""
        return self.steps == "condensation" and not self.features


METHODS: dict[str, Method] = {
    "mtt": Method(),
    # Flat experts, with an outer average (arXiv 2211.11004).
    "ftd": Method(FLAT | {"outer.ema": over_a_fifth_of_the_steps}),
    # The two-pass estimator, labels from an expert (arXiv 2211.10586).
    "tesla": Method({"matching.estimator": if_all_are_differentiated("tesla"), "outer.labels": "teacher"}),
    # Flat experts, a growing window of start epochs, correctly classified images, learned labels (arXiv 2310.05773).
    "datm": Method(FLAT | CURRICULUM),
    "satm": Method(SATM),
    "satm-fi": Method(SATM | FLAT),
    "satm-da": Method(SATM | CURRICULUM),
    # Concurrent matching: the mean over segments of several start epochs.
    "contra": Method({"matching.segments": 4}),
    # SATM's truncation, an ascent along the last step's combined segments, learned labels; ours (docs/LOG.md).
    "satm-contra": Method(
        SATM
        | {
            "matching.ascent": "previous",
            "matching.segments": 2,
            "matching.concurrent_from": lambda c: 2 * c.steps // 3,
            "outer.labels": "learned",
            "outer.relative_clip": 2.0,
        }
    ),
    # Real images, which condensation is compared with.
    "random": Method(steps="none", experts=False),
    "herding": Method({"outer.initial": "herding"}, steps="none"),
    "k-center": Method({"outer.initial": "k-center"}, steps="none"),
    # Gradients (arXiv 2006.05929), with augmentation (2102.08259), of leading parts too (2403.06075); mean features
    # (2110.04181).
    "dc": Method(FIXED_RATE, steps="condensation", experts=False, augments=False),
    "dsa": Method(FIXED_RATE, steps="condensation", experts=False),
    "mdc": Method(FIXED_RATE, steps="condensation", experts=False, parts=True),
    "dm": Method(FIXED_RATE, steps="condensation", experts=False, features=True),
    # The loss on real images through a random window (2311.07025), and through one chosen by gradients (2510.04838).
    "rat-bptt": Method(THROUGH_TRAINING, steps="real loss", experts=False),
    "at-bptt": Method(THROUGH_TRAINING | AUTOMATIC, steps="real loss", experts=False),
    # Ours: segments are matched first, and then the loss that is meant is differentiated (docs/results.md).
    "satm-bptt": Method(SATM | REFINED, steps="matching, then real loss"),
}


def complete(config: Config) -> Config:
    """The configuration with every setting filled in that it leaves to its method."""
    method = METHODS[config.method]
    if method.still:
        config = replace(config, steps=0)
    if config.matching.sharpness == "satm":  # a word that any method may be given
        noise = SATM_NOISE if config.matching.smoothing is None else config.matching.smoothing
        config = replace(config, matching=replace(config.matching, sharpness="sam", smoothing=noise))
    for key, value in (OPEN | dict(method.fills)).items():
        if get(config, key) in LEFT_OPEN:
            config = with_setting(config, key, value(config) if callable(value) else value)
    return config


# What a setting is where no method fills it in, and what it was in versions that did not know it.
PLAIN = complete(replace(Config(), method="mtt"))
