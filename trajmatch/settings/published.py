"""Published settings by data set, images per class and method. No torch here.

Every number in the tables is from the paper named at its head or from its authors' configuration; what the tables
lack is ours, and `published` says where. Not taken over are the learning rates of the step size: they belong to a
step in eta itself, and ours is in log eta (method.md section 2).
"""

from dataclasses import replace
from math import sqrt
from typing import NamedTuple

from trajmatch.settings.baseline import Baseline
from trajmatch.settings.config import Config, Expert, Matching, MethodName, Outer
from trajmatch.settings.evaluation import Evaluation
from trajmatch.settings.inputs import Images, Network


class Row(NamedTuple):
    """T inner steps for M epochs that start before epoch `last` (T+), mini-batch (None: all), rate of the images."""

    T: int
    M: int
    last: int
    batch: int | None
    lr: float


class Curriculum(NamedTuple):
    """DATM's additions: rate of the labels, where the window ends at first and over how many steps it grows."""

    row: Row
    first: int
    lr_labels: float
    start: int | None = None
    grows: int | None = None


class Through(NamedTuple):
    """RaT-BPTT's and AT-BPTT's: T inner steps, a window of them and by how many it differs, real images of a class in a
    step, synthetic ones of an inner step (None: all), Adam's rate on images of norm 1.
    """

    T: int
    window: int
    radius: int | None
    real: int
    batch: int | None
    lr: float


class Data(NamedTuple):
    """What the presets assume of a data set: pixels, classes, ConvNet blocks, training and test images, whitening."""

    size: int
    classes: int
    depth: int
    train: int
    test: int
    normalise: str


DATA = {
    "cifar10": Data(32, 10, 3, 50_000, 10_000, "zca"),
    "cifar100": Data(32, 100, 3, 50_000, 10_000, "zca"),
    "tiny-imagenet": Data(64, 200, 4, 100_000, 10_000, "zca"),
    "imagenette": Data(128, 10, 5, 9_469, 3_925, "channel"),
    "imagewoof": Data(128, 10, 5, 9_025, 3_929, "channel"),
    "imagefruit": Data(128, 10, 5, 13_000, 500, "channel"),
    "imagemeow": Data(128, 10, 5, 13_000, 500, "channel"),
    "imagenet-1k": Data(64, 1000, 4, 1_281_167, 50_000, "channel"),
}

# SATM, arXiv 2502.01865, appendix A.9.
SATM = {
    ("cifar10", 1): Row(50, 2, 2, None, 1000),
    ("cifar10", 3): Row(50, 2, 2, None, 100),
    ("cifar10", 10): Row(30, 2, 20, None, 50),
    ("cifar10", 50): Row(30, 2, 40, None, 100),
    ("cifar100", 1): Row(40, 3, 20, None, 500),
    ("cifar100", 3): Row(45, 3, 20, None, 1000),
    ("cifar100", 10): Row(20, 2, 20, 500, 1000),
    ("cifar100", 50): Row(80, 2, 40, 500, 1000),
    ("tiny-imagenet", 1): Row(30, 2, 10, 200, 1000),
    ("tiny-imagenet", 3): Row(30, 2, 15, 200, 1000),
    ("tiny-imagenet", 10): Row(20, 2, 40, 200, 10000),
}

# FTD, arXiv 2211.11004: the table of settings that its authors publish beside the program.
FTD = {
    ("cifar10", 1): Row(50, 2, 2, None, 100),
    ("cifar10", 10): Row(30, 2, 20, None, 100),
    ("cifar10", 50): Row(30, 2, 40, None, 1000),
    ("cifar100", 1): Row(40, 3, 20, None, 1000),
    ("cifar100", 10): Row(20, 2, 40, None, 1000),
    ("cifar100", 50): Row(80, 2, 40, 1000, 1000),
    ("tiny-imagenet", 1): Row(30, 2, 10, None, 10000),
    ("tiny-imagenet", 10): Row(20, 2, 40, 500, 10000),
}

# MTT, arXiv 2203.11932.
MTT = {
    ("cifar100", 1): Row(20, 3, 20, None, 1000),
    ("imagenette", 1): Row(20, 2, 10, None, 1000),
    ("imagewoof", 1): Row(20, 2, 10, None, 1000),
    ("imagefruit", 1): Row(20, 2, 10, None, 1000),
    ("imagemeow", 1): Row(20, 2, 10, None, 1000),
}

# TESLA, arXiv 2211.10586. These rates belong to the published program's gradient, half of the intended one: the
# presets halve them, so that the images move as published; `--matching.halved` with twice the rate is the same run.
TESLA = {
    ("cifar10", 1): Row(50, 2, 5, None, 1000),
    ("cifar100", 50): Row(80, 2, 40, 125, 1000),
    ("imagenet-1k", 1): Row(10, 3, 10, 100, 10000),
}

# DATM, arXiv 2310.05773: its authors' configurations.
DATM = {
    ("cifar10", 1): Curriculum(Row(80, 2, 4, None, 100), 0, 5),
    ("cifar10", 10): Curriculum(Row(80, 2, 20, None, 100), 0, 2, 10, 1000),
    ("cifar10", 50): Curriculum(Row(80, 2, 40, None, 1000), 0, 2, 20, 2000),
    ("cifar100", 1): Curriculum(Row(40, 3, 20, None, 1000), 0, 10, 10, 1000),
    ("cifar100", 10): Curriculum(Row(80, 2, 50, None, 1000), 0, 10, 30, 2000),
    ("cifar100", 50): Curriculum(Row(80, 2, 70, 1000, 1000), 20, 10),
    ("tiny-imagenet", 1): Curriculum(Row(40, 2, 20, None, 10000), 0, 10, 15, 2000),
    ("tiny-imagenet", 10): Curriculum(Row(40, 2, 50, 500, 100), 10, 10),
    ("tiny-imagenet", 50): Curriculum(Row(20, 2, 70, 1000, 100), 40, 10),
}

# RaT-BPTT, arXiv 2311.07025, and AT-BPTT, arXiv 2510.04838: the commands that their authors publish, and for CIFAR-100
# with one image the paper. Adam's rate inside is 0.001; both augment by flips and rotations, and start from noise. What
# they have beside: labels that are learned but for CIFAR-10, real images augmented too, and 60,000 epochs, of which
# users of the programs find the first 1,200 enough: 12,000 steps of 5,000 images.
THROUGH = {
    "rat-bptt": {
        ("cifar10", 10): Through(200, 60, None, 500, None, 0.001),
        ("cifar100", 1): Through(130, 90, None, 50, None, 0.0003),
    },
    "at-bptt": {
        ("cifar10", 10): Through(200, 40, 10, 500, None, 0.001),
        ("cifar100", 10): Through(300, 100, 20, 10, 100, 0.001),
        ("tiny-imagenet", 10): Through(300, 100, 30, 5, 50, 0.0003),
    },
}

# FTD's published outer averages. DATM's authors' configurations list averages too, which their program does not take:
# what it evaluates are the images themselves (method.md section 5).
AVERAGES = {
    "ftd": {("cifar10", 1): 0.9999, ("cifar10", 10): 0.9995, ("cifar10", 50): 0.999, ("cifar100", 1): 0.9995,
            ("cifar100", 10): 0.9995, ("cifar100", 50): 0.999, ("tiny-imagenet", 1): 0.999,
            ("tiny-imagenet", 10): 0.999},
}  # fmt: skip

CELLS = sorted({*SATM, *FTD, *MTT, *TESLA, *DATM, *((name, 10) for name in DATA if name.startswith("image"))})
CELLS += [("imagenet-1k", 50)]
# Where a method's own table has no row for a cell, the first of these that has one.
ORDER: dict[str, tuple[dict[tuple[str, int], Row], ...]] = {
    "mtt": (MTT, FTD, SATM, TESLA),
    "ftd": (FTD, MTT, SATM, TESLA),
    "tesla": (TESLA, MTT, FTD, SATM),
    "satm": (SATM, MTT, FTD, TESLA),
}
# A fall-back of last resort is ours: the row of the same data set at one image per class.


def row(dataset: str, ipc: int, method: MethodName) -> tuple[Row, bool]:
    """The settings of a cell for a method, and whether they are published for just this."""
    cell = (dataset, ipc)
    if method in ("datm", "satm-da") and cell in DATM:
        return DATM[cell].row, method == "datm"
    ours = method.startswith("satm") or method == "contra"
    if cell in THROUGH.get(method, {}):
        chosen = THROUGH[method][cell]
        return row(dataset, ipc, "mtt")[0]._replace(T=chosen.T, batch=chosen.batch), True
    family = "satm" if ours else method if method in ORDER else "mtt"
    for place, one in enumerate((dataset, count) for count in (ipc, 1)):
        for table in ORDER[family]:
            if one in table:
                own = place == 0 and table is ORDER[family][0] and method in ORDER
                found = table[one]
                return (found._replace(lr=found.lr / 2) if table is TESLA else found), own
    raise ValueError(f"there are no settings for {dataset} with {ipc} images per class")


def published(dataset: str, ipc: int, method: MethodName = "satm") -> Config:
    """The published setting of a cell for a method: ConvNet of width 128, 100 experts of 50 epochs, 10,000 outer steps.

    Ours: rates of the step size, rho and gamma, K, a tenth of the training images held out for validation.
    """
    data, (chosen, _) = DATA[dataset], row(dataset, ipc, method)
    extra = DATM.get((dataset, ipc)) if method in ("datm", "satm-da") else None
    needed = chosen.last - 1 + chosen.M
    return Config(
        data=dataset,
        ipc=ipc,
        method=method,
        # MTT's default is 5,000, TESLA's and DATM's 10,000, which SATM's study of the truncation uses too.
        steps=5000 if method in ("mtt", "ftd") else 10000,
        experts="50" if dataset == "imagenet-1k" else "100",
        images=Images(size=data.size, normalise=data.normalise),  # type: ignore[arg-type]
        network=Network(depth=data.depth, width=128),
        expert=Expert(
            epochs=max(50, needed if method != "datm" else 100),
            lr=0.01,
            batch=128 if method == "datm" else 256,
        ),
        matching=Matching(
            inner_steps=chosen.T,
            expert_epochs=chosen.M,
            first_epoch=extra.first if extra else 0,
            last_epoch=chosen.last,
            window_start=(extra.start or chosen.last) if extra else None,
            window_steps=extra.grows if extra else None,
            batch=None if chosen.batch is None or chosen.batch >= ipc * data.classes else chosen.batch,
        ),
        outer=Outer(
            lr_images=float(chosen.lr),
            # TESLA's commands take an expert's labels on ImageNet-1K alone.
            labels="hard" if method == "tesla" and dataset != "imagenet-1k" else "auto",
            lr_labels=extra.lr_labels if extra else 2.0,
            ema=AVERAGES.get(method, {}).get((dataset, ipc)),
            # DATM's threshold for one image per class of CIFAR-10 is its only other one.
            guard=1.1 if extra and (dataset, ipc) == ("cifar10", 1) else None,
        ),
        evaluation=Evaluation(batch=128 if method == "datm" else 256),
    )


def preset_of(dataset: str, ipc: int, method: MethodName = "satm") -> Config:
    """The published setting of a cell for a method, of those that match no trajectories too."""
    config, through = published(dataset, ipc, method), THROUGH.get(method, {}).get((dataset, ipc))
    if through is None:
        return config
    return replace(
        config,
        steps=12_000,
        matching=replace(config.matching, differentiated_steps=through.window, augment="flip_rotate"),
        outer=replace(config.outer, initial="noise"),
        baseline=Baseline(
            inner="adam",
            batch=through.real,
            window_radius=through.radius,
            # Their images have norm 1, and ours numbers of about 1: for their size, steps move both equally far.
            lr_images=through.lr * sqrt(3 * DATA[dataset].size ** 2),
        ),
    )


def parameters(data: Data, width: int, depth: int) -> int:
    """P of the field's ConvNet on colour images."""
    first = (9 * 3 + 3) * width
    later = (depth - 1) * (9 * width + 3) * width
    return first + later + (width * (data.size // 2**depth) ** 2 + 1) * data.classes


def needs(config: Config, dataset: str) -> str:
    """What a preset needs, by count: the data set, its images in memory, and the disk of its experts."""
    data = DATA[dataset]
    P = parameters(data, config.network.width, config.network.depth)
    disk = 4 * P * (config.expert.epochs + 1) * int(config.experts)
    images = 4 * 3 * data.size**2 * (data.train + data.test)
    return f"{images / 1e9:.1f} GB of images, experts of {disk / 1e9:.1f} GB"
