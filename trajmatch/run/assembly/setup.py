"""From configuration to material, network and rule: the only file with both vocabularies, words and letters."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from typing import Any

import torch
from torch import nn

from trajmatch.data import images
from trajmatch.data.images import Dataset
from trajmatch.data.material import Material
from trajmatch.data.networks.architectures import named
from trajmatch.data.networks.check import check_network
from trajmatch.data.networks.convnet import convnet
from trajmatch.data.whitening import fit
from trajmatch.machine.messages import LOGGER
from trajmatch.methods.segment_weights import check_rule
from trajmatch.run.assembly.budget import parse_memory
from trajmatch.run.assembly.letters import evaluation_training, expert_training, rule
from trajmatch.settings.config import Config, Network


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
