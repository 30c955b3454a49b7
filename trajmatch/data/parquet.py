"""Parquet files in the Hugging Face image layout, and data sets named on the Hugging Face Hub."""

import bisect
import importlib.util
import json
import os
import re
import socket
import threading
import urllib.request
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from trajmatch.data.records import Source, Split, integer_labels, labelled, row_namer

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label", "labels", "fine_labels")
_SPLIT_NAMES = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
_INSTALL = "install it with: pip install 'trajmatch[hf]'"
_NETWORK_SECONDS = 2.0


def has_parquet(path: Path) -> bool:
    """Whether a folder holds Parquet files, itself or one level down."""
    return bool(_parquet_files(path))


def _parquet_files(path: Path) -> list[Path]:
    return sorted(path.glob("*.parquet")) or sorted(path.glob("*/*.parquet"))


def read_parquet(path: Path) -> Source:
    """One .parquet file, or a folder of them named like train-00000-of-00001.parquet and test-....parquet.

    `validation` is the test split when there is no `test`. Class names come from the file's Hugging Face features;
    without them they are the integers as text. ValueError when the extra `hf` is not installed.
    """
    _require("pyarrow", f"{path} is Parquet")
    if path.is_file():
        return _from_tables(path.stem, {"train": [(_table(path), str(path))]})
    files = _parquet_files(path)
    parents = sorted({file.parent.name for file in files})
    if len(parents) > 1:
        raise ValueError(f"{path} has Parquet files in several folders ({', '.join(parents)}): give one of them.")
    splits: dict[str, list[Path]] = {}
    for file in files:
        match = re.match(r"(train|test|validation|valid|val)(?![a-z])", file.name.lower())
        splits.setdefault(_SPLIT_NAMES[match[1]] if match else "", []).append(file)
    if "train" not in splits:
        splits = {"train": files}  # one table in pieces
    chosen = {"train": splits["train"], "test": splits.get("test") or splits.get("validation") or []}
    return _from_tables(
        path.resolve().name, {name: [(_table(file), str(file)) for file in part] for name, part in chosen.items()}
    )


def _require(module: str, why: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{why}, which needs the package {module}: {_INSTALL}")


def _table(file: Path) -> Any:
    """The image and label columns of one file."""
    import pyarrow
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(file)
        image, label = _columns(schema, str(file))
        return parquet.read_table(file, columns=[image, label])
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read as Parquet: {error}.") from error


def _features(schema: Any) -> dict[str, Any]:
    """The Hugging Face description of the columns, by column; empty without one."""
    text = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(text).get("info", {}).get("features", {}) if text else {}
    return features if isinstance(features, dict) else {}


def _columns(schema: Any, where: str) -> tuple[str, str]:
    """Names of the image and the label column."""
    features = _features(schema)

    def described(kind: str) -> list[str]:
        return [name for name in schema.names if (features.get(name) or {}).get("_type") == kind]

    def choose(known: Sequence[str], others: list[str], what: str) -> str:
        found = [name for name in known if name in schema.names][:1] or others
        if len(found) != 1:
            raise ValueError(
                f"{where} has the columns {', '.join(schema.names)}: "
                f"it must have one {what} column named {' or '.join(known[:2])}."
            )
        return found[0]

    image = choose(_IMAGE_COLUMNS, described("Image"), "image")
    return image, choose(_LABEL_COLUMNS, described("ClassLabel"), "label")


def _from_tables(name: str, tables: dict[str, list[tuple[Any, str]]]) -> Source:
    """A Source from arrow tables and their names, by split; an empty "test" means none."""
    train = _split(tables["train"])
    test = _split(tables["test"]) if tables.get("test") else None
    schema, where = tables["train"][0][0].schema, tables["train"][0][1]
    feature = _features(schema).get(_columns(schema, where)[1])
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    return labelled(name, train, test, names)


def _split(tables: Sequence[tuple[Any, str]]) -> Split:
    items: list[bytes] = []
    labels = []
    for table, where in tables:
        image, label = _columns(table.schema, where)
        items += _image_bytes(table, image, where)
        labels.append(integer_labels(table.column(label).to_numpy(), f"column '{label}' of {where}"))
    ends = list(accumulate(len(part) for part in labels))

    def name_of(i: int) -> str:
        part = bisect.bisect_right(ends, i)
        return row_namer(tables[part][1])(i - (ends[part - 1] if part else 0))

    return Split(items, np.concatenate(labels), name_of)


def _image_bytes(table: Any, column: str, where: str) -> list[bytes]:
    """The encoded images of a column of struct{bytes, path} or of plain bytes."""
    import pyarrow
    import pyarrow.compute

    values = table.column(column)
    if pyarrow.types.is_struct(values.type) and values.type.get_field_index("bytes") >= 0:
        values = pyarrow.compute.struct_field(values, "bytes")
    if not (pyarrow.types.is_binary(values.type) or pyarrow.types.is_large_binary(values.type)):
        raise ValueError(f"column '{column}' of {where} is {values.type}: images must be encoded bytes.")
    items: list[bytes] = values.to_pylist()
    if values.null_count:
        row = items.index(None)  # type: ignore[arg-type]
        raise ValueError(
            f"{row_namer(where)(row)} has no image bytes in column '{column}' (a path alone is not enough)."
        )
    return items


def is_hub_name(source: str) -> bool:
    """Whether a text that is no existing path can be 'owner/name' on the Hub."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source) is not None


def read_hub(source: str) -> Source:
    """A data set of the Hugging Face Hub by its 'owner/name'; at once a ValueError when the Hub cannot be reached."""
    _require("datasets", f"{source!r} is no local file or folder, so it is a name on the Hugging Face Hub")
    offline = any(os.environ.get(key, "").upper() in ("1", "ON", "YES", "TRUE") for key in _OFFLINE_VARIABLES)
    advice = "give a local Parquet file, a folder of images or 'digits' instead"
    # The client retries for 23 seconds without a network, hence this look first.
    if not offline and not _is_reachable():
        raise ValueError(
            f"{source!r} is no local file or folder and the Hugging Face Hub cannot be reached: {advice} "
            f"(or set HF_HUB_OFFLINE=1 if it is in the local cache)."
        )
    import datasets

    try:
        found = datasets.load_dataset(source)
    except Exception as error:  # its own, requests' and the hub client's
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{source!r} cannot be loaded from the Hugging Face Hub ({first_line}): {advice}.") from error
    train = "train" if len(found) > 1 else next(iter(found))
    if train not in found:
        raise ValueError(f"{source!r} has the splits {', '.join(found)}: one must be named 'train'.")
    tables = {"train": [(_arrow(found[train]), f"the split '{train}' of {source}")]}
    test = next((name for name in ("test", "validation") if name in found and name != train), None)
    if test is not None:
        tables["test"] = [(_arrow(found[test]), f"the split '{test}' of {source}")]
    return _from_tables(source.split("/")[-1], tables)


_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def _arrow(split: Any) -> Any:
    """The stored columns of a `datasets.Dataset` as an arrow table, images still encoded, features in its metadata."""
    table = split.with_format("arrow")[:]
    return table.replace_schema_metadata(split.features.arrow_schema.metadata)


def _is_reachable() -> bool:
    """Whether the Hub answers within two seconds; taken for granted behind a proxy, which a bare socket cannot use."""
    url = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if url.scheme in urllib.request.getproxies() or url.hostname is None:
        return True
    address = url.hostname, url.port or (80 if url.scheme == "http" else 443)
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=_NETWORK_SECONDS).close()
            answered.set()
        except OSError:
            pass

    # In a thread, because the look-up of the name does not heed the time-out.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_NETWORK_SECONDS)
    return answered.is_set()
