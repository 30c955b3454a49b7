"""Who made a file: the host, a process's number, and when it started, for numbers are given again. No torch here."""

import functools
import os
import re
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
UNKNOWN = "0"


@dataclass(frozen=True)
class Owner:
    """A process of a host. started: a word that no other process of that number has; UNKNOWN where none is known."""

    host: str
    pid: int
    started: str = UNKNOWN

    @property
    def word(self) -> str:
        """For the name of a file: letters, digits, underscores and two dashes."""
        return f"{self.host}-{self.pid}-{self.started}"

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this host."""
        return self.host == host()

    @property
    def is_alive(self) -> bool:
        """Whether this host runs it; of another host's process nothing can be known."""
        now = started(self.pid)
        return self.is_here and now is not None and (self.started == now or UNKNOWN in (self.started, now))


def host() -> str:
    """This machine's name, in letters that a file's name and its parts may have."""
    return re.sub(r"\W", "_", socket.gethostname(), flags=re.ASCII) or "localhost"


def me() -> Owner:
    """This process."""
    return Owner(host(), os.getpid(), started(os.getpid()) or UNKNOWN)


def started(pid: int) -> str | None:
    """When a process of this host started, as a word; None where there is none, or only its remains."""
    if pid < 1:
        return None
    if (_PROC / "self" / "stat").exists():
        return _started_on_linux(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it runs, as somebody else's
    try:
        asked = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return re.sub(r"\W", "", asked.stdout) or UNKNOWN


def _started_on_linux(pid: int) -> str | None:
    try:
        # The name, in parentheses, may hold anything; state and start time are the first and the twentieth behind it.
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError:  # it runs, and is not to be looked at
        return UNKNOWN
    return None if fields[0] in "ZX" else f"{_boot()}{fields[19]}"


@functools.cache
def _boot() -> str:
    """A word for the time since this machine was started: the times of processes count from there."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    except OSError:
        return ""
