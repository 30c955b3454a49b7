"""Presets: one function per setting, each number marked with where it comes from. No torch here."""

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches

from trajmatch.settings.config import Config, Expert, Matching, MethodName, Outer
from trajmatch.settings.evaluation import Evaluation
from trajmatch.settings.inputs import Images, Network
from trajmatch.settings.published import CELLS, needs, preset_of, row


def digits_ipc1() -> Config:
    """The embedded 8 x 8 digits, one image per class: about two minutes on two cores. Every number is ours.

    One thread and one process: on networks this small a second one gains little, and costs memory.
    """
    return Config(
        data="digits",
        ipc=1,
        steps=250,
        experts="10",
        images=Images(normalise="channel"),
        network=Network(depth=2, width=64),
        expert=Expert(epochs=12, lr=0.03, batch=64, augment="none", workers=1),
        matching=Matching(inner_steps=30, expert_epochs=4, last_epoch=2, augment="none"),
        outer=Outer(step_size=0.03, lr_images=100.0, threads=1),
        evaluation=Evaluation(epochs=300, augment="none", workers=1),
    )


def digits_ipc10() -> Config:
    """The embedded digits, ten images per class: about two minutes on two cores. Every number is ours."""
    one = digits_ipc1()
    return replace(
        one,
        ipc=10,
        steps=200,
        network=replace(one.network, width=32),
        expert=replace(one.expert, batch=32),
        matching=replace(one.matching, last_epoch=6),
        outer=replace(one.outer, lr_images=30.0),
    )


def images() -> Config:
    """Any images, shrunk to 32 pixels, ConvNetD3 of width 32, one image per class. Every number is ours.

    Where --data names something else than the digits and no preset is named, the settings start here.
    """
    return Config(
        data="",
        ipc=1,
        steps=500,
        experts="10",
        images=Images(size=32, normalise="zca"),
        network=Network(depth=3, width=32),
        expert=Expert(epochs=10, lr=0.01, batch=64),
        matching=Matching(inner_steps=50, expert_epochs=2, last_epoch=4),
        outer=Outer(step_size=0.01, lr_images=1000.0, lr_step_size=0.02),
    )


def cifar10_16px() -> Config:
    """CIFAR-10 shrunk to 16 pixels, ConvNetD3 of width 32, one image per class: three to six minutes on two cores.

    Needs --data. M, T, T+ and the experts' rate and batch are those of SATM and MTT; the rest is ours.
    """
    return Config(
        data="cifar10",
        ipc=1,
        steps=500,
        experts="10",
        images=Images(size=16, normalise="zca", validation=0.04, hold_out=False),
        network=Network(depth=3, width=32),
        expert=Expert(epochs=10, lr=0.01, batch=256),
        matching=Matching(inner_steps=50, expert_epochs=2, last_epoch=2),
        outer=Outer(step_size=0.01, lr_images=1000.0, lr_step_size=0.02),
        evaluation=Evaluation(networks=5),
    )


def cifar10_small() -> Config:
    """CIFAR-10, ConvNetD3 of width 32, one image per class: an hour on two cores.

    Needs --data. M, T, T+ and the experts' rate and batch are those of SATM and MTT; the rest is ours.
    """
    small = cifar10_16px()
    return replace(small, images=replace(small.images, size=None), expert=replace(small.expert, epochs=8), steps=1000)


def cifar10_ipc1_cpu() -> Config:
    """CIFAR-10, the field's ConvNetD3 of width 128, one image per class: a few hours on two cores.

    Needs --data. SATM's published setting but for what its comments name.
    """
    published = preset_of("cifar10", 1)
    return replace(
        published,
        experts="10",  # published: 100
        steps=3000,  # published: 10,000
        # Published: 50 epochs. Segments start before epoch T+ = 2 and take M = 2, so nothing behind epoch 3 is matched.
        expert=replace(published.expert, epochs=3),
        # Published: nothing is said of validation images. Here they are training images too, so that no image is lost.
        images=replace(published.images, validation=0.04, hold_out=False),
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "digits-ipc1": digits_ipc1,
    "digits-ipc10": digits_ipc10,
    "images": images,
    "cifar10-16px": cifar10_16px,
    "cifar10-small": cifar10_small,
    "cifar10-ipc1-cpu": cifar10_ipc1_cpu,
}
# Published settings, by name: the data set and the images per class.
PUBLISHED = {f"{dataset}-ipc{ipc}": (dataset, ipc) for dataset, ipc in CELLS}
NAMES = (*PRESETS, *PUBLISHED)
DEFAULT, ANY_IMAGES = "digits-ipc1", "images"


def preset(name: str, method: MethodName = "satm") -> Config:
    """The configuration of a preset; a published one has other numbers for each method.

    Raises ValueError with suggestions for a name that is none.
    """
    if name in PUBLISHED:
        return preset_of(*PUBLISHED[name], method)
    if name not in PRESETS:
        near = get_close_matches(name, NAMES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else "trajmatch presets lists them"
        raise ValueError(f"'{name}' is not a preset; {hint}")
    return replace(PRESETS[name](), method=method)


def about(name: str) -> str:
    """A line about a preset: what it is, what it needs, and for which methods its numbers are published."""
    if name in PRESETS:
        return " ".join((PRESETS[name].__doc__ or "").split())
    dataset, ipc = PUBLISHED[name]
    methods = [
        m for m in ("mtt", "ftd", "tesla", "datm", "satm", "rat-bptt", "at-bptt") if _is_published(dataset, ipc, m)
    ]
    numbers = f"published for {', '.join(methods)}" if methods else "numbers are ours, after the nearest published ones"
    return f"Needs --data ({dataset}), {needs(preset(name), dataset)}; {numbers}."


def _is_published(dataset: str, ipc: int, method: MethodName) -> bool:
    return row(dataset, ipc, method)[1]
