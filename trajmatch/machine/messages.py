"""The package's logger, and who hears what it says. No torch here.

What a user is told is `LOGGER.info`, and `LOGGER.warning` where something may be wrong. A process that is to be
silent, such as all but one of several that do the same, works within `heard(quiet=True)`. The settings import no other
room, and ask `logging` for the logger.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("trajmatch")


def counted(count: int, noun: str) -> str:
    """A number of things, in words: 1 expert, 2 experts."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class Plain(logging.Handler):
    """Prints messages as they are on what is stderr now: a bar that is shown there stays below them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message, at once."""
        print(record.getMessage(), file=sys.stderr, flush=True)


@contextmanager
def heard(quiet: bool = False, once: bool = False) -> Iterator[None]:
    """Within the block the logger's messages go to stderr, and where `quiet` none that is no error goes anywhere.

    once: a program that has set up handlers has the messages in those alone.
    What was set up before is as it was afterwards.
    """
    handler = Plain()
    if not (once and LOGGER.hasHandlers()):
        LOGGER.addHandler(handler)
    try:
        with at_level(logging.ERROR if quiet else logging.INFO):
            yield
    finally:
        LOGGER.removeHandler(handler)


@contextmanager
def hushed() -> Iterator[None]:
    """Within the block no more than warnings are heard: for work whose steps are of no interest by themselves."""
    with at_level(max(logging.WARNING, LOGGER.getEffectiveLevel())):
        yield


@contextmanager
def at_level(level: int) -> Iterator[None]:
    """Within the block the messages of a level, and of those above it, are heard."""
    before = LOGGER.level
    LOGGER.setLevel(level)
    try:
        yield
    finally:
        LOGGER.setLevel(before)


def on_stderr() -> bool:
    """Whether what is said goes to stderr as it is, so that a bar may be shown there."""
    return LOGGER.isEnabledFor(logging.INFO) and any(isinstance(handler, Plain) for handler in LOGGER.handlers)
