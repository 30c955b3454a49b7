"""A configuration with what it names on this machine: images, device, network, engines, recipes."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import blake2b
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from trajmatch.core.augment import families
from trajmatch.core.inner import Memory
from trajmatch.data import images
from trajmatch.data.fitted import fit_once
from trajmatch.data.images import Dataset
from trajmatch.data.material import Material
from trajmatch.data.networks.architectures import named
from trajmatch.data.networks.check import check_network
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.data.synthetic import wrong_factor
from trajmatch.machine.determinism import prepare
from trajmatch.machine.messages import LOGGER
from trajmatch.methods.engines import Engine
from trajmatch.methods.segment_weights import check_rule
from trajmatch.methods.training import Training
from trajmatch.run.assembly import letters
from trajmatch.run.assembly.budget import parse_memory
from trajmatch.run.assembly.engine import Compute, at_once, outer_compute, real_loss_engine, training_engine
from trajmatch.settings.config import Config
from trajmatch.settings.inputs import Network
from trajmatch.settings.methods import METHODS

# How the data of a run is called, behind its type, that was a data set in Python.
IN_PYTHON = " in Python"


@dataclass(frozen=True, eq=False)
class Setup:
    """A resolved configuration with the images that it names, and what the two make on this machine.

    Everything is made when it is first asked for, and once. Worker processes are not sent one: they get the path of the
    shared file of images and the configuration.
    """

    config: Config
    material: Material

    @classmethod
    def load(
        cls, config: Config, source: Any = None, networks: Sequence[str] = (), sizes: Sequence[int] = ()
    ) -> "Setup":
        """With the images read now; the arguments are those of `load_material`. Raises ValueError."""
        return cls(config, load_material(config, source, networks, sizes))

    @property
    def dataset(self) -> Dataset:
        """The real images."""
        return self.material.dataset

    @property
    def seed(self) -> int:
        """Seed of the distillation."""
        assert self.config.outer.seed is not None, "resolve() has filled it in"
        return self.config.outer.seed

    @property
    def memory(self) -> Memory | None:
        """What a stream has kept of classes before, where an inner step takes it beside the synthetic images to match.

        Where steps that match are followed by others, and experts have not seen the memory, it is left to the others.
        """
        kept = self.material.replay
        if kept is None or (METHODS[self.config.method].through_training and not kept.passes):
            return None
        return self._beside(self.config.matching.batch)

    @property
    def memory_in_training(self) -> Memory | None:
        """The same where the loss at the end of a training is differentiated."""
        return self._beside(self.config.baseline.inner_batch or self.config.matching.batch)

    def _beside(self, batch: int | None) -> Memory | None:
        """The memory for inner steps of `batch` new images, None for all.

        A step takes as many of these images for each of their classes as it does of the new ones, rounded up.
        """
        kept, new = self.material.replay, self._synthetic()[0]
        if kept is None or not kept.inner:
            return None
        taken = ceil(min(batch or new, new) * len(kept.X) / new)  # at most all, as the new ones are
        return Memory(kept.X, kept.Y, taken, kept.classes / self.dataset.num_classes)

    @cached_property
    def device(self) -> torch.device:
        """Where networks are trained. Raises ValueError where this machine lacks it."""
        return device(self.config.device)

    @cached_property
    def network(self) -> nn.Module:
        """The configuration's network with the weights of seed 0, on the device. Nobody may change it."""
        return self.built()[0]

    @cached_property
    def engine(self) -> Engine:
        """How experts, and networks of a score, are trained."""
        return training_engine(self.config, self.network, self.device)

    def make(self, network: Network | None = None) -> Callable[[], nn.Module]:
        """What makes a network, by default the configuration's, for these images. Raises ValueError."""
        return factory(network or self.config.network, self.dataset.shape, self.dataset.num_classes)

    def built(self) -> tuple[nn.Module, Tensor]:
        """A new network and its weights of seed 0, on the device. Raises ValueError where it can't be there."""
        network, theta = build(self.make(), 0)
        return network.to(self.device), theta.to(self.device)

    def expert_training(self) -> Training:
        """How experts are trained."""
        return letters.expert_training(self.config)

    def evaluation_training(self, eta: float) -> Training:
        """How networks are trained on a synthetic set whose learned step size is eta."""
        return letters.evaluation_training(self.config, letters.evaluation_rate(self.config, eta))

    def outer_compute(self, count: int | None = None) -> Compute:
        """How the outer loop computes; count: stored images, where it is not the configuration's number."""
        config, seen, beside = self.config, self._synthetic(count), self.memory
        if beside is not None:  # an inner step takes more images than are condensed
            batch = (config.matching.batch or seen[0]) + beside.batch
            config = replace(config, matching=replace(config.matching, batch=batch))
        return outer_compute(config, self.network, self.device, seen, self.material.nbytes)

    def real_loss_engine(self, real: tuple[int, float]) -> Engine:
        """How steps on the loss on real images compute; real: their number in a step, and the bytes that they take.

        Raises ValueError for what can't be had here.
        """
        kept = self.memory_in_training
        beside = (0, 0) if kept is None else (kept.batch, len(kept.X))
        about = self.config, self.network, self.device, self._synthetic(), self.material.nbytes
        return real_loss_engine(*about, real, beside)

    def at_once(self) -> int | None:
        """How many images go through the network at once where all of a set do; None is no limit."""
        return at_once(self.config, self.network, self.device, self._synthetic(), self.material.nbytes)

    def on_cpu(self) -> "Setup":
        """The same on the CPU, whatever the device."""
        return Setup(replace(self.config, device="cpu"), self.material)

    def _synthetic(self, count: int | None = None) -> tuple[int, int, int, int]:
        """Shape of the synthetic images that a network sees."""
        stored = count or self.config.ipc * self.material.condensed
        return (stored * self.config.factor**2, *self.dataset.shape)


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
    place = device(config.device)
    if config.deterministic:
        prepare(place)
    check_rule(config.matching.combine)
    letters.rule(config)
    letters.expert_training(config)
    letters.evaluation_training(config, 1.0)
    families(config.baseline.augment, "--baseline.augment")
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
    if source is None and config.data.endswith(IN_PYTHON):
        raise ValueError(
            f"--data is '{config.data}', which a command can't read: name the folder or file of the same images by "
            "--data, or score the set in Python by trajmatch.evaluate(set, data)"
        )
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
        image_column=chosen.image_column,
        label_column=chosen.label_column,
    )
    LOGGER.info(dataset.read)
    check_size(config, dataset)
    for name in dict.fromkeys((config.network.name, *networks)):  # refused at once
        make = factory(replace(config.network, name=name), dataset.shape, dataset.num_classes)
        check_network(name, make, dataset.shape, dataset.num_classes, fewest_images(config, dataset, sizes))
    digest = blake2b(repr(dataset.classes).encode(), digest_size=16)
    for split in (dataset.train, dataset.validation, dataset.test):
        digest.update(split.x.numpy().data)
        digest.update(split.y.numpy().data)
    content = digest.hexdigest()
    return Material(dataset, fit_once(chosen.normalise, dataset.train.x, content), content)


def check_size(config: Config, dataset: Dataset) -> None:
    """Raise ValueError for a set that the images can't fill, or tiles that they can't be cut into, or too few a step.

    Every tile of an image starts as a real image of its own.
    """
    images.check_ipc(dataset, config.ipc)
    factor, per_class = config.factor, config.ipc * config.factor**2
    if (wrong := wrong_factor(factor, dataset.shape)) is not None:
        raise ValueError(f"--factor is {factor} and {wrong} (--images.size)")
    smallest = int(torch.bincount(dataset.train.y, minlength=dataset.num_classes).min())
    if per_class > smallest and config.outer.initial != "noise":
        raise ValueError(
            f"--factor is {factor}, with which {per_class} real images of each class start as the tiles of --ipc "
            f"{config.ipc}, and a class of {dataset.name} has {smallest}: lower one of them"
        )
    batch, total = config.matching.batch, per_class * dataset.num_classes
    if batch is not None and batch > total:
        raise ValueError(
            f"--matching.batch is {batch} and must be at most the {total} synthetic images ({per_class} for each of "
            f"{dataset.num_classes} classes)"
        )


def fewest_images(config: Config, dataset: Dataset, sizes: Sequence[int] = ()) -> int:
    """Images of the smallest mini-batch on which a network of a score is trained."""
    e, C = config.evaluation, dataset.num_classes
    sets = [(ipc * C * config.factor**2, e.batch) for ipc in (config.ipc, *sizes) if ipc > 0]
    sets += [(config.ipc * C, e.batch)]  # as many random real images
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
