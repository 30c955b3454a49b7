"""Settings that a command leaves open are settled, by what the images are or by the run folder that is there."""

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from trajmatch.data.file_names import CONFIG, EXPERT
from trajmatch.data.material import Material
from trajmatch.data.reading.sides import shorter_side
from trajmatch.data.trajectories import Trajectory
from trajmatch.machine.messages import LOGGER
from trajmatch.machine.processes import processes
from trajmatch.run.assembly.setup import check, device, load_material
from trajmatch.run.folder import check_claim
from trajmatch.run.stages.experts import count_or_folder
from trajmatch.run.stages.plan import plan
from trajmatch.settings.checks import resolve
from trajmatch.settings.choices import SIDE, Choice, Left, by_number, by_size, chosen
from trajmatch.settings.config import Config
from trajmatch.settings.config_file import read_config
from trajmatch.settings.kinds import checked, with_setting
from trajmatch.settings.methods import METHODS
from trajmatch.settings.minutes import Measured, fitting


def settled(
    config: Config, left: Left, folder: Path | None = None, source: Any = None, told: tuple[str, ...] = ("",)
) -> tuple[Config, Material | None]:
    """The configuration with its open settings settled, and the images where they have been read for that.

    left: the open settings, and the minutes that there are for a run. folder: of the run; what its config.yaml says is
    taken, so that a command that is given again goes on. source: the images where --data does not name them.

    Every choice is told in a line, where its setting begins with a word of `told`. Raises ValueError.
    """
    open_, began = left.keys, time.monotonic()
    if not open_:
        return config, None
    if folder is not None and (folder / CONFIG).is_file():
        return _as_before(config, open_, folder), None
    if folder is not None and folder.name != "experts":
        check_claim(folder, config)
    own = of_experts(config, open_)
    config, open_ = chosen(config, own), open_ - {choice.key for choice in own}
    _check_at_once(config, open_)
    side = None
    if "images.size" in open_ and config.data.strip():
        i = config.images
        side = shorter_side(config.data if source is None else source, i.train_split, i.test_split)
    # Where nobody could look, the size stays that of the preset.
    choices = by_size(config, open_, side)
    config = checked(chosen(config, choices))
    material = load_material(config, source)
    dataset = material.dataset
    more = by_number(config, open_, len(dataset.train), dataset.num_classes, dataset.shape[-1])
    for choice in (*own, *choices, *more):
        if choice.key.startswith(told):
            LOGGER.info(choice.line())
    config = chosen(config, more)
    if left.minutes is None:
        return config, material
    return _in_time(config, material, left._replace(keys=open_), began), material


def of_experts(config: Config, open_: Collection[str]) -> list[Choice]:
    """The open settings that experts in a folder were trained with, where --experts names one that holds some."""
    if not METHODS[config.method].experts or isinstance(where := count_or_folder(config.experts), int):
        return []
    first = min(where.glob(EXPERT.format("*")), default=None)
    held = {} if first is None else Trajectory.open(first).header.get("settings", {})
    return [Choice(key, held[key], f"as the experts in {where} have it") for key in sorted(open_) if key in held]


def _in_time(config: Config, material: Material, left: Left, began: float) -> Config:
    """The configuration with what fits into the minutes, by a little of each stage. began: when the minutes began."""
    assert left.minutes is not None
    whole = resolve(config)
    LOGGER.info(f"a little of each stage is measured, to fit the run into {left.minutes:g} minutes")
    measured_plan = plan(whole, count_or_folder(whole.experts), read=(material, 0.0))
    planned = {stage.name: stage.seconds for stage in measured_plan.stages}
    measured = Measured(planned.get("experts", 0.0), planned["distill"], planned["evaluate"])
    seconds = 60 * left.minutes - (time.monotonic() - began)
    workers = processes(whole.expert.workers, device(whole.device).type)
    choices = fitting(whole, left.keys, measured, seconds, workers)
    for choice in choices:
        LOGGER.info(choice.line())
    return chosen(config, choices)


def _check_at_once(config: Config, open_: Collection[str]) -> None:
    """Raise ValueError, before images are read, for what would be refused whatever they are."""
    choices = [*by_size(config, open_, SIDE), *by_number(config, open_, 10_000, 10, SIDE)]
    check(resolve(chosen(config, choices)))


def _as_before(config: Config, open_: Collection[str], folder: Path) -> Config:
    held = read_config(folder / CONFIG)
    for key in sorted(open_):
        if key in held:
            config = with_setting(config, key, held[key])
    LOGGER.info(f"settings that were chosen before are as in {folder / CONFIG}")
    return config
