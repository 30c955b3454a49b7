"""Where the time of the exact sweep goes, and its floor: `python -m benchmarks.profile_step [--batch 100]`.

Self time by kind of operation, under torch's profiler; the floor is the time that the step's convolutions alone would
take at the rate at which this machine's library runs the largest of them.
"""

import argparse
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks import measure
from benchmarks.outer_step import Case, Side, segment, step
from trajmatch.machine.processes import cores
from trajmatch.run.assembly.engine import prepare_process

KINDS = {
    "convolution": ("convolution", "mkldnn", "onednn"),
    "norm, ReLU, pooling": ("trajmatch::", "group_norm", "threshold", "relu", "avg_pool", "clamp"),
    "copies and fills": ("copy_", "fill_", "zero_", "empty", "clone", "contiguous", "to_copy", "resize"),
}


def kind(name: str) -> str:
    """The kind of an operation."""
    return next((title for title, parts in KINDS.items() if any(part in name for part in parts)), "the rest")


class Counted(TorchDispatchMode):
    """Counts the floating-point operations of convolutions and matrix products; torch's own mode watches modules too,
    which second derivatives do not survive."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.total += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=found)
        return found


def convolution_rate(batch: int, width: int, dtype: torch.dtype) -> float:
    """FLOP/s of the widest convolution of the network on this machine."""
    x = torch.randn(batch, width, 16, 16, dtype=dtype).contiguous(memory_format=torch.channels_last)
    w = torch.randn(width, width, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(15):
        began = time.perf_counter()
        F.conv2d(x, w, padding=1)
        seconds.append(time.perf_counter() - began)
    return 2 * 9 * width * width * 256 * batch / sorted(seconds)[len(seconds) // 2]


def shares(profiler: profile) -> dict[str, float]:
    """Each kind's share of the self time, the largest first."""
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    found: dict[str, float] = {}
    for event in events:
        found[kind(event.key)] = found.get(kind(event.key), 0.0) + event.self_cpu_time_total / total
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile_step", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--inner-steps", type=int, default=5)
    parser.add_argument("--engine", default="fused")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--data", default="digits")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Profile and print."""
    given = arguments(words)
    prepare_process()
    torch.set_num_threads(cores())
    T, device = given.inner_steps, torch.device("cpu")
    case = Case(given.batch, T, T, T, 1, given.width)
    found = segment(given.data, given.width, num_images=max(300, given.batch))
    run = step(case, Side("adjoint", given.engine, given.precision), found, device, T)
    run()
    with Counted() as counter:
        run()
    began = time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    flop = counter.total / T
    low = torch.bfloat16 if given.precision != "float32" else torch.float32
    rate = convolution_rate(given.batch, given.width, low)
    print(f"{measure.machine(device, cores())}")
    title = f"{given.engine}, {given.precision}, batch {given.batch}"
    print(f"{title}: {1000 * seconds / T:.1f} ms for an inner step and its step of the sweep")
    for title, share in shares(profiler).items():
        print(f"  {share:6.1%}  {title}")
    print(f"  {flop / 1e9:.1f} GFLOP for an inner step; {flop * T / seconds / 1e9:.0f} GFLOP/s reached")
    print(f"  floor {1000 * flop / rate:.1f} ms: the same at {rate / 1e9:.0f} GFLOP/s, the rate of one convolution")


if __name__ == "__main__":
    main()
