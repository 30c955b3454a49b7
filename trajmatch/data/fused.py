"""A network whose blocks run as single operations: the same parameters, names and values, faster derivatives."""

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from trajmatch.core.block import Kernels, norm_relu_pool
from trajmatch.core.convolution import conv2d


class FusedBlock(nn.Module):
    """Instance norm, ReLU and, with pool 2, average pooling; its parameters are the norm's."""

    def __init__(self, norm: nn.GroupNorm, pool: int, kernels: Kernels | None) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.eps, self.pool, self.kernels = norm.eps, pool, kernels

    def forward(self, c: Tensor) -> Tensor:
        if self.kernels is None or c.device.type != "cpu" or c.shape[2] % self.pool or c.shape[3] % self.pool:
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
    twin = copy.deepcopy(network, shared)
    found = [_fuse(sequence, kernels) for sequence in list(twin.modules()) if isinstance(sequence, nn.Sequential)]
    if not any(found):
        return None
    first = next(iter(twin.children())) if isinstance(twin, nn.Sequential) else None
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Conv2d and child.padding_mode == "zeros" and not isinstance(child.padding, str):
                child.__class__ = FusedConvolution
                child.weigh, child.outermost = weigh, child is first  # type: ignore[assignment]
                following = _next(parent, name)
                child.shifted = not isinstance(following, FusedBlock)  # type: ignore[assignment]
    return twin


def _fuse(sequence: nn.Sequential, kernels: Kernels | None) -> bool:
    """Fuse the blocks of one sequence, in place; whether there was any."""
    found = False
    for i in range(len(sequence) - 1):
        norm, relu = sequence[i], sequence[i + 1]
        if isinstance(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels and isinstance(relu, nn.ReLU):
            pool = 2 if i + 2 < len(sequence) and _halves(sequence[i + 2]) else 1
            sequence[i] = FusedBlock(norm, pool, kernels)
            for j in range(i + 1, i + 1 + pool):
                sequence[j] = nn.Identity()
            found = True
    return found


def _halves(module: nn.Module) -> bool:
    if not isinstance(module, nn.AvgPool2d) or module.ceil_mode or module.divisor_override:
        return False
    return all(v in (2, (2, 2)) for v in (module.kernel_size, module.stride)) and module.padding in (0, (0, 0))


def _next(parent: nn.Module, name: str) -> nn.Module | None:
    children = list(parent.named_children()) if isinstance(parent, nn.Sequential) else []
    names = [n for n, _ in children]
    after = names.index(name) + 1 if name in names else len(children)
    return children[after][1] if after < len(children) else None
