"""Engines: how a student's derivatives are computed. All of them compute the same ones.

eager     torch's own operations, on any device and any network.
fused     on a CPU, for networks with [convolution, instance norm, ReLU, pooling]: kernels that do norm, ReLU and
          pooling in one pass (data/networks/kernels.py), and convolutions with fast second derivatives
          (core/convolution.py). A network that is nothing but such blocks and a linear layer has its derivatives in
          float32 by one call (data/networks/chain.py).
compiled  whole derivatives through torch.compile, of the fused network where there is one.

docs/performance.md has what each of them gains.
"""

import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from trajmatch.core.loss import cross_entropy, gradient, lowered
from trajmatch.core.mixed import MIXED, inputs_alone
from trajmatch.core.student import Student, micro_batched, stacked
from trajmatch.core.vector import Forward, functional
from trajmatch.data.networks import chain
from trajmatch.data.networks.fused import fused
from trajmatch.data.networks.kernels import CompiledKernels, compiled_kernels

PRECISIONS = ("float32", "bf16-sweep", "bf16", "tf32")
# Compiling takes half a minute and saves about three milliseconds per inner step (docs/LOG.md).
WORTH_COMPILING = 20_000


@dataclass(frozen=True)
class Engine:
    """How derivatives are computed.

    name:        eager, fused or compiled.
    precision:   one of PRECISIONS. bf16-sweep rounds networks and images to bfloat16 in the sweep alone, bf16 in
                 training too; weights, losses, adjoints and hypergradients are float32 always. tf32 is a setting of
                 CUDA's (run/assembly/engine.py) and changes nothing here.
    mixed:       how the mixed second derivative is taken, a name in core.mixed.MIXED.
    micro_batch: most images that are computed at a time; None takes all of a mini-batch.
    """

    name: str = "eager"
    precision: str = "float32"
    mixed: str = "reverse-over-reverse"
    micro_batch: int | None = None

    def rounds(self, sweep: bool) -> bool:
        """Whether networks and images are rounded to bfloat16: in the sweep, or in training."""
        return self.precision == "bf16" or (sweep and self.precision == "bf16-sweep")


EAGER = Engine()


def choose(network: nn.Module, device: torch.device, inner_steps: int, precision: str = "float32") -> tuple[str, str]:
    """The fastest engine for this many inner steps, a function of its arguments and the machine; and why, in words."""
    if device.type == "cpu" and precision == "float32" and _chain(network) is not None:
        return "fused", "one call takes a ConvNet's derivatives, faster than compiled code"
    compiler = no_compiler(device)
    if inner_steps >= WORTH_COMPILING and compiler is None:
        return "compiled", f"{inner_steps} inner steps are worth half a minute of compiling"
    if device.type != "cpu":
        return "eager", compiler or "too few inner steps to be worth compiling"
    if (why := _not_fused(network, device)) is not None:
        return "eager", why
    return "fused", "too few inner steps to be worth compiling"


def _not_fused(network: nn.Module, device: torch.device) -> str | None:
    """Why the fused engine can't serve here, or None."""
    if device.type != "cpu":
        return f"its kernels are for the CPU and not for {device.type}"
    kernels = compiled_kernels()
    if isinstance(kernels, str):
        return kernels
    if fused(network, kernels) is None:
        return "the network has no block of convolution, instance norm and ReLU to fuse"
    return None


def no_compiler(device: torch.device) -> str | None:
    """Why torch.compile can't work here, or None."""
    if device.type not in ("cpu", "cuda"):
        return f"torch's compiler is not used on {device.type}"
    if device.type == "cpu" and isinstance(kernels := compiled_kernels(), str):
        return kernels
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            return "torch finds no Triton, which its compiler needs on a GPU"
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return None if headers.is_file() else f"torch's compiler needs Python's headers, and there is no {headers}"


def check(engine: Engine, network: nn.Module, device: torch.device, shape: tuple[int, int, int]) -> None:
    """Raise ValueError for an engine that this machine or this network, on images of `shape`, can't have."""
    if engine.name == "compiled" and (why := no_compiler(device)) is not None:
        raise ValueError(f"--engine is compiled, but {why}; eager always works")
    if engine.name == "fused" and (why := _not_fused(network, device)) is not None:
        raise ValueError(f"--engine is fused, but {why}; eager always works")
    if engine.precision == "tf32" and device.type != "cuda":
        raise ValueError(f"--precision is tf32, which CUDA has and {device.type} does not; bf16-sweep works everywhere")
    if engine.precision != "float32" and _is_before_ampere(device):
        raise ValueError(
            f"--precision is {engine.precision}, which {torch.cuda.get_device_name(device)} does not have (GPUs from "
            "compute capability 8.0 on do); float32 always works"
        )
    if engine.micro_batch is not None and couples(network, shape):
        raise ValueError(
            f"--micro-batch is {engine.micro_batch}, but this network's output for one image depends on the others of "
            "its mini-batch (batch norm does that), so that parts would not add up to the whole; leave it out"
        )


def _is_before_ampere(device: torch.device) -> bool:
    """Whether a GPU ignores tf32, and computes bfloat16 by other means, more slowly than float32."""
    return device.type == "cuda" and torch.cuda.is_available() and torch.cuda.get_device_capability(device) < (8, 0)


@torch.no_grad()
def couples(network: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether the output for one image depends on which others are in the mini-batch."""
    like = next(network.parameters())
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)).to(like)
    together, alone = network(images)[:2], network(images[:2])
    return bool((together - alone).norm() > 1e-3 * together.norm())


def forward(network: nn.Module, engine: Engine) -> Forward:
    """The network's outputs f(theta, z), with fast derivatives where the engine has them."""
    return functional(_twin(network, engine, weigh=True))


def student(network: nn.Module, engine: Engine, together: bool = False) -> Student:
    """The cross-entropy of a network with its derivatives.

    together: whether the student has the derivatives of several networks at once, too (`many`).
    """
    outputs = forward(network, engine)
    train = cross_entropy(_rounded(outputs, engine.rounds(sweep=False)))
    # The fused network has no forward mode.
    twin = _twin(network, engine, weigh=False) if engine.mixed == "reverse-over-reverse" else network
    swept = cross_entropy(_rounded(functional(twin), engine.rounds(sweep=True)))
    made = Student(
        train,
        _made(engine, partial(gradient, train)),
        _made(engine, partial(MIXED[engine.mixed], swept)),
        _made(engine, partial(inputs_alone, swept)),
        outputs,
    )
    if engine.name == "fused" and (found := _chain(network)) is not None:
        made = _by_one_call(made, found, engine)
    if engine.micro_batch is not None:
        return micro_batched(made, engine.micro_batch)
    return made._replace(many=_many(network, engine)) if together else made


def one_call(network: nn.Module, engine: Engine) -> chain.Chain | None:
    """The network as a chain of blocks, where this engine takes every derivative of it by one call."""
    whole = engine.name == "fused" and engine.mixed == "reverse-over-reverse" and not engine.rounds(sweep=True)
    return _chain(network) if whole else None


def _chain(network: nn.Module) -> chain.Chain | None:
    """The network as a chain of blocks, where it is one and the kernels are there."""
    kernels = compiled_kernels()
    return chain.chain(network, kernels) if isinstance(kernels, CompiledKernels) else None


def _by_one_call(made: Student, found: chain.Chain, engine: Engine) -> Student:
    """The student with those derivatives by one call each that are not rounded and not taken another way."""
    if not engine.rounds(sweep=False):
        made = made._replace(gradient=chain.gradient(found, made.gradient))
    if not engine.rounds(sweep=True) and engine.mixed == "reverse-over-reverse":
        made = made._replace(
            mixed=chain.mixed(found, made.mixed), inputs_alone=chain.inputs_alone(found, made.inputs_alone)
        )
    return made


def _many(network: nn.Module, engine: Engine) -> Student:
    """The same for several networks at once; neither fused kernels nor convolutions know what vmap is."""
    first, swept = (
        stacked(cross_entropy(_rounded(functional(network), engine.rounds(sweep)))) for sweep in (False, True)
    )
    derivatives = [_made(engine, f) for f in (first.gradient, swept.mixed, swept.inputs_alone)]
    return Student(first.loss, derivatives[0], derivatives[1], derivatives[2])


def _made(engine: Engine, derivative: Callable[..., Any]) -> Callable[..., Any]:
    return Compiled(derivative) if engine.name == "compiled" else derivative


def _twin(network: nn.Module, engine: Engine, weigh: bool) -> nn.Module:
    if engine.name == "eager":
        return network
    kernels = compiled_kernels() if next(network.parameters()).device.type == "cpu" else None
    return fused(network, None if isinstance(kernels, str) else kernels, weigh) or network


def _rounded(forward: Forward, low: bool) -> Forward:
    return lowered(forward, torch.bfloat16) if low else forward


class Compiled:
    """A pure function of tensors, compiled whole for each combination of shapes and strides that it meets.

    It is traced down to single operations first, second derivatives included: torch.compile itself does not look
    into `torch.autograd.grad`. Compiled code is cached on disk between runs by torch.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.made: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(self, *arguments: Tensor) -> Any:
        key = tuple((t.shape, t.dtype, t.stride()) for t in arguments)
        with torch.no_grad():
            if key not in self.made:
                self.made[key] = self._compile(arguments)
            return self.made[key](*arguments)

    def _compile(self, arguments: tuple[Tensor, ...]) -> Callable[..., Any]:
        traced = make_fx(self.function)(*arguments)
        if arguments[0].device.type != "cuda":
            return torch.compile(traced, dynamic=False)
        # The next replay of a CUDA graph overwrites the outputs of this one, so they are copied.
        replayed = torch.compile(traced, dynamic=False, mode="reduce-overhead")

        def run(*values: Tensor) -> Any:
            torch.compiler.cudagraph_mark_step_begin()
            found = replayed(*values)
            return found.clone() if isinstance(found, Tensor) else tuple(t.clone() for t in found)

        return run
