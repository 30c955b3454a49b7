"""The loss of a network at the end of a training, on real images and on a stream's memory (method.md section 8).

Legend: B images of c x h x w, m of the memory, C classes, P parameters.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trajmatch.core.augment import augment, draw
from trajmatch.core.inner import Memory
from trajmatch.core.student import Student
from trajmatch.methods.training import images_at_once

CHUNK = 4096


class Part(NamedTuple):
    """Images whose mean loss is a part of a loss.

    x, y:  (B, c, h, w) images and (B, C) labels.
    share: of the whole loss, in [0, 1].
    """

    x: Tensor
    y: Tensor
    share: float = 1.0


def kept_part(memory: Memory, families: tuple[str, ...], like: Tensor, source: torch.Generator) -> Part:
    """All images of a memory, each under one draw of augmentation, on the device and in the precision of `like`.

    A student that has been trained on these images knows them as they are: what the draw makes of them stands for the
    real images of their classes, which are gone.
    """
    X, Y = (t.to(like) for t in memory[:2])
    return Part(augment(X, draw(len(X), families, source)), Y, memory.share)


def loss_of_parts(
    student: Student, theta: Tensor, parts: list[Part], chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """The sum of the parts' mean losses, each times its share, and its gradient (P,)."""
    loss, q = torch.zeros((), dtype=theta.dtype, device=theta.device), torch.zeros_like(theta)
    for x, y, share in parts:
        mean, gradient = mean_loss(student, theta, x, y, chunk)
        loss, q = loss + share * mean, q + share * gradient
    return loss, q


def mean_loss(student: Student, theta: Tensor, x: Tensor, y: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """The loss on images x (B, c, h, w) with labels y (B, C), and its gradient (P,).

    chunk: images at a time; None takes as many as have the pixels of CHUNK images of 32 x 32.
    """
    loss, q = torch.zeros((), dtype=theta.dtype, device=theta.device), torch.zeros_like(theta)
    size = chunk or images_at_once(x, CHUNK * 32 * 32)
    for images, labels in zip(x.split(size), y.split(size), strict=True):
        share = len(images) / len(x)
        with torch.no_grad():
            loss = loss + share * student.loss(theta, images, labels)
        q = q + share * student.gradient(theta, images, labels)
    return loss, q


def share_right(student: Student, theta: Tensor, x: Tensor, y: Tensor, chunk: int | None = None) -> Tensor:
    """The share () of images x (B, c, h, w) that get the class of their labels y (B, C), in [0, 1].

    Raises ValueError for a student without its `forward`.
    """
    if student.forward is None:
        raise ValueError("student: an accuracy needs its `forward`")
    size, right = chunk or images_at_once(x, CHUNK * 32 * 32), torch.zeros((), dtype=theta.dtype, device=theta.device)
    with torch.no_grad():
        for images, labels in zip(x.split(size), y.split(size), strict=True):
            right = right + (student.forward(theta, images).argmax(1) == labels.argmax(1)).sum()
    return right / len(x)
