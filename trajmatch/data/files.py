"""Files written whole or not at all: to a temporary name beside the target, then renamed."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trajmatch.data.holding import Held
from trajmatch.data.litter import temporary_name

# One key of safetensors' string-to-string metadata holds all of ours, as JSON.
HEADER = "trajmatch"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends well and vanishes when it does not.

    A first interrupt waits until the file is there. `data/litter.py` knows the name, should the process be killed.
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


def read_json(path: Path, is_whole: Callable[[Any], bool], remedy: str) -> Any:
    """What a file that `write_json` wrote holds.

    Raises ValueError where it is cut or changed, or not `is_whole`, naming the file and the remedy.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the JSON or of its encoding
        raise ValueError(f"{path}: this record is damaged ({error}); {remedy}") from None
    if not is_whole(found):
        raise ValueError(f"{path}: this record is damaged (it holds something else); {remedy}")
    return found


def is_share(value: Any) -> bool:
    """Whether a value out of a file is a number from 0 to 1, as accuracies are."""
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value <= 1


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to a safetensors file, whole or not at all. Raises OSError."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata={HEADER: json.dumps(header, allow_nan=False)})
        except SafetensorError as error:  # the library wraps the system's error in its own
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise OSError(f"{path}: {error}") from error
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        os.chmod(temporary, 0o666 & ~_umask())  # the library makes files that their owner alone can read


def _umask() -> int:
    """The process's mask for new files, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a file that `save_tensors` wrote.

    Raises ValueError, naming the file, where it is missing, broken or of another program.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: this is not a file that trajmatch wrote, or it is damaged") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path}: its header is not a record")
    return header


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, mapped into memory where the system allows. Raises ValueError."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{path}: this is not a safetensors file, or it is damaged") from error
