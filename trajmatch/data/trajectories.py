"""Expert trajectories on disk: one safetensors file per expert, read row by row.

Legend: P parameters, R rows (the initial weights and one snapshot after every epoch, or every k steps).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trajmatch.data.checksums import Checksums
from trajmatch.data.files import is_share, read_checked
from trajmatch.data.tensors import checksum_of, save_tensors

STORAGE = ("float32", "fp16-deltas")
REMEDY = "delete it and train the expert again"


class Segment(NamedTuple):
    """Expert e from epoch t to t + M: start s and target g, each (P,) float32."""

    s: Tensor
    g: Tensor
    e: int
    t: float

    def to(self, device: torch.device) -> "Segment":
        """The same on a device; a GPU does not wait for it."""
        return self._replace(s=self.s.to(device, non_blocking=True), g=self.g.to(device, non_blocking=True))


@dataclass(frozen=True)
class Trajectory:
    """One expert's file: its header now, its rows when asked for, each of them checked."""

    path: Path
    header: Mapping[str, Any] = field(repr=False)
    checksums: Checksums | None = field(default=None, repr=False)
    """By tensor, of each row; None in a file of an older version."""

    @classmethod
    def open(cls, path: Path) -> "Trajectory":
        """Read the header of an expert's file. Raises ValueError naming the file."""
        header, checksums = read_checked(path)
        if header.get("kind") != "expert":
            raise ValueError(f"{path}: this is not an expert's trajectory")
        if (wrong := _wrong(header)) is not None:
            raise ValueError(f"{path}: this is not an expert's trajectory: {wrong}; {REMEDY}")
        return cls(path, header, checksums)

    @property
    def num_rows(self) -> int:
        """R, counting the initial weights."""
        return int(self.header["rows"])

    def row(self, t: int) -> Tensor:
        """theta*_t (P,) float32, a fresh tensor; only this row is read (and the first, where rows are deltas).

        Raises ValueError for a row that the file does not have, or a damaged file.
        """
        if not 0 <= t < self.num_rows:
            raise ValueError(f"{self.path}: it has snapshots 0 to {self.num_rows - 1}, and {t} was asked for")
        try:
            with safe_open(self.path, framework="pt") as file:
                if self.header["storage"] == "float32":
                    return self._checked("theta", t, file.get_slice("theta")[t])
                start = self._checked("start", 0, file.get_tensor("start"))
                if t == 0:
                    return start
                return start + self._checked("deltas", t - 1, file.get_slice("deltas")[t - 1]).float()
        except (SafetensorError, OSError, IndexError) as error:
            raise ValueError(f"{self.path}: this file is damaged; {REMEDY}") from error

    def _checked(self, name: str, k: int, row: Tensor) -> Tensor:
        """A row as it is in the file, copied. Raises ValueError where it is another than was written."""
        if self.checksums is not None and checksum_of(row) != self.checksums[name][k]:
            raise ValueError(f"{self.path}: this file is damaged (snapshot {k} is not as it was written); {REMEDY}")
        if row.shape != (self.header["parameters"],):
            raise ValueError(f"{self.path}: its snapshots have {tuple(row.shape)} weights; {REMEDY}")
        if not _is_finite(row):
            raise ValueError(f"{self.path}: snapshot {k} has weights that are not finite; {REMEDY}")
        return row.clone()

    def segment(self, e: int, t: float, M: int) -> Segment:
        """The segment from snapshot t, a whole number, to t + M of this expert, known as number e."""
        return Segment(self.row(int(t)), self.row(int(t) + M), e, t)


def _is_finite(row: Tensor) -> bool:
    """Whether all weights are finite. Their sum says so in a sixtieth of the time, unless it overflows itself."""
    return isfinite(float(row.sum(dtype=torch.float32))) or bool(row.isfinite().all())


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_accuracies(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_share, value))


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and value >= 0


def _are_shapes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(shape, list) and all(_is_count(side, 0) for side in shape) for shape in value
    )


# What an expert's header must hold, and what it may leave out.
MUST: dict[str, tuple[Callable[[Any], bool], str]] = {
    "rows": (lambda value: _is_count(value, 1), "a whole number of at least 1"),
    "parameters": (lambda value: _is_count(value, 1), "a whole number of at least 1"),
    "storage": (lambda value: value in STORAGE, "float32 or fp16-deltas"),
}
MAY: dict[str, tuple[Callable[[Any], bool], str]] = {
    "index": (lambda value: _is_count(value, 0), "a whole number of at least 0"),
    "settings": (lambda value: isinstance(value, dict), "names and values"),
    "epochs": (lambda value: _is_count(value, 0), "a whole number of at least 0"),
    "test_accuracy": (_is_accuracies, "accuracies from 0 to 1"),
    "train_accuracy": (is_share, "an accuracy from 0 to 1"),
    "seconds": (_is_seconds, "a number of seconds"),
    "shapes": (_are_shapes, "the shapes of the network's weights"),
}


def _wrong(header: Mapping[str, Any]) -> str | None:
    """What of a header is missing or of another kind, in words."""
    for key, (is_right, words) in {**MUST, **MAY}.items():
        if key in MUST and key not in header:
            return f"{key} is missing"
        if key in header and not is_right(header[key]):
            return f"{key} must be {words}"
    if sum(map(prod, header.get("shapes", []))) != header["parameters"] and "shapes" in header:
        return (
            f"its shapes are of {sum(map(prod, header['shapes']))} weights and its snapshots of {header['parameters']}"
        )
    return None


def save_trajectory(path: Path, rows: Sequence[Tensor], header: Mapping[str, Any], storage: str = "float32") -> None:
    """Write snapshots theta*_0, theta*_1, ... as float32, or as fp16 differences from a float32 first row.

    Half-precision weights themselves would move the target of a segment by per cents.
    Raises ValueError where a weight is not finite or a difference does not fit fp16, OSError where the file cannot be
    written.
    """
    header = {**header, "kind": "expert", "rows": len(rows), "parameters": rows[0].numel(), "storage": storage}
    theta = torch.stack([row.detach().cpu() for row in rows])
    if not _is_finite(theta):
        raise ValueError(f"{path}: the expert has weights that are not finite and is not kept; lower --expert.lr")
    if storage == "float32":
        save_tensors(path, {"theta": theta}, header, by_row=("theta",))
        return
    deltas = (theta[1:] - theta[0]).half()
    if not torch.isfinite(deltas).all():
        raise ValueError("expert.storage: a weight moved further than fp16 holds; use float32")
    save_tensors(path, {"start": theta[0], "deltas": deltas}, header, by_row=("deltas",))
