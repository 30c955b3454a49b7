"""A worker ends when its parent does, even by SIGKILL: nobody would take what it computes. No torch here."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from importlib import import_module
from typing import Any

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """In a worker of `multiprocessing`: end it as soon as its parent has ended."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        # At once, also in the middle of a long computation in C.
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Everywhere, and also for a parent that ended before the line above.
    threading.Thread(target=_watch, args=(parent,), daemon=True, name="watch of the parent").start()


def begin(function: str, *arguments: Any) -> None:
    """In a worker: bind it to its parent, and only then load and call a function, by its full name.

    Its module may import torch, which takes seconds in which a parent that is killed would leave it behind.
    """
    end_with_parent()
    module, _, name = function.rpartition(".")
    getattr(import_module(module), name)(*arguments)


def _watch(parent: "multiprocessing.process.BaseProcess") -> None:
    parent.join()
    os._exit(1)
