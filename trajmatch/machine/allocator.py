"""The C library's memory allocator, told to keep what a training loop frees and asks for again at once."""

import ctypes
import sys

# glibc's malloc.h
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3


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
