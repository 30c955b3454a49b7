"""How a run computes: engine, precision, micro-batch and threads, decided once from the settings and the machine.

Every decision is a function of settings, network and machine alone, never of a measured time: results repeat bitwise
only where the same code computes them.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trajmatch.data.networks.kernels import cache_folder
from trajmatch.machine.memory import keep_freed_memory
from trajmatch.machine.messages import counted
from trajmatch.machine.own_code import RAISED_BY_USERS
from trajmatch.machine.precision import set_precision
from trajmatch.machine.processes import cores
from trajmatch.machine.processor import has_bfloat16, has_matrix_units
from trajmatch.machine.ranks import peers
from trajmatch.methods import engines
from trajmatch.methods.engines import Engine
from trajmatch.run.assembly.budget import held_bytes, image_bytes, micro_batch, parse_memory, step_bytes
from trajmatch.settings.config import Config

# Below this much convolution in a mini-batch's forward pass two threads are at most a tenth faster than one, and
# where a core is busy with something else they are many times slower (docs/LOG.md).
WORTH_A_THREAD = 2e8
# Up to this much, and from this many segments on, segments together are a quarter faster in compiled code on a CPU;
# at two and a half times the work they are 1.4 times slower (docs/LOG.md).
WORTH_STACKING, FEW = 3e7, 4

# Below this much, layer by layer, bfloat16 takes 1.02 to 1.1 times as long as float32 on AVX-512 without AMX, and from
# twice as much on 0.7 to 1.0 times (docs/performance.md).
WORTH_ROUNDING = 3e7

# Real images that go through a network at once where all of them do, when nothing limits them.
WHOLE = 1000


def prepare_process() -> None:
    """What every process of a run does before it computes."""
    keep_freed_memory()
    set_precision("float32")  # the outer loop's own holds around its steps alone (run/stages/loop.py)
    # What torch.compile makes stays beside our own kernels, and not in /tmp until the next restart.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))


@dataclass(frozen=True)
class Compute:
    """How the outer loop computes; `why` explains the engine in words."""

    engine: Engine
    threads: int
    why: str
    segments: int = 1
    together: bool = False

    def words(self) -> str:
        """The choice, for the user."""
        parts = f", {counted(self.engine.micro_batch, 'image')} at a time" if self.engine.micro_batch else ""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        how = "together" if self.together else "one by one"
        segments = f", {self.segments} segments {how}" if self.segments > 1 else ""
        return f"engine: {self.engine.name} ({self.why}), {self.engine.precision}{parts}{segments}, {threads}"


def outer_compute(
    config: Config, network: nn.Module, device: torch.device, synthetic: tuple[int, int, int, int], data_bytes: float
) -> Compute:
    """How the outer loop of a resolved configuration computes. Raises ValueError for what can't be had here.

    synthetic: shape of the synthetic images that a network sees. data_bytes: what the real images and their input space
    take.
    """
    total, *rest = synthetic
    shape = (rest[0], rest[1], rest[2])
    n = config.matching.batch or total
    inner_steps = config.steps * config.matching.inner_steps * (config.matching.segments or 1)
    unrolled = config.matching.estimator == "unrolled"
    if unrolled:
        _check_unrolled(config)
        inner_steps = 0  # its one graph through all steps is not compiled
    slow = rounding_costs_time(config, network, device, (min(config.micro_batch or n, n), *shape))
    _check_precision(config, device, slow)
    auto = config.engine == "auto"
    name, why = engines.choose(network, device, inner_steps, config.precision) if auto else (config.engine, "as asked")
    if not auto and slow:
        why = f"{why}; float32 would take less time here"
    engine, parts = Engine(name, config.precision, config.matching.mixed), config.micro_batch
    if parts is None and config.memory is not None:
        num_parameters = sum(p.numel() for p in network.parameters())
        held = held_bytes(config, device, num_parameters, prod(synthetic), data_bytes)
        parts = micro_batch(parse_memory(config.memory), held, step_bytes(network, shape, engine), n)
    engine = replace(engine, micro_batch=None if parts is None or parts >= n else parts)
    engines.check(engine, network, device, shape)
    work = convolution_flops(network, (engine.micro_batch or n, *shape))
    threads = config.outer.threads or (cores() if work >= WORTH_A_THREAD else 1)
    return Compute(engine, threads, why, config.matching.segments or 1, _together(config, device, engine, work))


def real_loss_engine(
    config: Config,
    network: nn.Module,
    device: torch.device,
    synthetic: tuple[int, int, int, int],
    data_bytes: float,
    real: tuple[int, float],
    beside: tuple[int, int] = (0, 0),
) -> Engine:
    """How steps on the loss on real images compute: as experts are trained, in parts where memory is to be saved.

    real: the real images of a step, which are taken in such parts too, and bytes that they and what they are drawn from
    take on the device. beside: images of a stream's memory that an inner step takes beside the synthetic ones, and
    those that the loss at its end takes beside the real ones. Raises ValueError for what can't be had here.
    """
    engine, shape, parts = training_engine(config, network, device), synthetic[1:], config.micro_batch
    inner = (config.baseline.inner_batch or config.matching.batch or synthetic[0]) + beside[0]
    largest = max(inner, real[0], beside[1])
    if parts is None and config.memory is not None:
        num_parameters = sum(p.numel() for p in network.parameters())
        held = held_bytes(config, device, num_parameters, prod(synthetic), data_bytes)
        parts = micro_batch(parse_memory(config.memory), held + real[1], step_bytes(network, shape, engine), largest)
    engine = replace(engine, micro_batch=None if parts is None or parts >= largest else parts)
    engines.check(engine, network, device, shape)
    return engine


def at_once(
    config: Config, network: nn.Module, device: torch.device, synthetic: tuple[int, int, int, int], data_bytes: float
) -> int | None:
    """How many images go through the network at once where all of a set do: first features, labels of a teacher.

    None is no limit: neither --micro-batch nor --memory is given, or a network that couples its images must see them
    together. Raises ValueError where the memory is too little for one.
    """
    if config.micro_batch is not None or config.memory is None:
        return config.micro_batch
    shape = synthetic[1:]
    if engines.couples(network, shape):
        return None
    held = held_bytes(config, device, sum(p.numel() for p in network.parameters()), prod(synthetic), data_bytes)
    each = image_bytes(network, shape, training_engine(config, network, device).name)
    return micro_batch(parse_memory(config.memory), held, lambda n: n * each, max(WHOLE, synthetic[0]))


def _together(config: Config, device: torch.device, engine: Engine, work: float) -> bool:
    """Whether the segments of a concurrent step are computed at once.

    By default on CUDA, with memory to spare and no other ranks to share segments with; and in compiled code where the
    steps are so small that what each single operation costs beside its work weighs more than slower convolutions.
    """
    m, parts = config.matching, engine.micro_batch
    if m.together == "auto":
        able = m.estimator != "unrolled" and m.mixed == "reverse-over-reverse" and config.memory is None
        able = able and not m.early_stop  # each trajectory would have an end of its own
        small = engine.name == "compiled" and (m.segments or 1) >= FEW and work <= WORTH_STACKING
        return able and parts is None and (small or (device.type == "cuda" and not peers()))
    if m.together == "yes" and parts is not None:
        raise ValueError(
            f"--matching.together is yes, and --micro-batch is {parts}, which takes a part of one segment at a time: "
            "leave one of them out"
        )
    return m.together == "yes"


def _check_unrolled(config: Config) -> None:
    """Refuse what one autograd graph through all inner steps can't have."""
    for flag, value, wrong in (
        ("--micro-batch", config.micro_batch, config.micro_batch is not None),
        ("--memory", config.memory, config.memory is not None),
        ("--engine", config.engine, config.engine == "compiled"),
        ("--precision", config.precision, config.precision == "bf16-sweep"),
    ):
        if wrong:
            raise ValueError(
                f"{flag} is {value}, which --matching.estimator unrolled can't have, for it keeps one graph through "
                "all inner steps: adjoint gives the same hypergradient"
            )


def _check_precision(config: Config, device: torch.device, slow: bool) -> None:
    """Refuse a precision that only costs time here. A run that took float32 in its place would be another run."""
    precision = config.precision
    if precision in ("bf16", "bf16-sweep") and device.type == "cpu" and not has_bfloat16():
        raise ValueError(
            f"--precision is {precision}, for which this processor has no instructions (on x86 AVX512_BF16 or AMX): it "
            "would take up to ten times as long as float32, which is the precision to choose here"
        )
    if config.engine == "auto" and slow:
        raise ValueError(
            f"--precision is {precision}, which is slower than float32 for this network and mini-batch on this "
            "processor (bfloat16 without AMX): choose float32, or name an --engine to round all the same"
        )


def rounding_costs_time(
    config: Config, network: nn.Module, device: torch.device, images: tuple[int, int, int, int]
) -> bool:
    """Whether bfloat16 is no faster than float32 on this processor, on `images` (n, c, h, w) at a time.

    On AVX-512 with instructions for bfloat16 and without AMX that is so where one call takes a network's derivatives in
    float32, at widths 16 to 256, 8 to 32 pixels and 10 and 100 images; and for other networks where steps are small
    (docs/performance.md, "On processors without AMX").
    """
    m, rounds = config.matching, config.precision in ("bf16", "bf16-sweep")
    if not rounds or device.type != "cpu" or has_matrix_units():
        return False
    one = m.estimator != "unrolled" and engines.one_call(network, Engine("fused", mixed=m.mixed)) is not None
    return one or 0 < convolution_flops(network, images) < WORTH_ROUNDING


def training_engine(config: Config, network: nn.Module, device: torch.device) -> Engine:
    """How experts and the networks of an evaluation are trained: in float32, and never compiled unless asked.

    Their batches are large, where compiled code is no faster than the fused kernels.
    """
    name = engines.choose(network, device, 0)[0] if config.engine == "auto" else config.engine
    return Engine(name)


def convolution_flops(network: nn.Module, shape: tuple[int, int, int, int]) -> float:
    """Floating-point operations of the convolutions and matrix products of one forward pass on images of `shape`.

    None are counted of a network that differentiates in its forward pass, which torch's counter cannot follow.
    """
    n, *image = shape
    # Two images stand for n, of which there may be more than memory holds; batch norm wants more than one.
    counter = FlopCounterMode(display=False)
    with suppress(*RAISED_BY_USERS), counter, torch.no_grad():
        network(torch.zeros(2, *image, device=next(network.parameters()).device))
        return counter.get_total_flops() / 2 * n
    return 0.0
