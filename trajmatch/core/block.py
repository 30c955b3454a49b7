"""Instance norm, ReLU and average pooling as one operation with hand-derived first and second derivatives.

This is all of a ConvNet beside its convolutions, and memory traffic is all that it costs: as one operation each
derivative reads and writes every activation once or twice, where autograd's chain of operations does so ten times.
The formulas stand at the head of `data/networks/block.cpp`, which holds the kernels; here they meet autograd.
Legend: c (n, C, h, w) channels last, the convolution's output; w, b (C,) scale and shift; p (n, C, h', w') pooled.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

DTYPES = (torch.float32, torch.float64, torch.bfloat16)


class Kernels(Protocol):
    """The block's value and derivatives. Sums S1, S2 and statistics mean, rstd are (n, C)."""

    def forward(self, c: Tensor, w: Tensor, b: Tensor, pool: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Returns p (n, C, h', w') and the statistics mean and rstd (n, C)."""
        ...

    def gradient(
        self, gp: Tensor, c: Tensor, w: Tensor, b: Tensor, mean: Tensor, rstd: Tensor, pool: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns gc (n, C, h, w), S1 and S2 (n, C) from the gradient gp in p.

        The gradients in b and w are the sums of S1 and S2 over images.
        """
        ...

    def curvature(
        self,
        v: tuple[Tensor, Tensor, Tensor],
        gp: Tensor,
        c: Tensor,
        parameters: tuple[Tensor, Tensor],
        statistics: tuple[Tensor, Tensor],
        sums: tuple[Tensor, Tensor],
        pool: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the gradients of <v, (gc, gw, gb)> in gp, in c and, before the sum over images (n, C), in w."""
        ...


def norm_relu_pool(c: Tensor, w: Tensor, b: Tensor, pool: int, eps: float, kernels: Kernels) -> Tensor:
    """mean over pool x pool of max(w xh + b, 0), xh being c normalised in each channel of each image.

    Raises TypeError and ValueError for what the kernels, which see addresses alone, would misread.
    """
    if not (c.dtype == w.dtype == b.dtype and c.dtype in DTYPES):
        raise TypeError(f"c, w and b are {c.dtype}, {w.dtype} and {b.dtype} and must be one of {DTYPES}, the same")
    if c.dim() != 4 or w.shape != (c.shape[1],) or b.shape != w.shape or c.shape[2] % pool or c.shape[3] % pool:
        raise ValueError(
            f"c, w and b of shapes {(*c.shape,)}, {(*w.shape,)} and {(*b.shape,)} do not fit together with pool {pool}"
        )
    return _Block.apply(channels_last(c), w, b, pool, eps, kernels)  # type: ignore[no-any-return, no-untyped-call]


def channels_last(x: Tensor) -> Tensor:
    """The same images, each pixel's channels side by side in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def _wide(x: Tensor) -> Tensor:
    """Parameters in the precision of sums."""
    return x.to(torch.float64 if x.dtype == torch.float64 else torch.float32).contiguous()


class _Block(Function):
    @staticmethod
    def forward(ctx: Any, c: Tensor, w: Tensor, b: Tensor, pool: int, eps: float, kernels: Kernels) -> Tensor:
        p, mean, rstd = kernels.forward(c, _wide(w), _wide(b), pool, eps)
        ctx.save_for_backward(c, w, b, mean, rstd)
        ctx.pool, ctx.kernels = pool, kernels
        return p

    @staticmethod
    def backward(ctx: Any, gp: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        gc, gw, gb = _Gradient.apply(channels_last(gp), *ctx.saved_tensors, ctx.pool, ctx.kernels)  # type: ignore[no-untyped-call]
        return gc, gw, gb, None, None, None


class _Gradient(Function):
    @staticmethod
    def forward(
        ctx: Any,
        gp: Tensor,
        c: Tensor,
        w: Tensor,
        b: Tensor,
        mean: Tensor,
        rstd: Tensor,
        pool: int,
        kernels: Kernels,
    ) -> tuple[Tensor, Tensor, Tensor]:
        gc, S1, S2 = kernels.gradient(gp, c, _wide(w), _wide(b), mean, rstd, pool)
        ctx.save_for_backward(gp, c, w, b, mean, rstd, S1, S2)
        ctx.pool, ctx.kernels = pool, kernels
        return gc, S2.sum(0).to(w.dtype), S1.sum(0).to(b.dtype)

    @staticmethod
    def backward(ctx: Any, v: Tensor, vw: Tensor, vb: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # torch's `once_differentiable` goes unnoticed by autograd.grad
            raise RuntimeError("the fused kernels have first and second derivatives and no third")
        gp, c, w, b, mean, rstd, S1, S2 = ctx.saved_tensors
        d_gp, d_c, d_w = ctx.kernels.curvature(
            (channels_last(v), _wide(vw), _wide(vb)), gp, c, (_wide(w), _wide(b)), (mean, rstd), (S1, S2), ctx.pool
        )
        # b only decides which outputs are positive: its derivative is zero wherever it exists.
        return d_gp, d_c, d_w.sum(0).to(w.dtype), None, None, None, None, None
