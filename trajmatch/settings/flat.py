"""Settings as flat records: compared between stages, completed and checked. No torch here."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from trajmatch.settings.config import Config
from trajmatch.settings.kinds import flag

# What each stage's result depends on, by field or group. What is not here may change freely between two calls.
EXPERT_FIELDS = ("seed", "images", "network", "expert")
DISTILL_FIELDS = (*EXPERT_FIELDS, "ipc", "method", "steps", "precision", "matching", "outer", "baseline")
EVALUATE_FIELDS = (*DISTILL_FIELDS, "evaluation")
# How fast, where and how safely, never what.
INCIDENTAL = {"expert.workers", "expert.shard", "outer.checkpoint_seconds", "evaluation.workers"}
INCIDENTAL |= {"matching.keep_every", "matching.together"}
# What older versions had here, and is now of `trajmatch evaluate` alone: files that have them are still read.
# With them, what stands there where nobody asked for anything.
RETIRED: dict[str, tuple[Any, ...]] = {
    "evaluation.architectures": ([],),
    "evaluation.rates": (["0.001", "0.003", "0.01", "0.03"],),
    "evaluation.ranking": ("false", False),
    "evaluation.sizes": ([],),
}
INCIDENTAL |= RETIRED.keys()
# Where a run stands and how it is called may change between two calls on one folder.
FREE = {"out", "resume", "device", *INCIDENTAL}


def flatten(config: Config) -> dict[str, Any]:
    """Every setting under its flag's name: {"data": ..., "images.size": ...}, tuples as lists."""
    return dict(_walk(dataclasses.asdict(config), ""))


def _walk(record: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _walk(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


DEFAULTS = flatten(Config())


def settings(config: Config, fields: tuple[str, ...]) -> dict[str, Any]:
    """The settings on which a stage's result depends, flat."""
    flat = flatten(config)
    return {k: v for k, v in flat.items() if k.split(".")[0] in fields and k not in INCIDENTAL}


def difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """The first setting in which two flat records differ, as words, or None."""
    for key in [*new, *(key for key in old if key not in new)]:
        # A setting that is younger than the record had its default.
        if old.get(key, DEFAULTS.get(key)) != new.get(key):
            return f"{flag(key)} is {old.get(key)} there and {new.get(key)} here"
    return None
