"""What the file of a distilled set says about itself, before any of its tensors is read. No torch here."""

import re
from pathlib import Path
from typing import Any

from trajmatch.data.checksums import remedy
from trajmatch.data.files import read_header

# The key, in what a header says of the input space, of statistics that are in a file of their own.
APART = "apart"


def set_header(path: Path) -> dict[str, Any]:
    """The header of a set's file. Raises ValueError, naming the file, where it is no set's or lacks something."""
    header = read_header(path)
    if header.get("kind") != "synthetic set":
        raise ValueError(f"{path}: this is not a synthetic set")
    classes, space, info = (header.get(key) for key in ("classes", "space", "info"))
    shape = space.get("shape") if isinstance(space, dict) else None
    wrong = None
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        wrong = "classes must be a list of names"
    elif not isinstance(shape, list) or len(shape) != 3 or not all(type(side) is int and side > 0 for side in shape):
        wrong = "space.shape must be three whole numbers of at least 1"
    elif isinstance(space, dict) and not _is_apart(space.get(APART)):
        wrong = "space.apart must name the file of a whitening, and its tensors"
    elif not isinstance(info, dict):
        wrong = "info must be names and values"
    if wrong is not None:
        raise ValueError(f"{path}: the header of this set is damaged: {wrong}; {remedy(path)}")
    return header


def _is_apart(value: Any) -> bool:
    """Whether this is what a header says of statistics that are kept apart; None where they are not."""
    if value is None:
        return True
    name, tensors = (value.get("file"), value.get("tensors")) if isinstance(value, dict) else (None, None)
    named = isinstance(name, str) and re.fullmatch(r"whitening-[0-9a-f]{32}\.safetensors", name) is not None
    return named and isinstance(tensors, dict) and all(isinstance(of, list) and len(of) == 3 for of in tensors.values())
