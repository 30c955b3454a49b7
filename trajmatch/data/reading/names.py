"""Names of classes for people, where folders are called by others: synsets, numbers. They change no result."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trajmatch.data.reading.source import printable
from trajmatch.data.reading.splits import kind_of

CLASS_NAMES, WORDS = "class_names.json", ("words.txt", "LOC_synset_mapping.txt")
_DEPTH = 6  # folders in folders, at most, around what an archive held


def shown_names(source: Any, classes: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Names for people in the order of `classes`, and the file that tells them; nothing where none does.

    Beside the images may lie `class_names.json`, an object of names by class or a list of as many names, or the file
    of synsets of ImageNet: `words.txt`, `LOC_synset_mapping.txt`. A class that the file leaves out keeps its name, and
    one of a name that several have is followed by its own.
    Raises ValueError where `class_names.json` is neither.
    """
    for folder in _folders(source):
        for file in (folder / CLASS_NAMES, *(folder / name for name in WORDS)):
            found = (_listed if file.name == CLASS_NAMES else _synsets)(file, classes) if file.is_file() else {}
            shown = _distinct(classes, found)
            if shown != tuple(classes):
                return shown, file.name
    return (), ""


def _folders(source: Any) -> list[Path]:
    """Folders in which such a file may lie: the source, those that are alone in it, and the one around a split."""
    if not isinstance(source, str | os.PathLike) or not Path(source).is_dir():
        return []
    found = [Path(source)]
    while len(found) < _DEPTH and len(inside := [one for one in found[-1].iterdir() if one.is_dir()]) == 1:
        found += inside
    return [*found, found[0].resolve().parent] if kind_of(found[0].resolve().name) is not None else found


def _listed(file: Path, classes: Sequence[str]) -> dict[str, str]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}): correct it, or remove it.") from None
    if isinstance(found, list) and len(found) == len(classes):
        found = dict(zip(classes, found, strict=True))
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise ValueError(
            f"{file} must be an object of names by class, or a list of as many names as there are classes "
            f"({len(classes)}): correct it, or remove it."
        )
    return found


def _synsets(file: Path, classes: Sequence[str]) -> dict[str, str]:
    """The first word of each class's synset, from lines 'n01440764 <tab or blank> tench, Tinca tinca'."""
    wanted, found = set(classes), {}
    for line in file.read_text("utf-8", errors="replace").splitlines():
        synset, _, words = line.replace("\t", " ", 1).partition(" ")
        if synset in wanted:
            found[synset] = words.split(",")[0].strip()
    return found


def _distinct(classes: Sequence[str], names: dict[str, str]) -> tuple[str, ...]:
    shown = [printable(names.get(one, "").strip()) or one for one in classes]
    several = Counter(shown)
    return tuple(f"{name} ({one})" if several[name] > 1 else name for one, name in zip(classes, shown, strict=True))
