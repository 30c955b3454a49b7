"""A distilled set opened: its file, the settings that it was made with, and the images that it fits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trajmatch.data import synthetic as sets
from trajmatch.data.material import Material
from trajmatch.data.reading.splits import listed
from trajmatch.data.reading.told import one_line
from trajmatch.data.synthetic import SyntheticSet
from trajmatch.machine.messages import LOGGER
from trajmatch.run.assembly.set_file import base_configuration, set_file
from trajmatch.run.assembly.setup import IN_PYTHON, Setup, check
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.flat import difference, parsed, settings


def opened_set(
    path: Path, config: Config, networks: Sequence[str] = (), sizes: Sequence[int] = ()
) -> tuple[Setup, SyntheticSet, Path]:
    """The resolved configuration with the images in the set's input space, the set, and its file. Raises ValueError.

    --seed and --images.* must be those that the set was made with: others draw other test images, some of which it was
    made from. Images of another --data are seen through the set's own input space. networks,
    sizes: others, which must fit.
    """
    config = resolve(config)
    check(without_rule(config))
    file = set_file(path)
    made = resolve(parsed(base_configuration(path), str(file)))
    changed = difference(*(settings(each, ("seed", "images")) for each in (made, config)))
    if changed is not None:
        raise ValueError(
            f"{file}: {changed}; leave it out, for other images would be tested on, some of which the set was made from"
        )
    synthetic = sets.load(file)
    return setup_of(synthetic, str(file), config, None, networks, sizes), synthetic, file


def setup_of(
    synthetic: SyntheticSet,
    where: str,
    config: Config,
    source: Any = None,
    networks: Sequence[str] = (),
    sizes: Sequence[int] = (),
) -> Setup:
    """The resolved configuration with the images that it names, or with `source`, in the input space of a set.

    where: what the set is called in a sentence. networks, sizes: others, which must fit. Raises ValueError.
    """
    config = replace(resolve(config), factor=synthetic.factor)  # as it is cut
    check(without_rule(config))
    material = Setup.load(config, source, networks=networks, sizes=sizes).material
    check_fit(synthetic, material, where, config.data if source is None else None)
    stored, num_classes = len(synthetic.X), material.dataset.num_classes
    if stored != config.ipc * num_classes:
        raise ValueError(
            f"--ipc is {config.ipc}, and {where} has {stored} images of {num_classes} classes: leave it out"
        )
    own = synthetic.space.digest()
    seen = "" if own == material.space.digest() else f", seen through {own}"
    return Setup(config, replace(material, space=synthetic.space, seen=seen))


def without_rule(config: Config) -> Config:
    """The same without a sharpness rule of the user's own, which may not be on this machine; no score needs it."""
    if ":" not in config.matching.sharpness:
        return config
    return replace(config, matching=replace(config.matching, sharpness="none"))


def check_fit(synthetic: SyntheticSet, material: Material, where: str | Path, data: str | None) -> None:
    """Raise ValueError where a set's classes or images are not those of the data.

    where: what the set is called in a sentence. data: what --data is, or None of a data set in Python.
    Classes of a set that are numbers alone, as those of data sets in Python are, may have names in the data.
    """
    ours, theirs = synthetic.classes, material.dataset.classes
    if len(ours) == len(theirs) and ours != theirs and ours == tuple(map(str, range(len(ours)))):
        pairs = listed([f"{k} is {name}" for k, name in enumerate(theirs)], 3)
        LOGGER.info(
            f"{where} knows its classes by number alone: they are taken for those of --data in their order ({pairs})"
        )
    elif tuple(ours) != theirs:
        raise ValueError(_other_classes(synthetic, material, where, data))
    if tuple(synthetic.X.shape[1:]) != material.dataset.shape:
        raise ValueError(
            f"--images.size: the images of --data are {material.dataset.shape} and those of {where} "
            f"{tuple(synthetic.X.shape[1:])}"
        )


def _other_classes(synthetic: SyntheticSet, material: Material, where: str | Path, data: str | None) -> str:
    """What to say where the classes of a set and of the data, described as for `check_fit`, differ."""
    ours, theirs = synthetic.classes, material.dataset.classes
    images = f"--data {data}" if data is not None else f"the data set {material.dataset.name}"
    held = synthetic.info.get("config")
    made_of = str(held.get("data", "")) if isinstance(held, dict) else ""
    # Without --data a set is scored on what it was made from, which is no help where that is what differs now.
    elsewhere = bool(made_of) and made_of != data and not made_of.endswith(IN_PYTHON)
    return (
        f"{images} has {len(theirs)} classes ({_where_other(theirs, ours)}), and {where} was made of {len(ours)} "
        f"({_where_other(ours, theirs)}): {'leave --data out, or ' if elsewhere else ''}name images of these classes, "
        "in this order"
    )


def _where_other(names: Sequence[str], others: Sequence[str]) -> str:
    """The first of some names of classes; where as many others begin alike, those from the first that differs on."""
    shown = [one_line(name) for name in names]
    first = next((k for k, pair in enumerate(zip(names, others, strict=False)) if pair[0] != pair[1]), 0)
    if len(names) != len(others) or not first:
        return listed(shown)
    return f"from number {first} on {listed(shown[first:])}"
