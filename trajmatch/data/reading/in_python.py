"""Data sets in Python: any map-style data set of pairs of an image and a label, or a pair (train, test) of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from trajmatch.data.called import called
from trajmatch.data.reading.source import FORMATS, REORDERED, Source, Split, aligned, labelled, row_namer

# What may be given in Python.
SOURCES = f"{FORMATS}, or a map-style data set of (image, label)"


def read_torch(train: Any, test: Any | None) -> Source:
    """Map-style data sets of (image, int): PIL images, uint8 or [0, 1] float tensors (c, h, w) or arrays (h, w, c).

    Names come from a `classes` attribute. Each item is fetched once, so transforms should not be random.
    """
    name = _name(train)
    train_split = _torch_split(train, f"the {'data set' if test is None else 'training set'} {name}")
    test_split = None if test is None else _torch_split(test, f"the test set {_name(test)}")
    names, notes = _class_names(train), []
    if test_split is not None:
        where = f"the test set {_name(test)}"
        test_split, has_changed = aligned(test_split, _class_names(test), names, where)
        notes += [REORDERED.format(where)] if has_changed else []
    return labelled(name, train_split, test_split, names, "the second data set", notes)


def _name(dataset: Any) -> str:
    """What a data set is called, which a class in place of an instance is by its own name."""
    return dataset.__name__ if isinstance(dataset, type) else type(dataset).__name__


def _class_names(dataset: Any) -> list[str] | None:
    classes = getattr(dataset, "classes", None)
    return [str(item) for item in classes] if isinstance(classes, Sequence) else None


def _torch_split(dataset: Any, where: str) -> Split:
    if isinstance(dataset, type):
        raise ValueError(f"{where} is a class and must be an instance of it: {_name(dataset)}(...).")
    is_by_number = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and not isinstance(dataset, Mapping)
    if not is_by_number:
        raise ValueError(f"{where} is no source of images: give {SOURCES}.")
    items: list[Any] = []
    labels: list[int] = []
    for i in range(len(dataset)):
        name = row_namer(where)(i)
        item = dataset[i]
        if not isinstance(item, tuple | list) or len(item) != 2:
            several = f" of {len(item)}" if isinstance(item, tuple | list) else ""
            raise ValueError(
                f"{name} is {called(item)}{several} and must be a pair of an image and a label, as "
                "torch.utils.data.TensorDataset(images, labels) has them."
            )
        items.append(_as_item(item[0], name))
        labels.append(_as_label(item[1], name))
    return Split(items, np.asarray(labels, np.int64), row_namer(where))


def _as_label(value: Any, where: str) -> int:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{where} has the label {value!r}: labels must be integers.")
    label = int(array.item())
    if label > np.iinfo(np.int64).max:
        raise ValueError(f"{where} has the label {label}: labels must be less than 2**63.")
    return label


def _as_item(image: Any, where: str) -> Any:
    """A PIL image, or a uint8 array (h, w) or (h, w, c)."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, torch.Tensor):
        _check_form(image, "(c, h, w)", 0, where)
        image = image.detach().cpu().to_dense()
        if image.dtype == torch.bfloat16:  # of which numpy knows nothing
            image = image.float()
        array = (image.movedim(0, -1) if image.ndim == 3 else image).numpy()
    elif isinstance(image, np.ndarray):
        _check_form(image, "(h, w, c)", -1, where)
        array = image
    else:
        raise ValueError(f"{where} is {called(image)}: it must be a PIL image, a tensor or an array.")
    if array.dtype.kind == "f":
        if array.size and not (array.min() >= 0 and array.max() <= 1):  # so that NaN is refused too
            raise ValueError(
                f"{where} has values from {array.min():.3g} to {array.max():.3g}: "
                f"floating-point images must be in [0, 1], without normalisation."
            )
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{where} has type {array.dtype}: images must be uint8, uint16, or floating-point in [0, 1].")
    return array


def _check_form(image: torch.Tensor | NDArray[Any], form: str, channels: int, where: str) -> None:
    """Raise ValueError where a tensor or array is no image, with its own shape and type, before either is changed.

    form: of an image in colour. channels: at which place of it they are counted.
    """
    shape, kind = tuple(image.shape), "tensor" if isinstance(image, torch.Tensor) else "array"
    found = f"{where} is {called(image)} of type {str(image.dtype).removeprefix('torch.')} and shape {shape}"
    in_colour = len(shape) == len(form.split(","))
    if len(shape) != 2 and not (in_colour and 1 <= shape[channels] <= 4):
        swapped = in_colour and shape[-1 if channels == 0 else 0] in (1, 3, 4)
        order = "permute(2, 0, 1)" if kind == "tensor" else "transpose(1, 2, 0)"
        hint = f"; {order} brings its channels there" if swapped else ""
        raise ValueError(f"{found}, where {form} is expected, with c from 1 to 4, or (h, w){hint}.")
    if 0 in shape:
        raise ValueError(f"{found}, which holds no pixel.")
