"""Ctrl-C and a scheduler's SIGTERM, made to come between two steps instead of in the middle of one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    """A handler that makes any signal a KeyboardInterrupt."""
    raise KeyboardInterrupt


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None], *signals: signal.Signals) -> Iterator[None]:
    """Handle signals so inside the block; elsewhere than in the main thread, where Python allows none, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def deferred() -> Iterator[Callable[[], None]]:
    """Hold back the first interrupt: the block gets a function to call between steps, which raises it there.

    An exception in the middle of a step can surface inside a library as something else (a file that seems damaged).
    The second interrupt is raised at once, for who can't wait for the step to end.
    """
    came: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    with handling(handler, *SIGNALS):
        yield check
