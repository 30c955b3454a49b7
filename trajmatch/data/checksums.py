"""Checksums of tensor files: of every tensor, or of each of its rows, and a digest of the header that holds them.

A safetensors file is eight bytes (the length of its header), the header (JSON: a record of words under `__metadata__`,
and for each tensor its type, shape and place), and the tensors' bytes. Nothing here needs torch.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from trajmatch.data.kept import say_once

# One key of safetensors' string-to-string metadata holds all of ours, as JSON.
HEADER = "trajmatch"
CHECKSUMS, DIGEST = "checksums", "digest"
# A header of this length would describe a million tensors; a damaged length can say anything.
LONGEST = 100_000_000

Checksums = Mapping[str, Sequence[str]]


class DamagedError(ValueError):
    """A file is not as it was written."""


class NoRecordError(ValueError):
    """A file's header is whole, and no record."""


def checksum(data: Any) -> str:
    """CRC-32 of a buffer of bytes: it finds every damaged run of up to 32 bits, at 6 GB/s where BLAKE2 has one."""
    return f"{zlib.crc32(data):08x}"


def header_digest(raw: Mapping[str, Any]) -> str:
    """BLAKE2 of a file's header: metadata but for the digest itself, and every tensor's name, type and shape.

    The places of the tensors are the library's to choose and to check.
    """
    metadata = {key: value for key, value in raw["__metadata__"].items() if key != DIGEST}
    tensors = {name: [of["dtype"], of["shape"]] for name, of in raw.items() if name != "__metadata__"}
    text = json.dumps([metadata, tensors], sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=16).hexdigest()


def raw_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, as it stands. Raises DamagedError, in words, where there is none."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 0 < length < LONGEST else b""
        if not text or len(text) < length:
            raise DamagedError("it is cut short, or begins with no header")
        size = 8 + length
        file.seek(0, 2)
        found = file.tell() - size
    try:
        raw = json.loads(text.decode("utf-8"))
        tensors = [tensor for name, tensor in raw.items() if name != "__metadata__"]
        held = max((tensor["data_offsets"][1] for tensor in tensors), default=0)
        is_ours = all({"dtype", "shape"} <= set(tensor) for tensor in tensors)
        is_ours = is_ours and all(isinstance(words, str) for words in raw["__metadata__"].values())
        is_ours = is_ours and HEADER in raw["__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise DamagedError("its header cannot be read") from None
    if not is_ours:
        raise DamagedError("its header cannot be read")
    if held != found:
        raise DamagedError(f"{found} bytes follow its header where {held} must")
    return dict(raw)


def checked(path: Path) -> tuple[dict[str, Any], Checksums | None]:
    """Our header of a file and the checksums of its tensors, None where an older version wrote none.

    Raises DamagedError or NoRecordError, in words.
    """
    raw = raw_header(path)
    metadata, ours = raw["__metadata__"], {HEADER, CHECKSUMS, DIGEST}
    # Both keys or neither: a damaged name of one does not make the file an old one.
    if set(metadata) - {HEADER} and (set(metadata) != ours or metadata[DIGEST] != header_digest(raw)):
        raise DamagedError("its header is not as it was written")
    try:
        header = json.loads(metadata[HEADER])
        checksums = json.loads(metadata[CHECKSUMS]) if CHECKSUMS in metadata else None
    except (ValueError, RecursionError):
        raise DamagedError("its header cannot be read") from None
    if not isinstance(header, dict):
        raise NoRecordError("its header is not a record")
    if checksums is None:
        say_old(path, str(header.get("kind", "tensors")))
    return header, checksums


def say_old(path: Path, kind: str) -> None:
    """Say once for each folder and kind of file that a file of an older version is used without a check."""
    unchecked = "it is used unchecked, as are others of its kind in this folder"
    say_once(kind, path, f"without a checksum, by an older version of trajmatch; {unchecked}")


def identity(path: Path) -> str:
    """What tells this set from any other: its tensors, by their checksums, its classes and its input space.

    How it was made and where it lies are not in it, so that the same set that is distilled again is the same. For a
    file of an older version it is a hash of all bytes. Raises ValueError where the header is damaged.
    """
    try:
        header, checksums = checked(path)
        if checksums is not None:
            tensors = {name: [of["dtype"], of["shape"]] for name, of in raw_header(path).items() if name in checksums}
            space, sums = header.get("space"), dict(checksums)
            if isinstance(space, dict) and "apart" in space:  # as if the statistics were in this file
                for name, (kind, shape, found) in space["apart"]["tensors"].items():
                    tensors[name], sums[name] = [kind, shape], found
                space = {key: value for key, value in space.items() if key != "apart"}
            about = [header.get("kind"), header.get("classes"), space, tensors, sums]
            return blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16).hexdigest()
    except (DamagedError, NoRecordError) as error:
        raise ValueError(f"{path}: this file is damaged ({error}); {remedy(path)}") from None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(f"{path}: this file is damaged (space.apart); {remedy(path)}") from None
    return blake2b(path.read_bytes(), digest_size=16).hexdigest()


REMEDIES = {
    "expert_": "delete it, and the expert is trained again",
    "checkpoint": "delete it to start this distillation anew, or take the set as an earlier snapshot has it",
    "step_": "delete the folder's checkpoint and this file, and distil anew, or look at the other snapshots",
    "whitening-": "put a copy of it back, from a run on these images, or delete it, and trajmatch run writes it again",
    "images": "start the command again",
}


def remedy(path: Path) -> str:
    """What to do about a damaged tensor file, by its name."""
    found = (words for start, words in REMEDIES.items() if path.name.startswith(start))
    return next(found, "take a copy of it, or an earlier snapshot, or delete it and distil again (--resume)")
