"""An outer step by several processes, beside one process with as many threads.

    python -m torch.distributed.run --nproc-per-node 2 -m benchmarks.ranks

In one run, alternating: the segments of a step over the ranks, with one thread each, and all of them in one process;
the chunks of one large mini-batch in the same way; and what the messages of a step cost by themselves.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import measure
from trajmatch.core.descent import Momentum
from trajmatch.core.draws import generator
from trajmatch.data.files import write_json
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.data.trajectories import Segment
from trajmatch.machine.ranks import joined, lent, peers, serve
from trajmatch.machine.torchrun import rank, world
from trajmatch.measure import cost
from trajmatch.methods import engines
from trajmatch.methods.engines import Engine
from trajmatch.methods.outer import Rule, one_by_one, outer_step
from trajmatch.methods.state import OuterState, new_state
from trajmatch.run.assembly.engine import prepare_process
from trajmatch.run.stages.segments import Chunks, Learner, Spread, spread_chunks
from trajmatch.settings.config import Config
from trajmatch.settings.inputs import Network

SHAPE, CLASSES = (3, 32, 32), 10
COLUMNS = {
    "case": "case",
    "one": "one process",
    "ranks": "ranks",
    "ratio": "ranks / one",
    "least": "least",
    "most": "most",
    "messages": "messages ms",
    "share": "of a step",
}


@dataclass(frozen=True)
class Case:
    """An outer step: K segments, images, inner steps, and the chunk that the ranks take of one segment's images."""

    segments: int
    images: int
    inner_steps: int
    chunk: int | None = None

    def __str__(self) -> str:
        chunk = f", chunks of {self.chunk}" if self.chunk else ""
        return f"K {self.segments}, batch {self.images}, T {self.inner_steps}{chunk}"


CASES = (Case(2, 10, 50), Case(4, 10, 50), Case(1, 500, 4, 250))


def _echo(report: Callable[[Any], None], *tensors: Tensor) -> tuple[None, list[Tensor]]:
    """At another rank: nothing but the messages."""
    return None, list(tensors)


def message_seconds(case: Case, state: OuterState, theta: Tensor) -> float:
    """Seconds of a step's messages with one rank: of its segments, or of the chunks of every inner step."""
    share = -(-case.segments // world())
    z, y = state.X[: case.chunk], state.Y[: case.chunk]
    sent = [state.X, state.eta, *[theta, theta, state.Y] * share] if case.chunk is None else [theta, theta, z, y]
    times = []
    for _ in range(20):
        began = time.perf_counter()
        peers()[0].ask(_echo, tensors=sent)
        peers()[0].answer()
        times.append(time.perf_counter() - began)
    # Of a chunk: once for the gradient and once for the mixed derivative, in each inner step.
    return statistics.median(times) * (1 if case.chunk is None else 2 * case.inner_steps)


def sides(case: Case, width: int) -> tuple[dict[str, Callable[[], Any]], Callable[[], float]]:
    """The same step by one process and by the ranks, and what measures its messages."""
    network, theta = build(lambda: convnet(SHAPE, CLASSES, 3, width), 0)
    source = generator(0, "benchmark of ranks")
    X = torch.randn(case.images, *SHAPE, generator=source)
    Y = torch.eye(CLASSES).repeat(case.images // CLASSES, 1)
    state = new_state(X, Y, 0.01)
    goal = theta + 0.01 * torch.randn(theta.shape, generator=source)
    segments = [Segment(theta, goal, 0, 0) for _ in range(case.segments)]
    rule = Rule(case.inner_steps, case.inner_steps, Momentum(0.0), Momentum(0.0), families=cost.FAMILIES)
    local = engines.student(network, Engine("fused"))
    config = Config(network=Network(width=width), device="cpu")
    chunks = Chunks(Learner(config, SHAPE, CLASSES, Engine("fused", micro_batch=case.chunk)), local)
    threads = world()

    def one() -> None:
        torch.set_num_threads(threads)
        with lent():
            outer_step(rule, local, state, segments, 0, one_by_one)

    def ranks() -> None:
        torch.set_num_threads(1)
        outer_step(rule, spread_chunks(chunks), state, segments, 0, Spread(rule, chunks))

    return {"one": one, "ranks": ranks}, lambda: message_seconds(case, state, theta)


def row(case: Case, width: int, rounds: int) -> dict[str, Any]:
    """Both sides of a case, alternating."""
    both, messages = sides(case, width)
    for side in both.values():
        side()  # warm
    one, ranks = cost.alternating([both["one"], both["ranks"]], rounds, torch.device("cpu"))
    ratios = [b / a for a, b in zip(one, ranks, strict=True)]
    spent = messages()
    found = {
        "case": str(case),
        "one": statistics.median(one),
        "ranks": statistics.median(ranks),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "messages": 1000 * spent,
        "share": f"{spent / statistics.median(ranks):.2%}",
    }
    print(f"{case}: {found['one']:.2f} s, {found['ranks']:.2f} s, x {found['ratio']:.2f}", file=sys.stderr)
    return found


def main(words: list[str] | None = None) -> int:
    """Measure and print, at rank 0; help at the others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the rows into this file")
    parser.add_argument("--width", type=int, default=128, help="channels of the ConvNet (default: 128)")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(words)
    prepare_process()
    if world() == 1:
        parser.error("start it by torchrun: python -m torch.distributed.run --nproc-per-node 2 -m benchmarks.ranks")
    if rank() > 0:
        return serve("cpu")
    with joined("cpu"):
        rows = [row(case, given.width, given.rounds) for case in CASES]
    about = {
        **measure.machine(torch.device("cpu"), world()),
        "ranks": f"{world()}, one thread each",
        "network": f"ConvNetD3, width {given.width}, 32 x 32, fused, augmented",
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()) + "\n")
    print(measure.table(rows, COLUMNS))
    if given.json:
        write_json(given.json, {"about": about, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
