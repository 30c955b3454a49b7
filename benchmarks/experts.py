"""Images per second of training experts and an evaluation's networks: `python -m benchmarks.experts`.

The reference is the plain loop of the published programs: a module, a DataLoader over tensors, the same augmentation,
`torch.optim.SGD`, one process with all threads. Beside it stand this loop and `trajmatch experts` on every engine,
with the cores given to threads of one process or to processes of one thread. Each side trains in fresh processes that
start their clocks together; sides take turns within a round.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import measure
from trajmatch.core.augment import STANDARD, augment, draw, families
from trajmatch.core.draws import generator
from trajmatch.data.files import write_json
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.machine.processes import cores
from trajmatch.measure.cost import synchronise
from trajmatch.methods import engines
from trajmatch.methods.engines import Engine
from trajmatch.methods.training import Training, train
from trajmatch.run.assembly import setup
from trajmatch.run.assembly.engine import prepare_process

FAMILIES = families(STANDARD)
LR = 0.01


@dataclass(frozen=True)
class Side:
    """A loop (plain, or an engine's name) in some processes of some threads."""

    loop: str
    processes: int
    threads: int


@dataclass(frozen=True)
class Size:
    """A network, its images, and steps to measure."""

    width: int
    pixels: int
    steps: int
    batch: int = 256

    @property
    def words(self) -> str:
        """For a heading."""
        return f"ConvNetD3, width {self.width}, {self.pixels} x {self.pixels}, batch {self.batch}"


# The last is an evaluation's: a set of 100 images, all of them in every step.
SIZES = (Size(128, 32, 12), Size(32, 32, 50), Size(32, 16, 150), Size(32, 32, 150, 100))


def plain(x: Tensor, y: Tensor, size: Size) -> Iterator[None]:
    """The loop of the published programs; one step at a time."""
    network, _ = build(lambda: convnet((3, size.pixels, size.pixels), 10, 3, size.width), 0)
    network = network.to(x.device).requires_grad_()
    optimiser, source = torch.optim.SGD(network.parameters(), LR), generator(0, "plain")
    while True:
        for images, labels in DataLoader(TensorDataset(x, y), size.batch, shuffle=True, drop_last=True):
            loss = F.cross_entropy(network(augment(images, draw(size.batch, FAMILIES, source))), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            yield


def ours(x: Tensor, y: Tensor, size: Size, engine: str) -> Iterator[None]:
    """The loop of `trajmatch experts`; one step at a time."""
    network, theta = build(lambda: convnet((3, size.pixels, size.pixels), 10, 3, size.width), 0)
    student = engines.student(network.to(x.device), Engine(engine))
    recipe = Training(LR, 10**6, size.batch, families=FAMILIES)
    for _ in train(student.gradient, theta.to(x.device), x, F.one_hot(y, 10).to(x.dtype), recipe, 0):
        yield


def work(side: Side, size: Size, device: str, ready: Barrier, results: Any) -> None:
    """One process: warm up, wait for the others, train, and send its images per second."""
    prepare_process()
    torch.set_num_threads(side.threads)
    place, source = torch.device(device), generator(0, "images")
    x = torch.randn(size.batch * 16, 3, size.pixels, size.pixels, generator=source).to(place)
    y = torch.randint(0, 10, (len(x),), generator=source).to(place)
    loop = plain(x, y, size) if side.loop == "plain" else ours(x, y, size, side.loop)
    for _ in range(3):
        next(loop)
    synchronise(place)
    ready.wait()
    began = time.perf_counter()
    for _ in range(size.steps):
        next(loop)
    synchronise(place)
    results.put(size.steps * size.batch / (time.perf_counter() - began))


def rate(side: Side, size: Size, device: str) -> float:
    """Images per second of all processes of a side together."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(side.processes), context.SimpleQueue()
    started = [context.Process(target=work, args=(side, size, device, ready, results)) for _ in range(side.processes)]
    for process in started:
        process.start()
    for process in started:
        process.join()
        if process.exitcode:
            raise ChildProcessError(f"{side} ended with {process.exitcode}")
    return float(sum(results.get() for _ in started))


def sides(device: torch.device, total: int, processes: list[int] | None = None) -> list[Side]:
    """What is compared; the first is the reference. processes: how many at once, where it is not the usual."""
    loops = ["plain", "eager", *(["fused"] if device.type == "cpu" else []), "compiled"]
    if device.type == "cpu":
        layouts = [(1, total)] + ([(total, 1)] if total > 1 else [])
    else:
        layouts = [(1, total), (2, total), (4, total)]
    if processes:
        layouts = [(count, max(1, total // count)) for count in processes]
    return [Side(loop, count, threads) for loop in loops for count, threads in layouts]


COLUMNS = {
    "loop": "loop",
    "processes": "processes",
    "threads": "threads each",
    "images_per_second": "images/s",
    "images_per_second_spread": "+-",
    "speedup_vs_plain": "x plain",
}


def main(words: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experts", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one size, two rounds")
    parser.add_argument("--json", type=Path, help="write the rows into this file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--batch", type=int, help="only the sizes of this batch: 256 is training experts, 100 an evaluation"
    )
    parser.add_argument("--processes", type=int, nargs="*", help="only so many processes at once, such as 1 4")
    parser.add_argument("--width", type=int, help="channels of the ConvNet, to try the script")
    given = parser.parse_args(words)
    sizes = [s for s in (SIZES[1:2] if given.quick else SIZES) if given.batch in (None, s.batch)]
    if not sizes:
        parser.error(f"--batch is {given.batch}, and the sizes to measure have none of it")
    sizes = [replace(size, width=given.width or size.width) for size in sizes]
    device, total, rounds = setup.device(given.device), cores(), 2 if given.quick else 3
    rows: list[dict[str, Any]] = []
    print(json.dumps(measure.machine(device, total)))
    for size in sizes:
        chosen = sides(device, total, given.processes)
        rates: list[list[float]] = [[] for _ in chosen]
        for _ in range(rounds):
            for k, side in enumerate(chosen):
                rates[k].append(rate(side, size, str(device)))
                print(f"{size.words}: {side} {rates[k][-1]:.0f} images/s", file=sys.stderr)
        these = [
            {
                **asdict(side),
                "width": size.width,
                "pixels": size.pixels,
                "batch": size.batch,
                "images_per_second": statistics.median(found),
                "images_per_second_spread": measure.spread(found),
                "speedup_vs_plain": measure.paired_ratio(found, rates[0]),
            }
            for side, found in zip(chosen, rates, strict=True)
        ]
        print(f"\n**{size.words}**\n")
        print(measure.table(these, COLUMNS))
        rows += these
    if given.json:
        write_json(given.json, {"about": measure.machine(device, total), "rows": rows})


if __name__ == "__main__":
    main()
