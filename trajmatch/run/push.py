"""`trajmatch push`: a distilled set as a data set repository of the Hugging Face Hub."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from trajmatch.data import synthetic as sets
from trajmatch.data.checksums import identity
from trajmatch.data.file_names import AFTER, CONFIG, SET, SUMMARY
from trajmatch.data.files import write_json, write_text
from trajmatch.data.grid import displayable, image_grid, save_png
from trajmatch.data.hub_sets import write_viewed
from trajmatch.data.reading import hub, parquet
from trajmatch.machine.messages import LOGGER
from trajmatch.pages import records as shapes
from trajmatch.pages.card import card
from trajmatch.run.assembly.set_file import base_configuration, set_file
from trajmatch.settings.flat import FREE, nest
from trajmatch.settings.options import Push

CARD, SCORES, TABLE = "README.md", "scores.json", "data/train-00000-of-00001.parquet"
# What of a summary is told to others.
TOLD = (
    "dataset",
    "images",
    "method",
    "ipc",
    "factor",
    "seed",
    "steps",
    "step_size",
    "accuracy",
    "compression",
    "torch",
)


def push(place: Path, name: str, options: Push) -> str:
    """Write the repository of a set and upload it, or only write it where `options.out` says so; returns where it is.

    place: a run folder, or the file of a set. name: of the repository, with or without its owner.
    Raises ValueError: for no set, for a Hub that is not there or refuses, for a repository that holds something else.
    """
    target = hub.parsed(name)
    if target.config is not None or target.revision is not None:
        raise ValueError(f"NAME is {name!r} and must be the name of a repository, such as owner/digits-distilled.")
    set_file(place)
    if options.out is not None:
        if options.out.exists():
            raise ValueError(f"--out is {options.out}, which exists: name a folder that does not.")
        write_repository(place, target.name, options.out)
        return str(options.out)
    parquet.require("huggingface_hub", "trajmatch push uploads to the Hugging Face Hub")
    advice = "--out FOLDER writes the repository without uploading it"
    hub.check_reachable(f"{name} cannot be written: ", advice)
    with TemporaryDirectory() as folder:
        write_repository(place, target.name, Path(folder) / "repository")
        try:
            return _uploaded(Path(folder) / "repository", target.name, options.private)
        except ValueError:
            raise
        except Exception as error:  # the client's own, and httpx's
            raise ValueError(
                f"{name} cannot be written on the Hugging Face Hub ({hub.reason(error)}): log in by `hf auth login` or "
                f"set HF_TOKEN, to an account that may write there; {advice}."
            ) from error


def write_repository(place: Path, name: str, folder: Path) -> None:
    """Write into a new folder what a repository holds: the set, its card, picture, recipe, scores and table."""
    file = set_file(place)
    synthetic = sets.load(file)
    recipe = _for_others(base_configuration(file))
    made = replace(synthetic, info={**synthetic.info, "config": recipe})
    summary = _summary(place, file)
    (folder / TABLE).parent.mkdir(parents=True)
    sets.save(made, folder / SET)
    pixels = displayable(made.stored_pixels)
    save_png(image_grid(pixels, made.Y, made.classes), folder / AFTER)
    write_text(folder / CONFIG, yaml.safe_dump(nest(recipe), sort_keys=False, allow_unicode=True))
    write_json(folder / SCORES, summary)
    write_viewed(made, folder / TABLE)
    write_text(folder / CARD, card(name, made.info, len(made.X), made.eta, summary.get("accuracy", {})))


def _summary(place: Path, file: Path) -> dict[str, Any]:
    """What is told of a run's scores; nothing where the set was not scored."""
    path = place / SUMMARY
    if not (place.is_dir() and path.is_file()):
        LOGGER.warning(f"{place} has no {SUMMARY}: the card will say that the set was not scored")
        return {}
    found = shapes.record(path, shapes.REPORTED)
    shapes.check_belongs(path, found, {"set": identity(file)})
    return {key: found[key] for key in TOLD if key in found}


def _for_others(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those of this machine; of paths the last name alone."""
    found = {key: value for key, value in config.items() if key not in FREE}
    data = str(config.get("data", ""))
    if not (data.startswith(hub.PREFIX) or hub.is_hub_name(data)):
        found["data"] = Path(data).name
    if not str(config.get("experts", "")).isdecimal():
        found.pop("experts", None)
    return found


def _uploaded(folder: Path, name: str, private: bool) -> str:
    """Upload a folder in one commit; the address of the repository. Raises what the client raises."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api = HfApi(endpoint=hub.endpoint())
    made = api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
    there = {file.rfilename for file in api.dataset_info(made.repo_id).siblings or ()} - {".gitattributes"}
    if there and SET not in there:
        raise ValueError(f"{made.repo_id} holds another data set on the Hugging Face Hub: choose another name.")
    if made.repo_id != name:  # the owner is known now
        text = (folder / CARD).read_text(encoding="utf-8")
        write_text(folder / CARD, text.replace(f'"{hub.PREFIX}{name}"', f'"{hub.PREFIX}{made.repo_id}"'))
    api.upload_folder(
        repo_id=made.repo_id, folder_path=folder, repo_type="dataset", commit_message="A set distilled by trajmatch"
    )
    return str(made)
