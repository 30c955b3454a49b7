"""Folders of class folders, and Tiny ImageNet's own layout."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trajmatch.data.records import Source, Split, natural

_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2")
_TEST_FOLDERS = ("test", "val", "valid", "validation")


def read_folder(path: Path) -> Source:
    """`path/train/<class>/...` with `path/test/<class>/...`, or one tree `path/<class>/...`.

    `val`, `valid` or `validation` is the test split when there is no `test`; beside a `test` it is not read, because
    validation images are drawn from the training set. Tiny ImageNet's `val/val_annotations.txt` is understood; its
    `test` has no labels and is not read. Classes are folder names in natural order. A class folder's images may lie at
    any depth; other files and hidden ones are ignored.
    """
    name = path.resolve().name
    train = path / "train"
    test = next((path / folder for folder in _TEST_FOLDERS if (path / folder).is_dir()), None)
    annotations = path / "val" / "val_annotations.txt"
    if not train.is_dir():
        if test is not None and _files(path / test.name):
            raise ValueError(f"{path} has a folder '{test.name}' but no folder 'train' beside it.")
        files = _class_files(path)
        classes = sorted(files, key=natural)
        return Source(name, tuple(classes), _split(files, classes), None)
    train_files = _class_files(train)
    if annotations.is_file():
        test_files: dict[str, list[Path]] | None = _annotated(annotations)
    else:
        test_files = None if test is None else _class_files(test)
    classes = sorted({*train_files, *(test_files or ())}, key=natural)
    return Source(
        name,
        tuple(classes),
        _split(train_files, classes),
        None if test_files is None else _split(test_files, classes),
    )


def _split(files: dict[str, list[Path]], classes: Sequence[str]) -> Split:
    items = [item for name in classes for item in files.get(name, [])]
    counts = [len(files.get(name, [])) for name in classes]
    return Split(items, np.repeat(np.arange(len(classes)), counts), lambda i: str(items[i]))


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """Image files by class folder; ValueError when there is no class folder or a class folder has no image."""
    found = sorted(child for child in folder.iterdir() if child.is_dir() and not _is_hidden(child.name))
    if not found:
        loose = any(child.suffix.lower() in _SUFFIXES for child in folder.iterdir())
        what = "has images but no class folders" if loose else "has no class folders"
        raise ValueError(f"{folder} {what}: put the images of each class in a folder named after it.")
    files = {child.name: _files(child) for child in found}
    for child in found:
        if not files[child.name]:
            raise ValueError(f"the class folder {child} has no images: remove it, or put its images there.")
    return files


def _files(folder: Path) -> list[Path]:
    found = [
        Path(parent, file)
        for parent, _, files in os.walk(folder)
        for file in files
        if Path(file).suffix.lower() in _SUFFIXES and not _is_hidden(file)
    ]
    return sorted(found)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _annotated(annotations: Path) -> dict[str, list[Path]]:
    """Tiny ImageNet's validation images by class, from lines 'file <tab> class <tab> box'."""
    files: dict[str, list[Path]] = {}
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) < 2:
            raise ValueError(f"line {number} of {annotations} is {line!r}: it must be 'file <tab> class <tab> ...'.")
        files.setdefault(fields[1], []).append(annotations.parent / "images" / fields[0])
    return files
