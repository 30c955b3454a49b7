"""Where images come from: one function that recognises the kind of source and calls its reader."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from trajmatch.data import archives, folders, parquet
from trajmatch.data.records import Source, Split, integer_labels, labelled, row_namer, suggestion

_FORMATS = "'digits', a folder of class folders, .npz, .parquet, a CIFAR .tar.gz or a Hub name 'owner/name'"
_TAR = (".tar.gz", ".tgz", ".tar")
_ARRAY_SUFFIXES = (".npz", ".parquet", *_TAR)


def read(source: object) -> Source:
    """Recognise `source` (see `images.load`) and read it, undecoded. ValueError when it is none of the known kinds."""
    if isinstance(source, str | os.PathLike):
        if source == "digits":
            return read_digits()
        return _read_path(os.fspath(source))
    if isinstance(source, tuple):
        if len(source) != 2:
            raise ValueError(f"a tuple of {len(source)} is no source of images: a pair (train, test) is.")
        return read_torch(*source)
    return read_torch(source, None)


def _read_path(text: str) -> Source:
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"--data is {text}, and there is no such home folder") from None
    if path.is_dir():
        return _read_directory(path)
    if not path.exists():
        # 'data/cifar' beside an existing folder 'data' is a slip of the pen, not a name on the Hub.
        if parquet.is_hub_name(text) and not path.parent.is_dir() and not text.lower().endswith(_ARRAY_SUFFIXES):
            return parquet.read_hub(text)
        raise ValueError(_missing(path))
    name = path.name.lower()
    if name.endswith(".npz"):
        return read_npz(path)
    if name.endswith(".parquet"):
        return parquet.read_parquet(path)
    if name.endswith(_TAR):
        return archives.read_cifar_tar(path)
    raise ValueError(f"{path} is no known source of images: give {_FORMATS}.")


def _read_directory(path: Path) -> Source:
    if archives.is_cifar_folder(path):
        return archives.read_cifar_folder(path)
    if parquet.has_parquet(path):
        return parquet.read_parquet(path)
    return folders.read_folder(path)


def _missing(path: Path) -> str:
    siblings = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
    near = suggestion(path.name, [*siblings, "digits"])
    return f"{path} does not exist{near or f': give {_FORMATS}.'}"


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


def read_npz(path: Path) -> Source:
    """Arrays x_train, y_train, x_test, y_test (or train_images, train_labels, ...), or x and y alone.

    Images are uint8 (n, h, w), (n, h, w, c) or (n, c, h, w); labels integers (n,) or (n, 1); `classes` or
    `class_names` may name the classes. val_* is the test split when there is no test and is not read otherwise.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as .npz arrays: {error}") from error
    # Not `a or b`: a split without images counts as false.
    train = _npz_split(arrays, "train" if {"x_train", "train_images"} & arrays.keys() else "", path)
    if train is None:
        raise ValueError(f"{path} has the keys {', '.join(arrays)}: it must have x_train and y_train, or x and y.")
    test = _npz_split(arrays, "test" if {"x_test", "test_images"} & arrays.keys() else "val", path)
    key = next((key for key in ("classes", "class_names") if key in arrays), None)
    names = None if key is None else [str(name) for name in arrays[key].ravel()]
    return labelled(path.stem, train, test, names)


def _npz_split(arrays: Mapping[str, NDArray[Any]], split: str, path: Path) -> Split | None:
    pairs = [(f"x_{split}", f"y_{split}"), (f"{split}_images", f"{split}_labels")] if split else [("x", "y")]
    found = next((pair for pair in pairs if pair[0] in arrays), None)
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


def _channels_last(x: NDArray[Any], where: str) -> NDArray[np.uint8]:
    if x.dtype != np.uint8:
        raise ValueError(f"{where} has type {x.dtype}: images must be uint8, 0 to 255.")
    if x.ndim == 4 and x.shape[3] not in (1, 3, 4) and x.shape[1] in (1, 3, 4):
        x = x.transpose(0, 2, 3, 1)
    if x.ndim != 3 and (x.ndim != 4 or x.shape[3] not in (1, 3, 4)):
        raise ValueError(f"{where} has shape {x.shape}: images must be (n, h, w), (n, h, w, c) or (n, c, h, w).")
    return x


def read_torch(train: Any, test: Any | None) -> Source:
    """Map-style data sets of (image, int): PIL images, uint8 or [0, 1] float tensors (c, h, w) or arrays (h, w, c).

    Names come from a `classes` attribute. Each item is fetched once, so transforms should not be random.
    """
    name = type(train).__name__
    train_split = _torch_split(train, f"the {'data set' if test is None else 'training set'} {name}")
    test_split = None if test is None else _torch_split(test, f"the test set {type(test).__name__}")
    names, test_names = _class_names(train), _class_names(test)
    if names is not None and test_names is not None and names != test_names:
        raise ValueError(f"the training and the test {name} have different classes: {names[:5]} and {test_names[:5]}.")
    return labelled(name, train_split, test_split, names)


def _class_names(dataset: Any) -> list[str] | None:
    classes = getattr(dataset, "classes", None)
    return [str(item) for item in classes] if isinstance(classes, Sequence) else None


def _torch_split(dataset: Any, where: str) -> Split:
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ValueError(f"{where} is no source of images: give {_FORMATS}, or a map-style data set of (image, label).")
    items: list[Any] = []
    labels: list[int] = []
    for i in range(len(dataset)):
        name = row_namer(where)(i)
        item = dataset[i]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise ValueError(f"{name} is a {type(item).__name__}: it must be a pair (image, label).")
        items.append(_as_item(item[0], name))
        labels.append(_as_label(item[1], name))
    return Split(items, np.asarray(labels, np.int64), row_namer(where))


def _as_label(value: Any, where: str) -> int:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{where} has the label {value!r}: labels must be integers.")
    return int(array.item())


def _as_item(image: Any, where: str) -> Any:
    """A PIL image, or a uint8 array (h, w) or (h, w, c)."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        array = (image.movedim(0, -1) if image.ndim == 3 else image).numpy()
    elif isinstance(image, np.ndarray):
        array = image
    else:
        raise ValueError(f"{where} is a {type(image).__name__}: it must be a PIL image, a tensor or an array.")
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # so that NaN is refused too
            raise ValueError(
                f"{where} has values from {array.min():.3g} to {array.max():.3g}: "
                f"floating-point images must be in [0, 1], without normalisation."
            )
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"{where} has type {array.dtype}: images must be uint8, or floating-point in [0, 1].")
    return array
