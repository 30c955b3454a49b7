"""What every reader returns: images not yet decoded, their labels, and how to name each one in a message."""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """n undecoded images.

    items:   each a Path, encoded bytes, a PIL image or a uint8 array (h, w) or (h, w, c); or one array (n, h, w[, c]).
    labels:  (n,) indices into the source's classes.
    name_of: the name of image i for a message: its file, or its row and its file.
    """

    items: Sequence[Any] | NDArray[np.uint8]
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
    """What a reader found. test is None where the source has no test split of its own."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split | None

    def splits(self) -> list[Split]:
        return [self.train] if self.test is None else [self.train, self.test]


def row_namer(origin: str) -> Callable[[int], str]:
    """Names for the rows of one file or object."""
    return lambda i: f"row {i} of {origin}"


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key under which 'class10' comes after 'class9'."""
    return [int(part) if part.isdigit() else part for part in re.split("([0-9]+)", name)], name


def suggestion(word: str, known: Sequence[str]) -> str:
    """', did you mean ...?' or nothing."""
    near = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def labelled(name: str, train: Split, test: Split | None, names: Sequence[str] | None) -> Source:
    """A Source from splits whose labels are the file's own integers.

    With `names`, label i is class names[i]. Without, the classes are the integers that occur, as text, so that labels
    with gaps need no empty classes. ValueError for a negative label or one beyond `names`.
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
        return Source(name, tuple(names), train, test)
    values = np.unique(np.concatenate([split.labels for split in splits]))
    train, *rest = (Split(split.items, np.searchsorted(values, split.labels), split.name_of) for split in splits)
    return Source(name, tuple(str(value) for value in values), train, rest[0] if rest else None)


def integer_labels(values: Any, where: str) -> Labels:
    """(n,) int64 from an array of any integer type, (n,) or (n, 1); ValueError otherwise."""
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        shape = tuple(array.shape)
        raise ValueError(f"{where} has type {array.dtype} and shape {shape}: labels must be integers, one per image.")
    return array.astype(np.int64)
