"""The package's logger, and the handler that brings what it says to the user. No torch here."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("trajmatch")


@contextmanager
def heard(quiet: bool = False) -> Iterator[None]:
    """Within the block the logger's messages go to stderr, as they are, or nowhere at all where `quiet`.

    What was set up before, by a program that uses this package, is as it was afterwards.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level, disabled = LOGGER.level, LOGGER.disabled
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.disabled = quiet
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        LOGGER.disabled = disabled
