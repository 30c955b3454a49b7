"""Data sets named on the Hugging Face Hub."""

import os
import re
import socket
import threading
import urllib.request
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from trajmatch.data.reading import parquet
from trajmatch.data.reading.source import Source
from trajmatch.data.reading.splits import choose
from trajmatch.data.reading.tables import Tables, source_of

_NETWORK_SECONDS = 2.0


def is_hub_name(source: str) -> bool:
    """Whether a text that is no existing path can be 'owner/name' on the Hub."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source) is not None


def read_hub(source: str, train: str | None = None, test: str | None = None) -> Source:
    """A data set of the Hugging Face Hub by its 'owner/name'. Raises ValueError, at once where the Hub is not there."""
    parquet.require("datasets", f"{source!r} is no local file or folder, so it is a name on the Hugging Face Hub")
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
    chosen, tests = choose(list(found), train, test, repr(source))
    read = {name: partial(_tables, split, f"the split '{name}' of {source}") for name, split in found.items()}
    return source_of(source.split("/")[-1], read, chosen, tests)


_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def _tables(split: Any, where: str) -> Tables:
    """The stored columns of a `datasets.Dataset` as an arrow table, images still encoded, features in its metadata."""
    table = split.with_format("arrow")[:]
    return [(table.replace_schema_metadata(split.features.arrow_schema.metadata), where)]


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
