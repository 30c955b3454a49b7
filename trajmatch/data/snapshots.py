"""A distillation's set as it was after an outer step, in a file of its own.

Legend: n images of c x h x w, C classes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trajmatch.data.checksums import remedy
from trajmatch.data.file_names import SNAPSHOTS
from trajmatch.data.files import read_header
from trajmatch.data.synthetic import wrong_values
from trajmatch.data.tensors import read_tensors, save_tensors


class Snapshot(NamedTuple):
    """A set as it was after an outer step.

    step: outer steps taken; 0 is before the first.
    X:    (n, c, h, w) images in the input space.
    Y:    (n, C) label probabilities.
    eta:  () step size.
    """

    step: int
    X: Tensor
    Y: Tensor
    eta: Tensor

    def to(self, device: torch.device) -> "Snapshot":
        """The same on a device, with the step size in the type of the images."""
        return Snapshot(self.step, self.X.to(device), self.Y.to(device), self.eta.to(self.X.dtype).to(device))


def snapshot_path(folder: Path, step: int) -> Path:
    """The file of one snapshot of a run folder."""
    return folder / SNAPSHOTS / f"step_{step:06}.safetensors"


def save_snapshot(path: Path, snapshot: Snapshot, settings: Mapping[str, Any] | None = None) -> None:
    """Write a snapshot and the settings that it was made with.

    Raises OSError, and ValueError where its values cannot be used; nothing is written then.
    """
    if (wrong := wrong_values(snapshot.X, snapshot.Y, float(snapshot.eta))) is not None:
        raise ValueError(f"{path}: the snapshot is not written, because {wrong}")
    # Clones: a safetensors file refuses tensors that share memory, and images and their average may be one.
    tensors = {"images": snapshot.X.clone(), "labels": snapshot.Y.clone(), "step_size": snapshot.eta.cpu().double()}
    save_tensors(path, tensors, {"step": snapshot.step, "settings": dict(settings or {})})


def read_snapshot(
    path: Path, step: int, shape: tuple[int, ...] | None = None, num_classes: int | None = None
) -> Snapshot:
    """Read the snapshot of a step; shape: that of one image, as the data has it.

    Raises ValueError, naming the file, where it is damaged, of another step, or does not fit.
    """
    held = read_header(path).get("step")
    if held != step or isinstance(held, bool):
        raise ValueError(f"{path}: this is not the snapshot of step {step} (its header says {held}); {remedy(path)}")
    tensors = read_tensors(path)
    try:
        X, Y, eta = (tensors[name].clone() for name in ("images", "labels", "step_size"))
        wrong = wrong_values(X, Y, float(eta), num_classes)
    except KeyError as error:
        raise ValueError(f"{path}: this snapshot has no {error.args[0]}; {remedy(path)}") from None
    except RuntimeError as error:
        raise ValueError(f"{path}: this snapshot cannot be used: {error}; {remedy(path)}") from None
    if wrong is None and shape is not None and tuple(X.shape[1:]) != shape:
        wrong = f"its images are {tuple(X.shape[1:])} and those of the data {shape}"
    if wrong is not None:
        raise ValueError(f"{path}: this snapshot cannot be used: {wrong}; {remedy(path)}")
    return Snapshot(step, X, Y, eta)


def all_of(folder: Path, shape: tuple[int, ...] | None = None, num_classes: int | None = None) -> list[Snapshot]:
    """The snapshots of a run folder in order of their steps. Raises ValueError for a file that is none, or damaged."""
    found = []
    for path in sorted((folder / SNAPSHOTS).glob("step_*.safetensors")):
        number = path.stem.removeprefix("step_")
        if not number.isdigit():
            raise ValueError(f"{path}: this is not the snapshot of a step, which its name must say")
        found.append(read_snapshot(path, int(number), shape, num_classes))
    return found


def snapshot_settings(path: Path) -> dict[str, Any]:
    """The settings with which a snapshot was made; none in a file of an older version. Raises ValueError."""
    found = read_header(path).get("settings", {})
    if not isinstance(found, dict):
        raise ValueError(f"{path}: the header of this snapshot is damaged: settings must be names and values")
    return found
