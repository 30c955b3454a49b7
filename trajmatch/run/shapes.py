"""Records out of files, checked before they are used: what each must hold at least. No torch here."""

import json
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

from trajmatch.run.methods import METHODS

# What a value must be: a kind, or a record of names with what theirs must be. A name with ? may be missing; * stands
# for every name.
Kind = Callable[[Any], bool]
Shape = Kind | dict[str, Any]


def is_text(value: Any) -> bool:
    """Whether a value is words."""
    return isinstance(value, str)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def is_count(value: Any) -> bool:
    """Whether a value is a whole number that can be counted to."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_method(value: Any) -> bool:
    """Whether a value is a method's name."""
    return isinstance(value, str) and value in METHODS


def is_numbers(value: Any) -> bool:
    """Whether a value is a list of finite numbers, and not empty."""
    return isinstance(value, list) and bool(value) and all(map(is_number, value))


KINDS: dict[Kind, str] = {
    is_text: "words",
    is_number: "a finite number",
    is_count: "a whole number of at least 0",
    is_method: "the name of a method",
    is_numbers: "a list of finite numbers",
}
MEAN: Shape = {"mean": is_number}
SUMMARY: Shape = {
    "dataset": is_text,
    "method": is_method,
    "ipc": is_count,
    "steps": is_number,
    "peak_memory_mb": is_number,
    "seconds": {"distill?": is_number},
    "accuracy": {
        "distilled": {"mean": is_number, "std": is_number, "n": is_count},
        **dict.fromkeys(("chosen?", "random?", "whole?"), MEAN),
    },
}
# How the networks of a score were trained, and among which rates theirs was chosen.
MEASURED: dict[str, Any] = {"settings?": {}, "rates?": is_numbers}
TRANSFER: Shape = {"networks": {"*": {"learned": MEAN, "tuned?": MEAN}}, **MEASURED}
RANKING: Shape = {"lrs": is_number, "ars": is_number, **MEASURED}
STREAM: Shape = {
    "dataset": is_text,
    "method": is_method,
    "ipc": is_count,
    "n": is_text,
    "classes_seen": is_numbers,
    "mean": is_numbers,
    "std": is_numbers,
    "config?": {},
}


def record(path: Path, shape: Shape) -> dict[str, Any]:
    """A JSON file that holds at least what `shape` says. Raises ValueError, one sentence, where it does not."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the JSON or of its encoding
        raise ValueError(f"{path}: this is not a record of a run ({error})") from None
    if (wrong := lacking(found, shape)) is not None:
        raise ValueError(f"{path}: this is not a record of a run: {wrong}")
    return dict(found)


def lacking(value: Any, shape: Shape, place: str = "") -> str | None:
    """The first thing in which a value is not as `shape` says, in words, or None."""
    if not isinstance(shape, dict):
        return None if shape(value) else f"{place} must be {KINDS[shape]}"
    if not isinstance(value, dict):
        return f"{place or 'the whole of it'} must be names and values"
    for name, inner in shape.items():
        key = name.removesuffix("?")
        if key == name != "*" and key not in value:
            return f"{_within(place, key)} is missing"
        for k in [k for k in value if name in ("*", k, f"{k}?")]:
            if (wrong := lacking(value[k], inner, _within(place, k))) is not None:
                return wrong
    return None


def _within(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
