"""What the file of a distilled set says about itself, before any of its tensors is read. No torch here."""

from pathlib import Path
from typing import Any

from trajmatch.data.checksums import remedy
from trajmatch.data.files import read_header


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
    elif not isinstance(info, dict):
        wrong = "info must be names and values"
    if wrong is not None:
        raise ValueError(f"{path}: the header of this set is damaged: {wrong}; {remedy(path)}")
    return header
