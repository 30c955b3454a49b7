"""Training one network on any labelled images: experts on real ones, evaluation on synthetic ones.

Legend: n images of c x h x w, C classes, P parameters.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trajmatch.core.augment import augment, draw
from trajmatch.core.cutmix import cutmix, draw_cut
from trajmatch.core.descent import Adam, new_moments
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

    def rest(self, theta: Tensor) -> Tensor:
        """The optimiser's memory before the first step: the velocity (P,)."""
        return torch.zeros_like(theta)

    def at_epoch(self, epoch: int, lr: float, memory: Tensor) -> tuple[float, Tensor]:
        """Learning rate and memory with which an epoch, counted from 0, begins, from those before."""
        if self.lr_drop is not None and epoch == max(1, int(self.epochs * self.lr_drop)):
            return lr / 10, torch.zeros_like(memory)
        return lr, memory

    def mini_batch(self, z: Tensor, y: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """What a network is shown of augmented images z (n, c, h, w) with labels y (n, C): here the same."""
        return z, y

    def step(self, theta: Tensor, u: Tensor, memory: Tensor, lr: float, count: int) -> tuple[Tensor, Tensor]:
        """Weights (P,) and memory after a step along the gradient u (P,); `count` steps were taken before."""
        velocity = self.momentum * memory + u + self.weight_decay * theta
        return theta - lr * velocity, velocity

    def augmented(self, families: tuple[str, ...]) -> "Training":
        """The same with other families of augmentation, or with none."""
        return replace(self, families=families)

    def optimiser(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Torch's optimiser that takes the steps of `step`; `begin_epoch` is its schedule."""
        return torch.optim.SGD(parameters, self.lr, self.momentum, weight_decay=self.weight_decay)

    def begin_epoch(self, optimiser: torch.optim.Optimizer, epoch: int) -> None:
        """What is to be done to the optimiser before an epoch, counted from 0: the same as `at_epoch` does."""
        for group in optimiser.param_groups:
            group["lr"], kept = self.at_epoch(epoch, group["lr"], torch.ones(()))
            if not bool(kept):  # momentum starts anew
                optimiser.state.clear()


@dataclass(frozen=True)
class AdamWTraining(Training):
    """How a network is trained by AdamW (arXiv 1711.05101) with CutMix: the evaluation of NCFM, and of IDC in part.

    The rate is halved after each fifth of the epochs. Momentum and a drop of the rate play no part.

    mix: share of the mini-batches that CutMix mixes, after the augmentation.
    """

    mix: float = 0.5

    def rest(self, theta: Tensor) -> Tensor:
        """The moments (2, P)."""
        return new_moments(theta)

    def at_epoch(self, epoch: int, lr: float, memory: Tensor) -> tuple[float, Tensor]:
        """Half the rate where a fifth of the epochs is over; the moments stay."""
        return (lr / 2 if epoch in {k * self.epochs // 5 for k in range(1, 5)} - {0} else lr), memory

    def mini_batch(self, z: Tensor, y: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """The mini-batch, mixed with the probability `mix`."""
        return cutmix(z, y, draw_cut(len(z), self.mix, source))

    def step(self, theta: Tensor, u: Tensor, memory: Tensor, lr: float, count: int) -> tuple[Tensor, Tensor]:
        """A step of Adam from weights that have decayed by themselves."""
        return Adam(lr).step(theta * (1 - lr * self.weight_decay), u, memory, count)

    def optimiser(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Torch's AdamW, whose steps are those of `step`."""
        return torch.optim.AdamW(parameters, self.lr, weight_decay=self.weight_decay)

    def augmented(self, families: tuple[str, ...]) -> "Training":
        """The same with other families; with none there is no CutMix either."""
        return replace(self, families=families, mix=self.mix if families else 0.0)


class Standing(NamedTuple):
    """All that the rest of a training depends on at the end of an epoch, beside the arguments of `train`.

    theta, memory, ascent: the weights (P,), the optimiser's memory, and the memory of the rule of sharpness (P,).
    lr: the learning rate. step, epoch: how many of each are done. source: the state of the generator, uint8.
    """

    theta: Tensor
    memory: Tensor
    ascent: Tensor
    lr: float
    step: int
    epoch: int
    source: Tensor


class Progress(NamedTuple):
    """Where a training stands.

    theta: (P,) the weights.
    step:  steps taken.
    epoch: the epoch of the last step, counted from 1.
    ended: where this epoch has just been completed, what the training could go on from; else None.
    """

    theta: Tensor
    step: int
    epoch: int
    ended: Standing | None

    @property
    def epoch_ended(self) -> bool:
        """Whether the epoch has just been completed."""
        return self.ended is not None


def train(
    gradient: Gradient,
    theta: Tensor,
    x: Tensor,
    y: Tensor,
    recipe: Training,
    seed: int,
    since: Standing | None = None,
) -> Iterator[Progress]:
    """Train from theta (P,) on images x (n, c, h, w) with labels y (n, C); yield a fresh theta after every step.

    gradient: of the loss in theta, on a mini-batch.
    since: where an earlier call with the same arguments stood; the training goes on there, bitwise as that one would.

    Each epoch is a new permutation, and every mini-batch has an augmentation of its own. What is yielded depends on the
    arguments alone.
    """
    source = generator(seed, "training")
    memory, ascent, lr, step, done = recipe.rest(theta), torch.zeros_like(theta), recipe.lr, 0, 0
    if since is not None:
        theta, memory, ascent, lr, step, done, state = since
        source.set_state(state)
    for epoch in range(done, recipe.epochs):
        lr, memory = recipe.at_epoch(epoch, lr, memory)
        chunks = torch.randperm(len(x), generator=source).split(recipe.batch)
        for index in chunks:
            a = draw(len(index), recipe.families, source)
            here = index.to(x.device, non_blocking=True)
            z, labels = recipe.mini_batch(augment(x[here], a), y[here], source)
            u = gradient(theta, z, labels)
            if recipe.sharpness is not None:
                eps, ascent = recipe.sharpness.perturbation(u, theta, ascent)
                u = recipe.sharpness.direction(u, gradient(theta + eps, z, labels))
            theta, memory = recipe.step(theta, u, memory, lr, step)
            step += 1
            ended = index is chunks[-1]
            at = Standing(theta, memory, ascent, lr, step, epoch + 1, source.get_state()) if ended else None
            yield Progress(theta, step, epoch + 1, at)


def images_at_once(x: Tensor, pixels: int) -> int:
    """How many of the images x (n, c, h, w) have together so many pixels; at least one."""
    return max(1, pixels // (x.shape[-2] * x.shape[-1]))


@torch.no_grad()
def accuracy(forward: Forward, theta: Tensor, x: Tensor, y: Tensor, chunk: int | None = None) -> float:
    """The share of images x (n, c, h, w) that f(theta) gives their label y (n,), in [0, 1].

    chunk: images at a time; None takes a thousand of up to 32 pixels a side, and the fewer the larger they are.
    """
    return int((answers(forward, theta, x, chunk) == y).sum()) / len(x)


@torch.no_grad()
def answers(forward: Forward, theta: Tensor, x: Tensor, chunk: int | None = None) -> Tensor:
    """The class (n,) that f(theta) gives each of the images x (n, c, h, w). No GPU is waited for.

    chunk: images at a time; None takes a thousand of up to 32 pixels a side, and the fewer the larger they are.
    """
    chunk = chunk or min(1000, images_at_once(x, 1000 * 32 * 32))
    return torch.cat([forward(theta, images).argmax(1) for images in x.split(chunk)])
