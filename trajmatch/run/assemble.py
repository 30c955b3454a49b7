"""From configuration to material, network and rule: the only file with both vocabularies, words and letters."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trajmatch.core.augment import families
from trajmatch.core.descent import Adam, Momentum
from trajmatch.core.sharpness import ASAM, GSAM, SAM, FlatGSAM, Sharpness, VaSSO
from trajmatch.data import images
from trajmatch.data.architectures import named
from trajmatch.data.files import read_header, read_tensors, save_tensors
from trajmatch.data.holding import Held
from trajmatch.data.images import Dataset
from trajmatch.data.litter import MATERIAL, remove_litter
from trajmatch.data.network_check import check_network
from trajmatch.data.networks import convnet
from trajmatch.data.owner import me
from trajmatch.data.whitening import InputSpace, fit
from trajmatch.methods.combining import check_rule
from trajmatch.methods.outer import Rule
from trajmatch.methods.schedule import Window
from trajmatch.methods.training import Training
from trajmatch.run.config import Config, Network
from trajmatch.run.memory import parse_memory
from trajmatch.run.messages import LOGGER


@dataclass(frozen=True)
class Material:
    """Real images as pixels and the input space fitted to the training images."""

    dataset: Dataset
    space: InputSpace
    content: str
    """Hash of the pixels, labels and class names: what "the same data" means, wherever it was read from."""
    seen: str = ""
    """Where the input space is not the one that is fitted to these images, such as a set's own: its hash, in words."""

    @property
    def nbytes(self) -> float:
        """Bytes of the pixels and of the input space."""
        pixels = sum(split.x.nbytes for split in (self.dataset.train, self.dataset.validation, self.dataset.test))
        return float(pixels + self.space.basis.nbytes)


def device(name: str) -> torch.device:
    """The device of a setting. Raises ValueError where this machine lacks it."""
    if name == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    try:
        wanted = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device is '{name}' and must be auto, cpu, cuda, cuda:N or mps") from None
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (wanted.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(wanted.type, False):
        here = [kind for kind, yes in available.items() if yes]
        raise ValueError(
            f"--device is '{name}', which this machine or this build of torch lacks; it has {', '.join(here)}"
        )
    return wanted


def check(config: Config) -> None:
    """Raise ValueError now for what would be refused later: an unknown device or family of augmentations."""
    device(config.device)
    check_rule(config.matching.combine)
    rule(config)
    expert_training(config)
    evaluation_training(config, 1.0)
    if config.memory is not None:
        parse_memory(config.memory)


def load_material(
    config: Config, source: Any = None, networks: Sequence[str] = (), sizes: Sequence[int] = ()
) -> Material:
    """Read the images (`source` instead of `config.data` where given) and fit the input space. Raises ValueError.

    networks: names of others that must fit the images, beside the configuration's own. sizes: images per class of other
    sets on which they are trained.
    """
    if source is None and not config.data.strip():
        raise ValueError("--data is empty and must name the images: a folder of class folders, a file, or digits")
    for name in networks:
        if name != "convnet":
            named(name)
    chosen = config.images
    dataset = images.load(
        config.data if source is None else source,
        size=chosen.size,
        classes=chosen.classes or None,
        colour=chosen.colour,
        validation=chosen.validation,
        hold_out=chosen.hold_out,
        test_fraction=chosen.test_fraction,
        seed=config.seed,
        background=chosen.background,
        train_split=chosen.train_split,
        test_split=chosen.test_split,
    )
    LOGGER.info(dataset.read)
    images.check_ipc(dataset, config.ipc)
    batch, total = config.matching.batch, config.ipc * dataset.num_classes
    if batch is not None and batch > total:
        raise ValueError(
            f"--matching.batch is {batch} and must be at most the {total} synthetic images ({config.ipc} for each of "
            f"{dataset.num_classes} classes)"
        )
    for name in dict.fromkeys((config.network.name, *networks)):  # refused at once
        make = factory(replace(config.network, name=name), dataset.shape, dataset.num_classes)
        check_network(name, make, dataset.shape, dataset.num_classes, fewest_images(config, dataset, sizes))
    digest = blake2b(repr(dataset.classes).encode(), digest_size=16)
    for split in (dataset.train, dataset.validation, dataset.test):
        digest.update(split.x.numpy().data)
        digest.update(split.y.numpy().data)
    return Material(dataset, fit(chosen.normalise, dataset.train.x), digest.hexdigest())


def fewest_images(config: Config, dataset: Dataset, sizes: Sequence[int] = ()) -> int:
    """Images of the smallest mini-batch on which a network of a score is trained."""
    e, C = config.evaluation, dataset.num_classes
    sets = [(ipc * C, e.batch) for ipc in (config.ipc, *sizes) if ipc > 0]
    sets += [(len(dataset.train), config.expert.batch)] if e.whole_epochs else []
    return min(total % batch or batch if total > batch else total for total, batch in sets)


def factory(network: Network, shape: tuple[int, int, int], num_classes: int) -> Callable[[], nn.Module]:
    """The network of a configuration, as something that makes it. Raises ValueError for a name that is none."""
    if network.name != "convnet":
        return partial(named(network.name), shape, num_classes)
    # Filling weights that do not fit would end the process, or its neighbour, without a word.
    parameters, memory = 9.0 * network.width**2 * (network.depth - 1), memory_bytes()
    if 4 * parameters > memory:
        raise ValueError(
            f"--network.width is {network.width}, with which {network.depth} blocks have {4e-9 * parameters:.0f} GB of "
            f"weights, and this machine has {memory / 1e9:.0f} GB of memory: make it narrower"
        )
    return lambda: convnet(shape, num_classes, network.depth, network.width, network.norm, network.pooling)


def memory_bytes() -> float:
    """Memory of this machine; without end where it does not tell."""
    known = getattr(os, "sysconf_names", {})
    if not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= known.keys():
        return float("inf")
    return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")


def expert_training(config: Config) -> Training:
    """How experts are trained."""
    e = config.expert
    flat = FlatGSAM(e.flat_radius, e.flat_alpha) if e.flat == "yes" else None
    return Training(e.lr, e.epochs, e.batch, e.momentum, e.weight_decay, families(e.augment), sharpness=flat)


def evaluation_training(config: Config, step_size: float) -> Training:
    """How networks are trained on a synthetic set: presets.md's recipe, at the learned step size."""
    e = config.evaluation
    return Training(step_size, e.epochs, e.batch, e.momentum, e.weight_decay, families(e.augment), lr_drop=0.5)


def distillation_seed(config: Config) -> int:
    """Seed of a resolved configuration's distillation."""
    assert config.outer.seed is not None, "resolve() has filled it in"
    return config.outer.seed


def schedule(config: Config) -> Window:
    """Which segments are matched."""
    m = config.matching
    window = m.first_epoch, m.last_epoch, m.window_start, m.window_steps or 0
    return Window(*window, m.segments or 1, m.concurrent_from or 0)


def _sharpness(config: Config) -> Sharpness | None:
    m = config.matching
    rules: dict[str, Sharpness | None] = {
        "none": None,
        "sam": SAM(m.radius),
        "asam": ASAM(m.radius, m.asam_offset),
        "gsam": GSAM(m.radius, m.gsam_alpha),
        "vasso": VaSSO(m.radius, m.vasso_decay),
    }
    return rules[m.sharpness]


def rule(config: Config) -> Rule:
    """The outer step of a resolved configuration."""
    m, o = config.matching, config.outer
    assert m.differentiated_steps is not None, "resolve() has filled it in"
    assert m.restart_step is not None
    assert m.smoothing is not None
    return Rule(
        T=m.inner_steps,
        iota=m.differentiated_steps,
        images=Momentum(o.lr_images, o.momentum) if o.optimiser == "sgd" else Adam(o.lr_images),
        rate=Momentum(0.0 if m.rate == "fixed" else o.lr_step_size, o.momentum_step_size),
        batch=m.batch,
        families=families(m.augment),
        sharpness=_sharpness(config),
        stale=m.ascent == "previous" and m.sharpness != "none",
        gamma=m.smoothing,
        tau=m.restart_step,
        second_order_rate=m.rate == "exact",
        clip=o.clip,
        relative_clip=o.relative_clip or None,
        ema=o.ema or None,
        estimator="tesla-halved" if m.halved else m.estimator,
        interval=m.keep_every,
        combining=m.combine,
        labels="fixed" if o.labels == "hard" else o.labels,
        label=Momentum(o.lr_labels, o.momentum_labels),
        guard=o.guard or None,
    )


@contextmanager
def shared(material: Material, folder: Path) -> Iterator[Path]:
    """A temporary file of the images in the input space, which every process maps into memory once.

    One file serves any number of workers with one copy in memory, and this process can let go of its own.
    """
    remove_litter(folder)  # left by killed processes; other shards may be at work
    place = Path(tempfile.mkdtemp(prefix=f"{MATERIAL}{me().word}-", dir=folder))
    try:
        dataset = material.dataset
        splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
        tensors: dict[str, Tensor] = {}
        for name, split in splits.items():
            tensors |= {f"{name}.x": material.space.forward(split.x), f"{name}.y": split.y}
        path = place / "images.safetensors"
        content = material.content + material.seen
        header = {"classes": list(dataset.classes), "shape": list(dataset.shape), "content": content}
        # Without checksums: it lives as long as this command, and every worker would read all of it to check it.
        save_tensors(path, tensors, header, unchecked=True)
        yield path
    finally:
        with Held():
            shutil.rmtree(place, ignore_errors=True)
            remove_litter(folder)  # of workers that were ended while they wrote


@dataclass(frozen=True)
class Mapped:
    """A file of `shared`, opened: splits in the input space."""

    tensors: dict[str, Tensor]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    content: str
    """What accuracies on these images belong to: the images' hash, and a foreign input space's."""


@lru_cache(maxsize=1)
def opened(path: Path) -> Mapped:
    """Open a file of `shared`, once in a process."""
    header = read_header(path)
    c, h, w = header["shape"]
    return Mapped(read_tensors(path), tuple(header["classes"]), (c, h, w), header["content"])
