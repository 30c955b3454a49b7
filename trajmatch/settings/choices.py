"""What the images decide where a command names neither a preset nor the setting: sizes, epochs, segments, steps.

Every choice is a setting, its value and the reason in words. The numbers were found on ten classes of 450 photographs
(docs/LOG.md): a segment must be so long that a student's first steps do not lead past its end. No torch here.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from math import ceil, log2
from typing import Any, NamedTuple

from trajmatch.settings.checks import needed_snapshots
from trajmatch.settings.config import Config
from trajmatch.settings.kinds import flag, with_setting
from trajmatch.settings.methods import METHODS, OF_A_CLASS

# Settings that the images decide, where no preset is named and no flag or file gives them.
OPEN = (
    "images.size", "network.depth", "steps", "expert.epochs", "expert.save_every", "matching.inner_steps",
    "matching.expert_epochs", "matching.last_epoch", "outer.step_size", "outer.labels", "baseline.batch",
)  # fmt: skip
# From so many classes on there is more to learn (docs/results.md): segments start later too, and labels are learned,
# unless the method is named. So they are from so many images per class on; measured at 1 and at 10.
CLASSES, IPC = 50, 10
# Settings whose unit is an epoch where they are given without --expert.save-every.
IN_EPOCHS = ("matching.expert_epochs", "matching.first_epoch", "matching.last_epoch", "matching.window_start")
# The largest side at which a run on two cores takes minutes.
SIDE = 32
# Expert steps in a segment for each step of the student: with fewer the student's first steps, of which most lead
# sideways, take it further than the expert went; with more, sets learn more slowly.
STRETCH = 8
# An expert's steps, and those in which segments start, in segments; and where there are so many classes that an expert
# knows little of them after one segment.
SEGMENTS, STARTS = 3, 0.5
MORE_SEGMENTS, MORE_STARTS = 5, 4
# Snapshots in a segment: as many places where the next ones may start; and the most of an expert, for they are kept.
PIECES, MOST_SNAPSHOTS = 8, 100
# Fewest epochs of an expert that sees so many steps in them, and most of one that sees few.
EPOCHS, ENOUGH, MOST_EPOCHS = 4, 4000, 400
# Most real images in a step of satm-bptt, of all classes together: its usual number of each, of up to 100 classes.
REAL = 5000
# Outer steps where they show the network no more images of SIDE pixels than so many, and fewest.
STEPS, SHOWN, FEWEST_STEPS = 500, 100, 200


class Choice(NamedTuple):
    """A setting, the value that the images decide, and why."""

    key: str
    value: Any
    why: str

    def line(self) -> str:
        """The choice as a user is told it."""
        value = "open" if self.value is None else self.value
        return f"chosen: {flag(self.key)} {value} ({self.why})"


class Left(NamedTuple):
    """The settings that a command leaves to the images, by name, and to the minutes that it may take."""

    keys: frozenset[str] = frozenset()
    minutes: float | None = None


NOTHING_LEFT = Left()


def left_open(given: Collection[str]) -> frozenset[str]:
    """The settings that the images decide, of a command that gives some settings."""
    taken = {*given} | ({"expert.save_every"} if {*IN_EPOCHS} & {*given} else set())
    if "method" in given:  # its labels are a part of a method
        taken.add("outer.labels")
    return frozenset(OPEN) - taken


def chosen(config: Config, choices: Iterable[Choice]) -> Config:
    """The configuration with the choices."""
    for choice in choices:
        config = with_setting(config, choice.key, choice.value)
    return config


def by_size(config: Config, open_: Collection[str], side: int | None) -> list[Choice]:
    """Size and depth. side: the shorter side of most images in pixels; None where nobody has looked."""
    found, size = [], config.images.size
    if "images.size" in open_ and side is not None:
        # Poolings halve even sides alone.
        size = min(SIDE, max(4, side // 4 * 4))
        larger = f"a larger side than that, up to the {side} of the images, takes longer"
        found.append(Choice("images.size", size, larger if side > SIDE else f"the images have {side}"))
    size = size or side
    if "network.depth" in open_ and config.network.name == "convnet" and size:
        # Four pixels are left, as published at 32, 64 and 128, or more where the side can't be halved so often.
        most = max(2, round(log2(size)) - 2)
        depth = next((depth for depth in range(most, 1, -1) if size % 2**depth == 0), 1)
        found.append(Choice("network.depth", depth, f"for images of {size} pixels"))
    return found


def by_number(config: Config, open_: Collection[str], images: int, classes: int, side: int) -> list[Choice]:
    """Outer steps, and where the method has experts their epochs and the segments.

    images: for training. classes: of them. side: of the images, in pixels.
    """
    found, method = [], METHODS[config.method]
    if "steps" in open_ and not method.still:
        shown = config.ipc * config.factor**2 * classes * (side / SIDE) ** 2
        steps = max(FEWEST_STEPS, min(STEPS, 10 * round(STEPS * SHOWN / shown / 10)))
        fewer = f"each shows the network as much as {shown:.0f} images of {SIDE} pixels"
        found.append(Choice("steps", steps, fewer if steps < STEPS else "as each shows the network few images"))
    if "outer.labels" in open_ and method.matches and (classes >= CLASSES or config.ipc >= IPC):
        where = f"{classes} classes" if classes >= CLASSES else f"{config.ipc} images per class"
        why = f"with {where}, labels that say more than one class are worth points"
        found.append(Choice("outer.labels", "learned", why))
    if "baseline.batch" in open_ and method.matches and method.through_training and OF_A_CLASS * classes > REAL:
        each = max(1, REAL // classes)
        found.append(Choice("baseline.batch", each, f"real images of each of {classes} classes in a step"))
    if method.experts:
        found += _experts(config, open_, ceil(images / config.expert.batch), classes)
        if "outer.step_size" in open_ and method.matches:
            found.append(Choice("outer.step_size", None, "the experts decide it, when they are trained"))
    return found


def _experts(config: Config, open_: Collection[str], per_epoch: int, classes: int) -> list[Choice]:
    """Epochs, snapshots, and segments: their length, and before which snapshot they start.

    per_epoch: steps in an epoch. classes: of the images.
    """
    segments, starts = (MORE_SEGMENTS, MORE_STARTS) if classes >= CLASSES else (SEGMENTS, STARTS)
    e, m, found = config.expert, config.matching, list[Choice]()
    segment, first = STRETCH * m.inner_steps, max(m.first_epoch + 1, m.window_start or 0)
    epochs = e.epochs
    if "expert.epochs" in open_:
        given = needed_snapshots(m)
        least = (
            given * (e.save_every or per_epoch) if {"matching.expert_epochs", "matching.last_epoch"} - {*open_} else 0
        )
        enough = min(EPOCHS, ceil(ENOUGH / per_epoch))
        epochs = max(ceil(least / per_epoch), min(MOST_EPOCHS, max(enough, ceil(segments * segment / per_epoch))))
        many = f"of {per_epoch} steps" if per_epoch > 1 else "of one step"
        found.append(Choice("expert.epochs", epochs, f"{many} each, {epochs * per_epoch} in all"))
    steps, T = epochs * per_epoch, m.inner_steps
    longest = max(1, 2 * steps // 3)
    if "matching.inner_steps" in open_ and segment > longest:
        T = max(1, longest // STRETCH)
        of = f"a segment can have {longest} of an expert's {steps} steps"
        found.append(Choice("matching.inner_steps", T, f"{of}, and each inner step has {STRETCH}"))
    segment = min(STRETCH * T, longest)
    every = e.save_every
    if "expert.save_every" in open_:
        every = max(1, segment // PIECES, steps // MOST_SNAPSHOTS)
        found.append(Choice("expert.save_every", every, "steps between snapshots, the unit of the next two"))
    unit, rows = (every, steps // every) if every else (per_epoch, epochs)
    M, last = m.expert_epochs, m.last_epoch
    if "matching.expert_epochs" in open_:
        room = rows + 1 - (first if "matching.last_epoch" in open_ else last)
        M = max(1, min(round(segment / unit), room))
        why = f"segments of {_counted(M * unit, 'expert step')}, for the {T} of --matching.inner-steps"
        found.append(Choice("matching.expert_epochs", M, why))
    if "matching.last_epoch" in open_:
        behind = needed_snapshots(replace(m, expert_epochs=M, last_epoch=0))
        last = max(first, min(m.first_epoch + max(1, round(starts * segment / unit)), rows - behind))
        found.append(
            Choice("matching.last_epoch", last, f"segments start within the first {_counted(last * unit, 'step')}")
        )
    return found


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
