"""The file of a distilled set, and the settings with which it was made, read before torch is. No torch here."""

from pathlib import Path
from typing import Any

from trajmatch.data.checksums import remedy
from trajmatch.data.file_names import SET
from trajmatch.data.set_header import set_header
from trajmatch.settings.flat import parsed


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
