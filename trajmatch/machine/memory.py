"""The memory of this process: its peaks, and the C library's allocator, told to keep what a training loop frees."""

import ctypes
import gc
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# glibc's malloc.h
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
_CLEAR, _STATUS, _PAGES = Path("/proc/self/clear_refs"), Path("/proc/self/status"), Path("/proc/self/statm")


def keep_freed_memory() -> bool:
    """Keep freed blocks in the process; True where the system's allocator took the setting.

    By default glibc maps every large tensor anew and gives it back when freed, so that every step of a network pays
    for page faults: an epoch of ConvNetD3 (width 32, 32 pixels) took 31 s with and 15 s without them, on two cores.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    return all([mallopt(MMAP_THRESHOLD, 1 << 30), mallopt(TRIM_THRESHOLD, (1 << 31) - 1), mallopt(TOP_PAD, 1 << 26)])


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MB (10^6 bytes)."""
    # On Linux getrusage counts what the parent held when it started this process; the kernel's own record does not.
    if (peak := _resident_peak_mb()) is not None:
        return peak
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1e-6 if sys.platform == "darwin" else 1.024e-3)


def peak_over_base(compute: Callable[[], Any], device: torch.device) -> float:
    """MB (10^6 bytes) that `compute()` holds at its peak over what was held before, on a GPU as its allocator counts.

    On Linux with glibc freed memory is given back and the count begun anew before; elsewhere it is how far the
    process's largest size so far grows, so that a fresh process is needed to see all of it.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        compute()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    if not _CLEAR.exists():
        largest = peak_memory_mb()
        compute()
        return peak_memory_mb() - largest
    _forget_peak()
    held = resident_mb()
    compute()
    return peak_memory_mb() - held


def resident_mb() -> float:
    """Resident size of this process in MB (10^6 bytes); its largest so far where the system has no record of it."""
    try:
        return int(_PAGES.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return peak_memory_mb()


def give_back_freed() -> None:
    """Give the memory of freed blocks back to the system, where its allocator can (glibc's)."""
    gc.collect()
    try:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    except OSError:  # a program that was linked without a C library to ask
        return
    if trim is not None:
        trim(0)


def _resident_peak_mb() -> float | None:
    """Largest resident size of this process in MB, as Linux records it; None where there is no such record."""
    try:
        lines = _STATUS.read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1.024e-3 for line in lines if line.startswith("VmHWM")), None)


def _forget_peak() -> None:
    give_back_freed()
    _CLEAR.write_text("5", "ascii")
