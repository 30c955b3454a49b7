"""What single verbs can be asked besides the configuration: one class for each of these verbs. No torch here."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from trajmatch.settings.config import EngineName
from trajmatch.settings.inputs import Norm, Pooling
from trajmatch.settings.kinds import checked
from trajmatch.settings.ranges import FINITE, Count, Depth, Few, Place, Positive, Range, Share, Width, Words

DIAGNOSES = "diagnoses"
AboveZero = Range(0, FINITE, above=True)


@dataclass(frozen=True)
class Diagnose:
    """What `trajmatch diagnose` looks at: which runs, and how much of them."""

    run: tuple[Place, ...] = ()
    """Run folders, finished or running, to stand beside each other; truncation and cost take one alone. Nothing in the
    folders is changed but for the folder `diagnoses`, and the report, of the first."""
    set: Place | None = None
    """Instead of a run: a distilled set, a run folder or a .safetensors file, beside --experts."""
    experts: Place | None = None
    """Folder of experts for --set."""
    out: Place | None = None
    """Folder for numbers and figures; None is `diagnoses` in the first run folder, or beside the set."""
    data: Words | None = None
    """Where the real images are now; None is where the run found them."""
    device: Words | None = None
    """Where tensors are computed; None is the run's --device."""
    engine: EngineName | None = None
    """How derivatives are computed; None is the run's --engine."""
    panel: Count = 3
    """Experts from which segments are taken."""
    starts: Count = 8
    """Start epochs of segments, at most, evenly spaced over the experts' epochs."""
    points: Count = 3
    """Points of the distillation, at most, evenly spaced from the initial images to the last."""
    steps: Count | None = None
    """Outer steps of the short distillations of truncation and learning-rate; None is as many as the run's."""
    networks: Few = 3
    """Networks that score each short distillation of truncation and learning-rate."""
    radius: Annotated[float, AboveZero] | None = None
    """Radius at which sharpness is measured; None is the largest --matching.radius of the runs."""
    grid: Annotated[int, Range(3, 1000)] = 11
    """Points along each side of the landscape."""
    reach: Annotated[float, AboveZero] = 0.5
    """How far the landscape goes along a direction, relative to the length of each image."""
    direction: Literal["random", "hypergradient"] = "random"
    """First direction of the landscape; the second is random."""
    rounds: Few = 3
    """How often every cost is measured; the median counts."""

    def folder(self) -> Path:
        """Where results go."""
        if self.out is not None:
            return self.out
        if self.set is not None:
            return (self.set if self.set.is_dir() else self.set.parent) / DIAGNOSES
        return self.run[0] / DIAGNOSES


@dataclass(frozen=True)
class Evaluate:
    """What `trajmatch evaluate` measures instead of the accuracies of a run."""

    networks: tuple[Words, ...] = ()
    """Networks, by --network.name, to which the set is transferred."""
    sizes: tuple[Count, ...] = ()
    """Numbers of leading images of each class; each part of the set is scored as a set of its own."""
    ranking: bool = False
    """Measure DD-Ranking's scores of the set."""
    rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03)
    """Learning rates among which each of --networks, and every accuracy of --ranking, is given the best, by one network
    each on validation images."""

    def asked(self) -> "Evaluate":
        """The same with every network, size and rate once.

        Raises ValueError where two things are asked for, and for a value out of its range.
        """
        checked(self)
        flags = ("--networks", self.networks), ("--sizes", self.sizes), ("--ranking", self.ranking)
        asked = [flag for flag, value in flags if value]
        if len(asked) > 1:
            raise ValueError(f"{' and '.join(asked)} are scored one by one: give one of them")
        if not self.rates or not all(0 < rate <= FINITE for rate in self.rates):
            raise ValueError(f"--rates is {self.rates} and must be one or more numbers above 0 and finite")
        return replace(
            self,
            networks=tuple(dict.fromkeys(self.networks)),
            sizes=tuple(dict.fromkeys(self.sizes)),
            rates=tuple(dict.fromkeys(self.rates)),
        )


@dataclass(frozen=True)
class Search:
    """The space of `trajmatch search`: ConvNets of every combination."""

    depths: tuple[Depth, ...] = (1, 2, 3)
    """Numbers of blocks of the ConvNets."""
    widths: tuple[Width, ...] = (16, 32, 64)
    """Channels of every block of the ConvNets."""
    norms: tuple[Norm, ...] = ("instance", "none")
    """Normalisations of the ConvNets' blocks."""
    poolings: tuple[Pooling, ...] = ("avg", "max")
    """Poolings of the ConvNets' blocks."""
    proxy_networks: Few = 2
    """Networks of each kind, trained on the set and on as many random images."""
    real_epochs: Count = 3
    """Epochs of the one network of each kind that is trained on all training images."""
    real_momentum: Share = 0.9
    """Momentum of the networks that are trained on all training images; the experts' learning rate and mini-batch hold
    for them too."""


# Who is trained on the memory of a stream.
Who = Literal["none", "experts", "students", "both"]


@dataclass(frozen=True)
class Continual:
    """The stream of `trajmatch continual`."""

    orders: Few = 5
    """Random orders in which the classes arrive, drawn from the seed."""
    class_steps: Count = 5
    """Steps in which the classes arrive, as many classes in each."""
    fresh_networks: Few = 3
    """New networks that are trained on the whole memory after every step."""
    random_networks: Annotated[int, Range(0, 10_000)] = 3
    """Networks that are trained after every step on as many random real images, a draw of its own for each, at the
    learning rate of the memory; 0 for none. --method random has none, for its memory is random images."""
    replay: Who = "none"
    """Who is trained on the memory, the sets kept so far, when the next classes are condensed: experts, students (the
    networks of the inner loop) or both, with outputs for all classes seen. The memory's images stay as they are. none
    condenses each step's classes apart. Methods that match trajectories have a use for it, and rat-bptt and at-bptt for
    students; with satm-bptt these are the ones of its later steps, whose loss is on the memory too."""
    replay_weight: Positive = 1.0
    """How often experts see images of an old class, for each time that they see images of a new one; each kept image is
    seen at least once in an epoch."""


@dataclass(frozen=True)
class Run:
    """How long `trajmatch run` may take."""

    minutes: Annotated[float, AboveZero] | None = None
    """Minutes that the whole run may take on this machine: experts, outer steps and networks of the scores are chosen
    by a little of each stage that is measured first. A flag that gives one of them is taken as it is."""


@dataclass(frozen=True)
class Plan:
    """What `trajmatch plan` foresees."""

    minutes: Annotated[float, AboveZero] | None = None
    """Minutes that the run may take, as --minutes of `trajmatch run`: the plan is that of what would be chosen."""
    ranks: Few = 1
    """Processes of a torchrun job among which the work is shared out; the plan says what they gain and hold."""


@dataclass(frozen=True)
class Push:
    """How `trajmatch push` writes a repository."""

    private: bool = False
    """Show a new repository to its owner alone."""
    out: Place | None = None
    """Write the repository's files into this new folder, and upload nothing."""


@dataclass(frozen=True)
class Compare:
    """Where the pages of `trajmatch compare` go."""

    out: Place = Path("compare")
    """Folder for compare.html, compare.md, compare.csv with the runs and streams.csv with the continual streams."""


@dataclass(frozen=True)
class Export:
    """What `trajmatch export` writes of a set."""

    format: Literal["folder", "parquet", "npz", "mtt", "ddranking"] | None = None
    """Format of the files: folder (PNG images and a table of labels), parquet (a data set of the Hugging Face Hub), npz
    (NumPy arrays), mtt (the tensor files of MTT's program) or ddranking (those of DD-Ranking)."""
    out: Place | None = None
    """New folder for the files and their README.md; None is export-FORMAT beside the set."""
    whitening: bool = True
    """Write the statistics of a ZCA too, up to 38 MB, which real images must pass before a network sees them."""


@dataclass(frozen=True)
class Import:
    """What `trajmatch import` must be told of files that do not say it."""

    mean: tuple[float, ...] = ()
    """Mean of each channel that the other program subtracted, with --images.normalise channel."""
    std: tuple[float, ...] = ()
    """Standard deviation of each channel by which the other program divided, with --images.normalise channel."""
    step_size: Annotated[float, AboveZero] | None = None
    """Learning rate to train with on an imported set; None is that of a file lr_best.pt, or 0.01 without one."""
