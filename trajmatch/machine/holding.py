"""Requests to end (Ctrl-C and its kin): each is recorded, and held back while something has to be finished.

`machine/interrupts.py` installs the handlers that fill the record. An interrupt in the middle of writing a file would
lose what has been computed. No torch here.
"""

import threading
from types import TracebackType

# Numbers of the signals that came, in their order.
came: list[int] = []


class _Depth(threading.local):
    """How many blocks hold interrupts back now, in each thread."""

    blocks = 0


_depth = _Depth()


class _Command:
    """over: its end is decided, and nothing is raised any more: what runs then would print it as ignored."""

    over = False


class Held:
    """`with Held():` an interrupt that comes inside the block is raised at its end."""

    # A class and no generator: between its plain lines Python calls no signal handler.
    def __enter__(self) -> None:
        _depth.blocks += 1

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _depth.blocks -= 1
        if kind is None:
            check()


def is_held() -> bool:
    """Whether a block of this thread holds interrupts back."""
    return _depth.blocks > 0


def check() -> None:
    """Raise KeyboardInterrupt where one came and nothing holds it back: also one that a library has swallowed."""
    if came and not is_held():
        check_now()


def check_now() -> None:
    """Raise KeyboardInterrupt where one came, whatever holds it back: for a place where nothing is half done."""
    if came and not _Command.over and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def forget() -> None:
    """Begin anew: none came, and nothing is held back."""
    came.clear()
    _depth.blocks = 0
    _Command.over = False


def end_decided() -> None:
    """From here on a signal is recorded alone: the command is at its end, and so are its destructors and callbacks."""
    _Command.over = True


def is_over() -> bool:
    """Whether the command's end is decided."""
    return _Command.over
