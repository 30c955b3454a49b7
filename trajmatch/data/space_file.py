"""The statistics of a large whitening, in a file of their own beside the sets that were made in it.

A ZCA of 3 x 32 x 32 has 38 MB, a set of ten such images 0.1 MB. The file is named by a hash of the statistics, so that
it is known for what it is wherever it lies; the cache of fitted whitenings is looked through too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from trajmatch.data import cache
from trajmatch.data.checksums import remedy
from trajmatch.data.file_names import WHITENING
from trajmatch.data.files import read_checked
from trajmatch.data.set_header import APART, set_header
from trajmatch.data.tensors import NAMES, checksum_of, read_tensors, save_tensors
from trajmatch.data.whitening import InputSpace
from trajmatch.machine.messages import LOGGER

LARGE = 100_000  # bytes of a basis from which on it is kept apart


def is_large(space: InputSpace) -> bool:
    """Whether the statistics of an input space are kept apart from the sets in it."""
    return space.basis.nbytes >= LARGE


def file_name(space: InputSpace) -> str:
    """What the file of an input space is called."""
    return WHITENING.format(space.digest())


def described(space: InputSpace) -> dict[str, Any]:
    """What the header of a set says of statistics that are kept apart: their file, and each tensor's checksum.

    By these `checksums.identity` knows a set as the same whether the statistics are in its file or apart.
    """
    tensors = {
        f"space.{name}": [NAMES[tensor.dtype], list(tensor.shape), [checksum_of(tensor.detach().cpu())]]
        for name, tensor in space.to_tensors().items()
    }
    return {"file": file_name(space), "tensors": tensors}


def keep_beside(space: InputSpace, folder: Path) -> None:
    """Write the statistics into a folder, where their file is not there, or damaged. Raises OSError."""
    path = folder / file_name(space)
    if path.is_file():
        try:
            read_tensors(path)
            return
        except ValueError as error:
            LOGGER.warning(f"{error}: it is written again")
    header = {"kind": "whitening", "space": {"kind": space.kind, "shape": list(space.shape)}}
    save_tensors(path, space.to_tensors(), header)


def restore(path: Path, space: InputSpace) -> None:
    """Write the statistics beside a set's file again, where the set was made in this space and they are missing."""
    apart = set_header(path)["space"].get(APART)
    if apart is not None and not (path.parent / apart["file"]).is_file() and apart["file"] == file_name(space):
        keep_beside(space, path.parent)


def opened(path: Path, header: Mapping[str, Any]) -> InputSpace:
    """The input space of a set's file that keeps its statistics apart; header: what it says of the space.

    Raises ValueError, naming both files, where the statistics are neither beside the set nor in the cache, or damaged.
    """
    name = header[APART]["file"]
    beside = path.parent / name
    if not beside.is_file():
        return _cached(path, header, name)
    if read_checked(beside)[1] is None:
        raise ValueError(f"{beside}: this is not the whitening of {path}; {remedy(beside)}")
    return _named(beside, header, name, read_tensors(beside), remedy(beside))


def _cached(path: Path, header: Mapping[str, Any], name: str) -> InputSpace:
    kept = cache.known("whitening", "file", name)
    if kept is None:
        raise ValueError(
            f"{path}: this set needs the statistics of its whitening, the file {name}, which lies beside the set in "
            "the run folder that it comes from: copy that file too, or the whole folder"
        )
    found = _named(kept.path, header, name, kept.tensors, "delete it")
    LOGGER.info(f"{path}: {name} is not beside it, and its whitening is taken from the cache ({kept.path})")
    return found


def _named(place: Path, header: Mapping[str, Any], name: str, tensors: Mapping[str, Tensor], advice: str) -> InputSpace:
    """The input space of tensors out of a file. Raises ValueError, naming it, where it is not the one of that name."""
    try:
        # Copies: the tensors as read are views of the file, which may be removed.
        copies = {key: value.clone() for key, value in tensors.items()}
        found = InputSpace.from_tensors(header["kind"], tuple(header["shape"]), copies)
    except ValueError as error:
        raise ValueError(f"{place}: {error} {advice[0].upper()}{advice[1:]}") from None
    if file_name(found) != name:
        raise ValueError(f"{place}: this is another whitening than its name says; {advice}")
    return found
