"""One picture of a set of labelled images, and a safe way to write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from trajmatch.data.files import replacing
from trajmatch.data.lettering import Lettering, lettering

GAP = 4  # pixels between pictures
DEFAULT_CELL = 84  # 8, 16, 28, 32 and 64 pixel images become 80, 80, 84, 64 and 64
FEW, FEW_CELL, FEW_PER_ROW = 20, 160, 5  # so few tiles are drawn larger: a page shows them, also on a phone
MAX_PER_CLASS = 10
MAX_CLASSES = 40
MAX_NAME_WIDTH = 180
INK, FAINT_INK, HAIRLINE = (25, 25, 25), (110, 110, 110), (221, 221, 221)


class _Text(NamedTuple):
    x: float
    y: float
    words: str
    anchor: str  # Pillow's two letters: "lm" left middle, "ma" middle ascender, "la" left ascender
    colour: tuple[int, int, int] = INK


class _Layout(NamedTuple):
    """Where everything goes, and how much room it takes."""

    pictures: list[tuple[int, int, int]]  # x, y, index of the image
    texts: list[_Text]
    width: int
    height: int


def image_grid(
    pixels: Tensor,
    labels: Tensor | Sequence[int],
    classes: Sequence[str],
    *,
    per_row: int | None = None,
    cell: int | None = None,
) -> Image.Image:
    """The images on white, sorted by class: a named row per class, or named tiles when no class has two images.

    pixels:  (n, c, h, w) floating, grey or RGB, clamped to [0, 1] (images after an inverse whitening may leave it).
    labels:  n class indices, or (n, C) label weights, of which the largest counts.
    per_row: pictures in a row; None is 10, and 5 for up to 20 tiles.
    cell:    largest side of one picture in pixels; images are enlarged, or averaged down, by the whole number that
             fits; None is 84, and 160 for up to 20 tiles.

    At most 10 images of a class and 40 classes are drawn; what is left out is said in the picture.
    """
    members = _members(labels, len(pixels), len(classes))
    few = len(pixels) == len(members) <= FEW
    per_row = (FEW_PER_ROW if few else 10) if per_row is None else per_row
    cell = (FEW_CELL if few else DEFAULT_CELL) if cell is None else cell
    _check(pixels, per_row, cell)
    drawn = dict(list(members.items())[:MAX_CLASSES])
    shown = {i: _picture(pixels[i], cell) for group in drawn.values() for i in group[:MAX_PER_CLASS]}
    size = next(iter(shown.values())).size
    text = _lettering(size)
    arrange: Callable[..., _Layout] = _tiles if max(map(len, members.values())) == 1 else _rows
    layout = arrange(drawn, classes, size, per_row, text)
    return _draw(layout, shown, text, _notes(pixels, len(members), len(classes)))


def displayable(pixels: Tensor) -> Tensor:
    """Pixels (n, c, h, w) brought into [0, 1], image by image, without losing what lies outside.

    Optimised images leave the range that a screen shows. What is further than 2.5 standard deviations from an image's
    mean is cut, and an image that still leaves the range is compressed linearly into it; others are untouched.
    """
    flat = pixels.flatten(1)
    mean, reach = flat.mean(1, keepdim=True), 2.5 * flat.std(1, keepdim=True, correction=0)
    low = torch.maximum(flat.amin(1, keepdim=True), mean - reach).clamp_max(0.0)
    high = torch.minimum(flat.amax(1, keepdim=True), mean + reach).clamp_min(1.0)
    return ((flat.clamp(low, high) - low) / (high - low)).view_as(pixels)


def save_png(image: Image.Image, path: Path) -> None:
    """Write `image` as PNG, whole or not at all."""
    with replacing(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)


def _check(pixels: Tensor, per_row: int, cell: int) -> None:
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(f"pixels has shape {tuple(pixels.shape)}; allowed: (n, 1 or 3, h, w) with no zero.")
    if not pixels.is_floating_point():
        raise ValueError(f"pixels has type {pixels.dtype}; allowed: floating, with values in [0, 1].")
    if per_row < 1 or cell < 1:
        raise ValueError(f"per_row is {per_row} and cell is {cell}; both must be at least 1.")


def _members(labels: Tensor | Sequence[int], num_images: int, num_classes: int) -> dict[int, list[int]]:
    """Positions of each class's images, for the classes that have any, in the order of the classes."""
    if isinstance(labels, Tensor):
        labels = (labels.argmax(dim=1) if labels.ndim == 2 else labels).tolist()
    if len(labels) != num_images:
        raise ValueError(f"{len(labels)} labels for {num_images} images; there must be one for each.")
    members: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        if not 0 <= label < num_classes:
            raise ValueError(f"Label {label} of image {position} is outside 0..{num_classes - 1}.")
        members.setdefault(int(label), []).append(position)
    return dict(sorted(members.items()))


def _picture(image: Tensor, cell: int) -> Image.Image:
    """One image (c, h, w) as RGB, at a whole multiple or fraction of its size."""
    bytes_ = (image.detach().cpu().float().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    height, width = image.shape[1:]
    rgb = bytes_.expand(3, height, width).permute(1, 2, 0).contiguous()  # (h, w, 3)
    picture = Image.frombytes("RGB", (width, height), rgb.numpy().tobytes())
    side = max(height, width)
    if side > cell:
        return picture.reduce(ceil(side / cell))
    scale = cell // side
    return picture.resize((width * scale, height * scale), Image.Resampling.NEAREST)


def _lettering(size: tuple[int, int]) -> Lettering:
    return lettering(min(24, max(12, round(max(size) / 5))))


def _rows(
    members: dict[int, list[int]],
    classes: Sequence[str],
    size: tuple[int, int],
    per_row: int,
    text: Lettering,
) -> _Layout:
    """A class per row, name and, where images are left out, their number at the left."""
    width, height = size
    names = {label: [text.shortened(text.name(classes[label], label), MAX_NAME_WIDTH)] for label in members}
    for label, group in members.items():
        if len(group) > MAX_PER_CLASS:
            names[label].append(f"{MAX_PER_CLASS} of {len(group)}")
    left = 2 * GAP + max(text.width(line) for lines in names.values() for line in lines) + 2 * GAP
    # A class that takes several lines is set apart, so that its second line is not read as the next class.
    apart = 2 * GAP if any(len(group) > per_row for group in members.values()) else 0
    pictures, texts, top, columns = [], [], GAP, 1
    for label, group in members.items():
        visible = group[:MAX_PER_CLASS]
        first_line = top + height / 2 - text.line * (len(names[label]) - 1) / 2
        for number, words in enumerate(names[label]):
            y = first_line + number * text.line
            texts.append(_Text(2 * GAP, y, words, "lm", FAINT_INK if number else INK))
        for place, index in enumerate(visible):
            line, column = divmod(place, per_row)
            pictures.append((left + column * (width + GAP), top + line * (height + GAP), index))
        columns = max(columns, min(per_row, len(visible)))
        top += ceil(len(visible) / per_row) * (height + GAP) + apart
    return _Layout(pictures, texts, left + columns * (width + GAP), top - apart)


def _tiles(
    members: dict[int, list[int]],
    classes: Sequence[str],
    size: tuple[int, int],
    per_row: int,
    text: Lettering,
) -> _Layout:
    """One picture per class, its name below."""
    width, height = size
    widest = max(text.width(text.name(classes[label], label)) for label in members)
    tile = max(width, min(widest, width * 3 // 2))
    pitch_x, pitch_y = tile + 2 * GAP, height + text.line + 3 * GAP
    pictures, texts = [], []
    for place, (label, group) in enumerate(members.items()):
        line, column = divmod(place, per_row)
        x, y = GAP + column * pitch_x, GAP + line * pitch_y
        pictures.append((x + (tile - width) // 2, y, group[0]))
        words = text.shortened(text.name(classes[label], label), tile)
        texts.append(_Text(x + tile / 2, y + height + GAP, words, "ma"))
    columns, lines = min(per_row, len(members)), ceil(len(members) / per_row)
    return _Layout(pictures, texts, columns * pitch_x, lines * pitch_y)


def _notes(pixels: Tensor, num_present: int, num_classes: int) -> list[str]:
    """What a reader must know to take the picture for what it is."""
    notes = []
    if num_present > MAX_CLASSES:
        notes.append(f"The first {MAX_CLASSES} of {num_present} classes.")
    if num_present < num_classes:
        notes.append(f"No image in {num_classes - num_present} of {num_classes} classes.")
    if not bool(torch.isfinite(pixels).all()):
        notes.append("Some pixels are not finite.")
    return notes


def _draw(layout: _Layout, shown: dict[int, Image.Image], text: Lettering, notes: list[str]) -> Image.Image:
    width = max([layout.width, *(text.width(note) + 4 * GAP for note in notes)])
    height = layout.height + (len(notes) * text.line + 2 * GAP if notes else 0)
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    for x, y, index in layout.pictures:
        picture = shown[index]
        # Around the picture, not on it: without it a white image has no edge.
        pen.rectangle((x - 1, y - 1, x + picture.width, y + picture.height), outline=HAIRLINE)
        canvas.paste(picture, (x, y))
    captions = [
        _Text(2 * GAP, layout.height + GAP + place * text.line, note, "la", FAINT_INK)
        for place, note in enumerate(notes)
    ]
    for one in [*layout.texts, *captions]:
        pen.text((one.x, one.y), one.words, fill=one.colour, font=text.font(one.words), anchor=one.anchor)
    return canvas
