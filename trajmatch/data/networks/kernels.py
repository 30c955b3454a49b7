"""The kernels in C++, built once for this machine by its own compiler, called through ctypes."""

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from hashlib import blake2b
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trajmatch.core import block
from trajmatch.core.block import channels_last
from trajmatch.data.checksums import checksum
from trajmatch.data.files import replacing
from trajmatch.machine import processor
from trajmatch.machine.caches import cache_folder, user
from trajmatch.machine.litter import scratch_folder
from trajmatch.machine.messages import LOGGER

# How `block.cpp` calls its precisions.
DTYPES = {dtype: str(dtype).removeprefix("torch.") for dtype in block.DTYPES}
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno")
# One library of them all, in this order.
SOURCES = ("block.cpp", "products.cpp", "winograd.cpp", "convolutions.cpp", "linear.cpp", "chain.cpp")


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "h", "w", "C", "pool")),
        ("eps", ctypes.c_double),
    )

    @classmethod
    def of(cls, c: Tensor, pool: int, eps: float = 0.0) -> "_Shape":
        n, channels, h, w = c.shape
        return cls(n, h, w, channels, pool, eps)


class CompiledKernels:
    """`core.block.Kernels` for tensors on the CPU, channels last, in float32, float64 or bfloat16.

    They are torch operators, `torch.ops.trajmatch.*`, so that a compiler of whole graphs can call them too.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        # The operators live as long as the process; the library object only has to be kept.
        self.operators = torch.library.Library("trajmatch", "DEF")
        for schema, real, fake in (
            (FORWARD, self._forward, _fake_forward),
            (GRADIENT, self._gradient, _fake_gradient),
            (CURVATURE, self._curvature, _fake_curvature),
        ):
            name = self.operators.define(schema)
            self.operators.impl(name, real, "CPU")
            torch.library.register_fake(f"trajmatch::{name}", fake, lib=self.operators)

    def forward(self, c: Tensor, w: Tensor, b: Tensor, pool: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Returns p (n, C, h', w') and the statistics mean and rstd (n, C)."""
        return torch.ops.trajmatch.block_forward(c, w, b, pool, eps)

    def gradient(
        self, gp: Tensor, c: Tensor, w: Tensor, b: Tensor, mean: Tensor, rstd: Tensor, pool: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns gc (n, C, h, w), S1 and S2 (n, C)."""
        return torch.ops.trajmatch.block_gradient(gp, c, w, b, mean, rstd, pool)

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
        """Returns the derivatives in gp, in c and, before the sum over images (n, C), in w."""
        tensors = (*v, gp, c, *parameters, *statistics, *sums)
        return torch.ops.trajmatch.block_curvature(*tensors, pool)

    def _call(self, name: str, shape: _Shape, *tensors: Tensor) -> None:
        dtype = next(t.dtype for t in tensors if t.dim() == 4)
        function = getattr(self.library, f"{name}_{DTYPES[dtype]}")
        function.argtypes = [_Shape, *[ctypes.c_void_p] * len(tensors)]
        function.restype = None
        function(shape, *[t.data_ptr() for t in tensors])

    def _forward(self, c: Tensor, w: Tensor, b: Tensor, pool: int, eps: float) -> tuple[Tensor, ...]:
        found = _fake_forward(c, w, b, pool, eps)
        self._call("forward", _Shape.of(c, pool, eps), channels_last(c), w, b, *found)
        return found

    def _gradient(
        self, gp: Tensor, c: Tensor, w: Tensor, b: Tensor, mean: Tensor, rstd: Tensor, pool: int
    ) -> tuple[Tensor, ...]:
        found = _fake_gradient(gp, c, w, b, mean, rstd, pool)
        self._call("gradient", _Shape.of(c, pool), channels_last(gp), channels_last(c), w, b, mean, rstd, *found)
        return found

    def _curvature(self, v: Tensor, vw: Tensor, vb: Tensor, gp: Tensor, c: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        *tensors, pool = rest
        found = _fake_curvature(v, vw, vb, gp, c, *rest)
        self._call(
            "curvature",
            _Shape.of(c, pool),
            channels_last(v),
            vw,
            vb,
            channels_last(gp),
            channels_last(c),
            *tensors,
            *found,
        )
        return found


_STATISTICS = "Tensor w, Tensor b, Tensor mean, Tensor rstd"
FORWARD = "block_forward(Tensor c, Tensor w, Tensor b, int pool, float eps) -> (Tensor, Tensor, Tensor)"
GRADIENT = f"block_gradient(Tensor gp, Tensor c, {_STATISTICS}, int pool) -> (Tensor, Tensor, Tensor)"
CURVATURE = (
    f"block_curvature(Tensor v, Tensor vw, Tensor vb, Tensor gp, Tensor c, {_STATISTICS}, Tensor S1, Tensor S2, "
    "int pool) -> (Tensor, Tensor, Tensor)"
)


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


# What each operator returns, not yet filled in: all that a compiler needs to know of it.
def _fake_forward(c: Tensor, w: Tensor, b: Tensor, pool: int, eps: float) -> tuple[Tensor, ...]:
    n, channels, height, width = c.shape
    statistics = w.new_empty(n, channels), w.new_empty(n, channels)
    return _empty((n, channels, height // pool, width // pool), c), *statistics


def _fake_gradient(
    gp: Tensor, c: Tensor, w: Tensor, b: Tensor, mean: Tensor, rstd: Tensor, pool: int
) -> tuple[Tensor, ...]:
    return _empty(c.shape, c), torch.empty_like(mean), torch.empty_like(mean)


def _fake_curvature(v: Tensor, vw: Tensor, vb: Tensor, gp: Tensor, c: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _empty(gp.shape, gp), _empty(c.shape, c), torch.empty_like(rest[2])


@functools.cache
def compiled_kernels() -> CompiledKernels | str:
    """The kernels, built at the first call on a machine (six seconds); or, where they cannot be, why, in words."""
    named = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), "")
    try:
        compiler = shlex.split(named)
    except ValueError as error:  # a quotation that does not end
        return f"CXX is '{named}', which is no command: {error}"
    if compiler and shutil.which(compiler[0]) is None:
        return f"the C++ compiler '{named}' that CXX names was not found"
    if not compiler:
        return "no C++ compiler was found (g++, clang++ or the one named in CXX)"
    folder_of_sources = resources.files("trajmatch.data.networks")
    source = b"".join(folder_of_sources.joinpath(name).read_bytes() for name in SOURCES)
    about = f"{processor.described()} {named} {_release(compiler[0])} {FLAGS} {processor.compiler_flags()}"
    key = blake2b(source + about.encode(), digest_size=4).hexdigest()
    errors = ""
    for folder in (cache_folder(), Path(tempfile.gettempdir()) / f"trajmatch-{user()}"):
        path = folder / f"block-{key}"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_uid != user():
                errors = f"{folder} belongs to another user"  # whose code we would run
                continue
            if (library := _kept(path)) is None:
                errors = _build(compiler, source, path)
                library = _kept(path)
            if errors or library is None:
                return errors or f"{path}: the library that was built cannot be read back"
            return CompiledKernels(ctypes.CDLL(str(library)))
        except OSError as error:
            errors = f"{path} could not be written or loaded: {error}"
    return errors


def _kept(path: Path) -> Path | None:
    """The library of a key, `path` with its content's checksum behind it; None where there is none that is whole.

    A library that is cut short would end the process with a bus error as soon as it is called, without a word.
    """
    for found in sorted(path.parent.glob(f"{path.name}{'[0-9a-f]' * 8}.so")):
        if found.stem.removeprefix(path.name) == checksum(found.read_bytes()):
            return found
        LOGGER.warning("%s: this library is damaged; it is built again", found)
        found.unlink(missing_ok=True)
    return None


def _release(compiler: str) -> str:
    """What changes with the release of a compiler; to ask it for its name would start a process in every process."""
    path = Path(shutil.which(compiler) or compiler).resolve()
    about = path.stat()
    return f"{path} {about.st_size} {about.st_mtime_ns}"


def _build(compiler: list[str], source: bytes, path: Path) -> str:
    """Compile into `path` with a checksum behind it, whole or not at all; the compiler's complaint, or nothing.

    Raises OSError.
    """
    complaint = ""
    with scratch_folder(path.parent) as scratch:
        code, built = scratch / "block.cpp", scratch / "block.so"
        code.write_bytes(source)
        # With OpenMP where the compiler has it; the library resolves to the one that torch has loaded.
        for threads in (("-fopenmp",), ()):
            command = [*compiler, *FLAGS, *processor.compiler_flags(), *threads, str(code), "-o", str(built)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode == 0 and built.exists():
                with replacing(path.with_name(f"{path.name}{checksum(built.read_bytes())}.so")) as temporary:
                    shutil.copy(built, temporary)
                return ""
            complaint = done.stderr.strip().splitlines()[0] if done.stderr.strip() else f"{compiler[0]} failed"
    return f"{compiler[0]} could not build the kernels: {complaint}"
