"""Records out of files, checked before they are used: what each must hold at least. No torch here."""

from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from trajmatch.data import file_names
from trajmatch.data.files import is_share
from trajmatch.data.kept import other, read_record
from trajmatch.settings.methods import METHODS

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


def is_words(value: Any) -> bool:
    """Whether a value is a list of words."""
    return isinstance(value, list) and all(map(is_text, value))


def is_curves(value: Any) -> bool:
    """Whether a value is a list of curves: accuracies by epoch, None where one was not measured."""
    return isinstance(value, list) and all(
        isinstance(one, list) and all(share is None or is_share(share) for share in one) for one in value
    )


def is_shares(value: Any) -> bool:
    """Whether a value is a list of accuracies."""
    return isinstance(value, list) and all(map(is_share, value))


def is_deviation(value: Any) -> bool:
    """Whether a value is a standard deviation: a finite number that is not negative."""
    return is_number(value) and value >= 0


def is_correlation(value: Any) -> bool:
    """Whether a value is a finite number, or None where all accuracies were the same."""
    return value is None or is_number(value)


def is_measured(value: Any) -> bool:
    """Whether a value is a list of accuracies, None where one was not measured."""
    return isinstance(value, list) and all(share is None or is_share(share) for share in value)


def is_shape(value: Any) -> bool:
    """Whether a value is the shape of an image: channels, height and width."""
    return isinstance(value, list) and len(value) == 3 and all(is_count(side) and side > 0 for side in value)


KINDS: dict[Kind, str] = {
    is_words: "a list of words",
    is_curves: "a list of lists of accuracies from 0 to 1",
    is_shares: "a list of accuracies from 0 to 1",
    is_share: "an accuracy from 0 to 1",
    is_deviation: "a finite number of at least 0",
    is_correlation: "a finite number or null",
    is_text: "words",
    is_number: "a finite number",
    is_count: "a whole number of at least 0",
    is_method: "the name of a method",
    is_numbers: "a list of finite numbers",
    is_measured: "a list of accuracies from 0 to 1, or null",
    is_shape: "channels, height and width",
}
MEAN: Shape = {"mean": is_number}
SUMMARY: Shape = {
    "dataset": is_text,
    "images?": is_text,
    "method": is_method,
    "ipc": is_count,
    "steps": is_number,
    "peak_memory_mb": is_number,
    "seconds": {"distill?": is_number},
    "accuracy": {
        "distilled": {"mean": is_number, "std": is_number, "n": is_count},
        **dict.fromkeys(("chosen?", "random?", "random tuned?", "whole?"), MEAN),
    },
}
SCORE: dict[str, Any] = {"mean": is_share, "std": is_deviation, "n": is_count, "how?": is_text}
SCORE |= {"epochs?": is_count, "network?": is_text, "rate?": is_number, "by_class?": is_measured}
# What a report of a run needs of its summary.
REPORTED: Shape = {
    "dataset": is_text,
    "method": is_text,
    "ipc": is_count,
    "seconds": {"*": is_number},
    "compression": is_number,
    "accuracy": {"distilled": SCORE, "*": SCORE},
    "classes?": is_words,
    "commands?": is_words,
    "class_names?": is_words,
    "network?": is_text,
    "shape?": is_shape,
    "factor?": is_count,
    **dict.fromkeys(
        ("synthetic_images?", "whole_images?", "steps?", "step_size?", "peak_memory_mb?", "distillation_seed?"),
        is_number,
    ),
    **dict.fromkeys(("compression_bytes?", "set_bytes?"), is_number),
}
EVALUATION: Shape = {
    "accuracy": {
        "distilled": SCORE,
        **dict.fromkeys(("chosen?", "random?", "random tuned?", "whole?", "foreign?", "foreign random?"), SCORE),
    },
    "settings": {},
    "seconds": is_number,
}
LOGGED: Shape = {"id": is_text, "step": is_count, "scores": is_text}
EXPERTS: Shape = {"seconds": is_number, "test_accuracy": is_curves, "train_accuracy": is_curves}
DIAGNOSIS: Shape = {"about": is_text, "command": is_text}
SCORES: Shape = {"accuracy": is_shares}
AGREEMENT: Shape = {"spearman": is_correlation, "kendall": is_correlation, "chosen": is_text, "regret": is_number}
SEARCH: Shape = {"how": {"*": is_text}, "agreement": {"set": AGREEMENT, "random": AGREEMENT}}
# How the networks of a score were trained, and among which rates theirs was chosen.
MEASURED: dict[str, Any] = {"settings?": {}, "rates?": is_numbers}
TRANSFER: Shape = {"networks": {"*": {"learned": MEAN, "tuned?": MEAN}}, **MEASURED}
RANKING: Shape = {"lrs": is_number, "ars": is_number, **MEASURED}
STREAM: dict[str, Any] = {
    "dataset": is_text,
    "images?": is_text,
    "method": is_method,
    "ipc": is_count,
    "n": is_text,
    "classes_seen": is_numbers,
    "mean": is_numbers,
    "std": is_numbers,
    "random?": {"mean": is_numbers, "std": is_numbers},
    "config?": {},
}


# What `trajmatch continual` says of a stream.
TOLD: Shape = {**STREAM, "how": is_text}
# What to do about a record that is damaged, by the end of its file's name.
REMEDIES = {
    file_names.SUMMARY: "delete it, and trajmatch run writes it again",
    file_names.EVALUATION: "delete it, and trajmatch run scores the set again",
    file_names.EXPERTS_JSON: "delete it, and trajmatch run writes it again, its seconds counted anew",
    file_names.STREAM: "delete it, and the same trajmatch continual writes it again",
    file_names.LOGGED: "delete it, and the log begins anew",
    "scores.json": "delete it, and its networks are trained again",
    **{f"{name}.json": "delete it, and score the set again" for name in ("transfer", "ranking", "sizes", "search")},
}


def remedy(path: Path) -> str:
    """What to do about a damaged record."""
    found = (words for name, words in REMEDIES.items() if path.name.endswith(name))
    return next(found, "delete it, and make it again")


def record(path: Path, shape: Shape, says: str = "this is not a record of a run") -> dict[str, Any]:
    """A JSON file that is as it was written and holds at least what `shape` says.

    Raises ValueError, one sentence with the file and what to do, where it does not.
    """
    found = read_record(path, says, remedy(path))
    if (wrong := lacking(found, shape)) is not None:
        raise ValueError(f"{path}: {says}: {wrong}; {remedy(path)}")
    return found


def check_belongs(path: Path, found: Mapping[str, Any], belongs: Mapping[str, str | None]) -> None:
    """Raise ValueError where a record says that it is of another set, or other images."""
    if (what := other(found, belongs)) is not None:
        words = {"set": "of another set than the one here", "data": "of other real images than the set here"}
        raise ValueError(f"{path}: this record is {words.get(what, f'of another {what}')}; {remedy(path)}")


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
