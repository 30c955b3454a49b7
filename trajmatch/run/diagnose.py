"""`trajmatch diagnose NAME`: open the runs, compute, and write numbers, figure and the report. No torch here."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trajmatch.pages.plots import png
from trajmatch.run.kinds import checked
from trajmatch.run.options import DIAGNOSES, Options
from trajmatch.run.scoring import SET
from trajmatch.run.shapes import DIAGNOSIS, record

if TYPE_CHECKING:
    from trajmatch.run.diagnosis import Diagnosis
    from trajmatch.run.opened import Opened

NAMES = {
    "correlation": "cosines between the hypergradients of segments that start at different epochs",
    "interference": "change of a segment's loss after an outer step on another one alone",
    "forgetting": "loss of a fixed panel of segments over the distillation",
    "accumulated-error": "error of a student that is never reset to the expert, in its two parts",
    "hypergradient-norm": "norm of the hypergradient over the steps, its spikes, and the sharpness of the loss",
    "truncation": "accuracy and error of the hypergradient by how many inner steps are differentiated",
    "learning-rate": "the step size's path under the closed form and under the exact derivative",
    "cost": "seconds and peak memory of every estimator as T, mini-batch and width grow",
    "landscape": "the matching loss over a plane of images around the set",
    "nearest": "the nearest real training image of each synthetic one, and how far it is",
}
# These diagnoses look at images alone.
WITHOUT_EXPERTS = {"nearest"}


def diagnose(name: str, options: Options, command: str, say: Callable[[str], None], quiet: bool = False) -> Path:
    """Compute one diagnosis; returns the JSON's path, beside which the figure lies.

    Raises ValueError for a name or an option that is out of range, and for runs that can't be opened.
    """
    check(name, options)
    from trajmatch.data.files import replacing, write_record
    from trajmatch.data.kept import BELONGS
    from trajmatch.run.folder import commit
    from trajmatch.run.lock import Lock
    from trajmatch.run.progress import Meter

    found, runs = diagnosis(name), open_runs(name, options)
    options, folder = with_radius(options, runs), options.folder()
    total = found.total(runs, options)
    say(f"{name}: {total} pieces of work")
    folder.mkdir(parents=True, exist_ok=True)
    with Lock(folder, f".{name}.lock", name):  # a run that goes on is not disturbed, nor are other diagnoses of it
        with Meter(name, total, unit="pieces", quiet=quiet) as meter:
            numbers = _as_json(found.numbers(runs, options, lambda count: meter.advance(count=count)))
        about = {"diagnosis": name, "about": NAMES[name], "command": command, "commit": commit()}
        write_record(folder / f"{name}.json", about | numbers | {BELONGS: _belongs(options)})
        with replacing(folder / f"{name}.png") as temporary:
            temporary.write_bytes(png(found.draw(numbers)))
        report(folder, options, say)
    return folder / f"{name}.json"


def _belongs(options: Options) -> dict[str, str]:
    """What the numbers belong to: the set of the first run, once it has one, or the set that was named."""
    from trajmatch.data.checksums import identity

    place = options.set or options.run[0]
    file = place if place.is_file() else place / SET
    return {"set": identity(file)} if file.is_file() else {}


def with_radius(options: Options, runs: "Sequence[Opened]") -> Options:
    """The options with the largest of the runs' radii where the user gave none, so that one radius holds for all."""
    if options.radius is not None:
        return options
    return replace(options, radius=max(run.config.matching.radius for run in runs))


def _as_json(value: Any) -> Any:
    """The value with None for every number that JSON has no word for, such as the error of a single sample."""
    if isinstance(value, dict):
        return {key: _as_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(part) for part in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def diagnosis(name: str) -> "Diagnosis":
    """The diagnosis of this name."""
    module = import_module(f"trajmatch.run.diagnoses.{name.replace('-', '_')}")
    found: Diagnosis = module.DIAGNOSIS
    return found


def open_runs(name: str, options: Options) -> "list[Opened]":
    """What the options name, opened for a diagnosis. Raises ValueError."""
    from trajmatch.run.opened import Opener

    opener = Opener(options.data, options.device, options.engine, name not in WITHOUT_EXPERTS)
    if options.set is not None:
        return [opener.set(options.set, options.experts)]
    return [opener.run(folder) for folder in options.run]


def report(folder: Path, options: Options, say: Callable[[str], None]) -> None:
    """Write the first run's report again, where it has one, with what lies in its folder of diagnoses."""
    from trajmatch.run.report import write_report

    say(f"numbers and figure: {folder}")
    if options.run and folder == options.run[0] / DIAGNOSES and (options.run[0] / "summary.json").exists():
        say(f"report: {write_report(options.run[0])}")


def check(name: str, options: Options) -> None:
    """Raise ValueError for an unknown name or an option that is out of range."""
    if name not in NAMES:
        near = get_close_matches(name, NAMES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
        raise ValueError(f"'{name}' is not a diagnosis; {hint}")
    if bool(options.run) == (options.set is not None):
        raise ValueError("name what is to be looked at: --run with one or more run folders, or --set with --experts")
    if options.set is not None and options.experts is None and name not in WITHOUT_EXPERTS:
        raise ValueError("--set needs --experts, a folder of experts to match it against")
    checked(options)


def read(folder: Path) -> list[tuple[dict[str, Any], Path]]:
    """The diagnoses in a folder, each with its figure, in the order in which they are listed."""
    found = []
    for name in NAMES:
        numbers, figure = folder / f"{name}.json", folder / f"{name}.png"
        if numbers.exists() and figure.exists():
            found.append((record(numbers, DIAGNOSIS, "these are not the numbers of a diagnosis"), figure))
    return found
