"""A distilled set opened: its file, the settings that it was made with, and the images that it fits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trajmatch.data import synthetic as sets
from trajmatch.data.material import Material
from trajmatch.data.synthetic import SyntheticSet
from trajmatch.run.assembly.set_file import base_configuration, set_file
from trajmatch.run.assembly.setup import Setup, check
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
    check(config)
    file = set_file(path)
    made = resolve(parsed(base_configuration(path), str(file)))
    changed = difference(*(settings(each, ("seed", "images")) for each in (made, config)))
    if changed is not None:
        raise ValueError(
            f"{file}: {changed}; leave it out, for other images would be tested on, some of which the set was made from"
        )
    synthetic = sets.load(file)
    config = replace(config, factor=synthetic.factor)  # as it is cut
    material = Setup.load(config, networks=networks, sizes=sizes).material
    check_fit(synthetic, material, file)
    stored, num_classes = len(synthetic.X), material.dataset.num_classes
    if stored != config.ipc * num_classes:
        raise ValueError(
            f"--ipc is {config.ipc}, and {file} has {stored} images of {num_classes} classes: leave it out"
        )
    own = synthetic.space.digest()
    seen = "" if own == material.space.digest() else f", seen through {own}"
    return Setup(config, replace(material, space=synthetic.space, seen=seen)), synthetic, file


def check_fit(synthetic: SyntheticSet, material: Material, file: Path) -> None:
    """Raise ValueError where a set's classes or images are not those of the data."""
    if tuple(synthetic.classes) != material.dataset.classes:
        raise ValueError(f"--data has classes {', '.join(material.dataset.classes[:5])}, ... and {file} others")
    if tuple(synthetic.X.shape[1:]) != material.dataset.shape:
        raise ValueError(
            f"--images.size: the images of --data are {material.dataset.shape} and those of {file} "
            f"{tuple(synthetic.X.shape[1:])}"
        )
