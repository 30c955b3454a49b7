"""What the logs of --log are told of a run: which steps, when, and how far each of them has been told.

A log is told a step when a checkpoint vouches for it, so that a run that goes on tells no step twice. (A process
that is killed between telling a log and noting that may repeat these steps; TensorBoard leaves them out.)
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from PIL import Image

from trajmatch.data.file_names import LOGGED, METRICS
from trajmatch.data.files import write_record
from trajmatch.data.kept import digest
from trajmatch.machine.messages import LOGGER
from trajmatch.pages import records as shapes
from trajmatch.pages.step_log import read_metrics
from trajmatch.run.stages.sinks import SINKS, Opening, Sink
from trajmatch.settings.config import Config
from trajmatch.settings.flat import FREE, flatten

# Of a long distillation so many steps are told at most, evenly spaced, beside those of pictures and the last.
MOST_STEPS = 2000
Row = Mapping[str, Any]


@dataclass
class Told:
    """A log, and how far it was told, which the record at `path` holds.

    id: of this run in the log. step: the last step that was told. scores: a digest of the scores that were told.
    """

    name: str
    sink: Sink
    path: Path
    id: str
    step: int = 0
    scores: str = ""

    def keep(self) -> None:
        """Write the record, after what it says was told."""
        self.sink.flush()
        write_record(self.path, {"id": self.id, "step": self.step, "scores": self.scores})


@dataclass
class Feed:
    """The logs of a run and what they are still to be told; without logs it does nothing.

    steps:   the outer steps of the run, of which every `every`th is told.
    kept:    the steps whose pictures are told; picture: makes that of a step's snapshot.
    waiting: rows of steps that no checkpoint vouches for yet.
    """

    logs: list[Told] = field(default_factory=list)
    steps: int = 0
    kept: frozenset[int] = frozenset()
    picture: Callable[[int], Image.Image] | None = None
    waiting: list[Row] = field(default_factory=list)

    @property
    def every(self) -> int:
        """How many steps there are for one that is told."""
        return max(1, ceil(self.steps / MOST_STEPS))

    def begin(self, metrics: Path, step: int) -> None:
        """Tell each log what it lacks of the steps up to `step`, at which the run goes on."""
        if self.logs:
            self.back(step)
            self.waiting = [*read_metrics(metrics)[0]]
            self.settle(step)

    def add(self, row: Row) -> None:
        """A step was taken: its row of the log of steps."""
        if self.logs:
            self.waiting.append(row)

    def settle(self, step: int) -> None:
        """A checkpoint holds the state after `step`: tell the steps up to it."""
        rows = [row for row in self.waiting if row["step"] <= step]
        self.waiting = [row for row in self.waiting if row["step"] > step]
        for log in self.logs:
            if new := [row for row in rows if row["step"] > log.step]:
                for row in filter(self._is_told, new):
                    log.sink.scalars(_scalars(row), row["step"])
                    if row["step"] in self.kept and self.picture is not None:
                        log.sink.picture(self.picture(row["step"]), row["step"])
                log.step = new[-1]["step"]
                log.keep()

    def back(self, step: int) -> None:
        """The run goes back to the state after `step`, and takes the steps above it again."""
        self.waiting = [row for row in self.waiting if row["step"] <= step]
        for log in self.logs:
            if log.step <= step:
                continue
            if log.sink.back(step):
                log.step = step
                log.keep()
            else:
                LOGGER.warning(
                    f"steps {step + 1} to {log.step} are taken again, and {log.name}, which takes nothing back, keeps "
                    f"what it was told of them; {METRICS} has what counts"
                )

    def show(self, picture: Image.Image) -> None:
        """Tell the picture of the last set, of which no step's was told."""
        for log in self.logs:
            log.sink.picture(picture, self.steps)

    def score(self, accuracy: Mapping[str, Mapping[str, Any]]) -> None:
        """Tell the scores of a set by name, where a log was not told the same before."""
        values = {f"accuracy/{name}": float(score["mean"]) for name, score in accuracy.items()}
        values |= {f"accuracy/{name} std": float(s["std"]) for name, s in accuracy.items() if "std" in s}
        for log in self.logs:
            if log.scores != (now := digest(values)):
                log.sink.scores(values, self.steps)
                log.scores = now
                log.keep()

    def close(self) -> None:
        """End the logs."""
        for log in self.logs:
            log.sink.close()
        self.logs = []

    def _is_told(self, row: Row) -> bool:
        step = row["step"]
        return step in (1, self.steps) or step % self.every == 0 or step in self.kept


def opened(config: Config, folder: Path, kept: frozenset[int], picture: Callable[[int], Image.Image]) -> Feed:
    """The logs of a configuration, each anew or where it was left. Raises ValueError where one can't begin."""
    feed = Feed([], config.steps, kept, picture)
    settings = {key: value for key, value in flatten(config).items() if key not in FREE}
    try:
        for name in dict.fromkeys(config.log):
            feed.logs.append(_opened(name, folder, settings))
    except ValueError:
        feed.close()
        raise
    for log in feed.logs:
        LOGGER.info(f"log: {log.name}, {log.sink.where}")
    return feed


def _opened(name: str, folder: Path, settings: Mapping[str, Any]) -> Told:
    path = folder / name / LOGGED
    new = {"id": secrets.token_hex(4), "step": 0, "scores": ""}
    record: dict[str, Any] = shapes.record(path, shapes.LOGGED) if path.exists() else new
    sink = SINKS[name](Opening(folder, record["id"], path.exists(), record["step"], settings))
    path.parent.mkdir(exist_ok=True)
    told = Told(name, sink, path, record["id"], record["step"], record["scores"])
    told.keep()
    return told


def _scalars(row: Row) -> dict[str, float]:
    """The numbers of a row by name; of a step that was left out for its loss there are fewer."""
    return {k: float(v) for k, v in row.items() if k != "step" and isinstance(v, int | float)}
