"""Labelled images as tensors: loading from any source, reproducible splits, and export to a folder of PNGs.

After decoding, every split is put in one order, by label and then by a hash of the pixels, and only then split by
seed. So the result depends on the set of images alone: not on file names, file order or format.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trajmatch.data.reading import sources, transparency
from trajmatch.data.reading.pixels import Colour, Pixels, decode_splits, save_png
from trajmatch.data.reading.source import Labels, Source, Split, natural, printable, suggestion
from trajmatch.data.reading.told import duplicates, told, untested
from trajmatch.data.reading.walk import is_hidden


@dataclass(frozen=True, eq=False)
class Images:
    """One split: x uint8 (n, c, h, w), y int64 (n,)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits over the same classes.

    name:       what the source is called.
    classes:    names of the classes; a label is an index into them.
    train, validation, test: the splits.
    held_out:   whether the validation images were taken out of `train`; else `train` has them too.
    read:       what was read, for people: a sentence of `told`.
    digest:     hash of classes, images and labels before a seed drew any: the same for every seed.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    validation: Images
    test: Images
    held_out: bool = True
    read: str = ""
    digest: str = ""

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
) -> Dataset:
    """Images from any source, as uint8 tensors in three splits.

    source:        "digits" (embedded); a folder of class folders, with train/ and test/ or not; Tiny ImageNet's folder;
                   a Parquet file or folder in the Hugging Face layout, or what `save_to_disk` wrote; .npz; the
                   CIFAR-10/100 Python archives, packed or not; a Hub name "owner/name"; or a torch map-style data set
                   of (image, int), or a pair of them.
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

    What was read, and what was left out, is told in the data set's `read`.
    Raises ValueError, one sentence, for whatever is wrong with the source or an argument.
    """
    _check_arguments(size, colour, validation, test_fraction)
    behind = transparency.background(background)
    raw = sources.read(source, train_split, test_split)
    where = os.fspath(source) if isinstance(source, str | os.PathLike) else raw.name
    if classes is not None:
        raw = _keep(raw, classes, where)
    _check_classes(raw, where)
    arrays, seen = decode_splits(raw.splits(), size, colour, behind)
    train, *rest = [_canonical(x, split.labels) for x, split in zip(arrays, raw.splits(), strict=True)]
    digest = _digest(raw.classes, [train, *rest])
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
    notes = [*raw.notes, *seen.notes(behind), *copies, *untested(raw.classes, test.images.y)]
    counts = (len(train), len(chosen), len(test))
    read = told(printable(where), raw.classes, counts, splits[0].x.shape[1:], hold_out, test_from, notes)
    return Dataset(raw.name, raw.classes, *splits, hold_out, read, digest)


def _check_arguments(size: int | None, colour: str, validation: float, test_fraction: float) -> None:
    if size is not None and size < 1:
        raise ValueError(f"--images.size is {size}: it must be at least 1 pixel.")
    if colour not in ("auto", "grey", "rgb"):
        raise ValueError(f"--images.colour is {colour!r}: it must be 'auto', 'grey' or 'rgb'.")
    if not 0 < validation <= 0.5:
        raise ValueError(f"--images.validation is {validation}: it must be above 0 and at most 0.5.")
    if not 0 < test_fraction < 1:
        raise ValueError(f"--images.test-fraction is {test_fraction}: it must be between 0 and 1.")


def _keep(raw: Source, wanted: Sequence[str], where: str) -> Source:
    """Only the classes named, renumbered in the source's order."""
    for name in wanted:
        if name not in raw.classes:
            near = suggestion(name, raw.classes)
            known = ", ".join(raw.classes[:20]) + (", ..." if len(raw.classes) > 20 else "")
            raise ValueError(f"{where} has no class {name!r}{near or f': its classes are {known}.'}")
    kept = [i for i, name in enumerate(raw.classes) if name in wanted]
    new_label = np.full(len(raw.classes), -1, np.int64)
    new_label[kept] = np.arange(len(kept))

    def pick(split: Split) -> Split:
        labels = new_label[split.labels]
        rows = np.flatnonzero(labels >= 0)
        return split.select(rows, labels[rows])

    names = tuple(raw.classes[i] for i in kept)
    return replace(raw, classes=names, train=pick(raw.train), test=None if raw.test is None else pick(raw.test))


def _check_classes(raw: Source, where: str) -> None:
    """Raise ValueError unless there are at least two classes and each has training images."""
    if not any(len(split) for split in raw.splits()):
        raise ValueError(f"{where} has no images.")
    for split, name in zip(raw.splits(), ("training", "test"), strict=False):
        if not len(split):
            raise ValueError(f"the {name} split of {where} is empty.")
    counts = np.bincount(raw.train.labels, minlength=len(raw.classes))
    if not counts.all():
        label = int(counts.argmin())
        is_tested = raw.test is not None and bool((raw.test.labels == label).any())
        what = "test images but no training images" if is_tested else "no images"
        raise ValueError(
            f"class {raw.classes[label]!r} of {where} has {what}: add some, or choose others with --images.classes."
        )
    if len(raw.classes) < 2:
        raise ValueError(f"{where} has only one class, {raw.classes[0]!r}: at least two are needed.")


@dataclass(frozen=True)
class _Hashed:
    """Images, and the hash of each one's pixels."""

    images: Images
    hashes: list[bytes]

    def __len__(self) -> int:
        return len(self.hashes)

    def select(self, mask: Tensor) -> "_Hashed":
        kept = [digest for digest, keep in zip(self.hashes, mask.tolist(), strict=True) if keep]
        return _Hashed(Images(self.images.x[mask], self.images.y[mask]), kept)


def _canonical(x: Pixels, y: Labels) -> _Hashed:
    """Sorted by label, then by a hash of the pixels; images equal in both are interchangeable."""
    keys = [(int(label), hashlib.blake2b(pixels, digest_size=16).digest()) for pixels, label in zip(x, y, strict=True)]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    images = Images(torch.from_numpy(x[order]), torch.from_numpy(y[order]))
    return _Hashed(images, [keys[i][1] for i in order])


def _digest(classes: Sequence[str], splits: Sequence[_Hashed]) -> str:
    """Hash of the classes, and of the splits that a source has."""
    about = tuple(classes), *(tuple(split.images.x.shape) for split in splits)
    found = hashlib.blake2b(repr(about).encode(), digest_size=16)
    for split in splits:
        found.update(split.images.y.numpy().data)
        found.update(b"".join(split.hashes))
    return found.hexdigest()


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
    images: _Hashed, classes: Sequence[str], fraction: float, generator: torch.Generator, purpose: str
) -> tuple[_Hashed, _Hashed]:
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
    folders = _folder_names(dataset.classes)
    for split, images in (("train", train), ("test", dataset.test)):
        counts = [0] * len(folders)
        for label in images.y.unique().tolist():  # a class may have no test images, and no folder then
            (target / split / folders[label]).mkdir(parents=True)
        for pixels, label in zip(images.x.numpy(), images.y.tolist(), strict=True):
            save_png(pixels, target / split / folders[label] / f"{counts[label]:05d}.png")
            counts[label] += 1


def _folder_names(classes: Sequence[str]) -> list[str]:
    names = [re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", name) for name in classes]
    distinct = len({name.casefold() for name in names}) == len(names)
    visible = all(name and not is_hidden(name) for name in names)
    if distinct and visible and names == sorted(names, key=natural):
        return names
    width = len(str(len(names) - 1))
    return [f"{i:0{width}d}_{name}" for i, name in enumerate(names)]
