"""A network whose blocks run as single operations: the same parameters, names and values, faster derivatives."""

import copy
from collections import Counter
from typing import TypeGuard

import torch.nn.functional as F
from torch import Tensor, nn

from trajmatch.core.block import DTYPES, Kernels, norm_relu_pool
from trajmatch.core.convolution import conv2d


class FusedBlock(nn.Module):
    """Instance norm, ReLU and, with pool 2, average pooling; its parameters are the norm's."""

    def __init__(self, norm: nn.GroupNorm, pool: int, kernels: Kernels | None) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.eps, self.pool, self.kernels = norm.eps, pool, kernels

    def forward(self, c: Tensor) -> Tensor:
        odd = c.shape[2] % self.pool or c.shape[3] % self.pool
        if self.kernels is None or c.device.type != "cpu" or c.dtype not in DTYPES or odd:
            y = F.relu(F.group_norm(c, c.shape[1], self.weight, self.bias, self.eps))
            return F.avg_pool2d(y, 2) if self.pool == 2 else y
        return norm_relu_pool(c, self.weight, self.bias, self.pool, self.eps, self.kernels)


class FusedConvolution(nn.Conv2d):
    """A convolution with fast second derivatives.

    shifted: False where an instance norm follows, which takes the bias away again: it has no effect and its gradient
    is exactly zero. weigh: see `core.convolution.conv2d`.
    """

    shifted, weigh, outermost = True, True, False

    def forward(self, x: Tensor) -> Tensor:
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        y = conv2d(x, self.weight, *geometry, self.weigh, self.outermost)  # type: ignore[arg-type]
        return y if self.bias is None or not self.shifted else y + self.bias.view(1, -1, 1, 1)


def fused(network: nn.Module, kernels: Kernels | None, weigh: bool = True) -> nn.Module | None:
    """A copy of `network` that shares its parameters and fuses every [convolution, norm, ReLU, pooling] in it.

    kernels: None leaves norm, ReLU and pooling to torch (or its compiler) and replaces the convolutions alone.
    weigh: False for a network of which only second derivatives are wanted. Returns None where there is nothing to fuse.
    """
    shared = {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]}
    try:
        twin = copy.deepcopy(network, shared)
    except (RuntimeError, TypeError):  # a user's network may hold what can't be copied
        return None
    places = Counter(id(child) for parent in twin.modules() for child in parent._modules.values())
    repeated = {module for module, count in places.items() if count > 1}  # what follows one place need not the other
    found = [_fuse(sequence, kernels, repeated) for sequence in list(twin.modules()) if in_order(sequence)]
    if not any(found):
        return None
    first = next(iter(twin.children())) if in_order(twin) else None
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            plain = type(child) is nn.Conv2d and child.padding_mode == "zeros" and not isinstance(child.padding, str)
            if plain and not _hooked(child) and id(child) not in repeated:
                child.__class__ = FusedConvolution
                child.weigh, child.outermost = weigh, child is first  # type: ignore[assignment]
                following = _next(parent, name)
                child.shifted = not isinstance(following, FusedBlock)  # type: ignore[assignment]
    return twin


def in_order(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether this runs its children one after another, and nothing else."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _hooked(module: nn.Module) -> bool:
    """Whether something watches or changes this module, which a replacement would lose."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def is_just(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module computes just what `kind` does."""
    return isinstance(module, kind) and type(module).forward is kind.forward and not _hooked(module)


def _fuse(sequence: nn.Sequential, kernels: Kernels | None, repeated: set[int]) -> bool:
    """Fuse the blocks of one sequence, in place; whether there was any."""
    found = False
    for i in range(len(sequence) - 1):
        norm, relu = sequence[i], sequence[i + 1]
        if not is_just(norm, nn.GroupNorm) or not is_just(relu, nn.ReLU) or id(norm) in repeated:
            continue
        assert isinstance(norm, nn.GroupNorm)
        if norm.num_groups == norm.num_channels and norm.affine:
            pool = 2 if i + 2 < len(sequence) and halves(sequence[i + 2]) else 1
            sequence[i] = FusedBlock(norm, pool, kernels)
            for j in range(i + 1, i + 1 + pool):
                sequence[j] = nn.Identity()
            found = True
    return found


def halves(module: nn.Module) -> bool:
    if not is_just(module, nn.AvgPool2d):
        return False
    assert isinstance(module, nn.AvgPool2d)
    if module.ceil_mode or module.divisor_override:
        return False
    return all(v in (2, (2, 2)) for v in (module.kernel_size, module.stride)) and module.padding in (0, (0, 0))


def _next(parent: nn.Module, name: str) -> nn.Module | None:
    children = list(parent.named_children()) if in_order(parent) else []
    names = [n for n, _ in children]
    after = names.index(name) + 1 if name in names else len(children)
    return children[after][1] if after < len(children) else None
