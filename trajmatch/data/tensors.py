"""Tensor files: safetensors with a JSON header and checksums, written whole or not at all."""

import json
import os
import re
from collections.abc import Collection, Mapping
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
    checksum,
    header_digest,
    remedy,
)
from trajmatch.data.files import read_checked, replacing

# How the format calls the types that we write.
NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


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
