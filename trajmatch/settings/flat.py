"""Settings under flat names, such as images.size: from a configuration and to one, nested, as flags, compared."""

from collections.abc import Mapping
from typing import Any

from trajmatch.settings.config import Config
from trajmatch.settings.kinds import flag, get, kinds, merged
from trajmatch.settings.methods import PLAIN

# What each stage's result depends on, by field or group. What is not here may change freely between two calls.
EXPERT_FIELDS = ("seed", "images", "network", "expert")
DISTILL_FIELDS = (*EXPERT_FIELDS, "ipc", "factor", "method", "steps", "precision", "matching", "outer", "baseline")
EVALUATE_FIELDS = (*DISTILL_FIELDS, "evaluation")
# These settings say how fast, where and how safely something is computed, and never what.
INCIDENTAL = {"expert.workers", "expert.shard", "outer.checkpoint_seconds", "evaluation.workers"}
INCIDENTAL |= {"matching.keep_every", "matching.together"}
# Settings of older versions that are options of `trajmatch evaluate` now: files that have them are still read. Their
# values are what stands in such a file where nobody asked for anything.
RETIRED: dict[str, tuple[Any, ...]] = {
    "evaluation.architectures": ([],),
    "evaluation.rates": (["0.001", "0.003", "0.01", "0.03"],),
    "evaluation.ranking": ("false", False),
    "evaluation.sizes": ([],),
}
INCIDENTAL |= RETIRED.keys()
# Where a run stands and how it is called may change between two calls on one folder.
FREE = {"out", "resume", "device", "log", *INCIDENTAL}


def flatten(config: Config) -> dict[str, Any]:
    """Every setting under its flag's name: {"data": ..., "images.size": ...}, tuples as lists."""
    values = {key: get(config, key) for key in kinds(Config)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


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


DEFAULTS = flatten(Config())
# What a setting did before there was such a setting, where its default leaves it to the method.
BEFORE = flatten(PLAIN)


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
    for key, value in flat.items():
        *group, name = key.replace("_", "-").split(".")
        prefix = "".join(f"{part}." for part in group)
        if isinstance(value, bool) and isinstance(DEFAULTS.get(key), str):  # YAML reads the word yes as true
            words += [f"--{prefix}{name}", "yes" if value else "no"]
        elif isinstance(value, bool):
            words.append(f"--{prefix}{name}" if value else f"--{prefix}no-{name}")
        elif isinstance(value, list):
            words += [f"--{prefix}{name}", *map(str, value)]
        else:
            words += [f"--{prefix}{name}", str(value)]
    return words


def settings(config: Config, fields: tuple[str, ...]) -> dict[str, Any]:
    """The settings on which a stage's result depends, flat."""
    flat = flatten(config)
    return {k: v for k, v in flat.items() if k.split(".")[0] in fields and k not in INCIDENTAL}


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """The first setting in which two flat records differ, as words, or None."""
    for key in [*new, *(key for key in old if key not in new)]:
        there, here = _meant(old, key), _meant(new, key)
        if not any(value in here for value in there):
            return f"{flag(key)} is {there[-1]} there and {here[-1]} here"
    return None


def _meant(record: Mapping[str, Any], key: str) -> list[Any]:
    """What a record says of a setting; one that is younger than the record had its default then, or did nothing yet."""
    return [record[key]] if key in record else [DEFAULTS.get(key), BEFORE.get(key)]
