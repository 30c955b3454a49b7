"""Data sets named on the Hugging Face Hub, and those of the package `datasets` in Python."""

import os
import re
import socket
import sys
import threading
import urllib.request
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from trajmatch.data.reading import parquet
from trajmatch.data.reading.source import Source
from trajmatch.data.reading.splits import choose
from trajmatch.data.reading.tables import TOLD_BY_NAME, Columns, Tables, columns, source_of

PREFIX = "hf:"
_NAME = r"[A-Za-z0-9][\w.-]*"
_NETWORK_SECONDS = 2.0
CACHED = "or set HF_HUB_OFFLINE=1 if it is in the local cache"
_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


class HubName(NamedTuple):
    """A data set on the Hub: its name with its owner's, its configuration, its branch, tag or commit."""

    name: str
    config: str | None = None
    revision: str | None = None


def is_hub_name(source: str) -> bool:
    """Whether a text that is no existing path can be 'owner/name' on the Hub."""
    return re.fullmatch(f"{_NAME}/{_NAME}", source) is not None


def parsed(text: str) -> HubName:
    """What "hf:NAME[:CONFIG][@REVISION]", or "owner/name", means. Raises ValueError where it means nothing."""
    found = re.fullmatch(rf"({_NAME}(?:/{_NAME})?)(?::([^:@/\s]+))?(?:@([^:@\s]+))?", text.removeprefix(PREFIX))
    if found is None:
        raise ValueError(f"{text!r} is no name on the Hugging Face Hub: give {PREFIX}NAME[:CONFIG][@REVISION].")
    return HubName(*found.groups())


def read_hub(source: str, train: str | None = None, test: str | None = None, wanted: Columns = TOLD_BY_NAME) -> Source:
    """A data set of the Hugging Face Hub by its name. Raises ValueError, at once where the Hub is not there."""
    name, config, revision = parsed(source)
    is_meant = source.startswith(PREFIX)
    what = f"{source!r} is {'' if is_meant else 'no local file or folder, so it is '}a name on the Hugging Face Hub"
    parquet.require("datasets", what)
    advice = "give a local Parquet file, a folder of images or 'digits' instead"
    because = f"{source!r} cannot be loaded: " if is_meant else f"{source!r} is no local file or folder and "
    check_reachable(because, f"{advice} ({CACHED})")
    import datasets

    which = {key: value for key, value in (("name", config), ("revision", revision)) if value is not None}
    try:
        found = datasets.load_dataset(name, **which)
    except Exception as error:  # its own, requests' and the hub client's
        raise ValueError(
            f"{source!r} cannot be loaded from the Hugging Face Hub ({reason(error)}): {advice}."
        ) from error
    return _of_splits(name.split("/")[-1], found, source, (train, test), wanted)


def check_reachable(because: str, advice: str) -> None:
    """Raise ValueError, with these words around it, where the Hub does not answer and nobody asked to do without it.

    The Hub's client retries for 23 seconds without a network, hence this look first.
    """
    offline = any(os.environ.get(key, "").upper() in ("1", "ON", "YES", "TRUE") for key in _OFFLINE_VARIABLES)
    if not offline and not _is_reachable():
        raise ValueError(f"{because}the Hugging Face Hub cannot be reached: {advice}.")


def endpoint() -> str:
    """The address of the Hub."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def is_dataset(source: object) -> bool:
    """Whether a source is a `Dataset` or `DatasetDict` of the package `datasets`, or a pair of the first."""
    datasets = sys.modules.get("datasets")  # who has such an object has imported the package
    kinds = tuple(getattr(datasets, name) for name in _KINDS if hasattr(datasets, name))
    both = source if isinstance(source, tuple) and len(source) == 2 else (source,)
    return bool(kinds) and all(isinstance(one, kinds) for one in both)


_KINDS = "Dataset", "DatasetDict", "IterableDataset", "IterableDatasetDict"


def read_datasets(source: Any, train: str | None, test: str | None, wanted: Columns) -> Source:
    """What `is_dataset` knows: splits by name, a pair (train, test), or training images alone. Raises ValueError."""
    what = type(source[0] if isinstance(source, tuple) else source).__name__
    if isinstance(source, tuple):
        found: Mapping[str, Any] = dict(zip(("train", "test"), source, strict=True))
    else:
        found = source if isinstance(source, Mapping) else {"train": source}
    for split in found.values():
        if not hasattr(split, "__len__") or isinstance(split, Mapping):
            raise ValueError(
                f"the type {type(split).__name__} is no source of images: give a Dataset of the package datasets, a "
                "DatasetDict, or a pair (train, test) of Datasets."
            )
    name = next((split.info.dataset_name for split in found.values() if split.info.dataset_name), what)
    return _of_splits(name, found, f"the {what}", (train, test), wanted)


def _of_splits(
    name: str, found: Mapping[str, Any], where: str, named: tuple[str | None, str | None], wanted: Columns
) -> Source:
    chosen, tests = choose([str(split) for split in found], *named, where)
    read = {str(split): partial(_tables, of, f"the split '{split}' of {where}", wanted) for split, of in found.items()}
    return source_of(name, read, chosen, tests, (), wanted)


def _tables(split: Any, where: str, wanted: Columns) -> Tables:
    """The stored columns of a `datasets.Dataset` as an arrow table, images still encoded, features in its metadata."""
    table = split.with_format("arrow")[:]
    table = table.replace_schema_metadata(split.features.arrow_schema.metadata)
    return [(_with_bytes(table, columns(table.schema, where, wanted)[0]), where)]


def _with_bytes(table: Any, column: str) -> Any:
    """The table with the bytes of images of which it has the paths alone, as it has those of a folder."""
    import pyarrow
    import pyarrow.compute

    values = table.column(column)
    if not pyarrow.types.is_struct(values.type) or values.type.get_field_index("bytes") < 0:
        return table
    if not pyarrow.compute.struct_field(values, "bytes").null_count:
        return table
    from datasets.table import embed_table_storage

    return embed_table_storage(table).replace_schema_metadata(table.schema.metadata)


def reason(error: Exception) -> str:
    """Why the Hub's client failed, in a line; with the names of configurations where one must be chosen."""
    text = str(error).strip()
    if "Config name is missing" in text:
        names = re.findall(r"\[(.*?)\]", text)
        return f"choose a configuration by {PREFIX}NAME:CONFIG, one of {names[0] if names else 'its own'}"
    return text.splitlines()[0] if text else type(error).__name__


def _is_reachable() -> bool:
    """Whether the Hub answers within two seconds; taken for granted behind a proxy, which a bare socket cannot use."""
    url = urlsplit(endpoint())
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
