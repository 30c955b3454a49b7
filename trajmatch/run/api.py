"""`trajmatch.distill`: in a notebook what the command line does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from trajmatch.data.synthetic import SyntheticSet, load
from trajmatch.machine.litter import scratch_folder
from trajmatch.machine.messages import heard
from trajmatch.machine.precision import precision
from trajmatch.run.stages.run import begun
from trajmatch.settings.choices import Left, left_open
from trajmatch.settings.config import Config, MethodName
from trajmatch.settings.presets import ANY_IMAGES, DEFAULT, preset


def distill(
    dataset: Any,
    ipc: int = 1,
    *,
    method: MethodName | None = None,
    steps: int | None = None,
    experts: int | str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    config: Config | None = None,
    workers: int = 1,
    quiet: bool = False,
) -> SyntheticSet:
    """A synthetic set of `ipc` images per class, distilled from `dataset`.

    dataset: what --data takes, or a torch map-style data set of (image, label), or a pair (train, test) of them.
    config:  all other settings; by default the preset for digits, or for other images what they decide. What is given
             here goes before it.
    experts: how many to train, or a folder of trained ones.
    out:     run folder; an interrupted run of the same settings goes on there. None works in a temporary folder.
    workers: processes for experts. More than 1 needs `if __name__ == "__main__":` around a script's code.
    quiet:   say nothing. Otherwise messages go to the handlers of `logging` that the program has set up, or to stderr.
    Raises ValueError for bad settings or data, OSError where files cannot be written.
    """
    named = isinstance(dataset, str | Path)
    any_images = config is None and not (str(dataset) == "digits" and named)
    left = Left(left_open(["steps"] if steps is not None else []) if any_images else frozenset())
    base = config or preset(DEFAULT if str(dataset) == "digits" and named else ANY_IMAGES)
    given = {"method": method, "steps": steps, "experts": None if experts is None else str(experts)}
    base = replace(
        base,
        **{key: value for key, value in given.items() if value is not None},  # type: ignore[arg-type]
        data=str(dataset) if named else f"{_type_name(dataset)} in Python",
        ipc=ipc,
        seed=seed,
        device=device,
        resume=True,
        expert=replace(base.expert, workers=workers),
    )
    with precision("float32"), scratch_folder() as temporary:
        folder = temporary / "run" if out is None else Path(out)
        source = None if named else dataset
        with heard(quiet, once=True):
            this = begun(base, folder, "trajmatch.distill(...)", left, source=source)
            this.experts()
            this.distill()
        return load(folder)


def _type_name(dataset: Any) -> str:
    return type(dataset[0] if isinstance(dataset, tuple) else dataset).__name__
