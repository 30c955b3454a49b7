"""Where what is made for this machine is kept for later commands. No torch here."""

import functools
import os
import tempfile
from pathlib import Path

from trajmatch.machine.messages import LOGGER


def cache_folder() -> Path:
    """Where what is made for this machine is kept: $TRAJMATCH_CACHE, or trajmatch in the user's cache.

    A cache that is no absolute path counts as none (XDG), and without a home folder it is among temporary files: a
    folder here, perhaps called ~, would be nobody's cache.
    """
    if named := os.environ.get("TRAJMATCH_CACHE", "").strip():
        return Path(named).absolute()
    if os.path.isabs(caches := os.environ.get("XDG_CACHE_HOME", "")) and _is_writable(Path(caches)):
        return Path(caches) / "trajmatch"
    for home in (os.environ.get("HOME", ""), _home()):
        if os.path.isabs(home) and os.path.isdir(home) and _is_writable(cache := Path(home) / ".cache" / "trajmatch"):
            return cache
    return _among_temporary_files()


@functools.cache
def _among_temporary_files() -> Path:
    """The cache of a user without a writable home folder, which is said once."""
    place = Path(tempfile.gettempdir()) / f"trajmatch-{user()}"
    LOGGER.warning(
        "there is no home folder that can be written to: what is built for this machine is kept in %s", place
    )
    return place


def _home() -> str:
    """The home of the user whom the system knows, whatever HOME says; nothing where it knows none."""
    home = os.path.expanduser("~")
    if os.name != "posix":
        return home
    import pwd

    try:
        return pwd.getpwuid(user()).pw_dir
    except KeyError:
        return ""


def _is_writable(folder: Path) -> bool:
    """Whether a folder can be made, or written to where it is."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK)


def user() -> int:
    """The number of this user."""
    return os.getuid() if hasattr(os, "getuid") else 0  # as `stat` says on systems without user numbers
