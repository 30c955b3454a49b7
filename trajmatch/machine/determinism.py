"""The same bits every time: torch's flags for that on CUDA, where --deterministic asks for them, and one thread.

A CPU's results repeat for the same number of threads.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Where cuBLAS computes: without a fixed place its sums may be taken in another order from one call to the next.
VARIABLE, VALUES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")
# What torch says of an operation that it has in no form whose results repeat.
_LACKS = "does not have a deterministic implementation"


def prepare(device: torch.device) -> None:
    """Before CUDA starts, here and in the processes that are started from here: fix where cuBLAS computes.

    Raises ValueError where the environment says otherwise, and where CUDA has started without it.
    """
    if device.type != "cuda":
        return
    held = os.environ.get(VARIABLE)
    if held is None and torch.cuda.is_initialized():
        raise ValueError(
            f"--deterministic needs {VARIABLE}={VALUES[0]} in the environment before CUDA starts, and this process has "
            "started it: set it before Python starts"
        )
    if held is not None and held not in VALUES:
        raise ValueError(f"{VARIABLE} is '{held}' and must be {' or '.join(VALUES)} with --deterministic, or unset")
    os.environ.setdefault(VARIABLE, VALUES[0])


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch for a block, whatever ran before: the numbers are those of the same arithmetic."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def deterministic(wanted: bool, device: torch.device) -> Iterator[None]:
    """On CUDA, where it is wanted, algorithms whose results repeat to the bit, for a block; then as before.

    Raises ValueError where torch has no such algorithm for an operation.
    """
    if not wanted or device.type != "cuda":
        yield
        return
    prepare(device)
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.benchmark = False
        yield
    except RuntimeError as error:
        if _LACKS not in str(error):
            raise
        raise ValueError(
            f"--deterministic is given, and torch has no form of {str(error).split()[0]} whose results repeat: leave "
            "it out, or take a network without it"
        ) from None
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark = benchmark
