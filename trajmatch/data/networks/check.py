"""Whether a network is what everything here takes it for: a function of theta and each image, with a first derivative.

Users bring networks of their own. Each sentence here names a way in which one would fail late, or would compute
something else than it seems to, without a word. Legend: c x h x w one image, C classes, P parameters.
"""

import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trajmatch.core.draws import generator
from trajmatch.core.loss import cross_entropy, gradient
from trajmatch.core.vector import Forward, with_parameters
from trajmatch.data.networks.architectures import ARCHITECTURES
from trajmatch.data.networks.convnet import build, drawn, seeded
from trajmatch.machine.own_code import RAISED_BY_USERS, reason

Factory = Callable[[], nn.Module]
Shape = tuple[int, int, int]
# Relative differences of outputs that stem from rounding stay far below the first; the second is for sums in another
# order, which a mini-batch of another size may bring.
SAME, ALIKE = 1e-5, 1e-3


class RefusedError(Exception):
    """What is wrong with a network, as the end of a sentence that began with its name."""


def check_network(name: str, factory: Factory, shape: Shape, num_classes: int, fewest: int = 2) -> None:
    """Make a network, show it images (c, h, w), and differentiate it once. Raises ValueError, one sentence.

    fewest: images of the smallest mini-batch on which the network is to be trained; more than two tell no more.
    """
    words = " x ".join(map(str, shape))
    with seeded(0):
        try:
            _check_parameters(drawn(factory, 0))
            network, theta = build(factory, 0)
            x = torch.randn(2, *shape, generator=generator(0, "check of a network"))
            _check_outputs(network, theta, x, num_classes)
            ours = name in ("convnet", *ARCHITECTURES)  # of which the tests know the rest
            if not ours:
                _check_pure(network, theta, x)
                _check_draws(factory, network, theta, x)
                _check_gradient(network, theta, x, num_classes)
            if not ours or fewest < 2:
                _check_training(factory, theta, x[:fewest], num_classes)
        except RefusedError as refused:
            raise ValueError(f"--network.name is {name}, {refused}") from None
        except MemoryError:
            raise
        except RAISED_BY_USERS as error:
            if isinstance(error, ValueError) and str(error).startswith(("network", "--network")):
                raise  # a sentence of our own
            raise ValueError(f"--network.name is {name}, which can't take images of {words}: {reason(error)}") from None


def _check_parameters(network: Any) -> None:
    """Refuse what is no network, has nothing to train, or keeps its weights in another form."""
    if not isinstance(network, nn.Module):
        raise RefusedError(f"which makes something of type {type(network).__name__} and must make a torch.nn.Module")
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if nn.parameter.is_lazy(tensor):
            raise RefusedError(f"which leaves the size of '{name}' open until it sees images: give it its size")
        if tensor.device.type != "cpu":
            raise RefusedError(
                f"which puts '{name}' on {tensor.device} and must leave it on the CPU: it is moved to --device"
            )
    parameters = dict(network.named_parameters())
    for name, tensor in parameters.items():
        if tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise RefusedError(
                f"which has a parameter '{name}' in {kind} and must have all in float32: see --precision"
            )
        if not tensor.isfinite().all():
            raise RefusedError(f"which has a parameter '{name}' that is not finite when it is made")
        if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
            raise RefusedError(
                f"which hooks the gradient of its parameter '{name}': weights are given to it from outside, where the "
                "hook is never called; let its forward pass compute what the hook would"
            )
    if not sum(p.numel() for p in parameters.values() if p.requires_grad):
        what = "frozen parameters alone (requires_grad is False)" if parameters else "no parameters"
        raise RefusedError(f"which has {what} and nothing to train")


@torch.no_grad()
def _check_outputs(network: nn.Module, theta: Tensor, x: Tensor, num_classes: int) -> None:
    """Refuse outputs that are not one finite number for each class, for two images and for one."""
    forward = with_parameters(network)
    for images in (x, x[:1]):
        outputs = forward(theta, images.clone())
        _check_form(outputs, len(images), num_classes)
        if not outputs.isfinite().all():
            raise RefusedError("which gives outputs that are not finite")


def _check_form(outputs: Any, n: int, num_classes: int, when: str = "") -> None:
    found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if found != (n, num_classes):
        images = "2 images" if n == 2 else "1 image"
        raise RefusedError(
            f"whose outputs for {images} of {num_classes} classes{when} are {found} and must be {(n, num_classes)}"
        )
    if outputs.dtype != torch.float32:
        raise RefusedError(
            f"which gives outputs in {str(outputs.dtype).removeprefix('torch.')} and must give them in float32"
        )


@torch.no_grad()
def _check_pure(network: nn.Module, theta: Tensor, x: Tensor) -> None:
    """Refuse outputs that depend on chance, on earlier calls or on other images, and calls that change something."""
    forward, theta = with_parameters(network), _moved(theta)
    images, weights = x.clone(), theta.clone()
    state, others = torch.default_generator.get_state(), _other_draws()
    buffers = {name: tensor.clone() for name, tensor in network.named_buffers()}
    first = forward(theta, images)
    if not torch.equal(torch.default_generator.get_state(), state) or _other_draws() != others:
        raise RefusedError(
            "which draws random numbers in evaluation mode too, such as dropout that is always on: its outputs must "
            "be a function of weights and images"
        )
    if not torch.equal(images, x):
        raise RefusedError("which changes the images that it is shown, in place: it must leave them as they are")
    if not torch.equal(weights, theta):
        raise RefusedError("which changes its own weights when it is called, in place: it must leave them as they are")
    for name, tensor in network.named_buffers():
        if not torch.equal(tensor.nan_to_num(), buffers[name].nan_to_num()):
            raise RefusedError(
                f"which changes its buffer '{name}' in evaluation mode too: outputs must not depend on earlier calls"
            )
    for again in (forward(theta, x.clone()), forward(theta, x.clone())):
        if _differ(again, first, SAME):
            raise RefusedError(
                "which gives other outputs for the same images in evaluation mode when it is called again"
            )
    if _differ(forward(theta, x[:1].clone()), first[:1], ALIKE):
        raise RefusedError(
            "which gives outputs for one image that depend on the others of its mini-batch (as batch norm without "
            "running statistics does), so that scores would depend on how images are put together: use instance, group "
            "or layer norm"
        )


def _other_draws() -> tuple[object, bytes]:
    """Where Python's and NumPy's generators stand: a rare draw, such as of a layer to leave out, shows in no output."""
    return random.getstate(), pickle.dumps(np.random.get_state())


@torch.no_grad()
def _check_draws(factory: Factory, network: nn.Module, theta: Tensor, x: Tensor) -> None:
    """Refuse what is drawn anew for each network and is not in theta: experts would be others than they seem."""
    other, elsewhere = build(factory, 1)
    if len(elsewhere) != len(theta):
        raise RefusedError(
            f"which has {len(theta)} parameters the first time that it is made and {len(elsewhere)} the second"
        )
    theta = _moved(theta)
    if _differ(with_parameters(other)(theta, x.clone()), with_parameters(network)(theta, x.clone()), SAME):
        frozen = _first_other(network, other)
        what = f"'{frozen}', which is frozen or a buffer," if frozen else "something beside its parameters"
        raise RefusedError(
            f"which draws {what} at random each time that it is made, and weights alone would not tell what a network "
            "computes: load it, or draw it from a generator with a seed of its own"
        )


def _first_other(network: nn.Module, other: nn.Module) -> str | None:
    """The first buffer in which two networks differ."""
    theirs = dict(other.named_buffers())
    pairs = ((name, mine, theirs.get(name)) for name, mine in network.named_buffers())
    return next((name for name, mine, their in pairs if their is None or not torch.equal(mine, their)), None)


def _check_gradient(network: nn.Module, theta: Tensor, x: Tensor, num_classes: int) -> None:
    """Refuse a loss without a first derivative in theta."""
    u = _gradient(with_parameters(network), theta, x, num_classes, "")
    if not u.isfinite().all():
        raise RefusedError("which has a first derivative that is not finite")
    if not _gradient(with_parameters(network), _moved(theta), x, num_classes, "").any():
        raise RefusedError("whose outputs do not depend on its parameters: the first derivative is zero")


def _check_training(factory: Factory, theta: Tensor, x: Tensor, num_classes: int) -> None:
    """Refuse a network that can't be trained in training mode, in which the networks of a score are."""
    network, _ = build(factory, 0)
    forward = with_parameters(network.train())
    with torch.no_grad():
        _check_form(forward(theta, x.clone()), len(x), num_classes, " in training mode")
    _gradient(forward, theta, x, num_classes, " in training mode")


def _gradient(forward: Forward, theta: Tensor, x: Tensor, num_classes: int, when: str) -> Tensor:
    y = torch.eye(num_classes)[torch.arange(len(x)) % num_classes]
    try:
        return gradient(cross_entropy(forward), theta, x.clone(), y)
    except RAISED_BY_USERS as error:
        raise RefusedError(f"which can't be differentiated{when}: {reason(error)}") from None


def _moved(theta: Tensor) -> Tensor:
    """Weights a little off the initial ones: a last layer that starts at zero would hide what comes before it."""
    return theta + 0.01 * torch.randn(theta.shape, generator=generator(0, "moved weights"))


def _differ(a: Tensor, b: Tensor, share: float) -> bool:
    return not bool((a - b).norm() <= share * b.norm())
