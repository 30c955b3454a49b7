"""Finished or running runs, opened to be looked at. No file of a run is changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trajmatch.core.estimators import Task
from trajmatch.core.student import Student
from trajmatch.data.file_names import CONFIG, SNAPSHOTS
from trajmatch.data.images import Dataset
from trajmatch.data.material import Material
from trajmatch.data.networks.convnet import build
from trajmatch.data.snapshots import read_snapshot, snapshot_settings
from trajmatch.data.synthetic import load
from trajmatch.data.trajectories import Trajectory
from trajmatch.measure.panel import panel
from trajmatch.methods import engines
from trajmatch.methods.outer import Rule
from trajmatch.methods.schedule import Choice
from trajmatch.pages.made import check_configuration, check_same, set_settings
from trajmatch.run.assembly import engine as compute
from trajmatch.run.assembly import letters, setup
from trajmatch.run.assembly.distilled import base_configuration, check_fit, set_file
from trajmatch.run.stages.experts import open_experts
from trajmatch.run.stages.start import first_state
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.config_file import read_config
from trajmatch.settings.flat import flatten
from trajmatch.settings.methods import METHODS
from trajmatch.settings.stored import parsed

SEED = 20_000


class Point(NamedTuple):
    """The set after an outer step: images (n, c, h, w), label probabilities (n, C), step size ()."""

    step: int
    X: Tensor
    Y: Tensor
    eta: Tensor


@dataclass(frozen=True)
class Opened:
    """A run (or a set beside experts): its settings, its experts, and its set at several points of the distillation."""

    name: str
    folder: Path | None
    config: Config
    material: Material
    trajectories: list[Trajectory]
    points: list[Point]
    student: Student
    rule: Rule
    device: torch.device

    @property
    def last(self) -> Point:
        """The set as it is now."""
        return self.points[-1]

    @property
    def about(self) -> dict[str, Any]:
        """How numbers and figures name the run."""
        return {"name": self.name, "method": self.config.method, "ipc": self.config.ipc}

    def panel_size(self, wanted: int) -> int:
        """The number of experts in a panel: as many as wanted, or all where there are fewer."""
        return min(wanted, len(self.trajectories))

    def spread_points(self, count: int) -> list[Point]:
        """At most `count` of the points, evenly spaced, the first and the last among them."""
        return [self.points[k] for k in evenly(len(self.points), count)]

    def starts(self, count: int) -> list[int]:
        """At most `count` epochs at which segments may start, evenly spaced over all that every expert has."""
        M = self.config.matching.expert_epochs
        return evenly(min(t.num_rows for t in self.trajectories) - M, count)

    def tasks(self, point: Point, choices: Sequence[Choice]) -> list[Task]:
        """A panel on the set of one point."""
        M = self.config.matching.expert_epochs
        segments = [self.trajectories[e].segment(e, t, M).to(self.device) for e, t in choices]
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
        config, material = self._prepared(flat)
        place, points = setup.device(config.device), []
        trajectories = self._experts(config, material, folder / "experts" if config.experts.isdigit() else None)
        if trajectories or not METHODS[config.method].experts:
            state = first_state(config, material, trajectories, place)
            Y = state.Y.softmax(1) if config.outer.labels == "learned" else state.Y
            points.append(Point(0, state.X, Y, state.eta))
        points += _snapshots(folder, material.dataset, place, set_settings(flatten(config)))
        if not points:
            raise ValueError(
                f"--run is {folder}, which has no images yet: the first are kept after a share of its steps"
            )
        return _opened(folder.name, folder, config, material, trajectories, points, place)

    def set(self, path: Path, experts: Path | None) -> Opened:
        """Open a distilled set beside a folder of experts, which need not be those that it was made from."""
        file = set_file(path)
        config, material = self._prepared(base_configuration(path))
        synthetic = load(file)
        check_fit(synthetic, material, file)
        place = setup.device(config.device)
        point = Point(config.steps, synthetic.X.to(place), synthetic.Y.to(place), torch.tensor(synthetic.eta).to(place))
        return _opened(file.stem, None, config, material, self._experts(config, material, experts), [point], place)

    def _experts(self, config: Config, material: Material, folder: Path | None) -> list[Trajectory]:
        """The experts of a folder, or of the folder that the settings name; no experts where none are needed."""
        if not self.experts:
            return []
        folder = folder or Path(config.experts)
        found = open_experts(config, material, folder)
        if not found:
            raise ValueError(f"--experts: {folder} holds no experts")
        return found

    def _prepared(self, flat: dict[str, Any]) -> tuple[Config, Material]:
        config = resolve(parsed({**flat, **self.changes}))
        key = repr((config.data, config.images, config.seed))
        if key not in self.materials:
            self.materials[key] = setup.load_material(config)
        return config, self.materials[key]


def _snapshots(folder: Path, dataset: Dataset, device: torch.device, made: dict[str, Any]) -> list[Point]:
    """The snapshots of a run folder; made: the settings with which they were."""
    found = []
    for path in sorted((folder / SNAPSHOTS).glob("step_*.safetensors")):
        number = path.stem.removeprefix("step_")
        if not number.isdigit():
            raise ValueError(f"{path}: this is not the snapshot of a step, which its name must say")
        step, X, Y, eta = read_snapshot(path, int(number), dataset.shape, dataset.num_classes)
        if held := snapshot_settings(path):
            check_same(path, held, folder / CONFIG, made)
        found.append(Point(step, X.to(device), Y.to(device), eta.to(X.dtype).to(device)))
    return found


def _opened(
    name: str,
    folder: Path | None,
    config: Config,
    material: Material,
    trajectories: list[Trajectory],
    points: list[Point],
    device: torch.device,
) -> Opened:
    dataset = material.dataset
    network, _ = build(setup.factory(config.network, dataset.shape, dataset.num_classes), 0)
    network, synthetic = network.to(device), (len(points[0].X), *dataset.shape)
    how = compute.outer_compute(config, network, device, synthetic, material.nbytes)
    torch.set_num_threads(how.threads)
    return Opened(
        name,
        folder,
        config,
        material,
        trajectories,
        points,
        engines.student(network, how.engine),
        letters.rule(config),
        device,
    )
