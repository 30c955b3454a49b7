"""What `trajmatch compare` reads: run folders and continual streams, each with all its settings. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trajmatch.data.checksums import identity
from trajmatch.data.file_names import CHECKPOINT, CONFIG, RANKING, SET, STREAM, SUMMARY, TRANSFER
from trajmatch.data.files import read_header
from trajmatch.pages import records as shapes
from trajmatch.pages.made import check_configuration
from trajmatch.settings.config import Config
from trajmatch.settings.config_file import read_config
from trajmatch.settings.flat import DEFAULTS, flatten
from trajmatch.settings.kinds import merged, with_setting
from trajmatch.settings.methods import METHODS, complete

# The checkpoint of a stream's first step says what the stream was made from.
FIRST = f"order-0/step-0/{CHECKPOINT}"


@dataclass(frozen=True)
class Entry:
    """A run or a stream: what it is of, its settings, its record, and what `trajmatch evaluate` has added."""

    name: str
    dataset: str
    method: str
    ipc: int
    settings: Mapping[str, Any]
    """All of them, with what was left to the method filled in."""
    given: Mapping[str, Any]
    """The same, with None for values that the method fills in where they are left out."""
    content: str | None
    """Hash of the real images, where the folder has a checkpoint."""
    record: Mapping[str, Any]
    transfer: Mapping[str, Any] = field(default_factory=dict)
    ranking: Mapping[str, Any] = field(default_factory=dict)


def read(folder: Path) -> Entry:
    """One run folder. Raises ValueError where it is no run, or is not finished, or a record in it is damaged."""
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} is not a run folder: it has no {CONFIG}")
    if not (folder / SUMMARY).is_file():
        raise ValueError(f"{folder} is not finished: it has no {SUMMARY}; trajmatch run makes one")
    check_configuration(folder)
    summary = _record(folder, SUMMARY, shapes.SUMMARY)
    entry = _entry(folder, CONFIG, read_config(folder / CONFIG), summary, CHECKPOINT)
    transfer, ranking = (
        _record(folder, name, shape) if (folder / name).exists() else {}
        for name, shape in ((TRANSFER, shapes.TRANSFER), (RANKING, shapes.RANKING))
    )
    return replace(entry, transfer=transfer, ranking=ranking)


def _record(folder: Path, name: str, shape: shapes.Shape) -> dict[str, Any]:
    """A record of the set in the folder. Raises ValueError where it is damaged, or of another set or other images."""
    found = shapes.record(folder / name, shape)
    belongs = {
        "set": identity(folder / SET) if (folder / SET).is_file() else None,
        # A summary is of the images that the set was made from; the others may be measured on others.
        "data": _made_from(folder / CHECKPOINT)[0] if name == SUMMARY else None,
    }
    shapes.check_belongs(folder / name, found, belongs)
    return found


def read_stream(folder: Path) -> Entry:
    """The folder of one continual stream. Raises ValueError where its record is damaged."""
    path = folder / STREAM
    found = shapes.record(path, shapes.STREAM)
    if len({len(found[key]) for key in ("classes_seen", "mean", "std")}) > 1:
        raise ValueError(f"{path}: this is not a record of a run: mean and std must be as long as classes_seen")
    return _entry(folder, STREAM, found.get("config", {}), found, FIRST)


def _entry(folder: Path, source: str, flat: Mapping[str, Any], found: Mapping[str, Any], checkpoint: str) -> Entry:
    """source: the file that the flat settings are from."""
    of = {key: found[key] for key in ("dataset", "method", "ipc")}
    config = _config(folder / source, {**flat, "method": of["method"], "ipc": of["ipc"]})
    settings = flatten(complete(config)) | {key: value for key, value in flat.items() if key not in DEFAULTS}
    given = {**settings, **dict.fromkeys(_filled(config))}
    content, experts = _made_from(folder / checkpoint)
    if experts is not None:
        # Experts of these settings and this seed are the same in any folder: their number is all that is open.
        settings["experts"] = given["experts"] = str(experts)
    return Entry(folder.resolve().name, **of, settings=settings, given=given, content=content, record=found)


def _config(path: Path, flat: Mapping[str, Any]) -> Config:
    """The configuration of flat settings. Raises ValueError for a value of another type or out of its range."""
    config = merged(Config(), {key: value for key, value in flat.items() if key in DEFAULTS}, str(path))
    if config.steps < 1 and not METHODS[config.method].still:
        raise ValueError(f"{path}: --steps is {config.steps} and must be at least 1")
    return config


def _filled(config: Config) -> list[str]:
    """The settings whose values are those that the method fills in where they are left out."""
    full = flatten(complete(config))
    left = [key for key, default in DEFAULTS.items() if default in (None, "auto") and full[key] != default]
    return [key for key in left if flatten(complete(with_setting(config, key, DEFAULTS[key])))[key] == full[key]]


def _made_from(path: Path) -> tuple[str | None, int | None]:
    """The hash of the real images and the number of experts in a checkpoint, None where there is no such file."""
    if not path.is_file():
        return None, None
    settings = read_header(path).get("settings")
    if not isinstance(settings, dict) or not isinstance(content := settings.get("data"), str):
        raise ValueError(f"{path}: this is not the checkpoint of a run")
    experts = settings.get("experts")
    # A stream's step adds its classes to the hash of all images.
    return content.split(",")[0], experts if shapes.is_count(experts) else None
