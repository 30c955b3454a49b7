"""One process at a time writes into a folder: a lock of the operating system, with a word about who holds it.

The lock is a byte of a file that is kept open, so it goes with its process however that ends. The file says who holds
it, for the sentence that refuses another. Where a file system has no locks, the file alone decides. No torch here.
"""

import atexit
import errno
import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trajmatch.machine.holding import Held
from trajmatch.machine.litter import remove_litter
from trajmatch.machine.owner import Owner, me

LOCK = ".trajmatch.lock"
# Folders of a run in which a process that is killed may leave something.
PARTS = ("snapshots", "experts", "diagnoses")
# What a file system says that has no locks.
_UNKNOWN = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_BUSY = {errno.EAGAIN, errno.EACCES}


class HeldError(ValueError):
    """Another process works in the folder."""


@dataclass
class _Taken:
    """A lock that this process holds: the open file, the process, for a fork's is none, the thread, and how often."""

    file: int
    process: int
    thread: int
    count: int


_taken: dict[Path, _Taken] = {}
# Reentrant: Python may collect a run, and let go of its lock, while this very thread takes another.
_guard = threading.RLock()


class Lock:
    """A folder's lock, taken from the beginning; `with Lock(folder): ...`, or `release()`.

    A part of the folder's work, beside which others may do other parts, has a lock of its own, of another name. The
    thread that holds a lock may take it again. What killed processes left in the folder is removed.
    """

    def __init__(self, folder: Path, name: str = LOCK, what: str = "") -> None:
        """name: that of the lock's file. what: what the lock is for, for the sentence that refuses.

        Raises HeldError where another process has it, OSError where the folder can't be written.
        """
        self.path, self.released = folder.resolve() / name, False
        with Held(), _guard:
            held = _taken.get(self.path)
            if held is None:
                _taken[self.path] = _Taken(_acquire(self.path, folder, what), os.getpid(), threading.get_ident(), 1)
            elif held.thread == threading.get_ident():
                held.count += 1
            else:
                raise HeldError(_refusal(folder, what, "another thread of this process works there", self.path, False))
        if held is None:
            tidy(folder, alone=name == LOCK)
            for part in PARTS if name == LOCK else ():  # others may be at work in these
                tidy(folder / part, alone=part == "snapshots")

    def release(self) -> None:
        """Let go; nothing where that is done. The file vanishes with the lock."""
        with Held(), _guard:
            held = _taken.get(self.path)
            if self.released or held is None or held.process != os.getpid():
                return
            self.released = True
            held.count -= 1
            if not held.count:
                del _taken[self.path]
                with suppress(OSError):
                    self.path.unlink()  # before the lock goes: who waits for the old file sees that it has gone
                os.close(held.file)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


@atexit.register
def _release_all() -> None:
    """At the end of a process no file of a lock stays behind."""
    for path, held in list(_taken.items()):
        if held.process == os.getpid():
            with suppress(OSError):
                path.unlink()


def tidy(folder: Path, alone: bool = False) -> None:
    """Remove what killed processes have left in a folder: temporary files, and locks of parts of it."""
    remove_litter(folder, alone)
    for path in folder.glob(".*.lock"):
        with suppress(HeldError, OSError), _guard:
            if path.resolve() not in _taken and _owner(path.read_bytes()) is not None:  # else it is not ours
                file = _acquire(path, folder, "")
                path.unlink()
                os.close(file)


def _acquire(path: Path, folder: Path, what: str) -> int:
    """The open file of a lock that is taken now. Raises HeldError, OSError."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            sure = _lock(file)
            before = _owner(os.pread(file, 10_000, 0))
            if sure is False or (sure is None and before is not None and before.is_here and before.is_alive):
                who = f"process {before.pid} of {before.host} works there" if before else "another process works there"
                raise HeldError(_refusal(folder, what, who, path, False))
            if before is not None and not before.is_here:
                who = f"process {before.pid} of {before.host} works there, or was killed on that machine"
                raise HeldError(_refusal(folder, what, who, path, True))
            if _is_current(file, path):
                _write(file)
                return file
            os.close(file)  # its holder has removed it in between: the next one is another file
        except BaseException:
            os.close(file)
            raise


def _refusal(folder: Path, what: str, who: str, path: Path, unsure: bool) -> str:
    remedy = f"if that process is gone, delete {path}" if unsure else "let it end first, or stop it"
    return f"{folder}: {who}{what and f' ({what})'}; {remedy}"


def _lock(file: int) -> bool | None:
    """Whether the lock of a file could be had; None where its file system has none."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        # Of POSIX and not BSD: a child that was forked does not hold it on.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        if error.errno in _UNKNOWN:
            return None
        raise
    return True


def _is_current(file: int, path: Path) -> bool:
    """Whether an open file is the one that lies at a path now."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(file)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _owner(text: bytes) -> Owner | None:
    """Who has written a lock's file; None for nobody, or a file that was cut."""
    try:
        found: dict[str, Any] = json.loads(text)
        return Owner(str(found["host"]), int(found["pid"]), str(found["started"]))
    except (ValueError, KeyError, TypeError):
        return None


def _write(file: int) -> None:
    about = {**asdict(me()), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    os.ftruncate(file, 0)
    os.pwrite(file, (json.dumps(about) + "\n").encode(), 0)
