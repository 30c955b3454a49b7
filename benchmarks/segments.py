"""K segments of one outer step, one by one and together by vmap: `python -m benchmarks.segments [--device cuda]`.

Every row is the exact hypergradient of all K segments. Captured graphs of the segments, replayed on streams side by
side, would be the third way; the package has none, so there is no row of them.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import measure
from trajmatch.core.estimators import adjoint, stack
from trajmatch.data.files import write_json
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.machine.memory import peak_over_base
from trajmatch.machine.processes import cores
from trajmatch.measure import cost
from trajmatch.methods import engines
from trajmatch.methods.engines import Engine
from trajmatch.run.assembly import setup
from trajmatch.run.assembly.engine import prepare_process

COLUMNS = {
    "engine": "engine",
    "how": "K segments",
    "seconds": "seconds",
    "seconds_spread": "+-",
    "speedup": "x one by one",
    "peak_memory_mb": "peak MB",
    "difference": "difference",
}


def ways(given: argparse.Namespace, engine: str, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """The hypergradients of the images (K, n, 3, 32, 32), by the way in which they are computed."""
    network, theta = build(lambda: convnet((3, 32, 32), 10, 3, given.width), 0)
    student = engines.student(network.to(device), Engine(engine), together=True)
    many = student.many
    assert many is not None
    starts = [theta.to(device) * (1 + 0.01 * k) for k in range(given.segments)]
    tasks = [cost.random_task(student, s, given.batch, (3, 32, 32), 10, given.inner_steps) for s in starts]
    return {
        "one by one": lambda: torch.stack([adjoint(task).d.X for task in tasks]),
        "together": lambda: adjoint(stack(tasks, many)).d.X,
    }


def rows_of(given: argparse.Namespace, engine: str, device: torch.device) -> list[dict[str, Any]]:
    """Both ways on one engine."""
    sides = ways(given, engine, device)
    found = {how: side() for how, side in sides.items()}
    first = found["one by one"]
    seconds = dict(zip(sides, cost.alternating(list(sides.values()), given.rounds, device), strict=True))
    rows = []
    for how, side in sides.items():
        rows.append(
            {
                "engine": engine,
                "how": how,
                "seconds": statistics.median(seconds[how]),
                "seconds_spread": measure.spread(seconds[how]),
                "speedup": measure.paired_ratio(seconds["one by one"], seconds[how]),
                "peak_memory_mb": peak_over_base(side, device),
                "difference": float((found[how] - first).norm() / first.norm()),
            }
        )
        print(f"{engine}, {given.segments} segments {how}: {rows[-1]['seconds']:.3f} s", file=sys.stderr)
    return rows


def main(words: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.segments", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the rows into this file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engine", nargs="*", default=["eager", "compiled"])
    parser.add_argument("--segments", type=int, default=4)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--inner-steps", type=int, default=50)
    parser.add_argument("--width", type=int, default=128, help="channels of the ConvNet (default: 128)")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(words)
    prepare_process()
    torch.set_num_threads(given.threads)
    device = setup.device(given.device)
    about = {
        **measure.machine(device, given.threads),
        "network": f"ConvNetD3, width {given.width}, 32 x 32, batch {given.batch}, T {given.inner_steps}",
    }
    rows = [row for engine in given.engine for row in rows_of(given, engine, device)]
    print(", ".join(f"{key} {value}" for key, value in about.items()) + "\n")
    print(measure.table(rows, COLUMNS))
    if given.json:
        write_json(given.json, {"about": about, "rows": rows})


if __name__ == "__main__":
    main()
