"""Claims a run folder for one configuration and refuses any other. No torch here."""

import json
import subprocess
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import yaml

from trajmatch.data.file_names import CHECKPOINT, CONFIG, EXPERT, NETWORKS, UNFINISHED
from trajmatch.data.files import read_header, write_text
from trajmatch.machine.messages import counted
from trajmatch.settings.config import Config
from trajmatch.settings.config_file import read_config
from trajmatch.settings.flat import FREE, difference, flatten, nest
from trajmatch.settings.methods import PLAIN

PLAIN_SETTINGS = flatten(PLAIN)


def check_claim(folder: Path, config: Config) -> bool:
    """Whether the folder holds a run of this configuration already; False for a new or empty one. Changes nothing.

    Raises ValueError where it belongs to another configuration or holds something else.
    """
    if (folder / CONFIG).is_file():
        if (what := unlike(folder, config)) is not None:
            raise ValueError(f"{folder} holds a run with other settings: {what}; choose another --out")
        return True
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose another --out")
    # What `trajmatch experts` leaves is no obstacle: experts say themselves how they were trained.
    if folder.is_dir() and any(
        not child.name.startswith(".") and child.name != "experts" for child in folder.iterdir()
    ):
        raise ValueError(f"{folder} is not empty and not a run folder (it has no {CONFIG}); choose another --out")
    return False


def unlike(folder: Path, config: Config, apart: Collection[str] = ()) -> str | None:
    """The first setting in which the run of a folder differs from a configuration, in words, or None.

    apart: settings that are not looked at. A setting that the folder's record leaves open, or lacks because the record
    is older, is compared as what it is where no method fills it in.
    """
    held, wanted = (
        PLAIN_SETTINGS | {k: v for k, v in flat.items() if v is not None}
        for flat in (read_config(folder / CONFIG), flatten(config))
    )
    return difference(*({k: v for k, v in flat.items() if k not in (*FREE, *apart)} for flat in (held, wanted)))


def claim(folder: Path, config: Config) -> None:
    """Make the folder and write config.yaml, where that is not done. Raises as `check_claim`, and OSError."""
    if check_claim(folder, config):
        return
    folder.mkdir(parents=True, exist_ok=True)
    kept = {k: v for k, v in flatten(config).items() if k not in ("out", "resume")}
    write_text(folder / CONFIG, yaml.safe_dump(nest(kept), sort_keys=False, allow_unicode=True))


def saved(folder: Path) -> str:
    """What of a work that was interrupted a folder holds, in words: what the next command will not do again."""
    experts = len(list(folder.rglob(EXPERT.format("*"))))
    epochs = sorted(_numbers(folder, UNFINISHED.format("*"), "epoch"))
    steps = sum(_numbers(folder, CHECKPOINT, "step"))
    networks = sum(_entries(path) for path in folder.rglob(NETWORKS))
    found = [counted(experts, "expert")] if experts else []
    if epochs:
        done = " and ".join(map(str, epochs[:-1])) + " and " * (len(epochs) > 1) + counted(epochs[-1], "epoch")
        found.append(f"{done} of {'unfinished experts' if len(epochs) > 1 else 'an unfinished expert'}")
    found += [counted(steps, "outer step")] if steps else []
    found += [counted(networks, "scored network")] if networks else []
    if not found:
        return f"nothing is saved in {folder}, for nothing was complete"
    return f"saved in {folder}: {', '.join(found)}; what was begun after that is lost"


def _numbers(folder: Path, pattern: str, key: str) -> list[int]:
    """A number in the headers of the tensor files of a name, below a folder; damaged files tell nothing."""
    found: list[int] = []
    for path in folder.rglob(pattern):
        with suppress(ValueError, OSError):  # the next command says what is wrong with it
            found += [value for value in [read_header(path).get(key)] if isinstance(value, int) and value]
    return found


def _entries(path: Path) -> int:
    """How many networks a record of accuracies has; none where it is damaged."""
    with suppress(ValueError, OSError):  # the next command says what is wrong with it
        found = json.loads(path.read_text(encoding="utf-8"))
        return len(found) if isinstance(found, dict) else 0
    return 0


def commit() -> str | None:
    """The commit of this package's own checkout, with + where it has been changed; None outside of one."""
    here = Path(__file__).parents[1]
    try:
        ask = ["git", "-C", str(here), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        inside = ["git", "-C", str(here), "ls-files", "--error-unmatch", "__init__.py"]
        subprocess.run(inside, capture_output=True, check=True, timeout=10)
        return subprocess.run(ask, capture_output=True, check=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
