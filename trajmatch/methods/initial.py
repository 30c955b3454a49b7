"""Initial images that experts classify correctly, and their label logits (DATM, arXiv 2310.05773).

Legend: n images of c x h x w, C classes, E experts.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def correct_images(right: Iterable[Tensor], y: Tensor, num_classes: int, ipc: int, source: torch.Generator) -> Tensor:
    """Indices (C ipc,), by class: in random order the images that the first expert classifies right, then the next's.

    right: for each expert, whether it classifies each image right, (n,); asked for only as long as a class is short.
    y:     (n,) labels.

    Raises ValueError for a class of which all experts together classify fewer than ipc images right.
    """
    members = [(y == label).nonzero().squeeze(1) for label in range(num_classes)]
    orders = [those[torch.randperm(len(those), generator=source)] for those in members]
    chosen: list[list[int]] = [[] for _ in range(num_classes)]
    for mask in right:
        for label, order in enumerate(orders):
            taken = set(chosen[label])
            new = [i for i in order[mask[order]].tolist() if i not in taken]
            chosen[label] += new[: ipc - len(chosen[label])]
        if all(len(found) == ipc for found in chosen):
            return torch.tensor([i for found in chosen for i in found])
    label = min(range(num_classes), key=lambda k: len(chosen[k]))
    raise ValueError(
        f"--outer.initial is correct, and the experts classify only {len(chosen[label])} images of class number "
        f"{label} correctly, where --ipc (with the square of --factor) asks for {ipc}: train them longer, or start "
        "from real images"
    )


def label_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (n, C): each expert's logits (E, n, C), averaged over the experts that classify an image correctly.

    Where no expert does, the average is over all of them (our choice). labels: (n,).
    """
    right = (logits.argmax(2) == labels).unsqueeze(2)
    count = right.sum(0)
    return torch.where(count > 0, (logits * right).sum(0) / count.clamp_min(1), logits.mean(0))
