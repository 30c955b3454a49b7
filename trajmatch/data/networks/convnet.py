"""Networks as the field uses them, and their initial weights as one flat vector."""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor, nn

from trajmatch.core.vector import Layout

NORMS = ("instance", "group", "layer", "batch", "none")
POOLINGS = ("avg", "max", "none")


class InstanceNorm(nn.GroupNorm):
    """One group per channel: the field's instance norm, with a learned scale and shift."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)


def norm_layer(kind: str, width: int) -> nn.Module:
    """A norm of NORMS for `width` channels."""
    if kind == "instance":
        return InstanceNorm(width)
    if kind == "group":
        return nn.GroupNorm(4 if width % 4 == 0 else 1, width)
    if kind == "layer":
        return nn.GroupNorm(1, width)
    if kind == "batch":
        return nn.BatchNorm2d(width)
    return nn.Identity()


def _pooling(kind: str) -> nn.Module:
    return {"avg": nn.AvgPool2d(2), "max": nn.MaxPool2d(2), "none": nn.Identity()}[kind]


def convnet(
    shape: tuple[int, int, int],
    num_classes: int,
    depth: int = 3,
    width: int = 128,
    norm: str = "instance",
    pooling: str = "avg",
) -> nn.Sequential:
    """ConvNetD<depth>: depth x [conv 3x3, norm, ReLU, pool 2], then one linear layer.

    shape: (c, h, w) of one image; 28-pixel greyscale images are padded to 32 by the first layer, as published.
    Raises ValueError naming the network's field where the sizes do not work out.
    """
    c, h, w = shape
    for value, known, field in ((norm, NORMS, "norm"), (pooling, POOLINGS, "pooling")):
        if value not in known:
            raise ValueError(f"network.{field}: '{value}' is none of {', '.join(known)}")
    if depth < 1 or width < 1:
        raise ValueError(f"network: depth {depth} and width {width} must both be at least 1")
    pad = 3 if c == 1 and h == w == 28 else 1
    h, w = h + 2 * (pad - 1), w + 2 * (pad - 1)
    shrink = 1 if pooling == "none" else 2**depth
    if h % shrink or w % shrink:
        raise ValueError(
            f"--network.depth is {depth}, whose poolings need sides that {shrink} divides, and the images are "
            f"{h} x {w}; choose a smaller depth or another --images.size"
        )
    # The last norm sees the map before the last pooling; on a 1 x 1 map it would return its shift alone.
    normed = 1 if pooling == "none" else 2 ** (depth - 1)
    if norm == "instance" and (h // normed) * (w // normed) < 2:
        raise ValueError(
            f"--network.depth is {depth}, which shrinks {h} x {w} images to one pixel, where instance norm is zero; "
            "choose a smaller depth"
        )
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(width if i else c, width, 3, padding=1 if i else pad), norm_layer(norm, width), nn.ReLU()]
        layers += [_pooling(pooling)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (h // shrink) * (w // shrink), num_classes))


class Passed(nn.Linear):
    """A linear layer that lets its input pass, and keeps its place and its parameters."""

    def forward(self, input: Tensor) -> Tensor:
        return input


def embedding(network: nn.Module) -> nn.Module:
    """A copy that shares the parameters and gives what goes into the last linear layer: its features (n, d).

    Raises ValueError for a network without a linear layer.
    """
    twin = copy.deepcopy(network, {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]})
    layers = [module for module in twin.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError("network: it has no linear layer, before which features could be read")
    layers[-1].__class__ = Passed
    return twin


def drawn(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The network that a factory makes after `manual_seed(seed)`.

    Any module draws its weights from torch's global generator, and a user's own perhaps from Python's or NumPy's.
    """
    with seeded(seed), torch.enable_grad():  # without, a compiled script's parameters would look frozen
        return factory()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of torch, Python and NumPy as after `manual_seed(seed)`, for a block: then as before."""
    state, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numbers)


def build(factory: Callable[[], nn.Module], seed: int) -> tuple[nn.Module, Tensor]:
    """A network and its initial theta (P,), as torch initialises it after `manual_seed(seed)`.

    The network is in evaluation mode, dropout is off: its output is a function of theta and the images. Parameters
    that were frozen by whoever made the network are constants of it, outside of theta.
    """
    network = _of_its_own(drawn(factory, seed))
    keep_frozen(network)
    layout = Layout.of(network)
    theta = layout.join({name: p.detach() for name, p in network.named_parameters()})
    return network.eval().requires_grad_(False), theta


@torch.enable_grad()
def _of_its_own(network: nn.Module) -> nn.Module:
    """A copy that shares nothing with other networks.

    What a user's factory keeps for itself, such as a backbone that is loaded once, is in every network that the factory
    makes, and must stay as it is when one of these networks is frozen, moved or converted.
    """
    with suppress(RuntimeError, TypeError):  # old weight norm and pruning keep tensors that torch does not copy
        twin = copy.deepcopy(network)
        if all(parameter.is_leaf for parameter in twin.parameters()):  # those of compiled scripts are not
            return twin
    return network


def keep_frozen(network: nn.Module) -> None:
    """Make buffers of the parameters that are not to be trained (`requires_grad` is False), under their names."""
    for module in network.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and not parameter.requires_grad:
                del module._parameters[name]
                module.register_buffer(name, parameter.detach())
