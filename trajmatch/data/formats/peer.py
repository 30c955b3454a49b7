"""The tensor files of MTT's program and of those after it, read without unpickling anything but tensors and lists.

`images_best.pt` is a tensor of images in the network's input space, `labels_best.pt` one of their classes or logits,
`lr_best.pt` the learned step size, and `replay_buffer_n.pt` a list of experts, each a list of epochs from the initial
weights on, each a list of the network's parameters in the order in which it declares them.
Legend: n images of c x h x w, C classes, P parameters.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trajmatch.data.synthetic import NEAR, one_hot
from trajmatch.data.whitening import InputSpace

Kind = Literal["images", "labels", "step size", "whitening", "experts"]
Shapes = Sequence[tuple[int, ...]]


def read(path: Path) -> Any:
    """What a file that `torch.save` wrote holds: tensors in lists and dictionaries.

    Raises ValueError, naming the file, where it is missing, damaged, or holds anything that code would have to make.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except MemoryError:
        raise
    # A damaged file can raise nearly anything. It is told without torch's words, which advise to load it unsafely.
    except Exception:
        raise ValueError(
            f"{path}: this is no file of tensors that torch.save wrote, or it is damaged, or it holds more than "
            "tensors, which is not read because it could run code"
        ) from None


def kind(value: Any, path: Path) -> Kind:
    """What the content of a file is. Raises ValueError, naming the file, where it is nothing that can be imported."""
    if isinstance(value, Tensor):
        found: dict[int, Kind] = {0: "step size", 1: "labels", 2: "labels", 4: "images"}
        if value.dim() in found:
            return found[value.dim()]
        raise ValueError(f"{path}: a tensor of shape {tuple(value.shape)} is neither images, labels nor a step size")
    if isinstance(value, float):
        return "step size"
    if isinstance(value, dict) and {"mean", "scale", "basis"} <= value.keys():
        return "whitening"
    if _are_experts(value):
        return "experts"
    raise ValueError(
        f"{path}: this holds {_described(value)}, and must hold a tensor of images, labels or a step size, or a list "
        "of experts, each a list of epochs, each a list of tensors"
    )


def _are_experts(value: Any) -> bool:
    """Whether this is a list of lists of lists of tensors, and none of them is empty."""
    if not isinstance(value, list) or not value:
        return False
    epochs = [epoch for expert in value if isinstance(expert, list) for epoch in expert]
    whole = all(isinstance(expert, list) and expert for expert in value)
    return whole and all(
        isinstance(epoch, list | tuple) and epoch and all(isinstance(one, Tensor) for one in epoch) for epoch in epochs
    )


def _described(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}" + (f" times {_described(value[0])}" if value else "")
    return "a dictionary" if isinstance(value, dict) else f"a value of type {type(value).__name__}"


def rows(expert: Sequence[Sequence[Tensor]], shapes: Shapes, where: str) -> list[Tensor]:
    """Snapshots theta (P,) of an expert, float32, from its parameters after each epoch.

    shapes: those of the network that it must be. where: words for a message.
    Raises ValueError for other shapes, fewer than two snapshots, and snapshots that are all the same.
    """
    for t, epoch in enumerate(expert):
        found = [tuple(one.shape) for one in epoch]
        if found != list(shapes):
            raise ValueError(f"{where}, snapshot {t}: {unlike(found, shapes)}")
    if len(expert) < 2:
        raise ValueError(f"{where} has one snapshot, and a trajectory needs two or more")
    theta = [torch.cat([one.detach().float().reshape(-1) for one in epoch]) for epoch in expert]
    if all(torch.equal(row, theta[0]) for row in theta):
        raise ValueError(
            f"{where}: all its {len(theta)} snapshots are the same weights; MTT's program stores the live weights "
            "where it trains on a CPU, and such files hold no trajectory"
        )
    return theta


def unlike(found: Shapes, wanted: Shapes) -> str:
    """What is different between the shapes of a file's weights and a network's, in words, with the flags to give."""
    if (size := convnet_of(found)) is not None and convnet_of(wanted) not in (None, size):
        depth, width, norm = size
        flags = f"--network.depth {depth} --network.width {width} --network.norm {norm}"
        return f"its network is a ConvNet of depth {depth} and width {width}: give {flags}"
    if len(found) != len(wanted):
        return f"it has {len(found)} tensors, and the network has {len(wanted)} (--network.*)"
    k = next(k for k in range(len(found)) if found[k] != wanted[k])
    return f"its tensor {k} has shape {found[k]}, and that of the network {wanted[k]} (--network.*, --images.size)"


def convnet_of(shapes: Shapes) -> tuple[int, int, str] | None:
    """Depth, width and norm (instance or none) of the ConvNet that has parameters of these shapes, or None."""
    if len(shapes) < 4 or len(shapes[0]) != 4 or len(shapes[-2]) != 2:
        return None
    width = shapes[0][0]
    for each, norm in ((4, "instance"), (2, "none")):
        depth, rest = divmod(len(shapes) - 2, each)
        blocks = [shapes[0], *[(width,)] * (each - 1)]
        for _ in range(depth - 1):
            blocks += [(width, width, 3, 3), *[(width,)] * (each - 1)]
        if not rest and list(shapes[:-2]) == blocks:
            return depth, width, norm
    return None


def probabilities(labels: Tensor, num_classes: int, path: Path) -> tuple[Tensor, str]:
    """Class probabilities (n, C) of labels: classes (n,), logits (n, C) or probabilities; and what they were taken for.

    Raises ValueError, naming the file, for other shapes and for classes that there are not.
    """
    if labels.dim() == 1:
        found = labels.long()
        if not torch.equal(found.to(labels.dtype), labels) or int(found.min()) < 0 or int(found.max()) >= num_classes:
            raise ValueError(f"{path}: its labels must be whole numbers from 0 to {num_classes - 1}")
        return one_hot(found, num_classes), "classes"
    if labels.shape[1] != num_classes:
        raise ValueError(f"{path}: its labels are of {labels.shape[1]} classes, and --data has {num_classes}")
    labels = labels.detach().float()
    if bool((labels >= 0).all()) and bool(((labels.sum(1) - 1).abs() < NEAR).all()):
        return labels, "probabilities"
    return labels.softmax(1), "logits, whose softmax is meant"


def step_size(value: Any, path: Path) -> float:
    """The step size of a file. Raises ValueError where it is not above 0."""
    found = float(value)
    if not 0 < found < float("inf"):
        raise ValueError(f"{path}: its step size is {found:g} and must be above 0 and finite")
    return found


def space(value: dict[str, Any], shape: tuple[int, int, int], path: Path) -> InputSpace:
    """The whitening that `trajmatch export --format mtt` wrote. Raises ValueError, naming the file."""
    try:
        found = InputSpace.from_tensors(
            "zca", shape, {name: value[name].clone() for name in ("mean", "scale", "basis")}
        )
        wrong = found.wrong()
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from None
    if wrong is not None:
        raise ValueError(f"{path}: {wrong}")
    return found
