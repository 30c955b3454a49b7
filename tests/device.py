"""A stand-in for a GPU: torch's `meta` device, watched for what a GPU would refuse and for what it would be waited for.

A tensor on `meta` has a shape, a type and no values, and every operation on it costs nothing. What torch's own checks
let pass there (`mm`, `conv2d`, `gather`, a CPU tensor indexed by one of the device) is found by comparing the devices
of all arguments. Nothing here says anything of speed, of numbers, of compiled code or of captured graphs.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import trajmatch

META = torch.device("meta")
PACKAGE = Path(trajmatch.__file__).parent
_aten = torch.ops.aten
_copies = (_aten._to_copy.default, _aten.copy_.default)
# The result's shape, or what Python does next, depends on values.
_reads = (
    _aten._local_scalar_dense.default, _aten.equal.default, _aten.nonzero.default, _aten.masked_select.default,
    _aten.bincount.default, _aten._unique2.default, _aten.unique_dim.default, _aten.unique_consecutive.default,
    _aten.repeat_interleave.Tensor,
)  # fmt: skip
_indexing = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default)


class MixedDevicesError(RuntimeError):
    """An operation of tensors on two devices, which a GPU refuses."""


def place() -> str:
    """The innermost function of the package that is running, as module.function; who calls it where there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if PACKAGE in path.parents:
            return f"{path.stem}.{frame.f_code.co_qualname.split('.<locals>')[0]}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside of the package"


class Device(TorchDispatchMode):
    """`with Device() as device:` raises MixedDevicesError, and lists the places that would wait for a GPU.

    reads: where values of the device are asked for, one entry for each; the answers are ones, so that it goes on.
    uploads: where a CPU tensor is moved to the device and waited for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.uploads: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [t.device == META for t in tensors]
        if func in _copies:
            return self._copy(func, args, kwargs)
        if not any(there):
            return func(*args, **kwargs)
        self._compare(func, tensors, there)
        is_mask = func in _indexing and any(t.dtype == torch.bool for t in tree_leaves(args[1]) if t is not None)
        if func in _reads or is_mask:
            self.reads.append(place())
            return _answer(func, args, kwargs)
        return func(*args, **kwargs)

    def _compare(self, func: Any, tensors: list[Tensor], there: list[bool]) -> None:
        if all(there):
            return
        # As on CUDA, a single number on the CPU joins elementwise operations, and does not take their result.
        able = torch.Tag.pointwise in func.tags
        written = func._schema.is_mutable and not there[0]
        if not able or written or any(t.dim() for t, is_there in zip(tensors, there, strict=True) if not is_there):
            found = ", ".join(f"{t.device} {(*t.shape,)}" for t in tensors)
            raise MixedDevicesError(f"{func} in {place()} is of tensors on two devices: {found}")
        if func is _aten.where.self:  # torch moves the number, and waits for that
            self.uploads.append(place())

    def _copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        is_new = func is _aten._to_copy.default
        source = args[0] if is_new else args[1]
        target = torch.device(kwargs.get("device") or source.device) if is_new else args[0].device
        if source.device == META and target != META:
            self.reads.append(place())
            shape = source.shape if is_new else args[0].shape
            values = torch.ones(shape, dtype=kwargs.get("dtype") or source.dtype)
            return values if is_new else func(args[0], values)
        waits = not (kwargs.get("non_blocking") or (not is_new and len(args) > 2 and args[2]))
        if source.device != META and target == META and waits:
            self.uploads.append(place())
        return func(*args, **kwargs)


def _answer(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a read gives here: ones."""
    values = [torch.ones(t.shape, dtype=t.dtype) if isinstance(t, Tensor) else t for t in args]
    if func in _indexing:
        values[1] = [None if t is None else torch.ones(t.shape, dtype=t.dtype) for t in args[1]]
    found = func(*values, **kwargs)
    return found.to(META) if isinstance(found, Tensor) else found
