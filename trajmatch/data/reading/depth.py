"""Images of more than eight bits: the range that a set of them uses, and the way from it to eight bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS = (8, 10, 12, 14, 16)
_SCALED = ("PPM", "JPEG2000")  # files that tell their range, by which Pillow has spread the values over 16 bits


@dataclass(frozen=True)
class Depth:
    """A range of values: 0 to 2^bits - 1, or 0 to 1 for floating-point values."""

    bits: int
    is_float: bool = False

    @property
    def top(self) -> float:
        """The value that becomes 255."""
        return 1.0 if self.is_float else float(2**self.bits - 1)

    @property
    def words(self) -> str:
        """What is said of the depth."""
        if self.is_float:
            return "0 to 1, the range of floating-point values, becomes 0 to 255"
        return f"0 to {2**self.bits - 1}, the range of {self.bits} bits that they use, becomes 0 to 255"


FULL = Depth(16)


@dataclass(frozen=True)
class Wide:
    """Least and greatest value of an image.

    kind: "integer", "float", or "cut" where only the upper eight of sixteen bits could be read.
    """

    low: float
    high: float
    kind: str


def wide_of(values: NDArray[Any], format: str | None = None) -> Wide:
    """The range of one image's values."""
    if values.dtype.kind == "f":
        return Wide(float(values.min()), float(values.max()), "float")
    low, high = int(values.min()), int(values.max())
    return Wide(low, max(high, 65535) if format in _SCALED else high, "integer")


def has_high_bytes(image: Image.Image) -> bool:
    """Whether an opened colour file holds sixteen bits, of which Pillow reads the upper eight."""
    if image.mode.startswith("I"):
        return False
    for tile in getattr(image, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(value, str) and ";16" in value for value in arguments):
            return True
    return False


def high_bytes(values: NDArray[Any]) -> Wide:
    """The range of an image of which the upper eight of sixteen bits were read."""
    return Wide(int(values.min()) * 256, int(values.max()) * 256 + 255, "cut")


def depth_of(images: Sequence[Wide], names: Sequence[str]) -> Depth:
    """The smallest depth that holds all values.

    Raises ValueError naming the image whose values no depth holds, or that is of another kind than the first.
    """
    for image, name in zip(images, names, strict=True):
        _check(image, name)
    kinds = {image.kind == "float" for image in images}
    if len(kinds) > 1:
        other = next(k for k, image in enumerate(images) if (image.kind == "float") != (images[0].kind == "float"))
        raise ValueError(
            f"{names[0]} and {names[other]} hold integers and floating-point values: save all of them with one type."
        )
    if kinds == {True}:
        return Depth(16, True)
    most = max(image.high for image in images)
    depth = Depth(next(bits for bits in BITS if most < 2**bits))
    cut = next((k for k, image in enumerate(images) if image.kind == "cut"), None)
    if depth != FULL and cut is not None:
        raise ValueError(
            f"{names[cut]} has 16 bits in colour of which the set uses {depth.bits}, and Pillow reads the upper eight "
            "alone: save such images with 8 bits."
        )
    return depth


def _check(image: Wide, name: str) -> None:
    if image.kind == "float":
        if not (image.low >= 0 and image.high <= 1):  # so that NaN is refused too
            raise ValueError(
                f"the image {name} cannot be read: its floating-point values go from {image.low:.3g} to "
                f"{image.high:.3g} and must be in [0, 1]: save it so, or with 8 or 16 bits."
            )
    elif image.low < 0 or image.high > 65535:
        raise ValueError(
            f"the image {name} cannot be read: its values go from {image.low:.0f} to {image.high:.0f}, beyond 16 bits."
        )


def narrowed(values: NDArray[Any], depth: Depth) -> NDArray[np.uint8]:
    """Values as uint8, rounded. Values outside of the depth are cut: they are refused when all have been seen."""
    if values.dtype.kind == "f":
        return np.round(np.clip(np.nan_to_num(values.astype(np.float64)), 0, 1) * 255).astype(np.uint8)
    top = 2**depth.bits - 1
    wide = np.clip(values.astype(np.int64), 0, top)
    return ((wide * 255 + top // 2) // top).astype(np.uint8)
