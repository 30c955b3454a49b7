"""Parquet files in the Hugging Face image layout, and the folders that `datasets` writes with `save_to_disk`."""

import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from trajmatch.data.reading.source import Source, printable
from trajmatch.data.reading.splits import choose, kind_of, listed, rest_of, words
from trajmatch.data.reading.tables import TOLD_BY_NAME, Columns, Tables, columns, features, source_of
from trajmatch.data.reading.walk import has_images, subfolders

INSTALL = "install it with: pip install 'trajmatch[hf]'"
_SETTINGS = "say which by --images.train-split and --images.test-split (a file, or a folder of files)"
_SPLIT_COLUMNS = ("split", "subset", "partition", "fold", "is_test", "is_train", "is_training", "usage")
_DEPTH = 5  # folders in folders, at most


def has_tables(path: Path) -> bool:
    """Whether a folder holds Parquet files or a saved data set; where it holds images too, near its top."""
    near = any(True for _ in _files(path, 1))
    return _is_saved(path) or near or (not has_images(path) and any(True for _ in _files(path)))


def _is_saved(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or ((path / "state.json").is_file() and any(path.glob("*.arrow")))


def _files(path: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Parquet files at some depth, outside of hidden folders."""
    files = (file for file in path.iterdir() if file.suffix.lower() == ".parquet" and not file.name.startswith("."))
    yield from sorted(file for file in files if file.is_file())
    if depth:
        for child in subfolders(path):
            yield from _files(child, depth - 1)


def require(module: str, why: str) -> None:
    """Raise ValueError where a package of the extra `hf` is not installed."""
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{why}, which needs the package {module}: {INSTALL}")


def read_file(path: Path, wanted: Columns = TOLD_BY_NAME) -> Source:
    """One .parquet or .arrow file, all of it training images. Raises ValueError where the extra `hf` is missing."""
    require("pyarrow", f"{path} is {'Parquet' if path.suffix.lower() == '.parquet' else 'an Arrow file'}")
    read = {"train": partial(_tables, [path], wanted)}
    return source_of(printable(path.stem), read, "train", [], _unheeded([path]), wanted)


def read_parquet(
    path: Path, train: str | None = None, test: str | None = None, wanted: Columns = TOLD_BY_NAME
) -> Source:
    """A folder of .parquet files, or one that `save_to_disk` wrote.

    The split is in the name of a file, as in train-00000-of-00001.parquet or x_test.parquet, or of a folder around it,
    as in default/train/0000.parquet. `validation` is the test split when there is no labelled `test`. Class names come
    from each file's Hugging Face features; without them they are the integers as text. Files without a split are one
    table where they are its pieces.

    train, test: the files that are the splits, or folders of such files. wanted: the columns with images and labels.

    Raises ValueError where it cannot be told what is meant, or when the extra `hf` is not installed.
    """
    require("pyarrow", f"{path} is {'a saved data set' if _is_saved(path) else 'Parquet'}")
    name = printable(path.resolve().name)
    if _is_saved(path):
        splits = _saved(path, wanted)
        chosen, tests = choose(list(splits), train, test, str(path))
        return source_of(name, splits, chosen, tests, (), wanted)
    files = {printable(file.relative_to(path).as_posix()): file for file in _files(path)}
    notes = []
    if deeper := [file for file in files if "/" in file and any("/" not in other for other in files)]:
        files = {file: found for file, found in files.items() if file not in deeper}
        notes.append(f"left out: {len(deeper)} Parquet files in folders below ({listed(deeper)})")
    groups: dict[str, list[str]] = {}
    for flag, value in (("train", train), ("test", test)):
        if value is not None and value != "none":
            groups[value] = [file for file in files if _is_in(file, value)]
            if not groups[value]:
                raise ValueError(f"--images.{flag}-split is '{value}' and {path} has the files {listed(list(files))}.")
    named = {file for group in groups.values() for file in group}
    others = [file for file in files if file not in named]
    # What the settings name is clear; of what they do not, only what the names tell is used.
    by_kind, unnamed = _by_kind(others)
    if train is None:
        _check_sets(path, [file for group in by_kind.values() for file in group] or unnamed, bool(by_kind))
    notes += _incomplete(path, [file for group in by_kind.values() for file in group] or unnamed)
    groups = by_kind | groups
    if not by_kind and train is None and (test is None or test == "none"):
        groups = {"train": unnamed}
        notes += _unheeded([files[file] for file in unnamed])
    elif unnamed and train is None and "train" not in groups:
        raise ValueError(f"{path} has {listed(unnamed)} beside a {' and a '.join(by_kind)} split: {_SETTINGS}.")
    elif unnamed:
        notes.append(f"left out: {len(unnamed)} {'file' if len(unnamed) == 1 else 'files'} ({listed(unnamed)})")
    chosen, tests = choose(list(groups), train, test, str(path))
    read: dict[str, Callable[[], Tables]] = {
        split: partial(_tables, [files[file] for file in group], wanted) for split, group in groups.items()
    }
    return source_of(name, read, chosen, tests, notes, wanted)


def _is_in(file: str, wanted: str) -> bool:
    """Whether a file is what a setting names: itself, a folder that it is in, or how its name begins."""
    wanted = wanted.rstrip("/")
    folder, _, start = wanted.rpartition("/")
    place, _, name = file.rpartition("/")
    begins = name.startswith(start) and not name[len(start) : len(start) + 1].isalnum()
    return bool(start) and (f"{file}/".startswith(f"{wanted}/") or (place == folder and begins))


def _by_kind(files: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Files by the split that their names tell, or the nearest folder's around them, and the files of none."""
    found: dict[str, list[str]] = {}
    unnamed = []
    for file in files:
        *folders, name = file[: -len(".parquet")].split("/")
        kind = next(filter(None, map(kind_of, (name, *reversed(folders)))), None)
        if kind is None:
            unnamed.append(file)
        else:
            found.setdefault(kind, []).append(file)
    return found, unnamed


def _check_sets(path: Path, files: Sequence[str], is_split: bool) -> None:
    """Raise ValueError where files belong to several data sets, or are neither splits nor the pieces of one table."""
    folders = {"/".join(part for part in file.split("/")[:-1] if kind_of(part) is None) for file in files}
    if len(folders) > 1:
        raise ValueError(
            f"{path} has Parquet files in several folders ({listed(sorted(folders))}): give one of them, or "
            f"{_SETTINGS}."
        )
    stems = [Path(file).stem for file in files]
    if is_split and len({rest_of(stem) for stem in stems}) > 1:
        raise ValueError(f"{path} has files of several data sets ({listed(files)}): {_SETTINGS}.")
    if not is_split and len(stems) > 1 and not _are_pieces(stems):
        raise ValueError(
            f"{path} has the files {listed(files)}, which are neither named as splits nor pieces of one table: "
            f"{_SETTINGS}."
        )


def _incomplete(path: Path, files: Sequence[str]) -> list[str]:
    """What is told of tables whose files say how many they are, as in train-00000-of-00003, where some are missing.

    Raises ValueError where they say several numbers: files of two versions would be joined.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    for file in files:
        if piece := re.match(r"(.*?)([0-9]+)-of-([0-9]+)", file):
            found.setdefault(piece[1], []).append((int(piece[2]), int(piece[3])))
    notes = []
    for start, pieces in found.items():
        totals = sorted({total for _, total in pieces})
        if len(totals) > 1:
            raise ValueError(
                f"{path} has files {start}* of tables of {' and of '.join(map(str, totals))} files: remove those of "
                f"one of them, or {_SETTINGS}."
            )
        there = len({number for number, _ in pieces})
        if there < totals[0]:
            notes.append(f"only {there} of the {totals[0]} files {start}* are there")
    return notes


def _are_pieces(stems: Sequence[str]) -> bool:
    """Whether names differ in a running number alone, or in nothing that tells anything."""
    if not any(map(rest_of, stems)):
        return True
    numbers = [tuple(map(int, re.findall(r"[0-9]+", stem))) for stem in stems]
    if len({tuple(words(stem)) for stem in stems}) > 1 or len({len(found) for found in numbers}) > 1:
        return False
    running = [sorted(column) for column in zip(*numbers, strict=True) if len(set(column)) > 1]
    return len(running) == 1 and running[0] in (list(range(len(stems))), list(range(1, len(stems) + 1)))


def _unheeded(files: Sequence[Path]) -> list[str]:
    """What is told of a column that may say which rows are for test. A damaged file is left to its reader."""
    import pyarrow
    from pyarrow import parquet

    names: list[str] = []
    with suppress(pyarrow.ArrowException, OSError, UnicodeDecodeError):
        names = parquet.read_schema(files[0]).names if files[0].suffix.lower() == ".parquet" else []
    return [f"the column '{name}' is not heeded" for name in names if name.lower() in _SPLIT_COLUMNS]


def _tables(files: Sequence[Path], wanted: Columns) -> Tables:
    return [(_table(file, wanted), str(file)) for file in files]


def _table(file: Path, wanted: Columns) -> Any:
    """The image and label columns of one Parquet or Arrow file."""
    import pyarrow
    from pyarrow import parquet

    try:
        if file.suffix.lower() == ".parquet":
            return parquet.read_table(file, columns=list(columns(parquet.read_schema(file), str(file), wanted)))
        with pyarrow.memory_map(str(file)) as stream:
            table = _arrow_table(stream)
            return table.select(list(columns(table.schema, str(file), wanted)))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        why = str(error).rstrip(".")
        raise ValueError(f"{file} cannot be read as {file.suffix[1:].capitalize()}: {why}.") from error


def _arrow_table(stream: Any) -> Any:
    """The table of an Arrow file in either of its two formats."""
    import pyarrow

    try:
        return pyarrow.ipc.open_stream(stream).read_all()
    except pyarrow.ArrowInvalid:
        stream.seek(0)
        return pyarrow.ipc.open_file(stream).read_all()


def _saved(path: Path, wanted: Columns) -> dict[str, Callable[[], Tables]]:
    """The splits of a folder that `save_to_disk` wrote; one without splits is training images alone."""
    listing = path / "dataset_dict.json"
    if not listing.is_file():
        return {"train": partial(_saved_tables, path, wanted)}
    splits = _json(listing).get("splits")
    if not isinstance(splits, list) or not splits:
        raise ValueError(f"{listing} has no list of splits.")
    return {str(name): partial(_saved_tables, path / str(name), wanted) for name in splits}


def _saved_tables(folder: Path, wanted: Columns) -> Tables:
    """The tables of one saved split, in the order of its list, with the features of its description."""
    listed_files = _json(folder / "state.json").get("_data_files")
    if not isinstance(listed_files, list) or not listed_files:
        raise ValueError(f"{folder / 'state.json'} has no list of data files.")
    tables = []
    for file in [folder / str(entry.get("filename")) for entry in listed_files if isinstance(entry, dict)]:
        table = _table(file, wanted)
        if not features(table.schema, str(file)):
            about = _json(folder / "dataset_info.json").get("features") or {}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": about}})})
        tables.append((table, str(file)))
    return tables


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no record.")
    return found
