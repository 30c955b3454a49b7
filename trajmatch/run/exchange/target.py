"""A new folder for what a command writes: whole or not there, and never in the place of something else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trajmatch.machine.litter import scratch_folder


def check_free(target: Path) -> None:
    """Raise ValueError where something is there that must not be harmed; an empty folder is nothing."""
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise ValueError(f"--out: {target} is there already, and is left as it is: name a new folder")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder, which takes the target's name when the block ends well and vanishes when it does not.

    Raises ValueError where the target is there already.
    """
    check_free(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target.parent) as scratch:
        place = scratch / "new"
        place.mkdir()
        yield place
        try:
            os.rename(place, target)
        except OSError:
            check_free(target)  # another command was faster
            raise
