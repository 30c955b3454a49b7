"""Flat settings as a file nests them, as flags of a command line, and as a configuration. No torch here."""

from collections.abc import Mapping
from typing import Any

from trajmatch.settings.config import Config
from trajmatch.settings.flat import RETIRED, flatten
from trajmatch.settings.kinds import merged


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of flattening: {"images.size": 16} -> {"images": {"size": 16}}."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        group, dot, name = key.partition(".")
        if dot:
            nested.setdefault(group, {})[name] = value
        else:
            nested[key] = value
    return nested


def parsed(flat: Mapping[str, Any], where: str = "the settings of a file", remedy: str = "") -> Config:
    """A configuration from the flat settings of a file, of whatever version.

    Raises ValueError, which names the file, the setting and its value, with the remedy behind.
    """
    try:
        return merged(Config(), {key: value for key, value in flat.items() if key not in RETIRED}, where)
    except ValueError as error:
        raise ValueError(f"{error}; {remedy}" if remedy else str(error)) from None


def flags(flat: dict[str, Any]) -> list[str]:
    """Settings as the flags of a command line."""
    words: list[str] = []
    defaults = flatten(Config())
    for key, value in flat.items():
        *group, name = key.replace("_", "-").split(".")
        prefix = "".join(f"{part}." for part in group)
        if isinstance(value, bool) and isinstance(defaults.get(key), str):  # YAML reads the word yes as true
            words += [f"--{prefix}{name}", "yes" if value else "no"]
        elif isinstance(value, bool):
            words.append(f"--{prefix}{name}" if value else f"--{prefix}no-{name}")
        elif isinstance(value, list):
            words += [f"--{prefix}{name}", *map(str, value)]
        else:
            words += [f"--{prefix}{name}", str(value)]
    return words
