"""Batches of real images by class, in the input space, on the device where steps are taken."""

from functools import cached_property

import torch
from torch import Tensor

from trajmatch.data.images import Images
from trajmatch.data.whitening import InputSpace

# Up to so many bytes, which CIFAR and Tiny ImageNet stay far below, all images are kept as the network sees them.
KEPT_BYTES = 4e9


class RealBatches:
    """The real training images (n, c, h, w) of every class; each batch has up to `batch` of one class.

    All images are mapped into the input space once, on the device, when they are first asked for; where there are too
    many of them to be kept so, each batch is mapped there when it is taken.
    """

    def __init__(self, images: Images, num_classes: int, space: InputSpace, batch: int, device: torch.device) -> None:
        self.images, self.space, self.batch, self.device = images, space, batch, device
        self.members = [(images.y == label).nonzero().squeeze(1) for label in range(num_classes)]
        self.kept = 4.0 * images.x.numel() <= KEPT_BYTES

    @property
    def size(self) -> int:
        """Images of a batch, over all classes."""
        return sum(min(self.batch, len(members)) for members in self.members)

    @property
    def nbytes(self) -> float:
        """Bytes on the device: all images where they are kept there, and a batch, by class and as one."""
        each = 4.0 * self.images.x[0].numel()
        return each * (len(self.images.y) * self.kept + 2 * self.size)

    @property
    def epoch(self) -> int:
        """Batches that have together as many images as there are."""
        return -(-len(self.images.y) // self.size)

    def prepare(self) -> None:
        """Map all images into the input space now, where they are to be kept: the first `draw` would do it."""
        if self.kept:
            self._seen  # noqa: B018 (computed once, and kept)

    def draw(self, source: torch.Generator) -> list[Tensor]:
        """For each class, random images of it, (B, c, h, w)."""
        drawn = [torch.randperm(len(members), generator=source)[: self.batch] for members in self.members]
        if not self.kept:
            return [self._mapped(members[at]) for members, at in zip(self.members, drawn, strict=True)]
        return [seen[at.to(self.device, non_blocking=True)] for seen, at in zip(self._seen, drawn, strict=True)]

    @cached_property
    def _seen(self) -> list[Tensor]:
        """All images of each class as the network sees them.

        They are mapped in blocks of the size of a batch, the last of which may overlap the one before it: products of
        other sizes are rounded in another way, and a batch shall be to the bit what it is when mapped alone.
        """
        seen = []
        for members in self.members:
            block, mapped = min(self.batch, len(members)), []
            for start in range(0, len(members), block):
                last = max(0, len(members) - block)
                mapped.append(self._mapped(members[min(start, last) :][:block])[max(0, start - last) :])
            seen.append(torch.cat(mapped))
        return seen

    @cached_property
    def _space(self) -> InputSpace:
        return self.space.to(self.device)

    def _mapped(self, index: Tensor) -> Tensor:
        return self._space.forward(self.images.x[index].to(self.device, non_blocking=True))
