"""The options of `trajmatch diagnose`. No torch here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trajmatch.run.config import EngineName

DIAGNOSES = "diagnoses"


@dataclass(frozen=True)
class Options:
    """Which runs, and how much of them."""

    run: tuple[Path, ...] = ()
    """Run folders, finished or running, to stand beside each other; nothing in them is changed but for the folder
    `diagnoses`, and the report, of the first."""
    set: Path | None = None
    """Instead of a run: a distilled set, a run folder or a .safetensors file, beside --experts."""
    experts: Path | None = None
    """Folder of experts for --set."""
    out: Path | None = None
    """Folder for what is found; None is `diagnoses` in the first run folder, or beside the set."""
    data: str | None = None
    """Where the real images are now; None is where they were."""
    device: str | None = None
    """None is that of the run."""
    engine: EngineName | None = None
    """None is that of the run."""
    panel: int = 3
    """Experts of which segments are taken."""
    starts: int = 8
    """Start epochs of segments, at most, evenly spaced over the experts' epochs."""
    points: int = 3
    """Points of the distillation, at most, evenly spaced from the initial images to the last."""
    steps: int | None = None
    """Outer steps of the short distillations of truncation and learning-rate; None is as many as the run's."""
    networks: int = 3
    """Networks that score each of them."""
    radius: float | None = None
    """Radius of the sharpness that is measured; None is the largest of the runs'."""
    grid: int = 11
    """Points along each side of the landscape."""
    reach: float = 0.5
    """How far the landscape goes, relative to each image's length."""
    direction: Literal["random", "hypergradient"] = "random"
    """The landscape's first direction; the second is random."""
    rounds: int = 3
    """Times that every cost is measured; the median counts."""

    def folder(self) -> Path:
        """Where results go."""
        if self.out is not None:
            return self.out
        if self.set is not None:
            return (self.set if self.set.is_dir() else self.set.parent) / DIAGNOSES
        return self.run[0] / DIAGNOSES
