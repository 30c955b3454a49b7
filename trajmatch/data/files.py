"""Files written whole or not at all: to a temporary name beside the target, then renamed."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trajmatch.data.checksums import Checksums, DamagedError, NoRecordError, checked, remedy
from trajmatch.data.kept import sealed
from trajmatch.machine.holding import Held
from trajmatch.machine.litter import temporary_name


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends well and vanishes when it does not.

    A first interrupt waits until the file is there. `machine/litter.py` knows the name, should the process be killed.
    """
    temporary = path.with_name(temporary_name(path.name))
    with Held():
        try:
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())  # or a crash soon after could leave the new name with no content
            os.replace(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write text to `path` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write a record to `path` as JSON with a digest of itself, whole or not at all; `kept.read_record` reads it."""
    write_json(path, sealed(value))


def read_json(path: Path, is_whole: Callable[[Any], bool], remedy: str) -> Any:
    """What a file that `write_json` wrote holds.

    Raises ValueError where it is cut or changed, or not `is_whole`, naming the file and the remedy.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of the JSON or of its encoding
        raise ValueError(f"{path}: this record is damaged ({error}); {remedy}") from None
    if not is_whole(found):
        raise ValueError(f"{path}: this record is damaged (it holds something else); {remedy}")
    return found


def is_share(value: Any) -> bool:
    """Whether a value out of a file is a number from 0 to 1, as accuracies are."""
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value <= 1


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a file that `save_tensors` wrote.

    Raises ValueError, naming the file, where it is missing, broken or of another program.
    """
    return read_checked(path)[0]


def read_checked(path: Path) -> tuple[dict[str, Any], Checksums | None]:
    """The JSON header of a file, and the checksums of its tensors: None in a file of an older version.

    Raises ValueError as `read_header`.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        return checked(path)
    except NoRecordError as error:
        raise ValueError(f"{path}: {error}; {remedy(path)}") from None
    except DamagedError as error:
        raise ValueError(
            f"{path}: this is not a file that trajmatch wrote, or it is damaged ({error}); {remedy(path)}"
        ) from None
