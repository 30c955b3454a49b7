"""A ConvNet's derivatives in one call of `chain.cpp`: no graph, no single operations, fewer multiplications.

For networks that are a chain of blocks [convolution 3 x 3, instance norm, ReLU, average pooling or none] and one
linear layer, with the cross-entropy of their outputs.
Legend: n images of c x h x w, C classes, P parameters.
"""

import ctypes
from math import ceil, prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trajmatch.core.mixed import Three
from trajmatch.core.student import Gradient, InputsAlone, Mixed
from trajmatch.data.networks.fused import halves, in_order, is_just
from trajmatch.data.networks.kernels import CompiledKernels

DTYPES = {torch.float32: "float32", torch.float64: "float64"}
# Numbers that images hold at once on their way through the network: 5 MB, which a core's caches keep (docs/LOG.md).
AT_ONCE = 1_200_000
# Tiles of 4 x 4 outputs have larger weights than tiles of 2 x 2, which pay from about this many tiles on (docs/LOG.md).
WORTH_LARGE_TILES = 32

# Bytes that blocks of tiles take beside, on one thread: `weigh` in convolutions.cpp.
BLOCKS = 2.5e6


class Block(NamedTuple):
    """A convolution and what follows it: channels in and out, padding, side of the pooling, the norm's eps."""

    channels: int
    width: int
    padding: int
    pool: int
    eps: float


class Chain(NamedTuple):
    """A network as the kernels see it. features: how many numbers of each image reach the linear layer."""

    blocks: tuple[Block, ...]
    features: int
    classes: int
    library: ctypes.CDLL

    def plan(self, n: int, shape: tuple[int, ...]) -> list[int] | None:
        """What `chain.cpp` wants to know for n images of `shape` (c, h, w); None where they do not fit the network."""
        rows: list[int] = []
        (c, h, w), held, fewest = shape, 0, 1
        for block in self.blocks:
            side = tile_side(n, h, w)
            if rows and side == 4:
                fewest = max(fewest, ceil(WORTH_LARGE_TILES / _tiles(h, w, side)))
            rows += [block.channels, block.width, h, w, block.padding, block.pool, side]
            h, w = h + 2 * block.padding - 2, w + 2 * block.padding - 2
            if min(h, w) < 1 or h % block.pool or w % block.pool:
                return None
            held += 3 * block.width * h * w
            h, w = h // block.pool, w // block.pool
        if n < 1 or c != self.blocks[0].channels or self.blocks[-1].width * h * w != self.features:
            return None
        some = max(1, min(n, AT_ONCE // held))
        if some < fewest:  # parts of equal size, so that none has few tiles
            some = ceil(n / (n // fewest))
        return [n, self.classes, some, len(self.blocks), *rows]

    def held_bytes(self, n: int, shape: tuple[int, ...]) -> float:
        """What `chain.cpp` holds at its peak for n images in float32: its weights, some images' numbers, its blocks."""
        plan = self.plan(n, shape)
        if plan is None:
            return 0.0
        some, rows = plan[2], [plan[4 + 7 * i : 11 + 7 * i] for i in range(len(self.blocks))]
        weights, numbers, largest = 3.0 * self.classes * self.features, 2 * prod(shape), 0
        for i, (c, o, h, w, padding, pool, side) in enumerate(rows):
            outputs = (h + 2 * padding - 2) * (w + 2 * padding - 2)
            pooled = o * outputs // pool**2
            # As they are and turned round, of the network and of the adjoint, and their gradient.
            straight, turned = c * _filled(o), o * (_filled(c) if i else _filled(9 * c) / 9)
            weights += ((side + 2) ** 2 if i else 9) * (3 * straight + 2 * turned)
            numbers += 3 * o * outputs + 2 * pooled + 5 * o + (0 if i else 9 * c * outputs)
            largest = max(largest, pooled)
        return 4.0 * (weights + some * (numbers + 2 * largest)) + BLOCKS

    def derive(
        self, theta: Tensor, z: Tensor, y: Tensor, a: Tensor | None, in_theta: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None] | None:
        """The gradient u (P,), or with an adjoint a (P,) the derivatives of <u, a> in theta, z and y.

        Returns None for tensors that the kernels do not take. Raises MemoryError.
        """
        tensors = [t for t in (theta, z, y, a) if t is not None]
        plain = all(t.dtype == theta.dtype and t.device.type == "cpu" for t in tensors)
        fit = plain and theta.dtype in DTYPES and z.dim() == 4 and y.shape == (len(z), self.classes)
        plan = self.plan(len(z), z.shape[1:]) if fit else None
        if plan is None:
            return None
        theta, z, y = theta.contiguous(), z.contiguous(), y.contiguous()
        a = None if a is None else a.contiguous()
        found = (
            torch.empty_like(theta) if in_theta else None,
            None if a is None else torch.empty_like(z),
            None if a is None else torch.empty_like(y),
        )
        function = getattr(self.library, f"chain_{DTYPES[theta.dtype]}")
        places = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in (theta, z, y, a, *found)]
        sizes = (ctypes.c_int64 * len(plan))(*plan)
        eps = (ctypes.c_double * len(self.blocks))(*(block.eps for block in self.blocks))
        if function(sizes, eps, *places):
            raise MemoryError("out of memory in the derivatives of one mini-batch; a smaller --micro-batch needs less")
        return found


def tile_side(n: int, h: int, w: int) -> int:
    """The sides of the tiles, 4 or 2, by which a convolution of n images with outputs of h x w takes the least time.

    Tiles of 4 x 4 take 36 products each and tiles of 2 x 2 take 16, whole or not.
    """
    large, small = _tiles(h, w, 4), _tiles(h, w, 2)
    return 4 if n * large >= WORTH_LARGE_TILES and 36 * large < 16 * small else 2


def _filled(columns: int) -> int:
    """Columns of a panel, filled up to a multiple of what two of the widest vectors hold."""
    return ceil(columns / 32) * 32


def _tiles(h: int, w: int, side: int) -> int:
    """How many tiles cover h x w outputs."""
    return ceil(h / side) * ceil(w / side)


def chain(network: nn.Module, kernels: CompiledKernels) -> Chain | None:
    """The network as a chain, or None where it is none: then its derivatives are taken block by block."""
    layers = [] if not in_order(network) else [m for m in network if type(m) is not nn.Identity]
    if len(layers) < 2 or not _plain(layers[-1], nn.Linear) or not _flattens(layers[-2]):
        return None
    blocks: list[Block] = []
    parameters, rest = [], layers[:-2]
    while rest:
        pool = 2 if len(rest) > 3 and halves(rest[3]) else 1
        block = _block(rest[:3], pool, first=not blocks)
        if block is None or (blocks and blocks[-1].width != block.channels):
            return None
        blocks.append(block)
        parameters += [p for layer in rest[:2] for p in (layer.weight, layer.bias)]
        rest = rest[2 + pool :]
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    # All of them, in this order, none twice, none frozen: so theta lies as the kernels read it.
    if not blocks or [id(p) for p in network.parameters()] != [id(p) for p in (*parameters, last.weight, last.bias)]:
        return None
    return Chain(tuple(blocks), last.in_features, last.out_features, kernels.library)


def _block(layers: list[nn.Module], pool: int, first: bool) -> Block | None:
    if len(layers) < 3:
        return None
    convolution, norm, relu = layers
    if not _plain(convolution, nn.Conv2d) or not is_just(norm, nn.GroupNorm) or not is_just(relu, nn.ReLU):
        return None
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.GroupNorm)
    of = convolution.kernel_size, convolution.stride, convolution.dilation, convolution.groups
    padding = convolution.padding[0]
    usual = of == ((3, 3), (1, 1), (1, 1), 1) and convolution.padding_mode == "zeros" and isinstance(padding, int)
    if not usual or convolution.padding != (padding, padding) or (not first and padding != 1):
        return None
    if norm.num_groups != norm.num_channels or norm.num_channels != convolution.out_channels or not norm.affine:
        return None
    assert isinstance(padding, int)
    return Block(convolution.in_channels, convolution.out_channels, padding, pool, norm.eps)


def _plain(module: nn.Module, kind: type[nn.Conv2d | nn.Linear]) -> bool:
    return is_just(module, kind) and module.bias is not None


def _flattens(module: nn.Module) -> bool:
    return is_just(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)


def gradient(found: Chain, otherwise: Gradient) -> Gradient:
    """The gradient u (P,) of the mean cross-entropy; by `otherwise` of what the kernels do not take."""

    def derivative(theta: Tensor, z: Tensor, y: Tensor) -> Tensor:
        made = found.derive(theta.detach(), z.detach(), y.detach(), None, in_theta=True)
        return otherwise(theta, z, y) if made is None else _all_of(made[:1])[0]

    return derivative


def mixed(found: Chain, otherwise: Mixed) -> Mixed:
    """The derivatives of h = <u, a> in theta, z and y."""

    def derivative(theta: Tensor, z: Tensor, y: Tensor, a: Tensor) -> Three:
        made = found.derive(theta.detach(), z.detach(), y.detach(), a.detach(), in_theta=True)
        if made is None:
            return otherwise(theta, z, y, a)
        h_theta, h_z, h_y = _all_of(made)
        return h_theta, h_z, h_y

    return derivative


def inputs_alone(found: Chain, otherwise: InputsAlone) -> InputsAlone:
    """The derivatives of h = <u, a> in z and y."""

    def derivative(theta: Tensor, z: Tensor, y: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        made = found.derive(theta.detach(), z.detach(), y.detach(), a.detach(), in_theta=False)
        if made is None:
            return otherwise(theta, z, y, a)
        h_z, h_y = _all_of(made[1:])
        return h_z, h_y

    return derivative


def _all_of(tensors: tuple[Tensor | None, ...]) -> list[Tensor]:
    return [t for t in tensors if t is not None]
