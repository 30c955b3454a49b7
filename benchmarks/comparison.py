"""What `benchmarks.compare_methods` compares: its jobs, their settings, and what is refused before anything is run."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.measure import has
from trajmatch.data.file_names import CONFIG
from trajmatch.data.files import is_share, read_json
from trajmatch.machine.processes import cores
from trajmatch.run.folder import check_claim, unlike
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.kinds import checked
from trajmatch.settings.methods import METHODS, Method
from trajmatch.settings.presets import preset
from trajmatch.settings.ranges import FINITE, Count, Few, Range, Threads

TIMINGS = "seconds_per_step.json"
MEND = "mend it, or choose another --out"
# Settings that no flag gives directly, and where they come from.
DERIVED = {
    "--steps": f", which follow from --budget, --most-steps and {TIMINGS}",
    "--outer.snapshot-at": ", the last step of the slowest of --methods",
}


@dataclass(frozen=True)
class Comparison:
    """All methods from the same experts, seeds, initial images and evaluation."""

    data: str
    """Images, as for trajmatch --data."""
    experts: Path
    """Folder of experts."""
    out: Path
    """Folder for the runs and the table."""
    preset: str = "cifar10-16px"
    """Preset that every run starts from."""
    flat_experts: Path | None = None
    """Folder of flat experts, for ftd, datm and satm-fi."""
    budget: Annotated[float, Range(1 / FINITE, FINITE, name="a positive number of seconds")] = 180.0
    """Seconds of outer steps for each run."""
    most_steps: Count | None = None
    """Most outer steps of a run, where the seconds would allow for more."""
    networks: Few = 3
    """Networks that score each set."""
    validate: bool = False
    """Whether sets are scored on training images alone, to choose settings."""
    ipc: tuple[Count, ...] = (1,)
    """Images per class."""
    methods: tuple[str, ...] = (
        "random",
        *(name for name, method in METHODS.items() if method.experts and not method.still),
    )
    """Methods; each may carry flags, in quotes."""
    seeds: Few = 3
    """Distillation seeds."""
    workers: Threads = field(default_factory=cores)
    """Runs at once, one thread each."""
    set: tyro.conf.Suppress[tuple[str, ...]] = ()
    """Flags of trajmatch that are given to every run, such as --matching.last-epoch 8."""

    @property
    def table(self) -> Path:
        """The file of the table."""
        return self.out / ("validation.json" if self.validate else "comparison.json")


@dataclass(frozen=True)
class Job:
    """One run: a method with changed flags, images per class, seed; and its outer steps."""

    name: str
    ipc: int
    seed: int
    steps: int = 0
    equal_steps: int = 0

    @property
    def method(self) -> Method:
        """What makes its method."""
        return METHODS[self.name.split()[0]]

    @property
    def folder(self) -> str:
        return f"{self.name.replace(' ', '')}-ipc{self.ipc}-seed{self.seed}"

    @property
    def timing(self) -> str:
        """The name of the seconds of its steps."""
        return f"{self.name}, {self.ipc} per class"


def configuration(about: Comparison, job: Job) -> Config:
    """A run's settings. A name is a method, or a method with flags: "satm --matching.radius 0.3"."""
    method, *changes = job.name.split()
    flags = [*about.set, *changes, "--method", method, "--data", about.data, "--ipc", str(job.ipc)]
    config = tyro.cli(Config, args=flags, default=preset(about.preset), prog="python -m benchmarks.compare_methods")
    config = replace(
        config,
        experts=str(experts_of(about, job)) if job.method.experts else config.experts,
        steps=job.steps or 1000,
        resume=True,
        out=str(about.out / job.folder),
        outer=replace(
            config.outer, seed=job.seed, threads=1, snapshot_at=(job.equal_steps,) if job.equal_steps else ()
        ),
        # The choice of a method must not depend on which experts it was given.
        expert=replace(config.expert, flat="yes" if takes_flat_experts(about, job) else "no"),
    )
    return resolve(config)


def takes_flat_experts(about: Comparison, job: Job) -> bool:
    """Whether a job's method wants flat experts and there is a folder of them."""
    return job.method.fills.get("expert.flat") == "yes" and about.flat_experts is not None


def experts_of(about: Comparison, job: Job) -> Path:
    """The folder of the experts of a job's method."""
    flat = about.flat_experts if takes_flat_experts(about, job) else None
    return flat or about.experts


def check(about: Comparison) -> None:
    """Refuse what can't be compared. Raises ValueError: one sentence with the flag, the value and what would be right.

    A wrong flag among a method's ends the program, as it does in `trajmatch`.
    """
    checked(about)
    try:
        preset(about.preset)
    except ValueError as error:
        raise ValueError(f"--preset: {error}") from None
    for name in about.methods:
        if not name.split() or name.split()[0] not in METHODS:
            raise ValueError(f"--methods has '{name}', which does not begin with one of {', '.join(METHODS)}")
    _check_once("--methods", [Job(name, 1, 0).folder for name in about.methods], about.methods)
    _check_once("--ipc", about.ipc, about.ipc)
    for job in first_jobs(about):
        configuration(about, job)


def _check_once(flag: str, places: Sequence[Any], values: Sequence[Any]) -> None:
    """Raise ValueError where two values have one place: two runs would write into the same folder."""
    for k, place in enumerate(places):
        if place in places[:k]:
            raise ValueError(f"{flag} has '{values[k]}' twice and must have it once")


def check_experts(about: Comparison, jobs: Sequence[Job]) -> None:
    """Raise ValueError where jobs that are still to be done need experts, and there are none."""
    for job in jobs:
        folder = experts_of(about, job)
        missing = not any(folder.glob("expert_*.safetensors"))
        if job.method.experts and missing and not result_path(about, job).exists():
            flag = "--flat-experts" if folder == about.flat_experts else "--experts"
            raise ValueError(
                f"{flag} is '{folder}', which holds no experts, and must be a folder of trained ones for '{job.name}'"
            )


def refuse_others(about: Comparison, jobs: Sequence[Job], apart: Collection[str] = ()) -> None:
    """Raise ValueError where a job's folder holds a run with other settings; those of `apart` are not looked at."""
    for job in jobs:
        folder, config = about.out / job.folder, configuration(about, job)
        if not (folder / CONFIG).is_file():
            check_claim(folder, config)
            continue
        if (what := unlike(folder, config, apart)) is not None:
            why = DERIVED.get(what.split()[0], "")
            raise ValueError(f"{folder} holds a run with other settings: {what}{why}; choose another --out")


def refuse_other_budget(about: Comparison) -> None:
    """Raise ValueError where the runs of the folder had another budget. Old records of seconds have none."""
    for path in (about.out / name for name in (TIMINGS, "comparison.json", "validation.json")):
        found = read_json(path, has(), MEND) if path.exists() else {}
        held = found.get("about", found).get("budget")
        if held is not None and held != about.budget:
            raise ValueError(f"{path}: --budget is {held:g} there and {about.budget:g} here; choose another --out")


def read_timings(about: Comparison) -> dict[str, float]:
    """Seconds of a step by `Job.timing`, as they were measured; none where nothing was yet."""
    path = about.out / TIMINGS
    found = read_json(path, _is_timings, MEND) if path.exists() else {}
    return {name: seconds for name, seconds in found.items() if name != "budget"}


def _is_timings(record: Any) -> bool:
    return isinstance(record, dict) and all(isinstance(v, float | int) and v > 0 for v in record.values())


def first_jobs(about: Comparison, seed: int = 0) -> list[Job]:
    """Every method at every size once, with its steps left open."""
    return [Job(name, ipc, seed) for ipc in about.ipc for name in about.methods]


def jobs_of(about: Comparison, timings: Mapping[str, float]) -> list[Job]:
    """All jobs, seed by seed, less those of methods whose seconds of a step are not known."""
    most = about.most_steps or math.inf
    steps = {name: int(max(1, min(most, about.budget // seconds))) for name, seconds in timings.items()}
    firsts = first_jobs(about)
    slowest = {
        ipc: min((steps[j.timing] for j in firsts if j.ipc == ipc and j.timing in steps), default=1)
        for ipc in about.ipc
    }
    return [
        job if job.method.still else replace(job, steps=steps[job.timing], equal_steps=slowest[job.ipc])
        for seed in range(about.seeds)
        for job in first_jobs(about, seed)
        if job.method.still or job.timing in steps
    ]


def result_path(about: Comparison, job: Job) -> Path:
    """The file of a job's result."""
    return about.out / job.folder / ("validation.json" if about.validate else "test.json")


def read_result(path: Path) -> dict[str, Any] | None:
    """A finished job's result, None where there is none. Raises ValueError where the file is damaged."""
    return read_json(path, _is_result, "delete it, and the set is scored again") if path.exists() else None


def _is_result(record: Any) -> bool:
    keys = "name", "ipc", "seed", "accuracy", "seconds", "steps", "peak_memory_mb", "step_size", "curve"
    return has(*keys)(record) and bool(record["accuracy"]) and all(map(is_share, record["accuracy"]))
