"""A distillation's state on disk: checkpoints, and the log of its steps kept in line with them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from trajmatch.data.files import read_header, read_tensors, save_tensors, write_text
from trajmatch.methods.state import OuterState
from trajmatch.run.settings import difference


@dataclass(frozen=True)
class Checkpoint:
    """The state now, two states before it, the seconds spent, and the settings they belong to.

    older: the state to roll back to. anchor: the one that will be, when the next is kept.
    """

    state: OuterState
    anchor: OuterState
    older: OuterState
    seconds: float
    settings: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Outer steps taken."""
        return int(self.state.steps)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all. Raises OSError."""
    tensors = {f"state.{k}": v for k, v in checkpoint.state._asdict().items()}
    tensors |= {f"anchor.{k}": v for k, v in checkpoint.anchor._asdict().items()}
    tensors |= {f"older.{k}": v for k, v in checkpoint.older._asdict().items()}
    # `clone`: a safetensors file refuses tensors that share memory, and X and its average may be one.
    tensors = {k: v.clone() for k, v in tensors.items()}
    header = {"kind": "checkpoint", "settings": dict(checkpoint.settings), "seconds": checkpoint.seconds}
    save_tensors(path, tensors, header)


def load_checkpoint(path: Path, settings: Mapping[str, Any]) -> Checkpoint:
    """Read a checkpoint of a run with these settings. Raises ValueError naming the file and what differs."""
    header = read_header(path)
    if header.get("kind") != "checkpoint":
        raise ValueError(f"{path}: this is not a checkpoint")
    if (what := difference(header["settings"], dict(settings))) is not None:
        what = "the images are others" if what.startswith("--data ") else what
        raise ValueError(f"{path} belongs to a run with other settings: {what}; choose another --out")
    tensors = read_tensors(path)
    # A checkpoint of a release that kept one state to roll back to has no older one.
    older = "older" if "older.X" in tensors else "anchor"
    state, anchor, before = (_state(tensors, name) for name in ("state", "anchor", older))
    return Checkpoint(state, anchor, before, header["seconds"], settings)


def _state(tensors: Mapping[str, Tensor], name: str) -> OuterState:
    """One state of a checkpoint. What states have learned to hold since it was written has its default."""
    return OuterState(**{k: tensors[f"{name}.{k}"].clone() for k in OuterState._fields if f"{name}.{k}" in tensors})


def truncate_metrics(path: Path, step: int) -> None:
    """Keep the rows of metrics.jsonl up to `step`: rows of steps that a checkpoint does not hold will come again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break  # a line cut short by a kill; nothing can follow it
        if row["step"] > step:
            break
        kept.append(line + "\n")
    write_text(path, "".join(kept))
