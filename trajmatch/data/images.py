"""Labelled images as tensors: loading from any source, reproducible splits, and export to a folder of PNGs.

Images come from `decoded` in an order that depends on them alone, and only then are they split by seed.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trajmatch.data.decoded import Hashed, Images, Reading, decoded, origin
from trajmatch.data.reading.names import shown_names
from trajmatch.data.reading.pixels import Colour, save_png
from trajmatch.data.reading.source import natural, printable
from trajmatch.data.reading.told import duplicates, told, untested
from trajmatch.data.reading.walk import is_hidden


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits over the same classes.

    name:       what the source is called.
    classes:    names of the classes; a label is an index into them.
    train, validation, test: the splits.
    held_out:   whether the validation images were taken out of `train`; else `train` has them too.
    read:       what was read, for people: a sentence of `told`.
    digest:     hash of classes, images and labels before a seed drew any: the same for every seed.
    shown:      names of the classes for people, where a file beside the images tells others than `classes`; else empty.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    validation: Images
    test: Images
    held_out: bool = True
    read: str = ""
    digest: str = ""
    shown: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes for people."""
        return self.shown or self.classes

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w)."""
        c, h, w = self.train.x.shape[1:]
        return c, h, w


def load(
    source: str | os.PathLike[str] | tuple[Any, Any] | Any,
    *,
    size: int | None = None,
    classes: Sequence[str] | None = None,
    colour: Colour = "auto",
    validation: float = 0.1,
    hold_out: bool = True,
    test_fraction: float = 0.2,
    seed: int = 0,
    background: str = "white",
    train_split: str | None = None,
    test_split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Dataset:
    """Images from any source, as uint8 tensors in three splits.

    source:        "digits" (embedded); a folder of class folders, with train/ and test/ or not; Tiny ImageNet's folder;
                   a Parquet file or folder in the Hugging Face layout, or what `save_to_disk` wrote; .npz; the
                   CIFAR-10/100 Python archives, packed or not; "hf:NAME[:CONFIG][@REVISION]" or "owner/name" on the
                   Hub; a `Dataset` or `DatasetDict` of the package `datasets`; or a torch map-style data set of
                   (image, int), or a pair of them.
    size:          pixels; shorter side resized to it and centre cropped. None: all images must have one size.
    classes:       names to keep, in the source's order whatever their order here.
    colour:        "grey" (1 channel), "rgb" (3), or "auto": grey if every image is.
    validation:    fraction of each class's training images, in (0, 0.5].
    hold_out:      take the validation images out of `train`; if False they stay in it too.
    test_fraction: fraction of each class, in (0, 1), for a source without a test split.
    seed:          of both splits; torch's global generator is not touched.
    background:    the colour that transparent images are laid on, as CSS names it.
    train_split:   what the training split is called in the source, where its name does not tell.
    test_split:    what the test split is called in the source; "none" draws test images from the training images.
    image_column:  what the column of images is called in a table, where its name does not tell.
    label_column:  what the column of labels is called in a table, where its name does not tell.

    What was read, and what was left out, is told in the data set's `read`.
    Raises ValueError, one sentence, for whatever is wrong with the source or an argument.
    """
    _check_arguments(size, colour, validation, test_fraction)
    names = train_split, test_split, image_column, label_column
    reading = Reading(size, None if classes is None else tuple(classes), colour, background, *names)
    raw = decoded(source, reading)
    train, *rest = raw.splits
    if rest:
        test = rest[0]
    else:
        train, test = _part(train, raw.classes, test_fraction, _generator(seed, "test"), "test")
    copies = duplicates(train.hashes, train.images.y, test.hashes)
    if hold_out:
        train, chosen = _part(train, raw.classes, validation, _generator(seed, "validation"), "validation")
    else:
        drawn = _drawn(train.images.y, len(raw.classes), validation, _generator(seed, "validation"))
        chosen = train.select(drawn)
    splits = train.images, chosen.images, test.images
    test_from = raw.test_from if rest else f"drawn from the training images, {test_fraction:.0%} of each class"
    notes = [*raw.notes, *copies, *untested(raw.classes, test.images.y)]
    notes += [f"from the cache of {raw.file}"] if raw.file is not None else []
    counts, where = (len(train), len(chosen), len(test)), printable(origin(source, raw.name))
    shown, file = shown_names(source, raw.classes)
    notes += [f"names of the classes from {printable(file)}"] if file else []
    read = told(where, shown or raw.classes, counts, splits[0].x.shape[1:], hold_out, test_from, notes)
    return Dataset(raw.name, raw.classes, *splits, hold_out, read, raw.digest(), shown)


def _check_arguments(size: int | None, colour: str, validation: float, test_fraction: float) -> None:
    if size is not None and size < 1:
        raise ValueError(f"--images.size is {size}: it must be at least 1 pixel.")
    if colour not in ("auto", "grey", "rgb"):
        raise ValueError(f"--images.colour is {colour!r}: it must be 'auto', 'grey' or 'rgb'.")
    if not 0 < validation <= 0.5:
        raise ValueError(f"--images.validation is {validation}: it must be above 0 and at most 0.5.")
    if not 0 < test_fraction < 1:
        raise ValueError(f"--images.test-fraction is {test_fraction}: it must be between 0 and 1.")


def _generator(seed: int, purpose: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def _drawn(y: Tensor, num_classes: int, fraction: float, generator: torch.Generator) -> Tensor:
    """Mask (n,) of `fraction` of every class, at least one image each."""
    mask = torch.zeros(len(y), dtype=torch.bool)
    for label in range(num_classes):
        rows = torch.nonzero(y == label).flatten()
        count = max(1, int(fraction * len(rows) + 0.5))
        mask[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    return mask


def _part(
    images: Hashed, classes: Sequence[str], fraction: float, generator: torch.Generator, purpose: str
) -> tuple[Hashed, Hashed]:
    """The rest and the drawn part. Raises ValueError where one of them lacks a class."""
    y = images.images.y
    drawn = _drawn(y, len(classes), fraction, generator)
    left = torch.bincount(y[~drawn], minlength=len(classes))
    if not left.all():
        label = int(left.argmin())
        count = int((y == label).sum())
        raise ValueError(
            f"class {classes[label]!r} has {count} {'image' if count == 1 else 'images'} to draw {purpose} images from "
            f"(fraction {fraction}): too few, at least one must remain for training."
        )
    return images.select(~drawn), images.select(drawn)


def check_ipc(dataset: Dataset, ipc: int) -> None:
    """Raise ValueError unless every class has at least `ipc` training images."""
    counts = torch.bincount(dataset.train.y, minlength=dataset.num_classes)
    smallest = int(counts.argmin())
    if not 1 <= ipc <= counts[smallest]:
        raise ValueError(
            f"--ipc is {ipc} but class {dataset.classes[smallest]!r} of {dataset.name} has {int(counts[smallest])} "
            f"training images: --ipc must be from 1 to {int(counts[smallest])}."
        )


def export_folder(dataset: Dataset, path: str | os.PathLike[str]) -> None:
    """Write path/train/<class>/NNNNN.png and path/test/<class>/NNNNN.png, which `load` reads back to the same tensors.

    Held-out validation images go back into train/, from which the same seed draws them again. Folder names start with
    a number where the names alone would not keep the order of the classes. Raises ValueError where `path` is not empty.
    """
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not an empty folder: images are only written into a new one.")
    train = dataset.train
    if dataset.held_out:
        held = dataset.validation
        train = Images(torch.cat([train.x, held.x]), torch.cat([train.y, held.y]))
    folders = folder_names(dataset.classes)
    for split, images in (("train", train), ("test", dataset.test)):
        counts = [0] * len(folders)
        for label in images.y.unique().tolist():  # a class may have no test images, and no folder then
            (target / split / folders[label]).mkdir(parents=True)
        for pixels, label in zip(images.x.numpy(), images.y.tolist(), strict=True):
            save_png(pixels, target / split / folders[label] / f"{counts[label]:05d}.png")
            counts[label] += 1


def folder_names(classes: Sequence[str]) -> list[str]:
    """A folder's name for each class, which keeps the order of the classes where names are sorted."""
    names = [re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", name) for name in classes]
    distinct = len({name.casefold() for name in names}) == len(names)
    visible = all(name and not is_hidden(name) for name in names)
    if distinct and visible and names == sorted(names, key=natural):
        return names
    width = len(str(len(names) - 1))
    return [f"{i:0{width}d}_{name}" for i, name in enumerate(names)]
