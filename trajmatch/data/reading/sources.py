"""Where images come from: one function that recognises the kind of source and calls its reader."""

import os
import shlex
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmatch.data.reading import archives, folders, hub, parquet
from trajmatch.data.reading.in_python import read_torch
from trajmatch.data.reading.source import (
    FORMATS,
    NO_LABELS,
    Source,
    Split,
    integer_labels,
    is_unlabelled,
    labelled,
    printable,
    row_namer,
    suggestion,
)
from trajmatch.data.reading.splits import listed
from trajmatch.data.reading.tables import TOLD_BY_NAME, Columns
from trajmatch.data.reading.walk import has_images, is_hidden

_TAR = (".tar.gz", ".tgz", ".tar")
_ARRAY_SUFFIXES = (".npz", ".parquet", ".arrow", *_TAR)


def read(source: object, train: str | None = None, test: str | None = None, columns: Columns = TOLD_BY_NAME) -> Source:
    """Recognise `source` (see `images.load`) and read it, undecoded.

    train, test: what its splits are called, where their names do not tell; "none" for a test split that is not read.
    columns:     what its columns are called, where their names do not tell.

    Raises ValueError where the source is of no known kind.
    """
    if isinstance(source, str | os.PathLike) and source != "digits":
        return _read_path(os.fspath(source), train, test, columns)
    if hub.is_dataset(source):
        return hub.read_datasets(source, train, test, columns)
    what = "the digits" if isinstance(source, str | os.PathLike) else "data sets in Python"
    _refuse(train, test, what)
    _refuse_columns(columns, what)
    if isinstance(source, str | os.PathLike):
        return read_digits()
    if isinstance(source, tuple):
        if len(source) != 2:
            raise ValueError(f"a tuple of {len(source)} is no source of images: a pair (train, test) is.")
        return read_torch(*source)
    return read_torch(source, None)


def _refuse(train: str | None, test: str | None, what: str) -> None:
    """Raise ValueError where the user names splits of a source that has none to choose."""
    for flag, value in (("--images.train-split", train), ("--images.test-split", test)):
        if value is not None:
            raise ValueError(f"{flag} is {value!r} and has no effect on {what}: leave it out.")


def _refuse_columns(columns: Columns, what: str) -> None:
    """Raise ValueError where the user names columns of a source that has none."""
    for flag, value in zip(("--images.image-column", "--images.label-column"), columns, strict=True):
        if value is not None:
            raise ValueError(f"{flag} is {value!r} and has no effect on {what}, which is no table: leave it out.")


def _read_path(text: str, train: str | None, test: str | None, columns: Columns) -> Source:
    if text.startswith(hub.PREFIX):
        return hub.read_hub(text, train, test, columns)
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"--data is {text}, and there is no such home folder") from None
    if path.is_dir():
        return _read_directory(path, train, test, columns)
    if not path.exists():
        # 'data/cifar' beside an existing folder 'data' is a slip of the pen, not a name on the Hub.
        if hub.is_hub_name(text) and not path.parent.is_dir() and not text.lower().endswith(_ARRAY_SUFFIXES):
            return hub.read_hub(text, train, test, columns)
        raise ValueError(_missing(text, path))
    name = path.name.lower()
    if name.endswith((".parquet", ".arrow")):
        _refuse(train, test, str(path))
        return parquet.read_file(path, columns)
    _refuse_columns(columns, str(path))
    if name.endswith(".npz"):
        return read_npz(path, train, test)
    _refuse(train, test, str(path))
    if name.endswith(_TAR):
        return archives.read_cifar_tar(path)
    raise ValueError(f"{path} is no known source of images: give {FORMATS}.")


def _read_directory(path: Path, train: str | None, test: str | None, columns: Columns) -> Source:
    if archives.is_cifar_folder(path):
        _refuse(train, test, str(path))
        _refuse_columns(columns, str(path))
        return archives.read_cifar_folder(path)
    if parquet.has_tables(path):
        found = parquet.read_parquet(path, train, test, columns)
        beside = ("left out: the image files beside the Parquet files",) if has_images(path) else ()
        return replace(found, notes=(*found.notes, *beside))
    _refuse_columns(columns, str(path))
    _refuse_folder_around(path)
    return folders.read_folder(path, train, test)


def _refuse_folder_around(path: Path) -> None:
    """Raise ValueError where a folder without images holds a file or folder that is a source itself."""
    if has_images(path):
        return
    held = sorted(child for child in path.iterdir() if not is_hidden(child.name) and _is_source(child))
    if held:
        which = "" if len(held) == 1 else "one of them, such as "
        names = listed([printable(child.name) for child in held])
        raise ValueError(f"{path} holds {names}: give {which}--data {shlex.quote(printable(str(held[0])))}.")


def _is_source(path: Path) -> bool:
    """Whether a path in a folder is a source by its name, or CIFAR unpacked. Parquet has been looked for."""
    if path.is_dir():
        return archives.is_cifar_folder(path)
    return path.name.lower().endswith((".npz", ".arrow", *_TAR)) and path.is_file()


def _missing(text: str, path: Path) -> str:
    siblings = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
    near = suggestion(path.name, [*siblings, "digits"])
    return f"--data is {text!r} and does not exist{near or f': give {FORMATS}.'}"


def read_digits() -> Source:
    """The embedded 1,797 handwritten digits of the UCI optical recognition set, 8 x 8, their 17 greys spread to 0..255.

    E. Alpaydin and C. Kaynak, 1998, CC BY 4.0, doi 10.24432/C50P49. No test split of its own.
    """
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
        x, y = file["x"], file["y"]
    greys = np.round(np.arange(17) * 255 / 16).astype(np.uint8)
    return labelled(
        "digits", Split(greys[x], y.astype(np.int64), row_namer("digits")), None, [str(i) for i in range(10)]
    )


def read_npz(path: Path, train: str | None = None, test: str | None = None) -> Source:
    """Arrays x_train, y_train, x_test, y_test (or train_images, train_labels, ...), or x and y alone.

    Images are uint8 or uint16 (n, h, w), (n, h, w, c) or (n, c, h, w); labels integers (n,) or (n, 1); `classes` or
    `class_names` may name the classes. val_* is the test split when there is no labelled test and is not read
    otherwise. train, test: the names of other splits, such as 'extra' for x_extra; "none" is no test split.
    """
    arrays = _npz_arrays(path)
    # Not `a or b`: a split without images counts as false.
    first = train if train is not None else "train" if {"x_train", "train_images"} & arrays.keys() else ""
    train_split = _npz_split(arrays, first, path)
    if train_split is None:
        wanted = "x_train and y_train, or x and y"
        wanted = wanted if train is None else f"x_{train} and y_{train}, as --images.train-split says"
        raise ValueError(f"{path} has the keys {', '.join(arrays)}: it must have {wanted}.")
    names = None
    key = next((key for key in ("classes", "class_names") if key in arrays), None)
    if key is not None:
        names = [
            name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in arrays[key].ravel()
        ]
    chosen, test_split, notes = _npz_test(arrays, path, test, first)
    used = {_npz_keys(arrays, split) for split in (first, chosen) if split is not None}
    unread = [k for k in arrays if k != key and not any(pair is not None and k in pair for pair in used)]
    if unread:
        notes.append(f"left out: the arrays {listed(unread)}")
    test_from = "" if chosen is None else f"'{(_npz_keys(arrays, chosen) or ('',))[0]}'"
    return labelled(path.stem, train_split, test_split, names, test_from, notes)


def _npz_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a file. Raises ValueError, without numpy's advice to unpickle what it cannot read otherwise."""
    try:
        with open(path, "rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise ValueError("it is damaged, or no .npz file")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                return {key: np.asarray(file[key]) for key in file.files}
    except Exception as error:  # a damaged archive can raise a dozen types: zip's, zlib's, numpy's
        holds = "it holds objects of Python, which are not read because they could run code"
        why = holds if "allow_pickle" in str(error) else str(error).rstrip(".")
        raise ValueError(f"{path} cannot be read as .npz arrays: {why}.") from error


def _npz_test(
    arrays: Mapping[str, NDArray[Any]], path: Path, wanted: str | None, train: str
) -> tuple[str | None, Split | None, list[str]]:
    """The name of the test split, the split, and notes. Where all its labels are -1, the validation split is taken."""
    if wanted == "none":
        return None, None, []
    if wanted is not None:
        split = _npz_split(arrays, wanted, path)
        if split is None or wanted == train or not wanted:
            raise ValueError(f"--images.test-split is {wanted!r} and {path} has the keys {', '.join(arrays)}.")
        return wanted, split, []
    notes: list[str] = []
    for name in ("test", "val", "valid", "validation"):
        split = None if name == train else _npz_split(arrays, name, path)
        if split is None:
            continue
        if not is_unlabelled(split.labels):
            return name, split, notes
        notes.append(f"left out: the split '{name}', whose labels are all -1")
    if notes:
        raise ValueError(NO_LABELS.format(f"the test split of {path}"))
    return None, None, notes


def _npz_keys(arrays: Mapping[str, NDArray[Any]], split: str) -> tuple[str, str] | None:
    pairs = [(f"x_{split}", f"y_{split}"), (f"{split}_images", f"{split}_labels")] if split else [("x", "y")]
    return next((pair for pair in pairs if pair[0] in arrays), None)


def _npz_split(arrays: Mapping[str, NDArray[Any]], split: str, path: Path) -> Split | None:
    found = _npz_keys(arrays, split)
    if found is None:
        return None
    x_key, y_key = found
    if y_key not in arrays:
        raise ValueError(f"{path} has images '{x_key}' but no labels '{y_key}'.")
    x = _channels_last(arrays[x_key], f"'{x_key}' of {path}")
    y = integer_labels(arrays[y_key], f"'{y_key}' of {path}")
    if len(x) != len(y):
        raise ValueError(f"{path} has {len(x)} images in '{x_key}' but {len(y)} labels in '{y_key}'.")
    return Split(x, y, row_namer(f"'{x_key}' of {path}"))


def _channels_last(x: NDArray[Any], where: str) -> NDArray[Any]:
    if x.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{where} has type {x.dtype}: images must be uint8, 0 to 255, or uint16.")
    if x.ndim == 4 and x.shape[1] in (1, 3, 4):
        # Both may be channels where images have 1, 3 or 4 pixels a side: then square images are meant.
        is_square = x.shape[2] == x.shape[3] and x.shape[1] != x.shape[2]
        if x.shape[3] not in (1, 3, 4) or is_square:
            x = x.transpose(0, 2, 3, 1)
    if x.ndim != 3 and (x.ndim != 4 or x.shape[3] not in (1, 3, 4)):
        raise ValueError(f"{where} has shape {x.shape}: images must be (n, h, w), (n, h, w, c) or (n, c, h, w).")
    return x
