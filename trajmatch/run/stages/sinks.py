"""The logs that --log names: TensorBoard, Weights & Biases and trackio, each behind the same few functions."""

import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import yaml
from PIL import Image

PROJECT = "trajmatch"


class Opening(NamedTuple):
    """What a log is opened with.

    folder: the run folder. id: that of this run in the log. begun: whether it was opened before, and goes on.
    step:   the last step that it was told. settings: the configuration, flat.
    """

    folder: Path
    id: str
    begun: bool
    step: int
    settings: Mapping[str, Any]


class Sink(Protocol):
    """A log of one run. Steps come in order, each once."""

    where: str
    """Where the log is, in words."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Tell numbers of an outer step by name."""

    def picture(self, image: Image.Image, step: int) -> None:
        """Tell the picture of the set after an outer step."""

    def scores(self, values: Mapping[str, float], step: int) -> None:
        """Tell what the set is worth after its last step, by name."""

    def back(self, step: int) -> bool:
        """Take back what was told of steps above `step`; False where this log can't, and keeps what it was told."""

    def flush(self) -> None:
        """Bring what was told out of this process."""

    def close(self) -> None:
        """End the log."""


class TensorBoard:
    """Event files in the folder `tensorboard` of a run folder."""

    def __init__(self, opening: Opening) -> None:
        self.folder = opening.folder / "tensorboard"
        self.where = str(self.folder)
        # A killed command may have told steps that nobody knows of any more: readers leave them out.
        self._open(opening.step + 1 if opening.begun else None)
        if not opening.begun:
            self.writer.add_text("settings", _as_markdown(opening.settings), 0)

    def _open(self, from_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(self.folder), purge_step=from_step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, image: Image.Image, step: int) -> None:
        self.writer.add_image("images", np.asarray(image), step, dataformats="HWC")

    def scores(self, values: Mapping[str, float], step: int) -> None:
        self.scalars(values, step)

    def back(self, step: int) -> bool:
        self.writer.close()
        self._open(step + 1)
        return True

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run of Weights & Biases, whose files are in the folder `wandb` of a run folder."""

    def __init__(self, opening: Opening) -> None:
        import wandb

        self.library: Any = wandb
        try:
            self.run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                id=opening.id,
                name=opening.folder.name,
                dir=str(opening.folder),
                config=dict(opening.settings),
                resume="allow",
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise ValueError(
                f"--log wandb cannot begin ({_first_line(error)}): log in by `wandb login`, or set WANDB_MODE=offline, "
                "which logs into the run folder alone"
            ) from error
        self.where = str(opening.folder / "wandb") if self.run.offline else str(self.run.url)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def picture(self, image: Image.Image, step: int) -> None:
        self.run.log({"images": self.library.Image(image)}, step=step)

    def scores(self, values: Mapping[str, float], step: int) -> None:
        # Not in the history, which takes no step a second time when a run goes on.
        self.run.summary.update(dict(values))

    def back(self, step: int) -> bool:
        return False

    def flush(self) -> None:
        """Nothing is to be done: another process writes what it is told as it comes."""

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of the project `trajmatch` in trackio's own folder."""

    def __init__(self, opening: Opening) -> None:
        import trackio

        self.library: Any = trackio
        name = f"{opening.folder.name}-{opening.id}"  # the name alone tells runs apart
        with redirect_stdout(StringIO()):
            settings = dict(opening.settings)
            trackio.init(
                PROJECT, name, config=settings, resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False
            )
        self.where = f"the run {name}, shown by: trackio show --project {PROJECT}"

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.library.log(dict(values), step=step)

    def picture(self, image: Image.Image, step: int) -> None:
        self.library.log({"images": self.library.Image(image)}, step=step)

    def scores(self, values: Mapping[str, float], step: int) -> None:
        self.library.log(dict(values), step=step)

    def back(self, step: int) -> bool:
        return False

    def flush(self) -> None:
        """Nothing is to be done: a thread of trackio's writes what it is told every half second."""

    def close(self) -> None:
        with redirect_stdout(StringIO()):
            self.library.finish()


SINKS: Mapping[str, Callable[[Opening], Sink]] = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}


def check_installed(names: Iterable[str]) -> None:
    """Raise ValueError for a log whose package, which has its name, is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"--log {name} needs the package {name}: install it with: pip install 'trajmatch[{name}]'")


def _as_markdown(settings: Mapping[str, Any]) -> str:
    """Settings as YAML that is indented, which TensorBoard shows as it is."""
    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
    return "".join(f"    {line}\n" for line in text.splitlines())


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
