"""Whether the files of a run folder are of one run: they say with what they were made. No torch here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trajmatch.data.file_names import CONFIG, EXPERTS_JSON, METRICS, SET
from trajmatch.data.files import read_header
from trajmatch.data.kept import digest, read_record
from trajmatch.pages.step_log import TIMES, read_log
from trajmatch.settings.config_file import read_config
from trajmatch.settings.flat import DISTILL_FIELDS, FREE, INCIDENTAL, difference

# The key of a summary that holds digests of the log and of the experts' record beside it.
MADE_OF = "made_of"
Flat = Mapping[str, Any]


def check_same(path: Path, held: Flat, other: Path, wanted: Flat) -> None:
    """Raise ValueError where one file was made with other settings than another one of its folder."""
    if (what := difference(held, wanted)) is not None:
        raise ValueError(
            f"{path} is of another run than {other}: {what}; put back the file that belongs here, or start anew in "
            "another --out"
        )


def set_settings(flat: Flat) -> dict[str, Any]:
    """Those of all settings of a set on which its images depend."""
    return {k: v for k, v in flat.items() if k.split(".")[0] in DISTILL_FIELDS and k not in INCIDENTAL}


def check_configuration(folder: Path) -> None:
    """Raise ValueError where a run folder's config.yaml is not that of its set, or no configuration."""
    config, path = folder / CONFIG, folder / SET
    if not (config.is_file() and path.is_file()):
        return
    info = read_header(path).get("info")
    held = info.get("config") if isinstance(info, dict) else None
    if isinstance(held, dict):
        mine, theirs = ({k: v for k, v in flat.items() if k not in FREE} for flat in (read_config(config), held))
        check_same(path, theirs, config, mine)


def log_digest(rows: Sequence[Flat]) -> str:
    """A digest of the rows of a log, their times left out."""
    return digest([{k: v for k, v in row.items() if k not in TIMES} for row in rows])


def experts_digest(record: Flat) -> str:
    """A digest of what a record of experts measured."""
    return digest([record.get("test_accuracy"), record.get("train_accuracy")])


def made_of(folder: Path, held: Flat) -> dict[str, str]:
    """Digests of the log and of the experts' record of a run folder; held: what its summary says of the same set.

    The log's is that of the time when the set was made: a log that is damaged later must not become the right one.
    """
    said, experts, log = held.get(MADE_OF), folder / EXPERTS_JSON, read_log(folder / METRICS)
    found = {key: said[key] for key in ("log",) if isinstance(said, dict) and isinstance(said.get(key), str)}
    if "log" not in found and not log.damaged:
        found["log"] = log_digest(log.rows)
    if experts.exists():
        found["experts"] = experts_digest(read_record(experts, "this is not the record of experts", "delete it"))
    return found


def is_of(summary: Flat, key: str, found: str) -> bool:
    """Whether a file's digest is what a summary says; one of an older version does not say."""
    said = summary.get(MADE_OF)
    return not isinstance(said, dict) or said.get(key, found) == found
