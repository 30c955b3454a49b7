"""Convolution as a trilinear form, so that every derivative of every order is one of three convolutions.

<g, conv(x, w)> is linear in each of g, x and w, and its gradients in them are conv(x, w), the input's gradient
back(g, w) and the weights' gradient weigh(g, x). Each of the three therefore differentiates into the other two.
torch's own second derivative of a convolution swaps images and channels instead, which no library has fast kernels
for: at batch 100 it takes 1.5 times as long (docs/LOG.md).
Legend: x (n, c, h, w) images, w (o, c, kh, kw) weights, g (n, o, h', w') a gradient in the output.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from trajmatch.core.block import channels_last

Pair = int | Sequence[int]
_convolution = torch.ops.aten.convolution
_convolution_backward = torch.ops.aten.convolution_backward


class Geometry(NamedTuple):
    """How the kernel moves over the image; weigh and outermost as in `conv2d`."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    weigh: bool = True
    outermost: bool = False


def conv2d(
    x: Tensor,
    w: Tensor,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    weigh: bool = True,
    outermost: bool = False,
) -> Tensor:
    """`torch.nn.functional.conv2d(x, w)` with fast second derivatives, channels last.

    weigh: False leaves the value of the weights' gradient undefined (zeros) and keeps its derivatives: all that
    the sweep needs, for h = <u, a> is known from the iterates (core/hypergradient.py).
    outermost: with weigh False, x are the network's images: the first derivative in them, which the sweep does not
    need either, is left out.
    """
    geometry = Geometry(_pair(stride), _pair(padding), _pair(dilation), groups, weigh, outermost)
    return _apply(_Convolve, channels_last(x), channels_last(w), geometry)


def _pair(value: Pair) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _apply(function: type[Function], *arguments: Tensor | Geometry) -> Tensor:
    return function.apply(*arguments)  # type: ignore[no-any-return]


class _Convolve(Function):
    """conv(x, w)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry = geometry
        stride, padding, dilation, groups = geometry[:4]
        return _convolution(x, w, None, stride, padding, dilation, False, [0, 0], groups)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, w), geometry, (for_x, for_w, _) = ctx.saved_tensors, ctx.geometry, ctx.needs_input_grad
        g = channels_last(g)
        # Only a first derivative that will be differentiated can do without its value.
        later = not geometry.weigh and torch.is_grad_enabled()
        dx = _apply(_Back, g, w, x, geometry) if for_x and not (later and geometry.outermost) else None
        return dx, _apply(_WeighLater if later else _Weigh, g, x, w, geometry) if for_w else None, None


class _Back(Function):
    """back(g, w), the gradient in x; x lends its shape."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, w: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(g, w)
        ctx.geometry = geometry
        return _backward(g, x, w, geometry, 0)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (g, w), geometry, (for_g, for_w, _, _) = ctx.saved_tensors, ctx.geometry, ctx.needs_input_grad
        v = channels_last(v)
        dg = _apply(_Convolve, v, w, geometry) if for_g else None
        return dg, _apply(_Weigh, g, v, w, geometry) if for_w else None, None, None


class _Weigh(Function):
    """weigh(g, x), the gradient in w; w lends its shape."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(g, x)
        ctx.geometry = geometry
        return _backward(g, x, w, geometry, 1)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        return _weigh_backward(ctx, v)


class _WeighLater(Function):
    """weigh(g, x) whose value nobody will read: zeros, with the derivatives of the real one."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(g, x)
        ctx.geometry = geometry
        return torch.zeros_like(w)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        return _weigh_backward(ctx, v)


def _weigh_backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    (g, x), geometry, (for_g, for_x, _, _) = ctx.saved_tensors, ctx.geometry, ctx.needs_input_grad
    v = channels_last(v)
    dg = _apply(_Convolve, x, v, geometry) if for_g else None
    return dg, _apply(_Back, g, v, x, geometry) if for_x else None, None, None


def _backward(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry, which: int) -> Tensor:
    stride, padding, dilation, groups = geometry[:4]
    mask = [which == 0, which == 1, False]
    both = _convolution_backward(g, x, w, None, stride, padding, dilation, False, [0, 0], groups, mask)
    return both[which]  # type: ignore[no-any-return]
