"""What a killed process left behind: files that were being written, and folders of shared images. No torch here."""

import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trajmatch.machine.owner import Owner, host, me

MATERIAL, SCRATCH = ".material-", ".trajmatch-"
# Seconds after which what another host has left counts as left, where nobody else can be at work.
OLD = 3600.0
# As the safetensors library calls what it writes, with no word about who does.
_LIBRARYS = re.compile(r"\.tmp[A-Za-z0-9]{6}")
_OWNER = r"(?P<host>\w+)-(?P<pid>\d+)-(?P<started>\w+)-\w+"
_PATTERNS = tuple(
    re.compile(pattern, flags=re.ASCII)
    for pattern in (
        rf"\..+\.{_OWNER}\.tmp",
        rf"({re.escape(MATERIAL)}|{re.escape(SCRATCH)}){_OWNER}",
        # As earlier versions called them.
        r"\..+\.(?P<pid>\d+)-[0-9a-f]{8}\.tmp",
        rf"{re.escape(MATERIAL)}(?P<host>[^/]+)-(?P<pid>\d+)-\w+",
    )
)


def temporary_name(name: str) -> str:
    """A name, beside that of a file, which tells who writes it."""
    return f".{name[:40]}.{me().word}-{secrets.token_hex(4)}.tmp"


def owner_of(path: Path) -> Owner | None:
    """Whose temporary file or folder this is, by its name; None where it is none of ours."""
    for pattern in _PATTERNS:
        found = pattern.fullmatch(path.name)
        if found is not None:
            parts = found.groupdict()
            there = re.sub(r"\W", "_", parts.get("host") or host(), flags=re.ASCII)
            return Owner(there, int(parts["pid"]), parts.get("started") or "0")
    return None


def litter(folder: Path, alone: bool = False) -> Iterator[Path]:
    """The temporary files and folders in a folder whose process has ended.

    alone: nobody else can be at work there, so that what another host has left, and has not touched for long, counts
    as well; otherwise another host's is never touched, for nothing can be known about it.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if _LIBRARYS.fullmatch(path.name) and path.is_file() and (alone or _age(path) > OLD):
            yield path
        is_ours = path.name.endswith(".tmp") or path.name.startswith((MATERIAL, SCRATCH))
        if is_ours and (owner := owner_of(path)) is not None:
            left = not owner.is_alive if owner.is_here else alone and _age(path) > OLD
            if left:
                yield path


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:  # it is gone
        return 0.0


@contextmanager
def scratch_folder(place: Path | None = None) -> Iterator[Path]:
    """A temporary folder, in the system's place for them if in no other; what killed processes left is removed."""
    place = place or Path(tempfile.gettempdir())
    remove_litter(place)
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{me().word}-", dir=place) as scratch:
        yield Path(scratch)


def remove_litter(folder: Path, alone: bool = False) -> None:
    """Remove what `litter` finds; what can't be removed stays."""
    for path in list(litter(folder, alone)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
