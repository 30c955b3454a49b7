"""Finished or running runs, opened to be looked at. No file of a run is changed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trajmatch.core.estimators import Task
from trajmatch.core.student import Student
from trajmatch.data.file_names import CONFIG
from trajmatch.data.material import Material
from trajmatch.data.snapshots import Snapshot, all_of, snapshot_path, snapshot_settings
from trajmatch.data.synthetic import load
from trajmatch.data.trajectories import Trajectory
from trajmatch.measure.panel import panel
from trajmatch.methods import engines
from trajmatch.methods.outer import Rule
from trajmatch.methods.schedule import Choice
from trajmatch.pages.made import check_configuration, check_same, set_settings
from trajmatch.run.assembly import letters
from trajmatch.run.assembly.distilled import check_fit
from trajmatch.run.assembly.set_file import base_configuration, set_file
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages.experts import named_experts, seen_as
from trajmatch.run.stages.start import first_state
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.config_file import read_config
from trajmatch.settings.flat import flatten, parsed
from trajmatch.settings.methods import METHODS

SEED = 20_000


@dataclass(frozen=True)
class Opened:
    """A run (or a set beside experts): its settings, its experts, and its set at several points of the distillation."""

    name: str
    folder: Path | None
    setup: Setup
    trajectories: list[Trajectory]
    points: list[Snapshot]
    student: Student
    rule: Rule

    @property
    def config(self) -> Config:
        """The settings of the run."""
        return self.setup.config

    @property
    def last(self) -> Snapshot:
        """The set as it is now."""
        return self.points[-1]

    @property
    def about(self) -> dict[str, Any]:
        """How numbers and figures name the run."""
        return {"name": self.name, "method": self.config.method, "ipc": self.config.ipc}

    def panel_size(self, wanted: int) -> int:
        """The number of experts in a panel: as many as wanted, or all where there are fewer."""
        return min(wanted, len(self.trajectories))

    def spread_points(self, count: int) -> list[Snapshot]:
        """At most `count` of the points, evenly spaced, the first and the last among them."""
        return [self.points[k] for k in evenly(len(self.points), count)]

    def starts(self, count: int) -> list[int]:
        """At most `count` epochs at which segments may start, evenly spaced over all that every expert has."""
        M = self.config.matching.expert_epochs
        return evenly(min(t.num_rows for t in self.trajectories) - M, count)

    def spread_choices(self, wanted: int) -> list[Choice]:
        """A segment of each expert of a panel; where they start is spread over the window of the run's own steps."""
        m = self.config.matching
        starts = range(m.first_epoch, m.last_epoch)
        return [Choice(e, starts[e % len(starts)]) for e in range(self.panel_size(wanted))]

    def tasks(self, point: Snapshot, choices: Sequence[Choice]) -> list[Task]:
        """A panel on the set of one point."""
        M = self.config.matching.expert_epochs
        segments = [self.trajectories[e].segment(e, t, M).to(self.setup.device) for e, t in choices]
        return panel(self.rule, self.student, segments, point.X, point.Y, point.eta, SEED)


def evenly(total: int, count: int) -> list[int]:
    """At most `count` of 0, ..., total - 1, evenly spaced, both ends among them.

    >>> evenly(10, 4)
    [0, 3, 6, 9]
    """
    if count == 1 or total == 1:
        return [total - 1]
    return sorted({round(k * (total - 1) / (count - 1)) for k in range(count)})


class Opener:
    """Opens runs and sets; images that several of them share are read once.

    data, device, engine: what replaces the settings that the runs were made with, where given.
    experts: whether a diagnosis needs experts; where it does not, the opened runs have none.
    """

    def __init__(
        self, data: str | None = None, device: str | None = None, engine: str | None = None, experts: bool = True
    ) -> None:
        self.experts = experts
        self.changes = {
            key: value for key, value in (("data", data), ("device", device), ("engine", engine)) if value is not None
        }
        self.materials: dict[str, Material] = {}

    def run(self, folder: Path) -> Opened:
        """Open a run folder. Raises ValueError."""
        if not (folder / CONFIG).is_file():
            raise ValueError(f"--run is {folder}, which is not a run folder: it has no {CONFIG}")
        flat = read_config(folder / CONFIG)
        check_configuration(folder)
        parsed(flat, str(folder / CONFIG), "put back what it was, or start anew in another --out")
        setup = self._prepared(flat)
        config, points = setup.config, []
        trajectories = self._experts(setup, folder / "experts" if config.experts.isdigit() else None)
        setup = seen_as(setup, trajectories)
        if trajectories or not METHODS[config.method].experts:
            state = first_state(setup, trajectories)
            Y = state.Y.softmax(1) if config.outer.labels == "learned" else state.Y
            points.append(Snapshot(0, state.X, Y, state.eta))
        for one in all_of(folder, setup.dataset.shape, setup.dataset.num_classes):
            path = snapshot_path(folder, one.step)
            if held := snapshot_settings(path):
                check_same(path, held, folder / CONFIG, set_settings(flatten(setup.config)))
            points.append(one.to(setup.device))
        if not points:
            raise ValueError(
                f"--run is {folder}, which has no images yet: the first are kept after a share of its steps"
            )
        return _opened(folder.name, folder, setup, trajectories, points)

    def set(self, path: Path, experts: Path | None) -> Opened:
        """Open a distilled set beside a folder of experts, which need not be those that it was made from."""
        file = set_file(path)
        setup = self._prepared(base_configuration(path))
        synthetic = load(file)
        check_fit(synthetic, setup.material, file, setup.config.data)
        if synthetic.space.digest() != setup.material.space.digest():  # as a set of another program may have it
            setup = Setup(setup.config, replace(setup.material, space=synthetic.space))
        point = Snapshot(setup.config.steps, synthetic.X, synthetic.Y, torch.tensor(synthetic.eta)).to(setup.device)
        return _opened(file.stem, None, setup, self._experts(setup, experts), [point])

    def _experts(self, setup: Setup, folder: Path | None) -> list[Trajectory]:
        """The experts of a folder, or of the folder that the settings name; no experts where none are needed."""
        return named_experts(setup, folder or Path(setup.config.experts)) if self.experts else []

    def _prepared(self, flat: dict[str, Any]) -> Setup:
        config = resolve(parsed({**flat, **self.changes}))
        key = repr((config.data, config.images, config.seed))
        if key not in self.materials:
            self.materials[key] = Setup.load(config).material
        return Setup(config, self.materials[key])


def _opened(
    name: str, folder: Path | None, setup: Setup, trajectories: list[Trajectory], points: list[Snapshot]
) -> Opened:
    how = setup.outer_compute(len(points[0].X))
    torch.set_num_threads(how.threads)
    student, rule = engines.student(setup.network, how.engine), letters.rule(setup.config)
    return Opened(name, folder, setup, trajectories, points, student, rule)
