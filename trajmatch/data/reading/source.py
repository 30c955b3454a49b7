"""What every reader returns: images not yet decoded, their labels, and how to name each one in a message."""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
# What --data may be, for a sentence.
FORMATS = "'digits', a folder of class folders, .npz, .parquet, a CIFAR .tar.gz or a Hub name 'hf:owner/name'"


@dataclass(frozen=True)
class Split:
    """n undecoded images.

    items:   each a Path, encoded bytes, a PIL image or a uint8 or uint16 array (h, w) or (h, w, c); or one such array
             (n, h, w[, c]).
    labels:  (n,) indices into the source's classes.
    name_of: the name of image i for a message: its file, or its row and its file.
    """

    items: Sequence[Any] | NDArray[Any]
    labels: Labels
    name_of: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Labels, labels: Labels) -> "Split":
        """The images `rows`, with new labels, under their old names."""
        items = self.items[rows] if isinstance(self.items, np.ndarray) else [self.items[i] for i in rows]
        return Split(items, labels, lambda i: self.name_of(int(rows[i])))


@dataclass(frozen=True)
class Source:
    """What a reader found.

    name:      what the source is called.
    classes:   names of the classes; a label is an index into them.
    train:     the training split.
    test:      the test split; None where the source has none of its own.
    test_from: what the test split is called in the source.
    notes:     what was left out or assumed and why, a phrase each.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split | None
    test_from: str = ""
    notes: tuple[str, ...] = ()

    def splits(self) -> list[Split]:
        return [self.train] if self.test is None else [self.train, self.test]


def row_namer(origin: str) -> Callable[[int], str]:
    """Names for the rows of one file or object."""
    return lambda i: f"row {i} of {origin}"


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key under which 'class10' comes after 'class9'."""
    parts = re.split("([0-9]+)", name)  # numbers have the odd places; other scripts' digits stay text
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def suggestion(word: str, known: Sequence[str]) -> str:
    """What to add to a sentence about an unknown word: ', did you mean ...?', or nothing."""
    near = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def labelled(
    name: str,
    train: Split,
    test: Split | None,
    names: Sequence[str] | None,
    test_from: str = "",
    notes: Sequence[str] = (),
) -> Source:
    """A Source from splits whose labels are the file's own integers.

    With `names`, label i is class names[i]. Without, the classes are the integers that occur, as text, so that labels
    with gaps need no empty classes. Raises ValueError for a negative label or one beyond `names`.
    """
    splits = [train] if test is None else [train, test]
    for split in splits:
        limit = len(names) if names is not None else np.iinfo(np.int64).max
        wrong = np.flatnonzero((split.labels < 0) | (split.labels >= limit))
        if len(wrong):
            label, where = split.labels[wrong[0]], split.name_of(int(wrong[0]))
            right = "0 or more" if names is None else f"0 to {limit - 1}, one for each of the {limit} class names"
            raise ValueError(f"{where} has the label {label}: labels must be {right}.")
    if names is not None:
        distinct, more = distinguished(names)
        return Source(printable(name), distinct, train, test, test_from, (*notes, *more))
    values = np.unique(np.concatenate([split.labels for split in splits]))
    train, *rest = (Split(split.items, np.searchsorted(values, split.labels), split.name_of) for split in splits)
    classes = tuple(str(value) for value in values)
    return Source(printable(name), classes, train, rest[0] if rest else None, test_from, tuple(notes))


def printable(name: str) -> str:
    """A file's name as text that can be written anywhere: bytes that are not UTF-8 become the replacement sign."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def distinguished(names: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The names, where those that occur more than once are followed by their class's number, and a note that says so.

    >>> distinguished(["crane", "owl", "crane"])[0]
    ('crane (0)', 'owl', 'crane (2)')
    """
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if not repeated:
        return tuple(names), []
    found = tuple(f"{name} ({i})" if name in repeated else name for i, name in enumerate(names))
    if len(set(found)) < len(found):
        raise ValueError(f"the class name {repeated[0]!r} occurs more than once: every class must have its own name.")
    which = ", ".join(repr(name) for name in repeated[:3]) + (", ..." if len(repeated) > 3 else "")
    return found, [f"class names that occur more than once ({which}) are told apart by their numbers"]


def aligned(split: Split, names: Sequence[str] | None, wanted: Sequence[str] | None, where: str) -> tuple[Split, bool]:
    """The split with its labels as `wanted` numbers the classes, and whether that changed any number.

    names: what the split's own labels mean. A class is the same where its name is, whatever its number.

    Raises ValueError where a label that occurs has a name that `wanted` lacks, or where names that occur more than once
    are in another order.
    """
    if names is None or wanted is None or list(names) == list(wanted):
        return split, False
    used = sorted({int(label) for label in split.labels if label >= 0})
    for label in used:
        if label >= len(names):
            raise ValueError(f"{where} has the label {label}: labels must be 0 to {len(names) - 1}.")
        if names[label] not in wanted:
            near = suggestion(names[label], wanted)
            raise ValueError(
                f"{where} has the class {names[label]!r}, which the training images have not"
                f"{near or ': both must have the same classes.'}"
            )
    if len(set(wanted)) < len(wanted) or len(set(names)) < len(names):
        raise ValueError(f"{where} has other class names than the training images, and some occur more than once.")
    number = np.arange(len(names))
    number[used] = [list(wanted).index(names[label]) for label in used]
    labels = np.where(split.labels < 0, split.labels, number[np.maximum(split.labels, 0)])
    return Split(split.items, labels, split.name_of), any(number[label] != label for label in used)


NO_LABELS = (
    "{} has no labels (all are -1 or missing, as in the Hub's unlabelled test sets): give --images.test-split with the "
    "name of a labelled split, or none to draw test images from the training images."
)
REORDERED = "classes are numbered otherwise in {}, and were matched by name"


def integer_labels(values: Any, where: str) -> Labels:
    """Labels (n,) int64 from an array of any integer type, (n,) or (n, 1). Raises ValueError for anything else."""
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        shape = tuple(array.shape)
        raise ValueError(f"{where} has type {array.dtype} and shape {shape}: labels must be integers, one per image.")
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{where} has the label {int(array.max())}: labels must be less than 2**63.")
    return array.astype(np.int64)


def is_unlabelled(labels: Labels) -> bool:
    """Whether labels are there in name alone: all are -1."""
    return len(labels) > 0 and bool((labels == -1).all())
