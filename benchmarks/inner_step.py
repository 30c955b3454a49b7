"""Milliseconds of one inner step on every engine: `python -m benchmarks.inner_step [--width 32 --pixels 16]`.

The inner gradient, one step of the sweep, and the memory that a step of the sweep holds, on random images: `eager`;
`compiled, no kernels`, which leaves norm, ReLU and pooling to the compiler; `fused`; `compiled`, which has our
kernels in it. With --segments K also K networks: one by one, and together. `unrolled` is what autograd takes for an
inner step with its share of the backward pass. Sides take turns; a side's time is the median of the rounds.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import measure
from trajmatch.core.augment import draw
from trajmatch.core.draws import generator
from trajmatch.core.estimators import Task, unrolled
from trajmatch.core.inner import Problem, training_view
from trajmatch.core.student import Student, plain
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.machine.memory import peak_over_base
from trajmatch.machine.processes import cores
from trajmatch.measure.cost import alternating
from trajmatch.methods import engines
from trajmatch.methods.engines import Compiled, Engine
from trajmatch.run.assembly.engine import prepare_process

UNROLLED_STEPS = 4
COLUMNS = {"side": "side", "gradient": "gradient, ms", "sweep": "step of the sweep, ms", "memory": "MB an image"}


def students(width: int, pixels: int, precision: str, segments: int) -> tuple[dict[str, Student], Tensor]:
    """The students by name, and initial weights (P,)."""
    network, theta = build(lambda: convnet((3, pixels, pixels), 10, 3, width), 0)
    eager = engines.student(network, Engine("eager", precision))
    bare = plain(eager.loss)
    found = {
        "eager": eager,
        "compiled, no kernels": bare._replace(gradient=Compiled(bare.gradient), mixed=Compiled(bare.mixed)),
        "fused": engines.student(network, Engine("fused", precision)),
        "compiled": engines.student(network, Engine("compiled", precision), segments > 1),
    }
    return found, theta


def images(batch: int, pixels: int) -> tuple[Tensor, Tensor]:
    """A mini-batch of random images and their labels."""
    z = torch.randn(batch, 3, pixels, pixels, generator=generator(0, "inner step"))
    return z, torch.eye(10)[torch.arange(batch) % 10]


def timed(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Milliseconds of every side."""
    for side in sides.values():
        side()
        side()
    seconds = alternating(list(sides.values()), rounds, torch.device("cpu"))
    return {name: 1000 * statistics.median(s) for name, s in zip(sides, seconds, strict=True)}


def one_network(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows for a single network."""
    found, theta = students(given.width, given.pixels, given.precision, 1)
    z, y = images(given.batch, given.pixels)
    a = torch.randn(theta.shape, generator=generator(0, "adjoint"))
    gradients: dict[str, Callable[[], Any]] = {name: partial(s.gradient, theta, z, y) for name, s in found.items()}
    steps: dict[str, Callable[[], Any]] = {name: partial(s.mixed, theta, z, y, a) for name, s in found.items()}
    view = training_view(
        [torch.arange(given.batch)] * UNROLLED_STEPS, [draw(given.batch, (), generator(0, "view"))] * UNROLLED_STEPS
    )
    eta = torch.tensor(0.01)
    task = Task(Problem(view, found["eager"]), theta, theta + 0.01 * a, z, y, eta, UNROLLED_STEPS)
    first, sweep = timed(gradients, given.rounds), timed({**steps, "unrolled": partial(unrolled, task)}, given.rounds)
    rows: list[dict[str, Any]] = [
        {
            "side": name,
            "gradient": first[name],
            "sweep": sweep[name],
            "memory": peak_over_base(steps[name], torch.device("cpu")) / given.batch,
        }
        for name in found
    ]
    return [{"side": "unrolled, both", "sweep": sweep["unrolled"] / UNROLLED_STEPS}, *rows]


def several_networks(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows for K networks: one by one, and together."""
    K = given.segments
    found, theta = students(given.width, given.pixels, given.precision, K)
    student = found["compiled"]
    assert student.many is not None
    z, y = images(given.batch, given.pixels)
    one = (theta, z, y, torch.randn(theta.shape, generator=generator(0, "adjoint")))
    all_of_them = tuple(torch.stack([t] * K) for t in one)

    def each(derivative: Callable[..., Any], arguments: tuple[Tensor, ...]) -> None:
        for _ in range(K):
            derivative(*arguments)

    names = f"compiled, {K} networks one by one", f"compiled, {K} networks together"
    first = timed(
        {
            names[0]: partial(each, student.gradient, one[:3]),
            names[1]: partial(student.many.gradient, *all_of_them[:3]),
        },
        given.rounds,
    )
    sweep = timed(
        {names[0]: partial(each, student.mixed, one), names[1]: partial(student.many.mixed, *all_of_them)}, given.rounds
    )
    return [{"side": name, "gradient": first[name], "sweep": sweep[name]} for name in names]


def main(words: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inner_step", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--segments", type=int, default=1)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--malloc", choices=("kept", "default"), default="kept", help="default: glibc's own settings")
    given = parser.parse_args(words)
    if given.malloc == "kept":
        prepare_process()
    torch.set_num_threads(given.threads)
    about = measure.machine(torch.device("cpu"), given.threads)
    if given.malloc == "default":
        about["allocator"] = "glibc malloc as it comes"
    print(f"{about}, {given.precision}, width {given.width}, {given.pixels} pixels, batch {given.batch}\n")
    rows = one_network(given) + (several_networks(given) if given.segments > 1 else [])
    print(measure.table(rows, COLUMNS))


if __name__ == "__main__":
    main()
