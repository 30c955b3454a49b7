"""Images of a source decoded and in their order, or as they were kept when an earlier command decoded them.

After decoding, every split is put in one order, by label and then by a hash of the pixels. So the result depends on the
set of images alone: not on file names, file order or format.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trajmatch.data import cache
from trajmatch.data.cache import Kept
from trajmatch.data.reading import sources, transparency
from trajmatch.data.reading.fingerprint import fingerprint, readers
from trajmatch.data.reading.pixels import Colour, Pixels, decode_splits
from trajmatch.data.reading.source import Labels, Source, Split, suggestion
from trajmatch.data.reading.tables import Columns
from trajmatch.machine.progress import Meter

# Bytes of pixels from which on they are kept: fewer are decoded in no time.
WORTH = 4_000_000
# Seconds for which nothing is said while images are decoded.
PATIENCE = 3.0
_HASH = 16  # bytes of an image's hash


@dataclass(frozen=True)
class Reading:
    """How a source is read: the arguments of `images.load` that decide what its images are before any is drawn."""

    size: int | None = None
    classes: tuple[str, ...] | None = None
    colour: Colour = "auto"
    background: str = "white"
    train_split: str | None = None
    test_split: str | None = None
    image_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True, eq=False)
class Images:
    """One split: x uint8 (n, c, h, w), y int64 (n,)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Hashed:
    """Images, and the hash of each one's pixels."""

    images: Images
    hashes: list[bytes]

    def __len__(self) -> int:
        return len(self.hashes)

    def select(self, mask: Tensor) -> "Hashed":
        """The images of a mask (n,)."""
        kept = [digest for digest, keep in zip(self.hashes, mask.tolist(), strict=True) if keep]
        return Hashed(Images(self.images.x[mask], self.images.y[mask]), kept)


@dataclass(frozen=True)
class Decoded:
    """A source's images.

    name, classes, test_from: as in `Source`. splits: training images, and test images where the source has them.
    notes: what was left out, assumed or met, a phrase each. file: of the cache, where they come from there.
    """

    name: str
    classes: tuple[str, ...]
    splits: tuple[Hashed, ...]
    test_from: str
    notes: tuple[str, ...]
    file: Path | None = None

    def digest(self) -> str:
        """Hash of the classes, and of the splits that the source has."""
        about = tuple(self.classes), *(tuple(split.images.x.shape) for split in self.splits)
        found = hashlib.blake2b(repr(about).encode(), digest_size=16)
        for split in self.splits:
            found.update(split.images.y.numpy().data)
            found.update(b"".join(split.hashes))
        return found.hexdigest()


def decoded(source: Any, reading: Reading) -> Decoded:
    """The images of a source, decoded now or earlier. Raises ValueError, one sentence, for whatever is wrong.

    Images of files are kept and found again, by what `fingerprint` says of the files; those of data sets in Python and
    of the Hub, which answers for its own cache, are not.
    """
    key = _key(source, reading)
    if key is not None and (found := cache.find("pixels", key, _understood)) is not None:
        return found
    made = _decoded(source, reading)
    # Files that changed while they were read are not those of either fingerprint.
    is_large = sum(split.images.x.nbytes for split in made.splits) >= WORTH
    if key is not None and is_large and _key(source, reading) == key:
        _keep_for_later(made, key)
    return made


def _key(source: Any, reading: Reading) -> dict[str, Any] | None:
    """What decoded images depend on; None where they are not kept."""
    if not isinstance(source, str | os.PathLike) or not cache.limit():
        return None
    text = os.fspath(source)
    path = Path(os.path.expanduser(text))
    if (files := fingerprint(path)) is None:
        return None
    how = asdict(reading) | {"classes": None if reading.classes is None else sorted(reading.classes)}
    return {"source": repr(text), "path": repr(os.path.abspath(path)), "files": files, "readers": readers(), **how}


def _keep_for_later(made: Decoded, key: Mapping[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    for i, split in enumerate(made.splits):
        hashes = torch.frombuffer(bytearray(b"".join(split.hashes)), dtype=torch.uint8).reshape(len(split), -1)
        tensors |= {f"{i}.x": split.images.x, f"{i}.y": split.images.y, f"{i}.hashes": hashes}
    about = {"name": made.name, "classes": made.classes, "test_from": made.test_from, "notes": made.notes}
    cache.keep("pixels", key, tensors, about)


def _understood(kept: Kept) -> Decoded:
    """Images out of a file. Raises ValueError, KeyError or TypeError where it holds something else."""
    splits = []
    for i in range(len(kept.tensors) // 3):
        x, y, hashes = (kept.tensors[f"{i}.{name}"] for name in ("x", "y", "hashes"))
        kinds = (x.dtype, y.dtype, hashes.dtype) == (torch.uint8, torch.int64, torch.uint8)
        if not kinds or x.dim() != 4 or y.shape != x.shape[:1] or hashes.shape != (len(x), _HASH):
            raise ValueError(f"{kept.path} holds no images")
        # Copies: the tensors as read are views of the file, which another command may remove.
        splits.append(Hashed(Images(x.clone(), y.clone()), [row.tobytes() for row in hashes.numpy()]))
    about = kept.about
    names = tuple(map(str, about["classes"])), str(about["test_from"]), tuple(map(str, about["notes"]))
    if not splits or any(int(split.images.y.max()) >= len(names[0]) for split in splits):
        raise ValueError(f"{kept.path} holds no images")
    return Decoded(str(about["name"]), names[0], tuple(splits), *names[1:], kept.path)


def _decoded(source: Any, reading: Reading) -> Decoded:
    behind = transparency.background(reading.background)
    raw = sources.read(
        source, reading.train_split, reading.test_split, Columns(reading.image_column, reading.label_column)
    )
    where = origin(source, raw.name)
    if reading.classes is not None:
        raw = _keep(raw, reading.classes, where)
    _check_classes(raw, where)
    with Meter("read", sum(map(len, raw.splits())), unit="images", after=PATIENCE) as meter:
        arrays, seen = decode_splits(raw.splits(), reading.size, reading.colour, behind, meter.advance)
    splits = tuple(_canonical(x, split.labels) for x, split in zip(arrays, raw.splits(), strict=True))
    return Decoded(raw.name, raw.classes, splits, raw.test_from, (*raw.notes, *seen.notes(behind)))


def origin(source: Any, name: str) -> str:
    """What a source is called in a message: as the user gave it, or its name."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else name


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


def _canonical(x: Pixels, y: Labels) -> Hashed:
    """Sorted by label, then by a hash of the pixels; images equal in both are interchangeable."""
    keys = [
        (int(label), hashlib.blake2b(pixels, digest_size=_HASH).digest()) for pixels, label in zip(x, y, strict=True)
    ]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    images = Images(torch.from_numpy(x[order]), torch.from_numpy(y[order]))
    return Hashed(images, [keys[i][1] for i in order])
