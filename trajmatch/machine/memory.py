"""How much memory a computation takes over what its process held before."""

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trajmatch.machine.processes import peak_memory_mb

_CLEAR, _STATUS, _PAGES = Path("/proc/self/clear_refs"), Path("/proc/self/status"), Path("/proc/self/statm")


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
    held = int(_PAGES.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    compute()
    lines = _STATUS.read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1.024e-3 - held


def _forget_peak() -> None:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    _CLEAR.write_text("5", "ascii")
