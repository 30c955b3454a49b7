"""Pictures of a run's set: of its images as they are, and as they were after a step."""

from pathlib import Path

from PIL import Image
from torch import Tensor

from trajmatch.data.grid import displayable, image_grid
from trajmatch.data.snapshots import read_snapshot, snapshot_path
from trajmatch.data.synthetic import class_labels, stored_pixels
from trajmatch.run.assembly.setup import Setup


def picture(setup: Setup, X: Tensor) -> Image.Image:
    """Stored images X (n, c, h, w) of a run by class, as a screen can show them."""
    pixels = displayable(stored_pixels(setup.material.space, X, setup.config.factor))
    return image_grid(pixels, class_labels(setup.material.condensed, setup.config.ipc), setup.dataset.names)


def picture_of_step(setup: Setup, folder: Path, step: int) -> Image.Image:
    """The picture of a run's snapshot. Raises ValueError where the snapshot is damaged."""
    return picture(setup, read_snapshot(snapshot_path(folder, step), step).X)
