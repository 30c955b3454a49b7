"""Dataset condensation by trajectory matching: a real image dataset in, a tiny synthetic one out.

    >>> import trajmatch
    >>> synthetic = trajmatch.distill("digits", ipc=1, out="runs/mine")     # doctest: +SKIP
    >>> synthetic = trajmatch.load("runs/mine")                             # doctest: +SKIP
    >>> scores = trajmatch.evaluate(synthetic, "digits")                    # doctest: +SKIP
    >>> network = trajmatch.train(my_network, synthetic, trajmatch.recipe(synthetic))  # doctest: +SKIP

Names are loaded when first used, so that `trajmatch --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trajmatch.data.hub_sets import load
    from trajmatch.data.synthetic import SyntheticSet
    from trajmatch.measure.evaluate import Score
    from trajmatch.measure.recipe import Augment, Batches, train
    from trajmatch.methods.training import Training
    from trajmatch.run.api import distill, evaluate, recipe
    from trajmatch.settings.config import Config
    from trajmatch.settings.presets import preset

__all__ = [
    "Augment", "Batches", "Config", "Score", "SyntheticSet", "Training", "distill", "evaluate", "load", "preset",
    "recipe", "train",
]  # fmt: skip

_HOMES = {
    "Augment": "trajmatch.measure.recipe",
    "Batches": "trajmatch.measure.recipe",
    "Config": "trajmatch.settings.config",
    "Score": "trajmatch.measure.evaluate",
    "SyntheticSet": "trajmatch.data.synthetic",
    "Training": "trajmatch.methods.training",
    "distill": "trajmatch.run.api",
    "evaluate": "trajmatch.run.api",
    "load": "trajmatch.data.hub_sets",
    "preset": "trajmatch.settings.presets",
    "recipe": "trajmatch.run.api",
    "train": "trajmatch.measure.recipe",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("trajmatch")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'trajmatch' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
