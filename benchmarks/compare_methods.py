"""All methods from the same experts, seeds, initial images and evaluation: `python -m benchmarks.compare_methods`.

Every method gets the same wall-clock budget for its outer steps: the seconds of a step are measured first, one method
after another, and the number of steps follows, so that a run can be repeated to the bit. The images are also scored
as they were after the number of steps that the slowest method reaches: equal outer steps. Finished runs are kept, so
that the comparison can be made in pieces. Each run is an ordinary run folder.

With --validate, scores are of 10,000 training images: that is how settings are chosen. Test images are for the end.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, fields
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks import measure, pictures
from benchmarks.comparison import (
    TIMINGS,
    Comparison,
    Job,
    check,
    check_experts,
    configuration,
    jobs_of,
    read_result,
    read_timings,
    refuse_other_budget,
    refuse_others,
    result_path,
)
from benchmarks.summary import COLUMNS, made, made_here, origin_of_table, summarise
from trajmatch.core.draws import derive, generator
from trajmatch.data import synthetic as sets
from trajmatch.data.files import write_json
from trajmatch.data.images import Images
from trajmatch.data.networks import build
from trajmatch.measure.evaluate import train_and_test
from trajmatch.run import assemble
from trajmatch.run.assemble import Material, evaluation_training, factory
from trajmatch.run.compute import prepare_process, training_engine
from trajmatch.run.config import Config
from trajmatch.run.distill_stage import DISTILLED, METRICS, Loop
from trajmatch.run.evaluate_stage import snapshots
from trajmatch.run.expert_stage import open_experts
from trajmatch.run.interrupts import handling, raise_interrupt
from trajmatch.run.methods import METHODS
from trajmatch.run.plan import seconds_of_step
from trajmatch.run.pool import Report, cores, peak_memory_mb, run_jobs
from trajmatch.run.verbs import Run, say, silent

# Training images that settings are chosen by: on 2,000, two sets of equal worth differ by more than a point.
CHOICE = 10_000


@lru_cache(maxsize=1)
def material(about: Comparison) -> Material:
    """The images, once in each process."""
    return assemble.load_material(configuration(about, Job("mtt", max(about.ipc), 0)))


@lru_cache(maxsize=1)
def splits(about: Comparison) -> dict[str, tuple[Tensor, Tensor]]:
    """Test, validation and some training images in the input space, once in each process."""
    found = material(about)
    train, index = found.dataset.train, torch.randperm(len(found.dataset.train), generator=generator(0, "choice"))
    chosen = {
        "test": found.dataset.test,
        "validation": found.dataset.validation,
        "choice": Images(train.x[index[:CHOICE]], train.y[index[:CHOICE]]),
    }
    return {name: (found.space.forward(split.x), split.y) for name, split in chosen.items()}


def seconds_per_step(about: Comparison, name: str, ipc: int) -> float:
    """Seconds of one outer step of a method, alone on this machine, with one thread."""
    config = configuration(about, Job(name, ipc, 0))
    trajectories = open_experts(config, material(about), Path(config.experts)) if METHODS[config.method].experts else []
    with TemporaryDirectory() as scratch:
        loop = Loop(config, material(about), trajectories, Path(scratch))
        torch.set_num_threads(1)
        return seconds_of_step(loop)


def run(about: Comparison, job: Job, report: Report | None = None) -> dict[str, Any]:
    """Distil and score one job, or find it done; score it by more networks where more are asked for. In a worker.

    Raises ValueError, with nothing changed, where the folder holds a run with other settings.
    """
    prepare_process()
    torch.set_num_threads(1)
    refuse_others(about, [job])
    path = result_path(about, job)
    held = read_result(path)
    scored = len(held["accuracy"]) if held else 0
    if held and scored >= about.networks:
        return held
    config, networks = configuration(about, job), range(scored, about.networks)
    distilled = not (path.parent / DISTILLED).exists()
    this = Run(config, path.parent, " ".join(sys.argv), say=silent, material=material(about))
    this.experts()
    this.distill()
    found = score_set(about, config, path.parent, networks)
    here = made_here(about.workers, len(networks), distilled)
    if held:
        # Its own steps, seconds and memory: those of now are of nothing but the networks that were missing.
        result = held | {key: held[key] + found[key] for key in ("accuracy", "equal_accuracy") if key in found}
        result["made"] = [*held.get("made", [{"networks": scored}]), here]
    else:
        result = {"name": job.name, "ipc": job.ipc, "seed": job.seed, "seconds": this.seconds["distill"]}
        result |= {"steps": job.steps, **found, "peak_memory_mb": peak_memory_mb(), "made": [here]}
    write_json(path, result)
    return result


def score(
    about: Comparison, config: Config, X: Tensor, Y: Tensor, eta: float, split: str, networks: range
) -> list[float]:
    """Accuracies of networks, by their numbers, trained on a set: the protocol of `trajmatch evaluate`."""
    found = material(about)
    make = factory(config.network, found.dataset.shape, found.dataset.num_classes)
    engine = training_engine(config, build(make, 0)[0], torch.device("cpu"))
    recipe = evaluation_training(config, eta)
    x, y = splits(about)[split]
    return [train_and_test(make, X, Y, recipe, x, y, derive(config.seed, "evaluation", i), engine) for i in networks]


def score_set(about: Comparison, config: Config, folder: Path, networks: range) -> dict[str, Any]:
    """Scores of the last images, of those at equal steps, and of every snapshot on validation with one network."""
    split = "choice" if about.validate else "test"
    last, curve = sets.load(folder), []
    result: dict[str, Any] = {"accuracy": score(about, config, last.X, last.Y, last.eta, split, networks)}
    times = seconds_at(folder)
    for step, X, Y, eta in map(astuple, snapshots(config, folder)):
        if networks[0] == 0:
            curve.append([step, times[step], score(about, config, X, Y, eta, "validation", range(1))[0]])
        if step in config.outer.snapshot_at:
            result["equal_steps"] = step
            result["equal_seconds"] = times[step]
            result["equal_accuracy"] = score(about, config, X, Y, eta, split, networks)
    return {**result, "step_size": last.eta, "curve": curve}


def seconds_at(folder: Path) -> dict[int, float]:
    """Seconds of distillation after each step, from the log; where no step was to be taken there is none."""
    if not (folder / METRICS).exists():
        return {}
    rows = [json.loads(line) for line in (folder / METRICS).read_text("utf-8").splitlines()]
    return {row["step"]: row["seconds"] for row in rows}


def plan(about: Comparison, names: Sequence[str], ipcs: Sequence[int], seeds: int) -> list[Job]:
    """All jobs, seed by seed; timings are kept beside the runs.

    Raises ValueError, with nothing changed, where runs that are there were made with other settings.
    """
    refuse_other_budget(about)
    known = read_timings(about)
    # Before anything is measured: the step of equal steps is certain only after that.
    refuse_others(about, jobs_of(about, names, ipcs, seeds, known), apart=["outer.snapshot_at"])
    check_experts(about, [Job(name, ipc, seed) for seed in range(seeds) for ipc in ipcs for name in names])
    about.out.mkdir(parents=True, exist_ok=True)
    for job in (Job(name, ipc, 0) for ipc in ipcs for name in names):
        if not job.method.still and job.timing not in known:
            known[job.timing] = seconds_per_step(about, job.name, job.ipc)
            write_json(about.out / TIMINGS, {"budget": about.budget, **known})
            say(f"{job.timing}: {known[job.timing]:.3f} s for a step")
    jobs = jobs_of(about, names, ipcs, seeds, known)
    refuse_others(about, jobs)
    return jobs


def arguments(words: list[str] | None) -> tuple[Comparison, argparse.Namespace]:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare_methods", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--preset", default="cifar10-16px")
    parser.add_argument("--data", required=True, help="images, as for trajmatch --data")
    parser.add_argument("--experts", type=Path, required=True, help="folder of experts")
    parser.add_argument("--flat-experts", type=Path, help="folder of flat experts, for ftd, datm and satm-fi")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=180.0, help="seconds of outer steps for each run")
    parser.add_argument("--networks", type=int, default=3, help="networks that score each set")
    parser.add_argument("--validate", action="store_true", help="score on training images alone, to choose settings")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["random", *(name for name, method in METHODS.items() if method.experts and not method.still)],
        help="each may carry flags, in quotes",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=cores(), help="runs at once, one thread each")
    given, rest = parser.parse_known_args(words)
    given.ipc = tuple(given.ipc)
    given.methods = [" ".join(name.split()) for name in given.methods]
    about = {field.name: getattr(given, field.name) for field in fields(Comparison) if field.name != "set"}
    return Comparison(**about, set=tuple(rest)), given


def results_of(about: Comparison, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Every job's result, those that are missing computed now."""
    # The longest first would end sooner; seed by seed, what is there at any time can be compared.
    results: dict[int, dict[str, Any]] = {}
    began = time.monotonic()
    with handling(raise_interrupt, signal.SIGTERM):  # so that a kill ends the workers too
        for index, result in run_jobs(run, [(about, job) for job in jobs], about.workers, threads=1):
            results[index] = result
            left = (time.monotonic() - began) / len(results) * (len(jobs) - len(results)) / 60
            mean, folder = statistics.fmean(result["accuracy"]), jobs[index].folder
            say(f"{len(results)}/{len(jobs)} {folder}: {mean:.2%}, {result['seconds']:.0f} s, {left:.0f} min left")
    return [results[index] for index in range(len(jobs))]


def compare(about: Comparison, names: Sequence[str], seeds: int) -> None:
    """Run what is missing, then write the table and the plot. Raises ValueError."""
    check(about, names, seeds)
    prepare_process()
    earlier = origin_of_table(about)
    results = results_of(about, plan(about, names, about.ipc, seeds))
    rows = summarise(results)
    origin = {**made(results, earlier), "budget": about.budget}
    scored = f"{CHOICE} training" if about.validate else "test"
    print(f"{origin}, accuracies on {scored} images, load now {os.getloadavg()[0]:.1f}\n")
    print(measure.table(rows, COLUMNS))
    write_json(about.table, {"about": origin, "rows": rows, "results": results})
    pictures.accuracy_against_seconds(results, about.table.with_suffix(".png"))


def main(words: list[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0, 2 for bad input, 1 for a failed run, 130 when interrupted."""
    about, given = arguments(words)
    try:
        compare(about, given.methods, given.seeds)
    except (FloatingPointError, MemoryError, ChildProcessError) as error:
        return refuse(str(error) or "out of memory", 1)
    except ValueError as error:
        return refuse(str(error), 2)
    except OSError as error:
        return refuse(f"{error.filename}: {error.strerror}", 2)
    except KeyboardInterrupt:
        return refuse("interrupted; finished runs are kept, and the same command goes on", 130)
    return 0


def refuse(sentence: str, code: int) -> int:
    """Say why the program ends."""
    print(f"benchmarks.compare_methods: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
