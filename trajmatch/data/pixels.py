"""From files, bytes, PIL images and arrays to uint8 pixels of one size and one number of channels."""

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from trajmatch.data.records import Split

Colour = Literal["auto", "grey", "rgb"]
Pixels = NDArray[np.uint8]

_ORIENTATION = 0x0112  # the EXIF tag
_BATCH = 64  # images per task: with one, small images spend a quarter of their time in the pool
_BATCHES_AHEAD = 16  # bounds memory when decoding outruns the copy


def decode_splits(splits: Sequence[Split], size: int | None, colour: Colour) -> list[Pixels]:
    """One uint8 array (n, c, h, w) per split, all with the same c, h and w.

    size:   pixels; the shorter side is resized to it, then the centre is cropped to size x size. None: as they are.
    colour: "grey" (c = 1), "rgb" (c = 3), or "auto": grey if every image of every split is, else rgb.
    ValueError naming the image when one cannot be read, or when sizes differ and `size` is None.
    """
    first: tuple[str, tuple[int, ...]] | None = None
    arrays: list[Pixels] = []
    for split in splits:
        out: Pixels | None = None
        for i, pixels in enumerate(_decoded(split, size, colour)):
            if first is None:
                first = split.name_of(i), pixels.shape[1:]
            elif pixels.shape[1:] != first[1]:
                raise ValueError(_mixed_sizes(split.name_of(i), pixels.shape[1:], *first))
            if out is None:
                out = np.empty((len(split), *pixels.shape), np.uint8)
            elif len(pixels) > out.shape[1]:  # the first colour image after grey ones
                out = np.repeat(out, 3, axis=1)
            out[i] = pixels  # a grey image is broadcast over three channels
        if out is not None:
            arrays.append(out)
    channels = max(array.shape[1] for array in arrays)
    return [array if array.shape[1] == channels else np.repeat(array, channels, axis=1) for array in arrays]


def _mixed_sizes(name: str, size: tuple[int, ...], first_name: str, first_size: tuple[int, ...]) -> str:
    (h, w), (first_h, first_w) = size, first_size
    return (
        f"{name} is {w} x {h} pixels (width x height) but {first_name} is {first_w} x {first_h}: "
        f"images must have one size, so give one with --images.size."
    )


def _decoded(split: Split, size: int | None, colour: Colour) -> Iterator[Pixels]:
    def decode_one(i: int) -> Pixels:
        try:
            return decode(split.items[i], size, colour)
        except Exception as error:  # Pillow raises a dozen types on damaged files
            raise ValueError(f"the image {split.name_of(i)} cannot be read: {error}") from error

    def decode_batch(start: int) -> list[Pixels]:
        return [decode_one(i) for i in range(start, min(start + _BATCH, len(split)))]

    starts = range(0, len(split), _BATCH)
    if isinstance(split.items, np.ndarray) and size is None:
        batches = map(decode_batch, starts)
        yield from (pixels for batch in batches for pixels in batch)
        return
    # Pillow decodes and resizes outside the interpreter lock.
    with ThreadPoolExecutor(min(_BATCHES_AHEAD, os.cpu_count() or 1)) as pool:
        for first in range(0, len(starts), _BATCHES_AHEAD):
            for batch in pool.map(decode_batch, starts[first : first + _BATCHES_AHEAD]):
                yield from batch


def decode(item: Any, size: int | None, colour: Colour) -> Pixels:
    """uint8 (c, h, w) with c = 1 or 3 of one image: a Path, encoded bytes, a PIL image or a uint8 array (h, w[, c])."""
    if isinstance(item, np.ndarray):
        _check_array(item)
        pixels = item[:, :, None] if item.ndim == 2 else item  # (h, w, c)
        keeps = {1: ("auto", "grey"), 3: ("auto", "rgb")}
        if size is None and colour in keeps.get(pixels.shape[2], ()):
            return pixels.transpose(2, 0, 1)
        return _pixels(
            Image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)), size, colour
        )
    if isinstance(item, Image.Image):
        return _pixels(item, size, colour)
    with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
        return _pixels(image, size, colour)


def _check_array(item: NDArray[Any]) -> None:
    if item.dtype != np.uint8 or not (item.ndim == 2 or (item.ndim == 3 and item.shape[2] in (1, 2, 3, 4))):
        raise ValueError(f"it is {item.dtype} {item.shape}, not uint8 (h, w) or (h, w, c) with c from 1 to 4")


def _pixels(image: Image.Image, size: int | None, colour: Colour) -> Pixels:
    if image.getexif().get(_ORIENTATION, 1) != 1:  # a telephone's photograph, stored lying on its side
        image = ImageOps.exif_transpose(image)
    image = _eight_bits(image, colour)
    if size is not None:
        image = square(image, size)
    pixels = np.array(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _eight_bits(image: Image.Image, colour: Colour) -> Image.Image:
    """Mode L or RGB. Transparency is dropped, as torchvision's ImageFolder does; palettes are looked up."""
    if image.mode.startswith("I"):  # 16 bits; convert("L") clips them at 255 in some versions of Pillow
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError(f"its values go from {wide.min()} to {wide.max()}, beyond 16 bits")
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("it holds floating-point pixels: save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # convert("RGB") warns
    is_grey = image.mode in ("1", "L", "LA", "La")
    mode = {"grey": "L", "rgb": "RGB", "auto": "L" if is_grey else "RGB"}[colour]
    return image if image.mode == mode else image.convert(mode)


def square(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to `size`, then the central size x size.

    Bicubic: Pillow widens the filter when it shrinks, so there is no aliasing; it is what torchvision's and timm's
    presets use, rings less than Lanczos, and does not make blocks like Box when it enlarges.
    """
    w, h = image.size
    scale = size / min(w, h)
    w, h = max(size, round(w * scale)), max(size, round(h * scale))
    if (w, h) != image.size:
        image = image.resize((w, h), Image.Resampling.BICUBIC)
    left, top = (w - size) // 2, (h - size) // 2
    return image if w == h else image.crop((left, top, left + size, top + size))


def save_png(pixels: Pixels, path: Path) -> None:
    """Write uint8 (c, h, w), c = 1 or 3, without loss."""
    Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(path)
