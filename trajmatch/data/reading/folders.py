"""Folders of class folders, and Tiny ImageNet's own layout."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trajmatch.data.reading.source import Source, Split, distinguished, natural, printable
from trajmatch.data.reading.splits import Kind, is_plain, kind_of, listed
from trajmatch.data.reading.walk import LeftOut, contents, count_files, has_images, image_files, subfolders

_SETTINGS = "say which by --images.train-split FOLDER and --images.test-split FOLDER"
_TESTED: tuple[Kind, ...] = ("test", "validation")
_DEPTH = 6  # folders in folders, at most, around what an archive held
Files = dict[str, list[Path]]


def read_folder(path: Path, train: str | None = None, test: str | None = None) -> Source:
    """`path/train/<class>/...` with `path/test/<class>/...`, or one tree `path/<class>/...`.

    The splits may have any usual name, which `splits.kind_of` knows; what has such a name is a split where it holds
    class folders and a class where it holds images, as the folders beside it do. A validation split is the test split
    when there is no labelled `test`. Tiny ImageNet's `val/val_annotations.txt` is understood. Folders around all of
    this, such as archives make, are passed. Classes are folder names in natural order; a class folder's images may lie
    at any depth. What is left out is in the notes.

    train, test: folders in `path` that are the splits; "." is `path` itself, and "none" no test split.
    Raises ValueError where it cannot be told what is meant.
    """
    left = LeftOut()
    notes: list[str] = []
    root = path
    if train is None and test in (None, "none"):
        root = _unwrapped(path, left, is_split=False)
    if root != path:
        notes.append(f"read from its folder '{printable(root.relative_to(path).as_posix())}'")
    train_folder, test_folder = _splits(root, train, test, left)
    train_files = _class_files(_unwrapped(train_folder, left), left)
    test_files = None if test_folder is None else _test_files(test_folder, train_files, left)
    classes = sorted({*train_files, *(test_files or ())}, key=natural)
    names, more = distinguished([printable(name) for name in classes])
    return Source(
        printable(path.resolve().name),
        names,
        _split(train_files, classes),
        None if test_files is None else _split(test_files, classes),
        "" if test_folder is None else f"the folder '{printable(test_folder.name)}'",
        (*notes, *more, *(f"left out: {note}" for note in left.notes())),
    )


def _splits(root: Path, train: str | None, test: str | None, left: LeftOut) -> tuple[Path, Path | None]:
    """The folder of training classes, `root` itself where it has no splits, and the test split's."""
    first, second = _named(root, "train", train), None if test == "none" else _named(root, "test", test)
    kinds: dict[Kind | None, list[Path]] = {"train": [], "test": [], "validation": [], "unlabelled": [], None: []}
    for child in subfolders(root):
        # An empty folder is none, but one that is called as a split is missed where it should be.
        if child not in (first, second) and (has_images(child) or is_plain(child.name)):
            kinds[kind_of(child.name)].append(child)
    if first is None:
        first = _training(root, kinds, second)
    if first != root:
        if test is None:
            second = _test_folder(root, first, kinds)
        chosen = first, second
        left.folders += [printable(child.name) for child in subfolders(root, left) if child not in chosen]
        count_files(root, left)
    if second is not None and not _are_apart(first.resolve(), second.resolve()):
        raise ValueError(
            f"the test split '{second}' is the training split '{first}', or one of them lies in the other."
        )
    return first, second


def _named(root: Path, which: str, name: str | None) -> Path | None:
    """The folder that a setting names. Raises ValueError where there is none."""
    if name is None:
        return None
    folder = root / name
    if not name or not folder.is_dir():
        here = listed([printable(child.name) for child in subfolders(root)]) or "none"
        raise ValueError(f"--images.{which}-split is '{name}' and must be a folder in {root}, which has {here}.")
    return folder


def _are_apart(first: Path, second: Path) -> bool:
    return first != second and first not in second.parents and second not in first.parents


def _unwrapped(folder: Path, left: LeftOut, is_split: bool = True) -> Path:
    """The folder in which the splits or classes lie: the only one with images, as long as that holds folders alone.

    is_split: whether `folder` is a split; only inside of a split may a folder be passed that is called as a test split.
    """
    for _ in range(_DEPTH):
        children = subfolders(folder)
        inside = _with_images(folder)
        tests = [child for child in children if kind_of(child.name) in _TESTED and is_plain(child.name)]
        if len(inside) != 1 or (tests and not is_split) or not _is_tree(inside[0]):
            break
        if has_images(folder, deep=False):
            break
        subfolders(folder, left)
        left.folders += [printable(child.name) for child in children if child not in inside]
        folder = inside[0]
    return folder


def _is_tree(folder: Path) -> bool:
    """Whether a folder holds folders with images, and no image itself."""
    inside = _with_images(folder)
    return not has_images(folder, deep=False) and (len(inside) > 1 or (len(inside) == 1 and _is_tree(inside[0])))


def _has_classes(folder: Path, strict: bool = True) -> bool:
    """Whether a folder holds at least two folders with images, perhaps in another.

    strict: whether an image beside these folders makes the answer no.
    """
    folder = _unwrapped(folder, LeftOut())
    return len(_with_images(folder)) > 1 and not (strict and has_images(folder, deep=False))


def _class_folders(folder: Path) -> list[Path]:
    """The folders with images in a folder, or in the only one that it holds."""
    return _with_images(_unwrapped(folder, LeftOut(), is_split=False))


def _name(folder: Path) -> str:
    """The class that a folder is of. An accented letter is one sign or two by the system that wrote the name."""
    return unicodedata.normalize("NFC", folder.name)


def _with_images(folder: Path) -> list[Path]:
    return [child for child in subfolders(folder) if has_images(child)]


def _training(root: Path, kinds: dict[Kind | None, list[Path]], test: Path | None) -> Path:
    """The training split, or `root`, where its folders are the classes. Raises ValueError where it cannot be told."""
    training, tests = kinds["train"], kinds["test"] + kinds["validation"]
    # Where there is a test split too, a stray image beside the class folders tells nothing.
    trees = [child for child in training if _has_classes(child, strict=not (tests or test))]
    plain = [child for child in trees if is_plain(child.name)]
    if len(plain) == 1 and (tests or test):
        trees = plain
    if len(trees) > 1:
        raise ValueError(f"{root} has several folders that may be the training split ({_names(trees)}): {_SETTINGS}.")
    if trees and not tests and test is None and kinds[None]:
        raise ValueError(
            f"{root} has a folder '{printable(trees[0].name)}' beside {_names(kinds[None])}, which may be classes or "
            f"another split: {_SETTINGS}."
        )
    if trees:
        return trees[0]
    if training and tests:
        raise ValueError(
            f"{root} has the folders {_names([*training, *tests])}, which may be splits, but "
            f"'{printable(training[0].name)}' has fewer than two class folders: put the images of each class in a "
            "folder named after it, or give --images.train-split . where these are classes themselves."
        )
    if test is not None:
        raise ValueError(f"--images.test-split is '{test.name}' and {root} has no training split: {_SETTINGS}.")
    alone = [child for child in tests if is_plain(child.name) or _has_classes(child)]
    if alone:
        raise ValueError(
            f"{root} has a folder '{printable(alone[0].name)}' but no folder 'train' beside it: {_SETTINGS}; "
            "--images.train-split . where all of these are classes."
        )
    _refuse_same_folders(root)
    return root


def _refuse_same_folders(root: Path) -> None:
    """Raise ValueError where all folders hold the same folders: the outer ones may be splits, and the inner classes."""
    inside = [{_name(child) for child in _class_folders(folder)} for folder in _with_images(root)]
    shared = sorted(set.intersection(*inside)) if len(inside) > 1 else []
    if len(shared) > 1 and not all(map(is_plain, shared)):  # classes that hold splits are refused with other advice
        raise ValueError(
            f"{root} has the folders {_names(_with_images(root))}, which all hold the folders {listed(shared)}: "
            f"{_SETTINGS}; --images.train-split . where the outer ones are the classes."
        )


def _test_folder(root: Path, train: Path, kinds: dict[Kind | None, list[Path]]) -> Path | None:
    """The labelled test split, or validation in its place; None where there is neither."""
    unlabelled = []
    for kind in _TESTED:
        labelled = [child for child in kinds[kind] if _is_labelled(child, train)]
        exact = [child for child in labelled if is_plain(child.name)]
        candidates = exact if len(exact) == 1 else labelled
        if len(candidates) > 1:
            raise ValueError(
                f"{root} has several folders that may be the test split ({_names(candidates)}): {_SETTINGS}."
            )
        if candidates:
            return candidates[0]
        unlabelled += [child for child in kinds[kind] if child not in labelled]
    if unlabelled:
        raise ValueError(
            f"{unlabelled[0]} has no class folders with images, so no labels to be tested on: give "
            "--images.test-split none to leave it out and draw test images from the training images."
        )
    return None


def _annotations(folder: Path) -> Path:
    return folder / "val_annotations.txt"


def _is_labelled(folder: Path, train: Path) -> bool:
    """Whether a split has class folders or Tiny ImageNet's list: one folder of another name is none."""
    if _annotations(folder).is_file():
        return True
    known = {_name(child) for child in subfolders(_unwrapped(train, LeftOut()))}
    inside = [_name(child) for child in _with_images(_inside(folder, known))]
    return len(inside) > 1 or bool(known & set(inside))


def _inside(folder: Path, classes: set[str]) -> Path:
    """Where the classes of a test split lie: not in a folder around it that is a class itself."""
    children = {_name(child) for child in subfolders(folder)}
    return folder if children & classes else _unwrapped(folder, LeftOut())


def _test_files(folder: Path, train: Files, left: LeftOut) -> Files:
    if _annotations(folder).is_file():
        return _annotated(_annotations(folder))
    return _class_files(_inside(folder, set(train)), left)


def _names(folders: Sequence[Path]) -> str:
    return listed([printable(folder.name) for folder in folders])


def _split(files: Files, classes: Sequence[str]) -> Split:
    items = [item for name in classes for item in files.get(name, [])]
    counts = [len(files.get(name, [])) for name in classes]
    return Split(items, np.repeat(np.arange(len(classes)), counts), lambda i: str(items[i]))


def _class_files(folder: Path, left: LeftOut) -> Files:
    """Image files by class folder. Raises ValueError where there is no class folder, or one has no image."""
    found = subfolders(folder, left)
    if not found:
        loose = has_images(folder, deep=False)
        what = "has images but no class folders" if loose else f"has no class folders{contents(folder)}"
        raise ValueError(f"{folder} {what}: put the images of each class in a folder named after it.")
    count_files(folder, left)
    _refuse_copy(found)
    files: Files = {}
    for child in found:
        inside = LeftOut()
        images = sorted(image_files(child, inside))
        files[_name(child)] = files.get(_name(child), []) + images
        if not images:
            what = f"has no images that can be read ({inside.notes()[0]})" if inside.formats else "has no images"
            raise ValueError(f"the class folder {child} {what}: remove it, or put its images there.")
        left.add(inside)
        _refuse_inner_splits(child)
    return files


def _refuse_copy(found: Sequence[Path]) -> None:
    """Raise ValueError where one class folder holds all the others again, as in an archive that was packed twice."""
    names = {_name(child) for child in found}
    for child in found:
        others = names - {_name(child)}
        if len(others) > 1 and others <= {_name(inner) for inner in _class_folders(child)}:
            if all(others & {_name(inner) for inner in _class_folders(other)} for other in found):
                return  # all folders are divided alike
            raise ValueError(
                f"the folder {child} holds the folders {listed(sorted(others))}, as those beside it are called, and "
                f"may be a copy of the images: remove it, or {_SETTINGS}."
            )


def _refuse_inner_splits(folder: Path, depth: int = _DEPTH) -> None:
    """Raise ValueError where a class folder holds splits at some depth: joined, test images would be trained on."""
    kinds = {kind_of(child.name): child.name for child in subfolders(folder) if is_plain(child.name)}
    second = kinds.get("test") or kinds.get("validation")
    if "train" in kinds and second:
        raise ValueError(
            f"the class folder {folder} holds the folders '{kinds['train']}' and '{second}': put the splits above the "
            "classes, or the images of both would be mixed."
        )
    for child in subfolders(folder) if depth else ():
        _refuse_inner_splits(child, depth - 1)


def _annotated(annotations: Path) -> Files:
    """Tiny ImageNet's validation images by class, from lines 'file <tab> class <tab> box'."""
    files: Files = {}
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) < 2:
            raise ValueError(f"line {number} of {annotations} is {line!r}: it must be 'file <tab> class <tab> ...'.")
        files.setdefault(fields[1], []).append(annotations.parent / "images" / fields[0])
    return files
