"""Time, memory and error of one outer step's hypergradient: `python -m benchmarks.outer_step [--quick] [--json FILE]`.

Every row is one estimator on one engine in one precision; `unrolled` and `tesla` on the eager engine in float32 are
what the published programs do. All rows of a case are timed alternately in one process; memory is that of a fresh
process for each (on a GPU what its allocator counts, without what compiled code holds from its first call on, its
captured graphs); errors are against float64. The student is ConvNetD3 on 32 x 32 colour images, matching a segment of
a network that was trained on the data (the embedded digits, or --data).
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import measure, pictures, step_tables
from trajmatch.core.draws import generator
from trajmatch.core.estimators import Task, adjoint
from trajmatch.core.hypergradient import Hypergradient
from trajmatch.data.files import write_json
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.data.tensors import read_tensors, save_tensors
from trajmatch.machine.memory import peak_over_base
from trajmatch.machine.precision import precision
from trajmatch.machine.processes import cores
from trajmatch.machine.processor import has_bfloat16
from trajmatch.measure import cost
from trajmatch.methods import engines
from trajmatch.methods.engines import Engine
from trajmatch.methods.training import Training, train
from trajmatch.run.assembly import setup
from trajmatch.run.assembly.engine import prepare_process
from trajmatch.settings.config import Config
from trajmatch.settings.inputs import Images


@dataclass(frozen=True)
class Side:
    """One way to compute a hypergradient."""

    estimator: str
    engine: str = "eager"
    precision: str = "float32"
    micro_batch: int | None = None


@dataclass(frozen=True)
class Case:
    """A size of inner problem: T inner steps. timed_steps, memory_steps: those of the runs that are timed, and whose
    memory is measured, where T would take too long."""

    batch: int
    inner_steps: int
    timed_steps: int
    memory_steps: int
    rounds: int
    width: int = 128
    pixels: int = 32

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image."""
        return 3, self.pixels, self.pixels


CASES = (Case(10, 50, 50, 50, 5), Case(100, 30, 10, 30, 5), Case(500, 80, 3, 3, 3))
QUICK = (Case(10, 50, 6, 20, 3), Case(100, 30, 1, 2, 3))
# Seconds that the rounds of a case of `--quick` may take, so that it ends in 5 minutes on a slow machine too.
QUICK_ROUNDS = 45.0
UNROLLED, TESLA = Side("unrolled"), Side("tesla")


def sides(device: torch.device, case: Case, quick: bool, few: bool = False) -> list[Side]:
    """The rows of a case; those of `--quick` are not compiled, and in bfloat16 only where it has instructions.

    Those of `--few` have one precision.
    """
    fused = ["fused"] if device.type == "cpu" else []
    low = ["bf16-sweep", "bf16"] if device.type != "cpu" or has_bfloat16() else []
    low += ["tf32"] if device.type == "cuda" else []
    made = [UNROLLED, TESLA]
    made += [
        Side("adjoint", engine)
        for engine in ("eager", *fused, "compiled")
        if not (quick and fused and engine == "compiled")
    ]
    best = fused[0] if fused else "compiled"
    if few:
        return [*made, Side("truncated", best)]
    made += [
        Side("adjoint", engine, precision)
        for precision in low
        for engine in (*fused, "compiled")
        if not (quick and fused and engine == "compiled")
    ]
    made += [Side(estimator, best) for estimator in ("truncated", "random-window", "tesla", "unrolled")]
    if case.batch > 20:
        made.append(Side("adjoint", best, micro_batch=20))
    return made


class Segment(NamedTuple):
    """Real images (n, c, h, w), their labels (n,), and two states of a network trained on them, (P,) each."""

    x: Tensor
    y: Tensor
    s: Tensor
    g: Tensor


def segment(data: str, width: int, pixels: int = 32, num_images: int = 1000) -> Segment:
    """A segment of an expert: s after one epoch, g after three."""
    config = Config(data=data, images=Images(size=pixels, colour="rgb", normalise="channel"))
    material = setup.load_material(config)
    chosen = torch.randperm(len(material.dataset.train), generator=generator(0, "benchmark"))[:num_images]
    x, y = material.space.forward(material.dataset.train.x[chosen]), material.dataset.train.y[chosen]
    network, theta = build(lambda: convnet((3, pixels, pixels), 10, 3, width), 0)
    engine = Engine(engines.choose(network, torch.device("cpu"), 0)[0])
    recipe = Training(0.01, 3, 64, families=cost.FAMILIES)
    student = engines.student(network, engine)
    ends = [now.theta for now in train(student.gradient, theta, x, torch.eye(10)[y], recipe, 0) if now.epoch_ended]
    return Segment(x, y, ends[0], ends[2])


def task(case: Case, side: Side, found: Segment, device: torch.device, T: int, dtype: torch.dtype) -> Task:
    """The inner problem: `batch` real images as the synthetic ones, all of them in every step, augmented."""
    network, _ = build(lambda: convnet(case.shape, 10, 3, case.width), 0)
    network = network.to(device, dtype)
    student = engines.student(network, Engine(side.engine, side.precision, micro_batch=side.micro_batch))
    X, Y = found.x[: case.batch].to(device, dtype), torch.eye(10, dtype=dtype)[found.y[: case.batch]].to(device)
    s, g, source = found.s.to(device, dtype), found.g.to(device, dtype), generator(0, "benchmark", case.batch)
    return cost.whole_batches(student, s, g, X, Y, T, source)


def step(case: Case, side: Side, found: Segment, device: torch.device, T: int) -> Callable[[], Hypergradient]:
    """The computation that is measured, as a function of nothing."""
    given, estimate = task(case, side, found, device, T, torch.float32), cost.estimator(side.estimator, T)

    def run() -> Hypergradient:
        with precision(side.precision):
            return estimate(given).d

    return run


def exact(case: Case, found: Segment, device: torch.device, T: int) -> Tensor:
    """dL/dX in float64, by the sweep (which equals the unrolled value to 1e-10: tests/core/test_estimators.py)."""
    plain = Side("adjoint", micro_batch=50)
    return adjoint(task(case, plain, found, device, T, torch.float64)).d.X


def errors(found: Tensor, wanted: Tensor) -> tuple[float, float]:
    """Relative error and cosine of a hypergradient."""
    found = found.double()
    cosine = (found * wanted).sum() / (found.norm() * wanted.norm())
    return float((found - wanted).norm() / wanted.norm()), float(cosine)


def probe(about: dict[str, Any]) -> float:
    """Peak memory in MB of one side over what the process held before, in this process."""
    device, case, side = torch.device(about["device"]), Case(**about["case"]), Side(**about["side"])
    prepare_process()
    torch.set_num_threads(about["threads"])
    found = Segment(**read_tensors(Path(about["segment"])))
    make = partial(step, case, side, found, device)
    return cost.peak_memory(make, about["steps"], lambda run: peak_over_base(run, device))


def memory_of(case: Case, side: Side, data: Path, found: Segment, device: torch.device, threads: int) -> float:
    """Peak memory in MB of one side: in a fresh process on a CPU, as CUDA's allocator counts here on a GPU."""
    if device.type == "cuda":
        make = partial(step, case, side, found, device)
        return cost.peak_memory(make, case.memory_steps, lambda run: peak_over_base(run, device))
    about = {"case": asdict(case), "side": asdict(side), "device": str(device), "threads": threads}
    probed = {**about, "segment": str(data), "steps": case.memory_steps}
    return float(measure.in_fresh_process("benchmarks.outer_step", probed))


def rounds_within(limit: float | None, wanted: int, once: float) -> int:
    """How many rounds of `once` seconds are taken: as many as are wanted and fit into the limit, and at least one."""
    return wanted if limit is None or not once else max(1, min(wanted, int(limit / once)))


def run_case(
    case: Case, chosen: list[Side], data: Path, device: torch.device, threads: int, limit: float | None = None
) -> list[dict[str, Any]]:
    """All rows of one case: those of the sides that fit into the device's memory.

    limit: seconds that its rounds may take together, of which at least one is taken.
    """
    found = Segment(**read_tensors(data))
    wanted = exact(case, found, device, case.timed_steps)
    fitting: dict[Side, Callable[[], Hypergradient]] = {}
    found_errors, once = {}, 0.0
    for side in chosen:
        print(f"batch {case.batch}: {side}", file=sys.stderr)
        run = step(case, side, found, device, case.timed_steps)
        try:
            began = time.perf_counter()
            found_errors[side] = errors(run().X, wanted)  # and warm
            fitting[side], once = run, once + time.perf_counter() - began
        except torch.OutOfMemoryError:
            print(f"batch {case.batch}: {side} does not fit into the memory of {device}", file=sys.stderr)
            torch.cuda.empty_cache()
    rounds = rounds_within(limit, case.rounds, once)
    seconds = dict(zip(fitting, cost.alternating(list(fitting.values()), rounds, device), strict=True))
    rows = []
    for side in fitting:
        memory = memory_of(case, side, data, found, device, threads)
        rows.append(
            {
                **asdict(side),
                "batch": case.batch,
                "inner_steps": case.inner_steps,
                "timed_steps": case.timed_steps,
                "seconds": statistics.median(seconds[side]),
                "seconds_spread": measure.spread(seconds[side]),
                "peak_memory_mb": memory,
                "memory_steps": case.memory_steps,
                "relative_error": found_errors[side][0],
                "cosine": found_errors[side][1],
                **{
                    f"speedup_vs_{one.estimator}": measure.paired_ratio(seconds[one], seconds[side])
                    if one in seconds
                    else None
                    for one in (UNROLLED, TESLA)
                },
            }
        )
        print(f"batch {case.batch}: {side} {rows[-1]['seconds']:.3f} s, {memory:.0f} MB", file=sys.stderr)
    return rows


def arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outer_step", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer inner steps and rows: 5 minutes on two cores")
    parser.add_argument("--json", type=Path, help="write the rows into this file")
    parser.add_argument("--plot", type=Path, help="write a picture of the speed-ups into this file")
    parser.add_argument("--data", default="digits", help="images, as for trajmatch --data (default: digits)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--width", type=int, default=128, help="channels of the ConvNet (default: 128)")
    parser.add_argument("--pixels", type=int, default=32, help="sides of the images (default: 32)")
    parser.add_argument("--batch", type=int, nargs="*", help="only the cases of these batch sizes")
    parser.add_argument("--few", action="store_true", help="the references, adjoint and truncated alone, in float32")
    parser.add_argument("--whole", action="store_true", help="time, and take memory of, all inner steps of every case")
    parser.add_argument("--inner-steps", type=int, help="so many inner steps in every case, to try the script")
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Measure and print."""
    given = arguments(words)
    if given.probe:
        print(json.dumps(probe(json.loads(given.probe))))
        return
    prepare_process()
    torch.set_num_threads(given.threads)
    device = setup.device(given.device)
    cases = [replace(case, width=given.width, pixels=given.pixels) for case in (QUICK if given.quick else CASES)]
    cases = [replace(case, inner_steps=given.inner_steps or case.inner_steps) for case in cases]
    if given.whole:
        cases = [replace(case, timed_steps=case.inner_steps, memory_steps=case.inner_steps) for case in cases]
    limit = QUICK_ROUNDS if given.quick else None
    with TemporaryDirectory() as scratch:
        data = Path(scratch) / "segment.safetensors"
        save_tensors(data, segment(given.data, given.width, given.pixels)._asdict(), {})
        rows = [
            row
            for case in cases
            if given.batch is None or case.batch in given.batch
            for row in run_case(case, sides(device, case, given.quick, given.few), data, device, given.threads, limit)
        ]
    about = {**measure.machine(device, given.threads), "network": step_tables.network(given.width, given.pixels)}
    print(step_tables.text(about, rows))
    print(f"\n{step_tables.committed(about, rows, step_tables.RESULTS)}")
    if given.json:
        write_json(given.json, {"about": about, "rows": rows})
    if given.plot:
        pictures.speedups(rows, given.plot)


if __name__ == "__main__":
    main()
