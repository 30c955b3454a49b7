"""How large the images of a source are, before they are decoded."""

import io
import os
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from trajmatch.data.reading import sources

# Images that are looked at, evenly spaced.
LOOKED_AT = 100


def shorter_side(source: Any, train: str | None = None, test: str | None = None) -> int | None:
    """The median of the images' shorter sides, in pixels; None where that would take as long as to decode them.

    source, train, test: as in `sources.read`. Data sets in Python, each of whose items is to be fetched once, and those
    of the Hub are not looked at; an image that cannot be opened is for who decodes it to refuse.

    Raises ValueError as `sources.read`.
    """
    if not isinstance(source, str | os.PathLike):
        return None
    if os.fspath(source) != "digits" and not Path(os.path.expanduser(os.fspath(source))).exists():
        return None
    items = sources.read(source, train, test).train.items
    found = [_side(items[i]) for i in range(0, len(items), max(1, len(items) // LOOKED_AT))]
    known = [side for side in found if side]
    return median_low(known) if known else None


def _side(item: Any) -> int:
    """The shorter side of an undecoded image; 0 where it cannot be opened."""
    if isinstance(item, np.ndarray):
        return min(item.shape[:2])
    if isinstance(item, Image.Image):
        return min(item.size)
    try:
        with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
            return min(image.size)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0
