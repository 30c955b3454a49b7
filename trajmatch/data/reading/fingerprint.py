"""What tells whether the files of a source are those of an earlier reading, without decoding any of them."""

import os
import stat
import time
from collections.abc import Iterator
from hashlib import blake2b
from importlib import resources
from pathlib import Path

import PIL

# Files are read to the end where they are few and small, and told by size and times otherwise.
_FEW, _SMALL = 100, 300e6
# Clocks of file systems may be as coarse as this: a file that was just written can be written again unseen.
_SECONDS = 2.0


def fingerprint(path: Path) -> str | None:
    """Hash of a file, or of all that lies in a folder at any depth, links followed: names, sizes, times, content.

    The times are those of content and of the entry itself, so that a file that takes another's place is told even
    where it has its size and age. None where nothing can be told: a file has just been changed, or can't be looked at.
    """
    found, files = blake2b(digest_size=16), []
    try:
        for name, about in _entries(path):
            words = "nothing" if about is None else _words(about)
            found.update(os.fsencode(f"{name}\0{words}\0"))
            if about is not None and stat.S_ISREG(about.st_mode):
                files.append((name, about))
        newest = max((max(about.st_mtime, about.st_ctime) for _, about in files), default=0.0)
        if newest > time.time() - _SECONDS:
            return None
        if len(files) <= _FEW and sum(about.st_size for _, about in files) <= _SMALL:
            for name, _ in files:
                with open(name, "rb") as stream:
                    while part := stream.read(2**20):
                        found.update(part)
    except (OSError, ValueError):  # there is no such name, or no name can be such
        return None
    return found.hexdigest()


def readers() -> str:
    """Hash of what decodes: the modules beside this one, and Pillow's version."""
    found = blake2b(PIL.__version__.encode(), digest_size=16)
    for module in sorted(resources.files("trajmatch.data.reading").iterdir(), key=lambda file: file.name):
        if module.name.endswith(".py"):
            found.update(module.read_bytes())
    return found.hexdigest()


def _entries(path: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    """Names and what they lead to, in one order; None of a link to nothing. A folder is entered once."""
    waiting, seen = [os.fspath(path)], set()
    while waiting:
        place = waiting.pop()
        about = os.stat(place)
        yield place, about
        if not stat.S_ISDIR(about.st_mode) or (real := os.path.realpath(place)) in seen:
            continue
        seen.add(real)
        with os.scandir(place) as entries:
            children = sorted(entries, key=lambda entry: entry.name)
        for child in children:
            if child.is_dir():
                waiting.append(child.path)
            else:
                yield child.path, _led_to(child)


def _led_to(entry: "os.DirEntry[str]") -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:  # a link to nothing, or in a circle
        return None


def _words(about: os.stat_result) -> str:
    if stat.S_ISDIR(about.st_mode):  # whose times change with any file's coming and going, read or not
        return "folder"
    return f"{stat.S_IFMT(about.st_mode)} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"
