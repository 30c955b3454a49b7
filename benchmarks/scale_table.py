"""What ImageNet-1K would take on 8, 64 and 512 GPUs, computed and not measured: `python -m benchmarks.scale_table`.

The tables that it prints stand in docs/scale.md. All that is assumed is a constant here, with where it comes from.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trajmatch.data.networks.convnet import convnet
from trajmatch.machine.progress import duration
from trajmatch.run.assembly.budget import PROCESS, image_bytes
from trajmatch.run.stages.plan_ranks import chunk_traffic, step_share
from trajmatch.settings.config import Config
from trajmatch.settings.published import DATA, published

# ImageNet-1K at 64 pixels and ConvNetD4 of width 128 (settings/published.py).
IMAGENET, WIDTH = DATA["imagenet-1k"], 128
GPUS, IPCS = (8, 64, 512), (1, 10, 50)
# Inner mini-batches: TESLA's for one image per class (arXiv 2211.10586); those published for Tiny ImageNet beyond.
BATCHES = {1: 100, 10: 500, 50: 1000}
# Ours: segments of a step, images of a chunk (--micro-batch), outer steps, epochs and networks of the evaluation.
SEGMENTS, CHUNK, STEPS, EPOCHS, NETWORKS = 8, 50, 5000, 300, 5
# FLOP/s of a GPU in float32. An assumption: 30 % of the 67e12 that NVIDIA's data sheet gives an H100 SXM.
RATE = 20e12
# A step of the sweep, in forward passes: 0.79 of 0.10 GFLOP (docs/performance.md, "What bounds it").
SWEEP = 7.9
# Bytes a second. Assumptions: half of the 450 GB/s one way of an H100's NVLink; 80 % of Ethernet of 100 Gbit/s.
NVLINK, ETHERNET = 225e9, 10e9
# GPUs of a machine, and bytes of memory of each: DGX H100's data sheet.
PER_MACHINE, MEMORY = 8, 80e9
# Copies of X: a state has X, its average, ascent and moments; rank 0 has three states and four working copies, and
# another rank has what it was sent, its message, the derivative, and the message with it.
STATE, STATES, WORKING, OTHER = 4, 3, 4, 4
SNAPSHOTS = 4


@dataclass(frozen=True)
class Cost:
    """FLOPs of an image, forward and with its gradient; P parameters."""

    forward: float
    gradient: float
    parameters: int


def network() -> nn.Module:
    """The network, on the meta device: shapes without memory."""
    with torch.device("meta"):
        return convnet((3, IMAGENET.size, IMAGENET.size), IMAGENET.classes, IMAGENET.depth, WIDTH)


def cost() -> Cost:
    """What torch's counter counts on one image."""
    net, image = network(), torch.zeros(1, 3, IMAGENET.size, IMAGENET.size, device="meta")
    with FlopCounterMode(display=False) as forward:
        net(image)
    with FlopCounterMode(display=False) as gradient:
        net(image).sum().backward()
    return Cost(forward.get_total_flops(), gradient.get_total_flops(), sum(p.numel() for p in net.parameters()))


def setting(ipc: int) -> Config:
    """The preset of TESLA's row (T 10, M 3), with the numbers above."""
    config = published("imagenet-1k", ipc, "mtt")
    matching = replace(
        config.matching, segments=SEGMENTS, batch=BATCHES[ipc], differentiated_steps=config.matching.inner_steps
    )
    return replace(config, matching=matching, micro_batch=CHUNK, steps=STEPS)


def set_bytes(ipc: int) -> tuple[float, float]:
    """Bytes of X and Y."""
    n = ipc * IMAGENET.classes
    return 4.0 * n * 3 * IMAGENET.size**2, 4.0 * n * IMAGENET.classes


def step_seconds(c: Cost, config: Config, gpus: int) -> float:
    """Seconds that the slowest rank computes in an outer step."""
    batch, segments = config.matching.batch or 0, config.matching.segments or 1
    whole = segments * config.matching.inner_steps * batch * (c.gradient + SWEEP * c.forward) / RATE
    return whole * step_share(segments, ceil(batch / CHUNK), gpus)


@dataclass(frozen=True)
class Traffic:
    """Bytes that rank 0 exchanges in an outer step: with the ranks of other segments, and with its helpers."""

    segments: float
    chunks: float

    def seconds(self, gpus: int) -> float:
        """The first K ranks are on the first machine, and the helpers of rank 0 on others where there are any."""
        return self.segments / NVLINK + self.chunks / (NVLINK if gpus <= PER_MACHINE else ETHERNET)


def traffic(c: Cost, config: Config, gpus: int) -> Traffic:
    """X once to each rank, s, g, Y with each segment; dX, dY, q and theta_T back."""
    X, Y = set_bytes(config.ipc)
    P, away = 4.0 * c.parameters, SEGMENTS - ceil(SEGMENTS / gpus)
    of_chunks = chunk_traffic(config, c.parameters, ceil((config.matching.batch or 0) / CHUNK), gpus // SEGMENTS)
    segments = (min(SEGMENTS, gpus) - 1) * X + away * (2 * P + Y) + away * (X + Y + 2 * P)
    return Traffic(segments, of_chunks.sent + of_chunks.received)


def memory(c: Cost, config: Config, rank: int) -> float:
    """Bytes that a rank's GPU holds in an outer step."""
    X, Y = set_bytes(config.ipc)
    copies = STATE * STATES + WORKING + SEGMENTS if rank == 0 else OTHER
    iterates = (config.matching.inner_steps + 8) * 4.0 * c.parameters
    step = CHUNK * image_bytes(network(), (3, IMAGENET.size, IMAGENET.size), "eager")
    return PROCESS["cuda"] + copies * (X + Y) + iterates + step


def disk(c: Cost, config: Config) -> tuple[float, float, float]:
    """Bytes of the experts, of a checkpoint, and of the set with its snapshots."""
    X, Y = set_bytes(config.ipc)
    experts = int(config.experts) * (config.expert.epochs + 1) * 4.0 * c.parameters
    return experts, STATES * (STATE * X + Y), (SNAPSHOTS + 1) * (X + Y)


def row(c: Cost, ipc: int, gpus: int) -> list[str]:
    """One line of the table."""
    config = setting(ipc)
    count = int(config.experts)
    experts = ceil(count / gpus) * config.expert.epochs * IMAGENET.train * c.gradient / RATE
    computing, moved = step_seconds(c, config, gpus), traffic(c, config, gpus)
    moving = moved.seconds(gpus)
    scores = ceil(NETWORKS / gpus) * EPOCHS * ipc * IMAGENET.classes * c.gradient / RATE
    zero = memory(c, config, 0)
    fits = "" if zero <= MEMORY else " (too much)"
    return [
        f"{ipc}", f"{gpus}", duration(experts), duration(STEPS * (computing + moving)), duration(scores),
        f"{computing:.3f} s", f"{moving:.3f} s", f"{moving / (computing + moving):.0%}",
        f"{(moved.segments + moved.chunks) / 1e9:.1f} GB", f"{zero / 1e9:.1f} GB{fits}",
        f"{memory(c, config, 1) / 1e9:.1f} GB",
    ]  # fmt: skip


def markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def crossing(c: Cost, segments: int, link: float) -> float:
    """Images per class from which X and dX take longer to travel than a segment to be computed, with K ranks for K."""
    config = setting(50)
    computing = config.matching.inner_steps * (config.matching.batch or 0) * (c.gradient + SWEEP * c.forward) / RATE
    per_class = sum(set_bytes(1))
    return computing * link / (2 * (segments - 1) * per_class)


def text() -> str:
    """All tables."""
    c = cost()
    main = markdown(
        ["ipc", "GPUs", "experts", "distill", "evaluate", "step computes", "step moves", "moves, of the step",
         "rank 0 moves a step", "memory of rank 0", "of another rank"],
        [row(c, ipc, gpus) for ipc in IPCS for gpus in GPUS],
    )  # fmt: skip
    disks = markdown(
        ["ipc", "experts", "checkpoint", "set and snapshots"],
        [[f"{ipc}", *(f"{b / 1e9:.1f} GB" for b in disk(c, setting(ipc)))] for ipc in IPCS],
    )
    bounds = markdown(
        ["segments, a GPU for each", "link", "images per class"],
        [
            [f"{K}", name, f"{crossing(c, K, link):.1f}"]
            for K, name, link in ((8, "NVLink", NVLINK), (64, "Ethernet", ETHERNET), (512, "Ethernet", ETHERNET))
        ],
    )
    flops = f"{c.forward / 1e9:.3f} GFLOP forward and {c.gradient / 1e9:.3f} with its gradient"
    about = f"An image costs {flops}; the network has {c.parameters:,} parameters."
    return "\n\n".join([about, main, disks, bounds])


if __name__ == "__main__":
    print(text())
