"""`trajmatch diagnose NAME`: open the runs, compute, and write numbers, figure and the report."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any

from trajmatch.data.checksums import identity
from trajmatch.data.file_names import SET, SUMMARY
from trajmatch.data.files import replacing, write_record
from trajmatch.data.kept import BELONGS
from trajmatch.machine.lock import Lock
from trajmatch.machine.messages import LOGGER
from trajmatch.machine.progress import Meter
from trajmatch.pages.plots import png
from trajmatch.pages.report import write_report
from trajmatch.run.diagnose.diagnosis import Diagnosis
from trajmatch.run.diagnose.subject import Opened, Opener
from trajmatch.run.folder import commit
from trajmatch.settings.diagnoses import NAMES, WITHOUT_EXPERTS, check
from trajmatch.settings.options import DIAGNOSES, Diagnose


def diagnose(name: str, options: Diagnose, command: str) -> Path:
    """Compute one diagnosis; returns the JSON's path, beside which the figure lies.

    Raises ValueError for a name or an option that is out of range, for several runs where the diagnosis looks at one
    alone, and for runs that can't be opened.
    """
    check(name, options)
    found = diagnosis(name)
    if found.alone and len(options.run) > 1:  # the others would be left out without a word
        raise ValueError(f"--run has {len(options.run)} run folders and must have one: {name} looks at one run alone")
    runs = open_runs(name, options)
    options, folder = with_radius(options, runs), options.folder()
    total = found.total(runs, options)
    LOGGER.info(f"{name}: {total} pieces of work")
    folder.mkdir(parents=True, exist_ok=True)
    with Lock(folder, f".{name}.lock", name):  # a run that goes on is not disturbed, nor are other diagnoses of it
        with Meter(name, total, unit="pieces") as meter:
            numbers = _as_json(found.numbers(runs, options, lambda count: meter.advance(count=count)))
        about = {"diagnosis": name, "about": NAMES[name], "command": command, "commit": commit()}
        write_record(folder / f"{name}.json", about | numbers | {BELONGS: _belongs(options)})
        with replacing(folder / f"{name}.png") as temporary:
            temporary.write_bytes(png(found.draw(numbers)))
        report(folder, options)
    return folder / f"{name}.json"


def _belongs(options: Diagnose) -> dict[str, str]:
    """What the numbers belong to: the set of the first run, once it has one, or the set that was named."""
    place = options.set or options.run[0]
    file = place if place.is_file() else place / SET
    return {"set": identity(file)} if file.is_file() else {}


def with_radius(options: Diagnose, runs: Sequence[Opened]) -> Diagnose:
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


def diagnosis(name: str) -> Diagnosis:
    """The diagnosis of this name."""
    module = import_module(f"trajmatch.run.diagnose.{name.replace('-', '_')}")
    found: Diagnosis = module.DIAGNOSIS
    return found


def open_runs(name: str, options: Diagnose) -> list[Opened]:
    """What the options name, opened for a diagnosis. Raises ValueError."""
    opener = Opener(options.data, options.device, options.engine, name not in WITHOUT_EXPERTS)
    if options.set is not None:
        return [opener.set(options.set, options.experts)]
    return [opener.run(folder) for folder in options.run]


def report(folder: Path, options: Diagnose) -> None:
    """Write the first run's report again, where it has one, with what lies in its folder of diagnoses."""
    LOGGER.info(f"numbers and figure: {folder}")
    if options.run and folder == options.run[0] / DIAGNOSES and (options.run[0] / SUMMARY).exists():
        LOGGER.info(f"report: {write_report(options.run[0])}")
