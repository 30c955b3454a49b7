"""`trajmatch.distill`: in a notebook what the command line does."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from trajmatch.data.synthetic import SyntheticSet, load
from trajmatch.machine.litter import scratch_folder
from trajmatch.machine.messages import heard
from trajmatch.machine.precision import precision
from trajmatch.run.stages.run import Run
from trajmatch.settings.config import Config, LogName, MethodName
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
    log: Sequence[LogName] = (),
    quiet: bool = False,
) -> SyntheticSet:
    """A synthetic set of `ipc` images per class, distilled from `dataset`.

    dataset: what --data takes, or a torch map-style data set of (image, label), or a pair (train, test) of them.
    config:  all other settings; by default the preset for digits or for any images. What is given here goes before it.
    experts: how many to train, or a folder of trained ones.
    out:     run folder; an interrupted run of the same settings goes on there. None works in a temporary folder.
    workers: processes for experts. More than 1 needs `if __name__ == "__main__":` around a script's code.
    log:     loggers that are told of it, any of "tensorboard", "wandb" and "trackio"; they need `out`.
    quiet:   say nothing. Otherwise messages go to the handlers of `logging` that the program has set up, or to stderr.
    Raises ValueError for bad settings or data, OSError where files cannot be written.
    """
    if log and out is None:
        raise ValueError(f"log is {list(log)} and needs out, the run folder that logs go on in")
    named = isinstance(dataset, str | Path)
    base = config or preset(DEFAULT if str(dataset) == "digits" and named else ANY_IMAGES)
    trained = None if experts is None else str(experts)
    given = {"method": method, "steps": steps, "experts": trained, "log": tuple(log) or None}
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
        with heard(quiet, once=True), closing(Run(base, folder, "trajmatch.distill(...)", source=source)) as this:
            this.experts()
            this.distill()
        return load(folder)


def _type_name(dataset: Any) -> str:
    return type(dataset[0] if isinstance(dataset, tuple) else dataset).__name__
