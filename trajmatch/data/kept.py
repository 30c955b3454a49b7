"""Records that are kept as JSON: each holds a digest of itself, so that a changed digit is found. No torch here."""

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from trajmatch.machine.messages import LOGGER

# BELONGS holds digests of what a record is of. The others are two keys, so that a damaged name of one does not make a
# record look like one of an older version, which has neither.
VERSION, DIGEST, BELONGS = "record_version", "record_digest", "belongs_to"
_told: set[tuple[str, Path]] = set()


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its digest behind all else. Raises ValueError for a number that JSON does not have."""
    record = json.loads(json.dumps({k: v for k, v in value.items() if k not in (VERSION, DIGEST)}, allow_nan=False))
    record[VERSION] = 1
    return {**record, DIGEST: digest(record)}


def digest(value: Any) -> str:
    """BLAKE2 of what JSON says, however it is laid out."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=16).hexdigest()


def read_record(path: Path, says: str, remedy: str) -> dict[str, Any]:
    """A record that `files.write_record` wrote, without its digest. A line says where an older version wrote none.

    says: what is said of a record that cannot be used.

    Raises ValueError, with the file and the remedy, where the record is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of the JSON or of its encoding
        raise ValueError(f"{path}: {says} ({one_line(error)}); {remedy}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: {says}: the whole of it must be names and values; {remedy}")
    if VERSION not in found and DIGEST not in found:
        say_old(path)
        return found
    held = found.pop(DIGEST, None)
    if held != digest(found):
        raise ValueError(f"{path}: this record is damaged: it is not as it was written; {remedy}")
    del found[VERSION]
    return found


def other(record: Mapping[str, Any], belongs: Mapping[str, str | None]) -> str | None:
    """What of `belongs` a record says that it is not of: "set", "data", ... or None.

    Records of older versions do not say it, and no record is asked for a name that has no digest here.
    """
    said = record.get(BELONGS)
    said = said if isinstance(said, dict) else {}
    return next((k for k, now in belongs.items() if now is not None and said.get(k, now) != now), None)


def one_line(error: BaseException) -> str:
    """An error's first words: those of a decoder may quote what it was given."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def say_old(path: Path) -> None:
    """Say once for each file that a record of an older version is used without a check."""
    say_once(
        path.name, path, "without a digest, by an older version of trajmatch or another program; it is used unchecked"
    )


def say_once(kind: str, path: Path, how: str) -> None:
    """Say once for each folder and kind of file how a file of an older version was written."""
    if (kind, path.parent) not in _told:
        _told.add((kind, path.parent))
        LOGGER.warning("%s: written %s", path, how)
