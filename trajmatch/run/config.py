"""Configuration: frozen dataclasses in words; `assemble.py` turns them into method.md's letters. No torch here.

inner_steps T, differentiated_steps iota, restart_step tau, radius rho, smoothing gamma, expert_epochs M,
first_epoch T-, last_epoch T+, step_size eta.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Sharpness = Literal["auto", "none", "sam", "asam", "gsam", "vasso"]


@dataclass(frozen=True)
class Images:
    """How the real images are read and seen by a network."""

    size: int | None = None
    """Resize the shorter side to this many pixels and crop to a square; None keeps the images as they are."""
    classes: tuple[str, ...] = ()
    """Keep only these classes, by name; none named keeps all."""
    colour: Literal["auto", "grey", "rgb"] = "auto"
    """Greyscale or colour; auto is grey where every image is."""
    normalise: Literal["zca", "channel", "none"] = "zca"
    """Whiten with ZCA, or standardise each channel, or only scale pixels to [0, 1]."""
    validation: float = 0.1
    """Share of the training images on which checkpoints are chosen."""
    hold_out: bool = True
    """Keep the validation images away from the experts. False trains experts on all training images."""
    test_fraction: float = 0.2
    """Share of the images tested on, where the data has no test set of its own."""


@dataclass(frozen=True)
class Network:
    """The ConvNet of the field: depth x [conv 3x3, norm, ReLU, pool], then a linear layer."""

    depth: int = 3
    """Blocks: 3 for 32 pixels, 4 for 64, 5 for 128."""
    width: int = 128
    """Channels of every block."""
    norm: Literal["instance", "group", "layer", "none"] = "instance"
    """Normalisation of every block."""
    pooling: Literal["avg", "max", "none"] = "avg"
    """Pooling of every block."""


@dataclass(frozen=True)
class Expert:
    """How experts are trained on the real images."""

    epochs: int = 50
    """Epochs of training."""
    lr: float = 0.01
    """Learning rate of SGD."""
    momentum: float = 0.0
    """Momentum of SGD."""
    weight_decay: float = 0.0
    """Weight decay of SGD."""
    batch: int = 256
    """Real images per step."""
    augment: str = "color_crop_cutout_flip_scale_rotate"
    """Families of augmentation, joined by '_', or none."""
    save_every: int | None = None
    """Steps between snapshots; None keeps one per epoch. Where set, the matching group's epochs count snapshots."""
    storage: Literal["float32", "fp16-deltas"] = "float32"
    """Snapshots as float32, or as half-precision differences from the first: half the disk, error below 0.1 %."""
    threads: int = 1
    """Threads of each process; results repeat bitwise for the same number."""
    workers: int | None = None
    """Processes at once; None takes one per core (one on a GPU)."""
    shard: str | None = None
    """Train only part i of n, counted from 0, written i/n: for job arrays."""


@dataclass(frozen=True)
class Matching:
    """The segment that is matched and how the inner loop is differentiated."""

    inner_steps: int = 50
    """Steps on the synthetic set for one segment (T)."""
    expert_epochs: int = 2
    """Epochs the expert takes for the same way (M)."""
    first_epoch: int = 0
    """First epoch at which a segment may start (T-)."""
    last_epoch: int = 2
    """Segments start before this epoch (T+)."""
    batch: int | None = None
    """Synthetic images per inner step; None takes all."""
    augment: str = "color_crop_cutout_flip_scale_rotate"
    """Families of augmentation, joined by '_', or none."""
    differentiated_steps: int | None = None
    """Last inner steps that are differentiated (iota); None is a third for satm and all for mtt."""
    restart_step: int | None = None
    """Step of the first trajectory from which the second starts (tau); None is inner minus differentiated steps, 0
    is no reuse."""
    sharpness: Sharpness = "auto"
    """Rule of the ascent: auto is sam for satm and none for mtt."""
    radius: float = 0.1
    """Radius of the ascent (rho), a norm over the whole synthetic set in the network's input space."""
    smoothing: float | None = None
    """Noise of the ascent (gamma), its RMS relative to each image's; None is 0.05 for satm and 0 for others."""
    asam_offset: float = 0.01
    """ASAM's c: what is added to |X| in its scale."""
    gsam_alpha: float = 0.3
    """GSAM's alpha: weight of the orthogonal part."""
    vasso_decay: float = 0.2
    """VaSSO's k: weight of the newest gradient in its average."""
    rate: Literal["auto", "closed-form", "exact", "fixed"] = "auto"
    """Derivative of the learned step size: auto is closed-form for satm and exact (by the sweep) for mtt."""
    mixed: Literal["reverse-over-reverse", "forward-over-reverse", "central-difference"] = "reverse-over-reverse"
    """How the mixed second derivative is taken; the first two are exact."""


@dataclass(frozen=True)
class Outer:
    """How the synthetic images and the step size are optimised."""

    initial: Literal["real", "noise"] = "real"
    """Start from random real images, or from Gaussian noise."""
    step_size: float = 0.01
    """Initial step size of the inner loop (eta), learned from there."""
    optimiser: Literal["sgd", "adam"] = "sgd"
    """Optimiser of the images."""
    lr_images: float = 100.0
    """Its learning rate."""
    momentum: float = 0.5
    """Momentum of SGD on the images (Adam's beta1 where that is chosen is 0.9)."""
    lr_step_size: float = 0.02
    """Learning rate of the logarithm of the step size."""
    momentum_step_size: float = 0.5
    """Momentum of the logarithm of the step size."""
    clip: float | None = None
    """Largest norm of the hypergradient; None does not clip."""
    ema: float | None = None
    """Deliver the moving average of the images with this decay; None delivers the last images."""
    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints."""
    snapshots: int = 4
    """Images kept along the way, evenly spaced, among which validation chooses; the last one counts."""


@dataclass(frozen=True)
class Evaluation:
    """How a set is scored: networks trained on it from scratch, tested on real images."""

    networks: int = 5
    """Networks trained on the distilled set."""
    epochs: int = 1000
    """Epochs of training on the synthetic set."""
    momentum: float = 0.9
    """Momentum of SGD; its learning rate is the learned step size, a tenth of it after half the epochs."""
    weight_decay: float = 5e-4
    """Weight decay of SGD."""
    batch: int = 256
    """Synthetic images per step."""
    augment: str = "color_crop_cutout_flip_scale_rotate"
    """Families of augmentation, joined by '_', or none."""
    random_draws: int = 5
    """Draws of random real images, one network each, under the same recipe; 0 leaves them out."""
    validation_networks: int = 2
    """Networks per snapshot for the choice on validation images; 0 leaves the choice out."""
    whole_epochs: int | None = None
    """Train one network on all training images for this many epochs, for comparison; None takes the experts' final
    test accuracy instead."""
    workers: int | None = None
    """Processes at once, one thread each; None takes one per core (one on a GPU). The numbers do not depend on it."""


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    data: str = "digits"
    """digits, a folder of class folders, Parquet, .npz, CIFAR's python archive, or a Hub name."""
    ipc: int = 1
    """Synthetic images per class."""
    method: Literal["satm", "mtt"] = "satm"
    """Sharpness-aware trajectory matching, or plain trajectory matching."""
    steps: int = 300
    """Outer steps."""
    experts: str = "10"
    """How many experts to train, or a folder of trained ones."""
    out: str | None = None
    """Output folder; the default is runs/PRESET."""
    seed: int = 0
    """Seed of everything."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    resume: bool = False
    """Go on from the checkpoint of an interrupted run."""
    images: Images = field(default_factory=Images)
    network: Network = field(default_factory=Network)
    expert: Expert = field(default_factory=Expert)
    matching: Matching = field(default_factory=Matching)
    outer: Outer = field(default_factory=Outer)
    evaluation: Evaluation = field(default_factory=Evaluation)


# What each stage's result depends on, by field or group. What is not here may change freely between two calls.
EXPERT_FIELDS = ("seed", "images", "network", "expert")
DISTILL_FIELDS = (*EXPERT_FIELDS, "ipc", "method", "steps", "matching", "outer")
EVALUATE_FIELDS = (*DISTILL_FIELDS, "evaluation")
# How fast, where and how safely, never what.
INCIDENTAL = {"expert.workers", "expert.shard", "outer.checkpoint_seconds", "evaluation.workers"}


def flatten(config: Config) -> dict[str, Any]:
    """Every setting under its flag's name: {"data": ..., "images.size": ...}, tuples as lists."""
    return dict(_walk(dataclasses.asdict(config), ""))


def _walk(record: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _walk(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


def settings(config: Config, fields: tuple[str, ...]) -> dict[str, Any]:
    """The settings on which a stage's result depends, flat."""
    flat = flatten(config)
    return {k: v for k, v in flat.items() if k.split(".")[0] in fields and k not in INCIDENTAL}


def difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """The first setting in which two flat records differ, as words, or None."""
    for key in [*new, *(key for key in old if key not in new)]:
        if old.get(key) != new.get(key):
            return f"{flag(key)} is {old.get(key)} there and {new.get(key)} here"
    return None


def flag(key: str) -> str:
    """The command line's name of a setting: images.hold_out -> --images.hold-out."""
    return "--" + key.replace("_", "-")


def resolve(config: Config) -> Config:
    """Fill in what depends on the method and check what can be checked without data.

    Raises ValueError: one sentence with the flag, the value and what would be right.
    """
    m, satm = config.matching, config.method == "satm"
    iota = m.differentiated_steps
    if iota is None:
        iota = max(1, m.inner_steps // 3) if satm else m.inner_steps
    rule = ("sam" if satm else "none") if m.sharpness == "auto" else m.sharpness
    smoothing = m.smoothing if m.smoothing is not None else 0.05 if satm else 0.0
    m = dataclasses.replace(
        m,
        differentiated_steps=iota,
        restart_step=(m.inner_steps - iota if satm else 0) if m.restart_step is None else m.restart_step,
        sharpness=rule,
        smoothing=smoothing,
        rate=("closed-form" if satm else "exact") if m.rate == "auto" else m.rate,
    )
    config = dataclasses.replace(config, matching=m)
    check(config)
    return config


def check(config: Config) -> None:
    """Raise ValueError for the first setting that is out of range, in a sentence that says what would be right."""
    flat = flatten(config)
    for keys, low in AT_LEAST.items():
        for key in keys.split():
            if flat[key] is not None and not flat[key] >= low:  # `not >=`, so that nan is refused too
                raise ValueError(f"{flag(key)} is {flat[key]} and must be at least {low}")
    for key in POSITIVE.split():
        if flat[key] is not None and not 0 < flat[key] < float("inf"):
            raise ValueError(f"{flag(key)} is {flat[key]} and must be a positive number")
    for key in SHARES.split():
        if flat[key] is not None and not 0 <= flat[key] < 1:
            raise ValueError(f"{flag(key)} is {flat[key]} and must be at least 0 and below 1")
    m = config.matching
    assert m.differentiated_steps is not None and m.restart_step is not None
    if m.differentiated_steps > m.inner_steps:
        raise ValueError(
            f"--matching.differentiated-steps is {m.differentiated_steps} and must be at most the "
            f"{m.inner_steps} of --matching.inner-steps"
        )
    if m.restart_step >= m.inner_steps:
        raise ValueError(
            f"--matching.restart-step is {m.restart_step} and must be below the {m.inner_steps} of "
            "--matching.inner-steps"
        )
    if m.last_epoch <= m.first_epoch:
        raise ValueError(
            f"--matching.last-epoch is {m.last_epoch} and must be above --matching.first-epoch, {m.first_epoch}"
        )
    needed = m.last_epoch - 1 + m.expert_epochs
    if config.expert.save_every is None and needed > config.expert.epochs:
        raise ValueError(
            f"--expert.epochs is {config.expert.epochs} and must be at least {needed}: segments start before epoch "
            f"{m.last_epoch} (--matching.last-epoch) and take {m.expert_epochs} (--matching.expert-epochs)"
        )


AT_LEAST = {
    "ipc steps images.size network.depth network.width expert.epochs expert.batch expert.threads expert.workers": 1,
    "expert.save_every matching.inner_steps matching.expert_epochs matching.batch matching.differentiated_steps": 1,
    "evaluation.networks evaluation.epochs evaluation.batch evaluation.workers evaluation.whole_epochs outer.snapshots": 1,
    "seed matching.first_epoch matching.restart_step matching.smoothing matching.radius expert.weight_decay": 0,
    "evaluation.random_draws evaluation.validation_networks evaluation.weight_decay outer.checkpoint_seconds": 0,
    "matching.asam_offset matching.gsam_alpha": 0,
}
POSITIVE = "expert.lr outer.step_size outer.lr_images outer.lr_step_size outer.clip"
SHARES = "expert.momentum outer.momentum outer.momentum_step_size outer.ema evaluation.momentum"
