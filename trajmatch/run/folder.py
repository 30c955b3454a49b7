"""Claims a run folder for one configuration and refuses any other. No torch here."""

import subprocess
from collections.abc import Collection
from pathlib import Path

import yaml

from trajmatch.data.file_names import CONFIG
from trajmatch.data.files import write_text
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
