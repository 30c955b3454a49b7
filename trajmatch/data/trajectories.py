"""Expert trajectories on disk: one safetensors file per expert, read row by row.

Legend: P parameters, R rows (the initial weights and one snapshot after every epoch, or every k steps).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trajmatch.data.files import read_header, save_tensors

STORAGE = ("float32", "fp16-deltas")


class Segment(NamedTuple):
    """Expert e from epoch t to t + M: start s and target g, each (P,) float32."""

    s: Tensor
    g: Tensor
    e: int
    t: int

    def to(self, device: torch.device) -> "Segment":
        """The same on a device; a GPU does not wait for it."""
        return self._replace(s=self.s.to(device, non_blocking=True), g=self.g.to(device, non_blocking=True))


@dataclass(frozen=True)
class Trajectory:
    """One expert's file: its header now, its rows when asked for."""

    path: Path
    header: Mapping[str, Any] = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> "Trajectory":
        """Read the header of an expert's file. Raises ValueError naming the file."""
        header = read_header(path)
        if header.get("kind") != "expert":
            raise ValueError(f"{path}: this is not an expert's trajectory")
        return cls(path, header)

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
                    return file.get_slice("theta")[t].clone()
                start: Tensor = file.get_tensor("start").clone()
                return start if t == 0 else start + file.get_slice("deltas")[t - 1].float()
        except SafetensorError as error:
            raise ValueError(f"{self.path}: this file is damaged; delete it and train the expert again") from error

    def segment(self, e: int, t: int, M: int) -> Segment:
        """The segment from snapshot t to t + M of this expert, known as number e."""
        return Segment(self.row(t), self.row(t + M), e, t)


def save_trajectory(path: Path, rows: Sequence[Tensor], header: Mapping[str, Any], storage: str = "float32") -> None:
    """Write snapshots theta*_0, theta*_1, ... as float32, or as fp16 differences from a float32 first row.

    Half-precision weights themselves would move the target of a segment by per cents (decisions.md, trap 4).
    Raises ValueError where a difference does not fit fp16, OSError where the file cannot be written.
    """
    header = {**header, "kind": "expert", "rows": len(rows), "parameters": rows[0].numel(), "storage": storage}
    theta = torch.stack([row.detach().cpu() for row in rows])
    if storage == "float32":
        save_tensors(path, {"theta": theta}, header)
        return
    deltas = (theta[1:] - theta[0]).half()
    if not torch.isfinite(deltas).all():
        raise ValueError("expert.storage: a weight moved further than fp16 holds; use float32")
    save_tensors(path, {"start": theta[0], "deltas": deltas}, header)
