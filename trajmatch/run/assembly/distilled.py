"""A distilled set opened: its file, the settings that it was made with, and the images that it fits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trajmatch.data import synthetic as sets
from trajmatch.data.checksums import remedy
from trajmatch.data.file_names import SET
from trajmatch.data.synthetic import set_header
from trajmatch.run.assembly import setup
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.flat import difference, parsed, settings


def set_file(path: Path) -> Path:
    """The set's file of a run folder, or the file itself. Raises ValueError where there is none."""
    file = path / SET if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{path}: there is no distilled set here; name a run folder or a .safetensors file")
    return file


def base_configuration(path: Path) -> dict[str, Any]:
    """The settings with which a set was made, from its file."""
    file = set_file(path)
    config = set_header(file)["info"].get("config")
    if not isinstance(config, dict):
        raise ValueError(f"{file}: the header of this set has no settings (info.config); {remedy(file)}")
    parsed(config, str(file), remedy(file))
    return config


def opened_set(
    path: Path, config: Config, networks: Sequence[str] = (), sizes: Sequence[int] = ()
) -> tuple[Config, Any, Any, Path]:
    """The resolved configuration, the set, the images in its input space, and the set's file. Raises ValueError.

    --seed and --images.* must be those that the set was made with: others draw other test images, some of which it was
    made from. Images of another --data are seen through the set's own input space. networks,
    sizes: others, which must fit.
    """
    config = resolve(config)
    setup.check(config)
    file = set_file(path)
    made = resolve(parsed(base_configuration(path), str(file)))
    changed = difference(*(settings(each, ("seed", "images")) for each in (made, config)))
    if changed is not None:
        raise ValueError(
            f"{file}: {changed}; leave it out, for other images would be tested on, some of which the set was made from"
        )
    synthetic = sets.load(file)
    material = setup.load_material(config, networks=networks, sizes=sizes)
    check_fit(synthetic, material, file)
    if len(synthetic) != config.ipc * material.dataset.num_classes:
        raise ValueError(
            f"--ipc is {config.ipc}, and {file} has {len(synthetic)} images of {material.dataset.num_classes} classes: "
            "leave it out"
        )
    own = synthetic.space.digest()
    seen = "" if own == material.space.digest() else f", seen through {own}"
    return config, synthetic, replace(material, space=synthetic.space, seen=seen), file


def check_fit(synthetic: Any, material: Any, file: Path) -> None:
    """Raise ValueError where a set's classes or images are not those of the data."""
    if tuple(synthetic.classes) != material.dataset.classes:
        raise ValueError(f"--data has classes {', '.join(material.dataset.classes[:5])}, ... and {file} others")
    if tuple(synthetic.X.shape[1:]) != material.dataset.shape:
        raise ValueError(
            f"--images.size: the images of --data are {material.dataset.shape} and those of {file} "
            f"{tuple(synthetic.X.shape[1:])}"
        )
