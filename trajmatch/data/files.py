"""Files written whole or not at all: to a temporary name beside the target, then renamed."""

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trajmatch.data.checksums import (
    CHECKSUMS,
    DIGEST,
    HEADER,
    Checksums,
    DamagedError,
    NoRecordError,
    checked,
    checksum,
    header_digest,
    remedy,
)
from trajmatch.data.holding import Held
from trajmatch.data.kept import sealed
from trajmatch.data.litter import temporary_name

# How the format calls the types that we write.
NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


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


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, Any],
    by_row: Collection[str] = (),
    unchecked: bool = False,
) -> None:
    """Write tensors and a JSON header to a safetensors file, with checksums, whole or not at all. Raises OSError.

    by_row: tensors of which each row has a checksum of its own, so that one can be read, and checked, alone.
    unchecked: without checksums of the tensors, for files that live as long as a command.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {HEADER: json.dumps(header, allow_nan=False)}
    sums = {} if unchecked else {name: _checksums(tensor, name in by_row) for name, tensor in contiguous.items()}
    metadata[CHECKSUMS] = json.dumps(sums)
    metadata[DIGEST] = _digest(contiguous, metadata)
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=metadata)
        except SafetensorError as error:  # the library wraps the system's error in its own
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise OSError(f"{path}: {error}") from error
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        os.chmod(temporary, 0o666 & ~_umask())  # the library makes files that their owner alone can read


def _checksums(tensor: Tensor, by_row: bool) -> list[str]:
    return [checksum_of(row) for row in tensor] if by_row and len(tensor) > 1 else [checksum_of(tensor)]


def checksum_of(tensor: Tensor) -> str:
    """The checksum of a contiguous tensor on the CPU."""
    if not tensor.numel():
        return checksum(b"")
    return checksum(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The digest of the header that the library will write."""
    described = {name: {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape)} for name, tensor in tensors.items()}
    return header_digest({"__metadata__": metadata, **described})


def _umask() -> int:
    """The process's mask for new files, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, mapped into memory where the system allows; each is checked.

    Raises ValueError, naming the file, where it is missing, broken, of another program, or a checksum differs.
    """
    _, checksums = read_checked(path)
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: this is not a safetensors file, or it is damaged; {remedy(path)}") from error
    for name, sums in (checksums or {}).items():
        if name not in found or _checksums(found[name], len(sums) > 1) != list(sums):
            raise damaged(path, name)
    return found


def damaged(path: Path, name: str) -> ValueError:
    """The error for a tensor that is not as it was written."""
    return ValueError(f"{path}: this file is damaged ('{name}' is not as it was written); {remedy(path)}")
