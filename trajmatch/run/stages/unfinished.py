"""An expert that is being trained, on disk: where its training stands, so that one that was cut off goes on."""

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from trajmatch.data.files import read_header
from trajmatch.data.tensors import read_tensors, save_tensors
from trajmatch.methods.experts import Expert
from trajmatch.methods.training import Standing

# A checkpoint is written so rarely that writing takes no more than this share of the time.
COST = 0.02


class Unfinished:
    """The checkpoint of one expert's training, in a file beside that which the expert will have.

    about: what the training's bits depend on; a checkpoint of another is not gone on from.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], seconds: float) -> None:
        """seconds: at most so many pass between two checkpoints, but for the epoch that is under way."""
        self.path = path
        self.about = json.loads(json.dumps(about))
        self.seconds, self.before = seconds, 0.0
        self._began = self._written = time.monotonic()
        self._took = 0.0
        self._turn = threading.Lock()
        self._latest: tuple[Expert, Standing] | None = None

    def load(self, place: torch.device) -> tuple[Expert, Standing] | None:
        """Where the training stood, on a device; None where it did not begin. Raises ValueError for a damaged file."""
        if not self.path.exists():
            return None
        header = read_header(self.path)
        if header.get("kind") != "expert in training" or header.get("about") != self.about:
            return None
        found = read_tensors(self.path)
        try:
            theta, memory, ascent = (found[name].clone().to(place) for name in ("theta", "memory", "ascent"))
            standing = Standing(
                theta, memory, ascent, float(header["lr"]), int(header["step"]), int(header["epoch"]), found["source"]
            )
            so_far = Expert([row.clone() for row in found["rows"]], [float(share) for share in header["test_accuracy"]])
            self.before = float(header["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path}: this checkpoint lacks {error}") from None
        return so_far, standing

    @property
    def spent(self) -> float:
        """Seconds of training, those of earlier calls included."""
        return self.before + time.monotonic() - self._began

    def keep(self, so_far: Expert, standing: Standing) -> bool:
        """Take note of an epoch's end; whether it was written, which happens now and then."""
        self._latest = Expert(list(so_far.rows), list(so_far.test_accuracy)), standing  # the lists will grow
        if time.monotonic() - self._written < min(self.seconds, self._took / COST):
            return False
        self.write()
        return True

    def write(self) -> None:
        """Write the latest end of an epoch, where that is not done, from whatever thread. Raises OSError."""
        with self._turn:
            latest, self._latest = self._latest, None
            if latest is not None:
                self._write(*latest)

    def _write(self, so_far: Expert, at: Standing) -> None:
        began = time.monotonic()
        tensors = {"rows": torch.stack(so_far.rows), "source": at.source}
        tensors |= {"theta": at.theta.clone(), "memory": at.memory.clone(), "ascent": at.ascent.clone()}
        header = {"kind": "expert in training", "about": self.about, "seconds": self.spent, "lr": at.lr}
        header |= {"step": at.step, "epoch": at.epoch, "test_accuracy": so_far.test_accuracy}
        save_tensors(self.path, tensors, header)
        self._written = time.monotonic()
        self._took = self._written - began

    def remove(self) -> None:
        """The expert is complete."""
        with suppress(FileNotFoundError):
            self.path.unlink()
