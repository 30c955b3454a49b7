"""The real images in the input space of the networks, and the file of them that processes share."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from trajmatch.data.files import read_header
from trajmatch.data.images import Dataset
from trajmatch.data.tensors import read_tensors, save_tensors
from trajmatch.data.whitening import InputSpace
from trajmatch.machine.holding import Held
from trajmatch.machine.litter import MATERIAL, remove_litter
from trajmatch.machine.memory import give_back_freed
from trajmatch.machine.owner import me


@dataclass(frozen=True, eq=False)
class Replay:
    """What a stream has kept of classes that came before, where it is used to condense the next (docs/method.md).

    X:       (m, c, h, w) images as a network sees them, in the input space.
    Y:       (m, C) their class probabilities among all C classes seen, the new ones first.
    classes: how many classes came before: the last so many of the C.
    passes:  how often an expert sees each of the images in an epoch; 0 trains experts on the new classes alone.
    inner:   whether the students of the inner loop are trained on the images too.
    content: hash of the sets that the images are of.
    """

    X: Tensor
    Y: Tensor
    classes: int
    passes: int
    inner: bool
    content: str


@dataclass(frozen=True)
class Material:
    """Real images as pixels and the input space fitted to the training images."""

    dataset: Dataset
    space: InputSpace
    content: str
    """Hash of the pixels, labels and class names: what "the same data" means, wherever it was read from."""
    seen: str = ""
    """Where the input space is not the one that is fitted to these images, such as a set's own: its hash, in words."""
    replay: Replay | None = None
    """What is kept of classes that came before: the last of the data set's, of which it has test images alone."""

    @property
    def condensed(self) -> int:
        """How many classes are condensed: the first of the data set's."""
        return self.dataset.num_classes - (0 if self.replay is None else self.replay.classes)

    @property
    def nbytes(self) -> float:
        """Bytes of the pixels and of the input space."""
        pixels = sum(split.x.nbytes for split in (self.dataset.train, self.dataset.validation, self.dataset.test))
        return float(pixels + self.space.basis.nbytes)


@contextmanager
def shared(material: Material, folder: Path) -> Iterator[Path]:
    """A temporary file of the images in the input space, which every process maps into memory once.

    One file serves any number of workers with one copy in memory, and this process can let go of its own.
    """
    remove_litter(folder)  # left by killed processes; other shards may be at work
    place = Path(tempfile.mkdtemp(prefix=f"{MATERIAL}{me().word}-", dir=folder))
    try:
        dataset = material.dataset
        splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
        tensors: dict[str, Tensor] = {}
        for name, split in splits.items():
            tensors |= {f"{name}.x": material.space.forward(split.x), f"{name}.y": split.y}
        path = place / "images.safetensors"
        if material.replay is not None and material.replay.passes:
            tensors |= {"memory.x": material.replay.X, "memory.y": material.replay.Y}
        content = material.content + material.seen
        header = {"classes": list(dataset.classes), "shape": list(dataset.shape), "content": content}
        header |= {"passes": 0 if material.replay is None else material.replay.passes}
        # Without checksums: it lives as long as this command, and every worker would read all of it to check it.
        save_tensors(path, tensors, header, unchecked=True)
        tensors.clear()
        give_back_freed()  # while workers run, each needs what it can get
        yield path
    finally:
        with Held():
            opened.cache_clear()  # with what lies on a device, whose memory the outer loop needs
            shutil.rmtree(place, ignore_errors=True)
            remove_litter(folder)  # of workers that were ended while they wrote


@dataclass(frozen=True)
class Mapped:
    """A file of `shared`, opened: splits in the input space."""

    tensors: dict[str, Tensor]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    content: str
    """What accuracies on these images belong to: the images' hash, and a foreign input space's."""
    passes: int = 0
    """How often an expert sees each image of the memory in an epoch; 0 where there is none."""
    placed: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False)
    """Tensors by name and device, where they have been asked for."""

    def on(self, name: str, device: torch.device) -> Tensor:
        """A tensor of the file on a device, moved there once for all networks that this process trains."""
        key = name, str(device)
        if key not in self.placed:
            self.placed[key] = self.tensors[name].to(device)
        return self.placed[key]


@lru_cache(maxsize=1)
def opened(path: Path) -> Mapped:
    """Open a file of `shared`, once in a process."""
    header = read_header(path)
    c, h, w = header["shape"]
    return Mapped(read_tensors(path), tuple(header["classes"]), (c, h, w), header["content"], header["passes"])
