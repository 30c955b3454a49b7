"""Ctrl-C, and a scheduler's or closing terminal's request to end: none is lost, and none comes in the middle of a step.

A handler records the signal and raises KeyboardInterrupt, unless `machine/holding.py` holds it back. Python swallows
what is raised while it calls a destructor or a callback, and libraries do the same in other places: the record
outlives that, is looked at between pieces of work, and decides the command's end. No torch here.
"""

import signal
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from trajmatch.machine import holding

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
# Seconds in which a second signal is the first one, sent again: `timeout` sends one to a process and one to its group.
TOGETHER = 0.1
# Seconds after which what Python has swallowed is raised again.
AGAIN = 0.05


class _State:
    """Where the handlers stand. listening: a command's own are there."""

    listening = False
    again = False
    first = 0.0


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    """A handler that makes any signal a KeyboardInterrupt."""
    raise KeyboardInterrupt


def record(number: int, frame: FrameType | None) -> None:
    """A handler that records a signal and raises KeyboardInterrupt: the first where nothing holds it, others at once.

    An exception in the middle of a step can surface inside a library as something else (a file that seems damaged).
    """
    if _State.again:  # the first, which was swallowed
        _State.again = False
        holding.check()
        return
    now, first = time.monotonic(), not holding.came
    if not first and now - _State.first < TOGETHER:
        return
    holding.came.append(number)
    if first:
        _State.first = now
    if not holding.is_over() and not (first and holding.is_held()):
        raise KeyboardInterrupt


@contextmanager
def handling(
    handler: Callable[[int, FrameType | None], None], *signals: signal.Signals, for_good: bool = False
) -> Iterator[None]:
    """Handle signals so inside the block; elsewhere than in the main thread, where Python allows none, do nothing.

    What is ignored stays so (nohup, a shell's background job), and so does what Python does not know of.
    for_good: behind the block the process ends, and its signals are ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals}
    before = {number: old for number, old in before.items() if old is not None and old != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_IGN if for_good else old)


@contextmanager
def listening(for_good: bool = False) -> Iterator[None]:
    """Record every request to end, for a whole command; for_good: the process ends with it.

    Inside another such block, as the program's first lines open one, nothing changes.
    """
    if _State.listening:
        yield
        return
    holding.forget()
    _State.again = False
    with handling(record, *SIGNALS, for_good=for_good), _swallowed_again():
        _State.listening = True
        try:
            yield
        finally:
            _State.listening = False


@contextmanager
def _swallowed_again() -> Iterator[None]:
    """Raise an interrupt again that Python would only print, as an ignored exception."""
    before = sys.unraisablehook

    def hook(said: "UnraisableHookArgs") -> None:
        if not isinstance(said.exc_value, KeyboardInterrupt) or not holding.came:
            before(said)
        elif not holding.is_over():
            timer = threading.Timer(AGAIN, _interrupt_again)
            timer.daemon = True
            timer.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _interrupt_again() -> None:
    if _State.listening and holding.came and not holding.is_over():
        _State.again = True
        interrupt_main(signal.Signals(holding.came[0]))


@contextmanager
def deferred() -> Iterator[Callable[[], None]]:
    """Hold back the first interrupt: the block gets a function to call between steps, which raises it there.

    The second interrupt is raised at once, for who can't wait for the step to end. Where no command listens (Python's
    own calls), handlers are installed for the block, and what came is delivered again at its end to those before.
    """
    if _State.listening or threading.current_thread() is not threading.main_thread():
        with holding.Held():
            yield holding.check_now
        return
    holding.forget()
    _State.again = False
    failure: BaseException | None = None
    try:
        with handling(record, *SIGNALS), holding.Held():
            yield holding.check_now
    except BaseException as error:
        failure = error
    came = list(holding.came)
    holding.forget()
    if came and not (came[0] == signal.SIGINT and isinstance(failure, KeyboardInterrupt)):
        signal.raise_signal(came[0])
    if failure is not None:
        raise failure
