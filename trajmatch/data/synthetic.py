"""The synthetic set: images, labels and learned step size, in one file with all that is needed to use them.

Legend: n = C * ipc images of c x h x w, C classes, sorted by class; m = f^2 n tiles, f along each side (core/tiles.py).
"""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from html import escape
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from trajmatch.core.draws import generator
from trajmatch.core.tiles import decoded, encoded, repeated
from trajmatch.data import space_file
from trajmatch.data.checksums import remedy
from trajmatch.data.file_names import SET
from trajmatch.data.grid import displayable, image_grid
from trajmatch.data.images import Images
from trajmatch.data.set_header import APART, set_header
from trajmatch.data.tensors import read_tensors, save_tensors
from trajmatch.data.whitening import InputSpace, wrong_pixels

# How far the sum of an image's label probabilities may be from 1: float32's rounding over thousands of classes.
NEAR = 1e-3


@dataclass(frozen=True, repr=False, eq=False)
class SyntheticSet(TorchDataset[tuple[Tensor, Tensor]]):
    """A distilled set, usable as a torch data set: `len(set)`, `set[i]` -> (image, label), `DataLoader(set)`.

    What it stores are X and Y; all else is of the m images that a network is to be trained on, which are the same where
    the factor is 1.

    X:       (n, c, h, w) stored images in the network's input space (normalised or whitened).
    Y:       (n, C) their class probabilities; hard labels are one-hot.
    eta:     the learned step size, which is the learning rate to train with.
    classes: names of the C classes.
    space:   the map between pixels and X.
    info:    how the set was made.
    factor:  f, the tiles along each side of a stored image, each of which is an image to a network.
    """

    X: Tensor
    Y: Tensor
    eta: float
    classes: tuple[str, ...]
    space: InputSpace = field(repr=False)
    info: Mapping[str, Any] = field(default_factory=dict, repr=False)
    factor: int = 1

    def __repr__(self) -> str:
        n, C = self.Y.shape
        made = " ".join(f"{key}={self.info[key]}" for key in ("dataset", "method", "ipc") if key in self.info)
        shape = " x ".join(map(str, self.X.shape[1:]))
        cut = "" if self.factor == 1 else f" as {len(self)} tiles"
        return f"SyntheticSet({n} images of {shape}{cut}, {C} classes, eta={self.eta:.4g}, {made})"

    def _repr_html_(self) -> str:
        """The set as a notebook shows it: what it is, over the picture of its images by class."""
        stream = BytesIO()
        image_grid(displayable(self.stored_pixels), self.Y, self.classes).save(stream, format="PNG")
        picture = b64encode(stream.getvalue()).decode()
        about = escape(f"{self!r}: train with it at the step size {self.eta:.4g}")
        return f'<p><code>{about}</code></p><img alt="the images by class" src="data:image/png;base64,{picture}">'

    def __len__(self) -> int:
        return len(self.X) * self.factor**2

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, probabilities = self.seen
        return images[index], probabilities[index]

    @cached_property
    def seen(self) -> tuple[Tensor, Tensor]:
        """What a network is to be trained on: images (m, c, h, w) in its input space, class probabilities (m, C)."""
        return seen(self.X, self.Y, self.factor)

    @property
    def images(self) -> Tensor:
        """Images (m, c, h, w) in the network's input space, in which the network is to be trained on them."""
        return self.seen[0]

    @property
    def pixels(self) -> Tensor:
        """Images (m, c, h, w) as pixels. Those of real images lie in [0, 1], those of synthetic ones need not."""
        return self.space.inverse(self.images)

    @property
    def stored_pixels(self) -> Tensor:
        """The stored images (n, c, h, w) as pixels, their tiles side by side."""
        return stored_pixels(self.space, self.X, self.factor)

    @property
    def labels(self) -> Tensor:
        """The likeliest class (m,) of each image, int64."""
        return self.seen[1].argmax(1)

    @property
    def step_size(self) -> float:
        """The learned learning rate `eta`."""
        return self.eta

    def normalise(self, pixels: Tensor) -> Tensor:
        """Real images (n, c, h, w), uint8 or in [0, 1], as the network trained on this set must see them.

        Raises ValueError for values of another range or type, which would be seen as something else, and for other
        shapes than the set's.
        """
        if (wrong := wrong_pixels(pixels)) is not None:
            raise ValueError(f"normalise: {wrong}")
        return self.space.forward(pixels)


def seen(X: Tensor, Y: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """What a network sees of stored images X (n, c, h, w) with labels Y (n, C): (m, c, h, w) and (m, C)."""
    return decoded(X, factor), repeated(Y, factor)


def stored_pixels(space: InputSpace, X: Tensor, factor: int) -> Tensor:
    """Stored images X (n, c, h, w) of an input space as pixels (n, c, h, w), their tiles side by side.

    Whitening couples all pixels of an image that a network sees, so that tiles are taken back one by one.
    """
    if factor == 1 or space.kind != "zca":
        return space.inverse(X)
    return encoded(space.inverse(decoded(X, factor)), factor)


def content(synthetic: SyntheticSet) -> str:
    """Hash of images, labels, step size and factor: what "the same set" means."""
    digest = blake2b(repr(synthetic.eta).encode(), digest_size=16)
    for tensor in (synthetic.X, synthetic.Y):
        digest.update(repr(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
    if synthetic.factor > 1:
        digest.update(repr(synthetic.factor).encode())
    return digest.hexdigest()


def leading(synthetic: SyntheticSet, size: int) -> tuple[Tensor, Tensor]:
    """What a network sees of the first `size` stored images of each class: images and class probabilities."""
    C = len(synthetic.classes)
    ipc = len(synthetic.X) // C
    index = torch.arange(C)[:, None] * ipc + torch.arange(size)
    return seen(synthetic.X[index.flatten()], synthetic.Y[index.flatten()], synthetic.factor)


def save(synthetic: SyntheticSet, path: Path) -> None:
    """Write a set with its step size, labels and input space to a safetensors file.

    A large whitening is a file of its own beside it, which many sets may share.
    Raises OSError, and ValueError where the set cannot be used; nothing is written then.
    """
    if (wrong := wrong_set(synthetic)) is not None:
        raise ValueError(f"{path}: the set is not written, because {wrong}")
    apart = space_file.is_large(synthetic.space)
    tensors = {f"space.{name}": tensor for name, tensor in synthetic.space.to_tensors().items() if not apart}
    tensors |= {
        "images": synthetic.X,
        "labels": synthetic.Y,
        "step_size": torch.tensor(synthetic.eta, dtype=torch.float64),
    }
    header: dict[str, Any] = {
        "kind": "synthetic set",
        "classes": list(synthetic.classes),
        "space": {"kind": synthetic.space.kind, "shape": list(synthetic.space.shape)},
        "info": dict(synthetic.info),
    }
    if synthetic.factor > 1:
        header["factor"] = synthetic.factor
    if apart:
        header["space"][APART] = space_file.described(synthetic.space)
        space_file.keep_beside(synthetic.space, path.parent)
    save_tensors(path, tensors, header)


def load(path: str | Path) -> SyntheticSet:
    """Read a set that `save` wrote: the file itself, or the run folder that holds it.

    A large whitening is found beside the file or in the cache.
    Raises ValueError naming the file where it is missing, damaged, something else, or a set that cannot be used.
    """
    path = Path(path)
    if path.is_dir():
        path = path / SET
    header = set_header(path)
    tensors = read_tensors(path)
    apart = space_file.opened(path, header["space"]) if header["space"].get(APART) is not None else None
    statistics = {name.removeprefix("space."): t for name, t in tensors.items() if name.startswith("space.")}
    try:
        shape = tuple(header["space"]["shape"])
        space = apart or InputSpace.from_tensors(header["space"]["kind"], shape, statistics)
        # Copies: the tensors as read are views of the file, which may be replaced.
        X, Y, eta = tensors["images"].clone(), tensors["labels"].clone(), float(tensors["step_size"])
    except KeyError as error:
        raise ValueError(f"{path}: this set has no {error.args[0]}; {remedy(path)}") from None
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: this set cannot be used: {error}; {remedy(path)}") from None
    found = SyntheticSet(X, Y, eta, tuple(header["classes"]), space, header["info"], header.get("factor", 1))
    if (wrong := wrong_set(found)) is not None:
        raise ValueError(f"{path}: this set cannot be used: {wrong}; {remedy(path)}")
    return found


def wrong_set(synthetic: SyntheticSet) -> str | None:
    """Why a set cannot be used, in words: values that are not finite, or do not fit each other."""
    C, shape = len(synthetic.classes), tuple(synthetic.X.shape[1:])
    if synthetic.space.shape != shape:
        return f"its images are {shape} and its input space {synthetic.space.shape}"
    if (wrong := wrong_factor(synthetic.factor, shape)) is not None:
        return f"its factor is {synthetic.factor} and {wrong}"
    return wrong_values(synthetic.X, synthetic.Y, synthetic.eta, C) or synthetic.space.wrong()


def wrong_factor(factor: Any, shape: tuple[int, ...]) -> str | None:
    """What a factor must be where images of `shape` (c, h, w) can't be cut into so many tiles along each side."""
    if type(factor) is not int or factor < 1:
        return "must be a whole number of at least 1"
    if any(side % factor for side in shape[1:]):
        return f"must divide both sides of images of {shape[1]} x {shape[2]} pixels"
    return None


def wrong_values(X: Tensor, Y: Tensor, eta: float, num_classes: int | None = None) -> str | None:
    """Why images (n, c, h, w), label probabilities (n, C) and step size cannot be a set's, in words, or None."""
    if X.dim() != 4 or not len(X) or not X.is_floating_point():
        return f"its images have shape {tuple(X.shape)} and type {X.dtype}"
    if Y.dim() != 2 or len(Y) != len(X) or (num_classes is not None and Y.shape[1] != num_classes):
        classes = "" if num_classes is None else f" of {num_classes} classes"
        return f"its labels have shape {tuple(Y.shape)} for {len(X)} images{classes}"
    if not X.isfinite().all():
        return f"{int((~X.isfinite()).sum())} pixel values are not finite"
    if not Y.isfinite().all() or bool((Y < 0).any()) or bool(((Y.double().sum(1) - 1).abs() > NEAR).any()):
        return "its labels are no probabilities that sum to 1"
    if not (isfinite(eta) and eta > 0):
        return f"its step size is {eta:g} and must be above 0 and finite"
    return None


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Labels (n,) as rows of Y (n, C)."""
    return F.one_hot(labels, num_classes).float()


def class_labels(num_classes: int, ipc: int) -> Tensor:
    """Labels (C * ipc,): every class ipc times, in order."""
    return torch.arange(num_classes).repeat_interleave(ipc)


def draw_real(images: Images, num_classes: int, ipc: int, source: torch.Generator) -> Tensor:
    """Indices (C * ipc,) of random real images, ipc of every class, sorted by class. Classes must be large enough."""
    chosen = []
    for label in range(num_classes):
        members = (images.y == label).nonzero().squeeze(1)
        chosen.append(members[torch.randperm(len(members), generator=source)[:ipc]])
    return torch.cat(chosen)


def initial_images(
    kind: Literal["real", "noise"],
    images: Images,
    space: InputSpace,
    num_classes: int,
    ipc: int,
    seed: int,
    factor: int = 1,
) -> Tensor:
    """Images (n, c, h, w) before the first outer step: random real ones, or Gaussian noise, in the input space.

    Where the factor is above 1, each tile is another real image, shrunk.
    """
    source = generator(seed, "initial images")
    if kind == "noise":
        return torch.randn(num_classes * ipc, *space.shape, generator=source)
    return encoded(space.forward(images.x[draw_real(images, num_classes, ipc * factor**2, source)]), factor)
