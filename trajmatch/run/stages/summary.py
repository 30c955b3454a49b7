"""What a run's summary tells beside its accuracies: its images, what the set stands for, settings that nobody gave."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from trajmatch.data.file_names import METRICS, SET
from trajmatch.pages.step_log import read_metrics
from trajmatch.run.assembly.setup import Setup
from trajmatch.settings.config import Config
from trajmatch.settings.heeded import idle
from trajmatch.settings.kinds import get


def compression(setup: Setup, folder: Path, count: int) -> dict[str, Any]:
    """How many real images, and bytes of their pixels, each synthetic one and byte of the set's file stands for.

    count: synthetic images. The real images are those that the set was made of: validation images that are held out are
    not among them. A whitening's file, which real images need too, is not counted.
    """
    x, size = setup.dataset.train.x, (folder / SET).stat().st_size
    images = {"compression": len(x) / count, "whole_images": len(x)}
    return {**images, "compression_bytes": x.nbytes / size, "real_bytes": x.nbytes, "set_bytes": size}


def told(setup: Setup) -> dict[str, Any]:
    """What a reader of the report wants to know first, and what is not a setting alone."""
    config, dataset = setup.config, setup.dataset
    shown = {"class_names": list(dataset.shown)} if dataset.shown else {}
    about = {"network": config.network.told(), "shape": list(dataset.shape)}
    return {"seed": config.seed, "distillation_seed": setup.seed, **about, **shown}


def chosen(config: Config, folder: Path, keys: Collection[str]) -> dict[str, Any]:
    """Settings that nobody gave, by name, where they have an effect; the first step size as it was found."""
    without = {key for of in idle("run", config, None, sorted(keys)).values() for key in of}
    found = {key: get(config, key) for key in sorted(keys) if key not in without}
    if (rows := read_metrics(folder / METRICS)[0]) and found.get("outer.step_size", 0) is None:
        found["outer.step_size"] = float(f"{rows[0]['step_size']:.6g}")  # which was a float32
    return found
