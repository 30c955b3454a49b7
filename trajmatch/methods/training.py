"""Training one network by SGD on any labelled images: experts on real ones, evaluation on synthetic ones.

Legend: n images of c x h x w, C classes, P parameters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from trajmatch.core.augment import augment, draw
from trajmatch.core.draws import generator
from trajmatch.core.sharpness import Sharpness
from trajmatch.core.student import Gradient
from trajmatch.core.vector import Forward


@dataclass(frozen=True)
class Training:
    """How a network is trained by SGD.

    lr:           learning rate.
    epochs:       epochs of training.
    batch:        images per step.
    momentum:     momentum of SGD.
    weight_decay: weight decay of SGD.
    families:     families of augmentation; none leaves the images as they are.
    lr_drop:      share of the epochs after which the learning rate falls to a tenth and momentum starts anew, as in the
                  published evaluation; None keeps the rate.
    sharpness:    a rule that perturbs the weights at every step, at the price of a second gradient: flat experts.
    """

    lr: float
    epochs: int
    batch: int = 256
    momentum: float = 0.0
    weight_decay: float = 0.0
    families: tuple[str, ...] = ()
    lr_drop: float | None = None
    sharpness: Sharpness | None = None


class Progress(NamedTuple):
    """Where a training stands.

    theta:       (P,) the weights.
    step:        steps taken.
    epoch:       the epoch of the last step, counted from 1.
    epoch_ended: whether this epoch has just been completed.
    """

    theta: Tensor
    step: int
    epoch: int
    epoch_ended: bool


def train(gradient: Gradient, theta: Tensor, x: Tensor, y: Tensor, recipe: Training, seed: int) -> Iterator[Progress]:
    """Train from theta (P,) on images x (n, c, h, w) with labels y (n, C); yield a fresh theta after every step.

    gradient: of the loss in theta, on a mini-batch.

    Each epoch is a new permutation, and every mini-batch has an augmentation of its own. What is yielded depends on the
    arguments alone.
    """
    source = generator(seed, "training")
    velocity, ascent, step = torch.zeros_like(theta), torch.zeros_like(theta), 0
    drop = None if recipe.lr_drop is None else max(1, int(recipe.epochs * recipe.lr_drop))
    lr = recipe.lr
    for epoch in range(recipe.epochs):
        if epoch == drop:
            lr, velocity = lr / 10, torch.zeros_like(theta)
        chunks = torch.randperm(len(x), generator=source).split(recipe.batch)
        for index in chunks:
            a = draw(len(index), recipe.families, source)
            here = index.to(x.device, non_blocking=True)
            z = augment(x[here], a)
            u = gradient(theta, z, y[here])
            if recipe.sharpness is not None:
                eps, ascent = recipe.sharpness.perturbation(u, theta, ascent)
                u = recipe.sharpness.direction(u, gradient(theta + eps, z, y[here]))
            velocity = recipe.momentum * velocity + u + recipe.weight_decay * theta
            theta = theta - lr * velocity
            step += 1
            yield Progress(theta, step, epoch + 1, index is chunks[-1])


def images_at_once(x: Tensor, pixels: int) -> int:
    """How many of the images x (n, c, h, w) have together so many pixels; at least one."""
    return max(1, pixels // (x.shape[-2] * x.shape[-1]))


@torch.no_grad()
def accuracy(forward: Forward, theta: Tensor, x: Tensor, y: Tensor, chunk: int | None = None) -> float:
    """The share of images x (n, c, h, w) that f(theta) gives their label y (n,), in [0, 1].

    chunk: images at a time; None takes a thousand of up to 32 pixels a side, and the fewer the larger they are.
    """
    right = torch.zeros((), dtype=torch.int64, device=y.device)  # read once, at the end, for a GPU waits for it
    chunk = chunk or min(1000, images_at_once(x, 1000 * 32 * 32))
    for images, labels in zip(x.split(chunk), y.split(chunk), strict=True):
        right += (forward(theta, images).argmax(1) == labels).sum()
    return int(right) / len(x)
