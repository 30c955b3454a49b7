"""What a later command need not compute again: tensors in the user's cache, checked each time that they are read.

A file is found by what it was made from, and that stands in its header as well. One that is damaged, or says something
else, is said and made again. `TRAJMATCH_CACHE_GB` bounds what is kept, and 0 keeps nothing; `TRAJMATCH_CACHE` says
where. The folder may be deleted at any time.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from trajmatch.data.checksums import raw_header
from trajmatch.data.files import read_checked
from trajmatch.data.kept import digest
from trajmatch.data.tensors import read_tensors, save_tensors
from trajmatch.machine.caches import cache_folder, user
from trajmatch.machine.litter import remove_litter
from trajmatch.machine.messages import LOGGER

SIZE = "TRAJMATCH_CACHE_GB"
MOST = 4.0  # GB that are kept where the user says nothing: a home folder may have no more than ten
FORMAT = 1  # of the files; another number makes all of them anew
_OURS = re.compile(r"(pixels|whitening)-[0-9a-f]{32}\.safetensors")
T = TypeVar("T")


@dataclass(frozen=True)
class Kept:
    """What a file of the cache holds. about: what its maker wanted to be remembered, as JSON has it."""

    tensors: dict[str, Tensor]
    about: Mapping[str, Any]
    path: Path


def limit() -> float:
    """Bytes that may be kept. Raises ValueError where the user's number is none."""
    text = os.environ.get(SIZE, "").strip()
    try:
        found = float(text or MOST)
    except ValueError:
        found = math.nan
    if not found >= 0:
        raise ValueError(f"{SIZE} is '{text}' and must be the most GB of data to keep in the cache; 0 keeps none")
    return found * 1e9


def folder() -> Path:
    """Where the files lie."""
    return cache_folder() / "data"


def find(kind: str, key: Mapping[str, Any], understood: Callable[[Kept], T]) -> T | None:
    """What was kept under a key, as `understood` makes it out, or None.

    understood: may raise ValueError, KeyError or TypeError where a file is not as it must be. A file that can't be
    used is removed, which a line says.
    """
    if not limit():
        return None
    key = _whole(key)
    path = _path(kind, key)
    if not path.is_file() or not _is_own(path.parent):
        return None
    try:
        found = understood(_read(path, key))
    except (ValueError, KeyError, TypeError, OSError):
        LOGGER.warning("%s: this file of the cache is damaged, or another program's; it is made again", path)
        with suppress(OSError):
            path.unlink()
        return None
    with suppress(OSError):
        os.utime(path)  # the file that was used last is the last to be removed
    return found


def known(kind: str, name: str, value: Any) -> Kept | None:
    """The first file of a kind whose maker wanted `value` to be remembered under `name`, checked; None without one."""
    if not limit() or not folder().is_dir() or not _is_own(folder()):
        return None
    for path in sorted(folder().glob(f"{kind}-*.safetensors")):
        with suppress(ValueError, KeyError, TypeError, OSError):
            header, _ = read_checked(path)
            if header["about"].get(name) == value:
                return _read(path, header["key"])
    return None


def keep(kind: str, key: Mapping[str, Any], tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Keep tensors under a key; the files that were not used for longest make room. A line says where that fails."""
    size, most = sum(tensor.nbytes for tensor in tensors.values()), limit()
    if not most:
        return
    if size > most:
        LOGGER.info(
            "not kept for later commands: %.1f GB, and %s allows %.3g GB (0 turns the cache off)",
            size / 1e9, SIZE, most / 1e9,
        )  # fmt: skip
        return
    key = _whole(key)
    path = _path(kind, key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _is_own(path.parent):
            return
        remove_litter(path.parent)
        _make_room(path.parent, most - size)
        save_tensors(path, tensors, {"kind": f"cached {kind}", "key": key, "about": dict(about)})
    except OSError as error:
        LOGGER.warning("%s: nothing is kept for later commands: %s", path.parent, error)


def _whole(key: Mapping[str, Any]) -> dict[str, Any]:
    return {**key, "format": FORMAT}


def _path(kind: str, key: Mapping[str, Any]) -> Path:
    return folder() / f"{kind}-{digest(key)}.safetensors"


def _is_own(place: Path) -> bool:
    """Whether a folder is this user's; what others may have put there is not used, which a line says."""
    if place.stat().st_uid == user():
        return True
    LOGGER.warning("%s belongs to another user: no data is kept there, and none is used", place)
    return False


def _read(path: Path, key: Mapping[str, Any]) -> Kept:
    """A file, with every byte of it checked. Raises ValueError where it is not what was kept under the key."""
    header, checksums = read_checked(path)
    held = set(raw_header(path)) - {"__metadata__"}
    if checksums is None or set(checksums) != held or header.get("key") != dict(key):
        raise ValueError(f"{path} is not what its name says")
    return Kept(read_tensors(path), header["about"], path)


def _make_room(place: Path, most: float) -> None:
    """Remove the files that were not used for longest, until at most so many bytes are there."""
    found = []
    for path in place.iterdir():
        if _OURS.fullmatch(path.name):
            with suppress(FileNotFoundError):  # another process makes room too
                about = path.stat()
                found.append((about.st_mtime, about.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        path.unlink(missing_ok=True)
        total -= size
        LOGGER.info("%s: removed from the cache, which %s bounds (it was not used for longest)", path, SIZE)
