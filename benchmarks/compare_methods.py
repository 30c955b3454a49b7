"""All methods from the same experts, seeds, initial images and evaluation: `python -m benchmarks.compare_methods`.

Every method gets the same wall-clock budget for its outer steps: the seconds of a step are measured first, one method
after another, and the number of steps follows, so that a run can be repeated to the bit. The images are also scored
as they were after the number of steps that the slowest method reaches: equal outer steps. Finished runs are kept, so
that the comparison can be made in pieces. Each run is an ordinary run folder.

With --validate, scores are of 10,000 training images, or with --images.hold-out of the validation images, which no
method sees: that is how settings are chosen. Test images are for the end.
"""

import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks import measure, pictures
from benchmarks.comparison import (
    TIMINGS,
    Comparison,
    Job,
    check,
    check_experts,
    configuration,
    first_jobs,
    jobs_of,
    read_result,
    read_timings,
    refuse_other_budget,
    refuse_others,
    result_path,
)
from benchmarks.summary import COLUMNS, made, made_here, origin_of_table, summarise
from trajmatch.core.draws import generator
from trajmatch.data import synthetic as sets
from trajmatch.data.file_names import METRICS, SET
from trajmatch.data.files import write_json
from trajmatch.data.images import Images
from trajmatch.data.material import Material
from trajmatch.data.snapshots import Snapshot
from trajmatch.data.synthetic import SyntheticSet, seen
from trajmatch.machine.interrupts import handling, raise_interrupt
from trajmatch.machine.memory import peak_memory_mb
from trajmatch.machine.processes import Report, run_tasks
from trajmatch.measure.evaluate import train_and_test
from trajmatch.pages.step_log import read_metrics
from trajmatch.run.assembly.engine import prepare_process
from trajmatch.run.assembly.letters import evaluation_rate
from trajmatch.run.assembly.setup import Setup, load_material
from trajmatch.run.stages.evaluation import snapshots
from trajmatch.run.stages.experts import open_experts
from trajmatch.run.stages.loop import Loop
from trajmatch.run.stages.plan_steps import seconds_of_step
from trajmatch.run.stages.run import Run
from trajmatch.run.stages.trials import set_trials
from trajmatch.settings.config import Config
from trajmatch.settings.methods import METHODS

# Training images that settings are chosen by, where no images are held out: on 2,000, two sets of equal worth differ by
# more than a point.
CHOICE = 10_000


@lru_cache(maxsize=1)
def material(about: Comparison) -> Material:
    """The images, once in each process."""
    return load_material(configuration(about, Job("mtt", max(about.ipc), 0)))


@lru_cache(maxsize=1)
def splits(about: Comparison) -> dict[str, tuple[Tensor, Tensor]]:
    """Test images, and those that settings are chosen by, in the input space, once in each process."""
    found = material(about)
    train, index = found.dataset.train, torch.randperm(len(found.dataset.train), generator=generator(0, "choice"))
    some = Images(train.x[index[:CHOICE]], train.y[index[:CHOICE]])
    chosen = {"test": found.dataset.test, "choice": found.dataset.validation if held_out(about) else some}
    return {name: (found.space.forward(split.x), split.y) for name, split in chosen.items()}


def held_out(about: Comparison) -> bool:
    """Whether there are validation images that are not among the training images; no image is read for it."""
    images = configuration(about, Job("mtt", max(about.ipc), 0)).images
    return images.hold_out and images.validation > 0


def chosen_by(about: Comparison) -> str:
    """The images that settings are chosen by, in words."""
    return "held-out validation" if held_out(about) else f"{CHOICE} training"


def seconds_per_step(about: Comparison, name: str, ipc: int) -> float:
    """Seconds of one outer step of a method, alone on this machine, with one thread."""
    config = configuration(about, Job(name, ipc, 0))
    setup = Setup(config, material(about))
    trajectories = open_experts(setup, Path(config.experts)) if METHODS[config.method].experts else []
    with TemporaryDirectory() as scratch:
        loop = Loop(setup, trajectories, Path(scratch))
        torch.set_num_threads(1)
        loop.prepare()
        return sum(phase.weight * phase.seconds for phase in seconds_of_step(loop))


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
    distilled = not (path.parent / SET).exists()
    this = Run(config, path.parent, " ".join(sys.argv), material=material(about))
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


def score(about: Comparison, config: Config, of: SyntheticSet | Snapshot, split: str, networks: range) -> list[float]:
    """Accuracies of networks, by their numbers, trained on a set: the protocol of `trajmatch evaluate`."""
    setup, (x, y) = Setup(config, material(about)).on_cpu(), splits(about)[split]
    X, Y = seen(of.X, of.Y, config.factor)
    rate = evaluation_rate(config, float(of.eta))
    trials = set_trials("", config, X, Y, rate, networks.stop)[networks.start :]
    return [train_and_test(setup.make(), X, Y, t.recipe, x, y, t.seed, setup.engine) for t in trials]


def score_set(about: Comparison, config: Config, folder: Path, networks: range) -> dict[str, Any]:
    """Scores of the last images, of those at equal steps, and of every snapshot, on images for choices."""
    split = "choice" if about.validate else "test"
    last, curve = sets.load(folder), []
    result: dict[str, Any] = {"accuracy": score(about, config, last, split, networks)}
    # By the step; no log is there where no step was to be taken.
    times = {row["step"]: row["seconds"] for row in read_metrics(folder / METRICS)[0]}
    for one in snapshots(config, folder):
        if networks.start == 0:
            curve.append([one.step, times[one.step], score(about, config, one, "choice", range(1))[0]])
        if one.step in config.outer.snapshot_at:
            result |= {"equal_steps": one.step, "equal_seconds": times[one.step]}
            result["equal_accuracy"] = score(about, config, one, split, networks)
    return {**result, "step_size": last.eta, "curve": curve}


def plan(about: Comparison) -> list[Job]:
    """All jobs, seed by seed; timings are kept beside the runs.

    Raises ValueError, with nothing changed, where runs that are there were made with other settings.
    """
    refuse_other_budget(about)
    known = read_timings(about)
    # Before anything is measured: the step of equal steps is certain only after that.
    refuse_others(about, jobs_of(about, known), apart=["outer.snapshot_at"])
    check_experts(about, [job for seed in range(about.seeds) for job in first_jobs(about, seed)])
    about.out.mkdir(parents=True, exist_ok=True)
    for job in first_jobs(about):
        if not job.method.still and job.timing not in known:
            known[job.timing] = seconds_per_step(about, job.name, job.ipc)
            write_json(about.out / TIMINGS, {"budget": about.budget, **known})
            print(f"{job.timing}: {known[job.timing]:.3f} s for a step", file=sys.stderr)
    jobs = jobs_of(about, known)
    refuse_others(about, jobs)
    return jobs


def arguments(words: list[str] | None) -> Comparison:
    """The command line. Flags that are not of the comparison are those of every run."""
    program = "python -m benchmarks.compare_methods"
    about, rest = tyro.cli(Comparison, args=words, prog=program, return_unknown_args=True)
    methods = tuple(" ".join(name.split()) for name in about.methods)
    return replace(about, methods=methods, set=tuple(rest))


def results_of(about: Comparison, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Every job's result, those that are missing computed now."""
    # The longest first would end sooner; seed by seed, what is there at any time can be compared.
    results: dict[int, dict[str, Any]] = {}
    began = time.monotonic()
    with handling(raise_interrupt, signal.SIGTERM):  # so that a kill ends the workers too
        for index, result in run_tasks(run, [(about, job) for job in jobs], about.workers, threads=1):
            results[index] = result
            left = (time.monotonic() - began) / len(results) * (len(jobs) - len(results)) / 60
            mean, folder = statistics.fmean(result["accuracy"]), jobs[index].folder
            told = f"{mean:.2%}, {result['seconds']:.0f} s, {left:.0f} min left"
            print(f"{len(results)}/{len(jobs)} {folder}: {told}", file=sys.stderr)
    return [results[index] for index in range(len(jobs))]


def compare(about: Comparison) -> None:
    """Run what is missing, then write the table and the plot. Raises ValueError."""
    check(about)
    prepare_process()
    earlier = origin_of_table(about)
    results = results_of(about, plan(about))
    rows = summarise(results)
    origin = {**made(results, earlier), "budget": about.budget}
    scored = chosen_by(about) if about.validate else "test"
    print(f"{origin}, accuracies on {scored} images, load now {os.getloadavg()[0]:.1f}\n")
    print(measure.table(rows, COLUMNS))
    write_json(about.table, {"about": origin, "rows": rows, "results": results})
    pictures.accuracy_against_seconds(results, about.table.with_suffix(".png"), chosen_by(about))


def main(words: list[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    about = arguments(words)
    return measure.exit_code(
        "benchmarks.compare_methods",
        lambda: compare(about),
        "interrupted; finished runs are kept, and the same command goes on",
    )


if __name__ == "__main__":
    sys.exit(main())
