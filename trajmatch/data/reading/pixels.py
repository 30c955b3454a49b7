"""From files, bytes, PIL images and arrays to uint8 pixels of one size and one number of channels."""

import io
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from trajmatch.data.reading.depth import FULL, Depth, Wide, depth_of, has_high_bytes, high_bytes, narrowed, wide_of
from trajmatch.data.reading.source import Split
from trajmatch.data.reading.transparency import WHITE, Background, composited, scale_transparent_value

Colour = Literal["auto", "grey", "rgb"]
Pixels = NDArray[np.uint8]

_ORIENTATION = 0x0112  # the EXIF tag
_BATCH = 64  # images per task: with one, small images spend a quarter of their time in the pool
_BATCHES_AHEAD = 16  # bounds memory when decoding outruns the copy


@dataclass
class Seen:
    """What decoding met beside plain images of eight bits."""

    transparent: int = 0
    several_frames: int = 0
    depth: Depth | None = None
    wide: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (w, h) of resized images

    def notes(self, background: Background) -> list[str]:
        """A phrase for each kind."""
        found = []
        if len(self.sizes) == 1:
            ((w, h),) = self.sizes
            found.append(f"resized from {w} x {h}")
        elif self.sizes:
            sides = [min(size) for size in self.sizes]
            found.append(f"resized from shorter sides of {min(sides)} to {max(sides)} pixels")
        if self.transparent:
            stand = "stands" if self.transparent == 1 else "stand"
            found.append(f"{_images(self.transparent)} with transparency {stand} on {background.name}")
        if self.depth is not None:
            found.append(f"{_images(self.wide)} of more than 8 bits: {self.depth.words}")
        if self.several_frames:
            found.append(f"{_images(self.several_frames)} of several frames, of which the first is read")
        return found


def _images(count: int) -> str:
    return f"{count} {'image' if count == 1 else 'images'}"


@dataclass(frozen=True)
class Decoded:
    """One image as uint8 (c, h, w), and what was met in it."""

    pixels: Pixels
    transparent: bool = False
    several_frames: bool = False
    wide: Wide | None = None
    resized: tuple[int, int] | None = None  # from (w, h)


@dataclass(frozen=True)
class How:
    """How images are decoded."""

    size: int | None = None
    colour: Colour = "auto"
    background: Background = WHITE
    depth: Depth = FULL


def decode_splits(
    splits: Sequence[Split],
    size: int | None,
    colour: Colour,
    background: Background = WHITE,
    tick: Callable[[], None] = lambda: None,
) -> tuple[list[Pixels], Seen]:
    """One uint8 array (n, c, h, w) per split, all with the same c, h and w, and what was met on the way.

    size:       pixels to which the shorter side is resized, and the centre cropped; None leaves images as they are.
    colour:     "grey" (c = 1), "rgb" (c = 3), or "auto": grey if every image of every split is, else rgb.
    background: what transparent images are laid on.
    tick:       called after every image.

    Images of more than 8 bits are scaled by the one range that all of them, in all splits, use.
    Raises ValueError naming the image when one cannot be read, or when sizes differ and `size` is None.
    """
    how, seen = How(size, colour, background), Seen()
    first: tuple[str, tuple[int, ...]] | None = None
    arrays: list[Pixels] = []
    wide: list[tuple[int, int, Wide]] = []  # split, image, values
    for number, split in enumerate(splits):
        out: Pixels | None = None
        for i, found in enumerate(_decoded(split, how)):
            pixels = found.pixels
            seen.transparent += found.transparent
            seen.several_frames += found.several_frames
            if found.resized is not None:
                seen.sizes[found.resized] += 1
            if found.wide is not None:
                wide.append((number, i, found.wide))
            if first is None:
                first = split.name_of(i), pixels.shape[1:]
            elif pixels.shape[1:] != first[1]:
                raise ValueError(_mixed_sizes(split.name_of(i), pixels.shape[1:], *first))
            if out is None:
                out = np.empty((len(split), *pixels.shape), np.uint8)
            elif len(pixels) > out.shape[1]:  # the first colour image after grey ones
                out = np.repeat(out, 3, axis=1)
            tick()
            out[i] = pixels  # a grey image is broadcast over three channels
        if out is not None:
            arrays.append(out)
    if wide:
        _scale(splits, arrays, wide, how, seen)
    channels = max(array.shape[1] for array in arrays)
    return [array if array.shape[1] == channels else np.repeat(array, channels, axis=1) for array in arrays], seen


def _scale(
    splits: Sequence[Split], arrays: list[Pixels], wide: list[tuple[int, int, Wide]], how: How, seen: Seen
) -> None:
    """Decode the wide images again, by the range that all of them use: it is known only when all have been seen."""
    names = [splits[number].name_of(i) for number, i, _ in wide]
    depth = depth_of([values for _, _, values in wide], names)
    seen.depth, seen.wide = depth, len(wide)
    if depth == how.depth:
        return
    filled = [k for k, split in enumerate(splits) if len(split)]
    for number in dict.fromkeys(number for number, _, _ in wide):
        rows = np.array([i for of, i, _ in wide if of == number])
        part = splits[number].select(rows, splits[number].labels[rows])
        for i, found in zip(rows, _decoded(part, replace(how, depth=depth)), strict=True):
            arrays[filled.index(number)][i] = found.pixels


def _mixed_sizes(name: str, size: tuple[int, ...], first_name: str, first_size: tuple[int, ...]) -> str:
    (h, w), (first_h, first_w) = size, first_size
    return (
        f"{name} is {w} x {h} pixels (width x height) but {first_name} is {first_w} x {first_h}: "
        f"images must have one size, so give one with --images.size."
    )


def _decoded(split: Split, how: How) -> Iterator[Decoded]:
    def decode_one(i: int) -> Decoded:
        try:
            return decode(split.items[i], how)
        except Exception as error:  # Pillow raises a dozen types on damaged files
            raise ValueError(f"the image {split.name_of(i)} cannot be read: {error}") from error

    def decode_batch(start: int) -> list[Decoded]:
        return [decode_one(i) for i in range(start, min(start + _BATCH, len(split)))]

    starts = range(0, len(split), _BATCH)
    if isinstance(split.items, np.ndarray) and how.size is None:
        batches = map(decode_batch, starts)
        yield from (found for batch in batches for found in batch)
        return
    # Pillow decodes and resizes outside the interpreter lock.
    with ThreadPoolExecutor(min(_BATCHES_AHEAD, os.cpu_count() or 1)) as pool:
        for first in range(0, len(starts), _BATCHES_AHEAD):
            for batch in pool.map(decode_batch, starts[first : first + _BATCHES_AHEAD]):
                yield from batch


def decode(item: Any, how: How) -> Decoded:
    """One image: a Path, encoded bytes, a PIL image or a uint8 or uint16 array (h, w[, c])."""
    if isinstance(item, np.ndarray):
        return _of_array(item, how)
    if isinstance(item, Image.Image):
        return _of_image(item, how)
    with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
        return _of_image(image, how)


def _of_array(item: NDArray[Any], how: How) -> Decoded:
    if item.dtype not in (np.uint8, np.uint16) or not (
        item.ndim == 2 or (item.ndim == 3 and item.shape[2] in (1, 2, 3, 4))
    ):
        raise ValueError(f"it is {item.dtype} {item.shape}, not uint8 (h, w) or (h, w, c) with c from 1 to 4")
    if not item.size:
        raise ValueError(f"its shape is {item.shape}, which holds no pixel")
    wide = None
    if item.dtype == np.uint16:
        wide, item = wide_of(item), narrowed(item, how.depth)
    pixels = item[:, :, None] if item.ndim == 2 else item  # (h, w, c)
    keeps = {1: ("auto", "grey"), 3: ("auto", "rgb")}
    if how.size is None and how.colour in keeps.get(pixels.shape[2], ()):
        return Decoded(pixels.transpose(2, 0, 1), wide=wide)
    image = Image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels))
    return replace(_of_image(image, how), wide=wide)


def _of_image(image: Image.Image, how: How) -> Decoded:
    format = image.format
    several = format != "MPO" and bool(getattr(image, "is_animated", False))
    cut = has_high_bytes(image)
    scale_transparent_value(image, cut)  # before anything loads the image, which forgets its bits
    if image.getexif().get(_ORIENTATION, 1) != 1:  # a telephone's photograph, stored lying on its side
        image = ImageOps.exif_transpose(image)
    wide = None
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        wide = wide_of(values, format)
        # A new image forgets the file's transparent value, so it is looked for among the wide ones.
        hidden = image.info.get("transparency")
        image = Image.fromarray(narrowed(values, how.depth))
        if isinstance(hidden, int) and (values == hidden).any():
            image.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    elif cut:
        wide = high_bytes(np.asarray(image.convert("RGBA").convert("RGB")))
    image, transparent = composited(image, how.background)
    image = _eight_bits(image, how.colour)
    size, resized = image.size, None
    if how.size is not None:
        image = square(image, how.size)
        resized = size if size != image.size else None
    pixels = np.array(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Decoded(pixels, transparent, several, wide, resized)


def _eight_bits(image: Image.Image, colour: Colour) -> Image.Image:
    """Mode L or RGB; palettes are looked up."""
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
