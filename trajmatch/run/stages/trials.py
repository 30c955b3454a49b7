"""Networks that are trained from scratch on a set and tested, many at once; those that are done are not done again."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trajmatch.core.draws import derive
from trajmatch.data.checksums import checksum
from trajmatch.data.file_names import NETWORKS
from trajmatch.data.files import is_share, read_json, write_json
from trajmatch.data.kept import say_old
from trajmatch.data.material import opened, shared
from trajmatch.data.networks.convnet import build
from trajmatch.data.synthetic import one_hot
from trajmatch.machine.determinism import deterministic
from trajmatch.machine.processes import Peak, Report, processes
from trajmatch.machine.progress import Meter
from trajmatch.machine.shares import run_over_ranks
from trajmatch.measure.evaluate import train_and_test
from trajmatch.methods.training import Training
from trajmatch.run.assembly.engine import training_engine
from trajmatch.run.assembly.letters import evaluation_training
from trajmatch.run.assembly.setup import Setup, device, factory
from trajmatch.settings.config import Config
from trajmatch.settings.inputs import Network

REMEDY = "delete it, and its networks are trained again"
NAME, COUNTS = re.compile("[0-9a-f]{32}(-[0-9a-f]{8})?"), re.compile("[0-9a-f]{32}-right-[0-9a-f]{8}")
NUMBERS = re.compile("[0-9]{1,9}( [0-9]{1,9})*")


class Trial(NamedTuple):
    """One network that is trained on a set and tested.

    key:     what its accuracy is listed under, beside those of other trials of this key.
    X, Y:    images (n, c, h, w) and labels (n, C). They are arrays because tensors travel to a worker through shared
             memory, which small containers lack; where they are empty, the network is trained on all real training
             images, which a worker finds in the shared file.
    recipe:  how it is trained, and at which rate.
    seed:    of its weights and of the order of the images.
    split:   the real images it is tested on: "test" or "validation".
    network: None for the configuration's own.
    """

    key: str
    X: np.ndarray
    Y: np.ndarray
    recipe: Training
    seed: int
    split: str
    network: Network | None = None

    def digest(self, config: Config, content: str) -> str:
        """What the accuracy depends on, in short, torch's release and kind of device included.

        content: that of the real images.
        """
        found = blake2b(digest_size=16)
        for array in (self.X, self.Y):
            found.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        network = self.network or config.network
        where: tuple[str, ...] = (torch.__version__, device(config.device).type, config.engine)
        if where[1] == "cuda":  # scores of before were trained in TF32 or in float32, and did not say which
            where += ("float32", "deterministic") if config.deterministic else ("float32",)
        about = (self.recipe, self.seed, self.split, network, where, config.images.normalise, content)
        found.update(repr(about).encode())
        return found.hexdigest()


def set_trials(
    key: str, config: Config, X: Tensor, Y: Tensor, rate: float, count: int, split: str = "test"
) -> list[Trial]:
    """`count` networks trained at a learning rate on a set, of which X and Y are what a network sees."""
    recipe = evaluation_training(config, rate)
    # Every set meets the same networks.
    return [Trial(key, X.numpy(), Y.numpy(), recipe, derive(config.seed, "evaluation", i), split) for i in range(count)]


def real_trial(key: str, recipe: Training, seed: int, network: Network | None = None) -> Trial:
    """A network trained on all real training images."""
    return Trial(key, np.empty(0), np.empty(0), recipe, seed, "test", network)


class Tested(NamedTuple):
    """The accuracy of a network, and how many test images of each class it gets right; empty where nobody counted."""

    accuracy: float
    right: tuple[int, ...] = ()


# (learning rate, count, split) -> so many trials at this rate, tested on this split.
Maker = Callable[[float, int, str], list[Trial]]


@dataclass(frozen=True)
class Tuned:
    """Accuracies on test images at the rate that one network likes best on validation images, by rate."""

    rate: float
    accuracies: list[float]
    validation: dict[float, float]


@dataclass(frozen=True)
class Bench:
    """Where networks are trained and tested, many at once. `bench` makes one.

    path: the file of images that all processes map into memory. kept: the file of accuracies, by network, in which what
    was trained is found again: what was interrupted goes on. peak: is told the memory of the workers.
    """

    setup: Setup
    path: Path
    kept: Path
    peak: Peak

    def accuracies(self, trials: Sequence[Trial]) -> dict[str, list[float]]:
        """Accuracies by the trials' keys, as `tested` has them."""
        return {key: [one.accuracy for one in of] for key, of in self.tested(trials).items()}

    def tested(self, trials: Sequence[Trial]) -> dict[str, list[Tested]]:
        """What networks get right, by the trials' keys, in the trials' order, however they were spread over processes.

        Trials of one key that are the same in all that the accuracy depends on are one network, and count once. Raises
        ValueError where the file of what is kept is damaged.
        """
        config, where = self.setup.config, self.setup.device
        workers = processes(config.evaluation.workers, where.type)
        content = opened(self.path).content
        done = _found(self.kept) if self.kept.exists() else {}
        names = [trial.digest(config, content) for trial in trials]
        # A network of the user's or of timm's may be another one the next time: it is trained again, and not kept.
        passing = {name for name, one in zip(names, trials, strict=True) if ":" in (one.network or config.network).name}
        # The same network may stand under several keys: a set with hard labels is its own hard-labelled one.
        missing = list({name: index for index, name in enumerate(names) if name not in done}.values())
        tasks = [(self.path, config, str(where), trials[index]) for index in missing]
        with Meter("evaluate", len(missing), unit="networks") as meter:
            for k, tested in run_over_ranks(_train_one, tasks, workers, threads=1, peak=self.peak):
                done[names[missing[k]]] = tested
                write_json(self.kept, _lasting({name: of for name, of in done.items() if name not in passing}))
                meter.advance(f"{trials[missing[k]].key}: {tested.accuracy:.1%}")
        found: dict[str, dict[str, Tested]] = {}
        for name, trial in zip(names, trials, strict=True):
            found.setdefault(trial.key, {})[name] = done[name]
        return {key: list(of.values()) for key, of in found.items()}

    def tuned(
        self, makers: Mapping[str, Maker], rates: Sequence[float], count: int, others: Sequence[Trial] = ()
    ) -> tuple[dict[str, Tuned], dict[str, list[float]]]:
        """Every rate once on validation images, the best one `count` times on test images, for each of the makers.

        others: trials that are scored in the same call; their accuracies by key are the second part of the answer.
        """
        seen = self.accuracies(
            [one for key, make in makers.items() for rate in rates for one in _at(key, make, rate, 1, "validation")]
        )
        validation = {key: {rate: seen[f"{key} {rate}"][0] for rate in rates} for key in makers}
        best = {key: max(rates, key=of.__getitem__) for key, of in validation.items()}
        final = [one for key, make in makers.items() for one in _at(key, make, best[key], count, "test")]
        found = self.accuracies([*others, *final])
        return {key: Tuned(best[key], found[f"{key} {best[key]}"], validation[key]) for key in makers}, found


def _at(key: str, make: Maker, rate: float, count: int, split: str) -> list[Trial]:
    """Trials at a rate under a key that names it."""
    return [trial._replace(key=f"{key} {rate}") for trial in make(rate, count, split)]


@contextmanager
def bench(setup: Setup, folder: Path, peak: Peak | None = None) -> Iterator[Bench]:
    """A bench in a folder, which keeps the accuracies, and the images in a temporary file while the block lasts."""
    with shared(setup.material, folder) as path:
        yield Bench(setup, path, folder / NETWORKS, peak or Peak())


def _sealed(name: str, accuracy: float) -> str:
    """A network's name with a checksum of itself and its accuracy: each entry of the file is checked by itself."""
    return f"{name}-{checksum(f'{name} {accuracy!r}'.encode())}"


def _counted(name: str, right: str) -> str:
    """The same for what a network gets right of each class, as text."""
    return f"{name}-right-{checksum(f'{name} {right}'.encode())}"


def _lasting(done: Mapping[str, Tested]) -> dict[str, float | str]:
    """What is written of networks: an accuracy for each and, where they were counted, right answers by class."""
    found: dict[str, float | str] = {_sealed(name, one.accuracy): one.accuracy for name, one in done.items()}
    texts = {name: " ".join(map(str, one.right)) for name, one in done.items() if one.right}
    return found | {_counted(name, text): text for name, text in texts.items()}


def _found(kept: Path) -> dict[str, Tested]:
    """Networks by name, of a file that names what was trained. Raises ValueError where it is damaged."""
    found: dict[str, Tested] = {}
    record = read_json(kept, _is_kept, REMEDY)
    right = {key.partition("-")[0]: key for key in record if COUNTS.fullmatch(key)}
    for key in [key for key in record if NAME.fullmatch(key)]:
        name, sealed, _ = key.partition("-")
        if sealed and key != _sealed(name, record[key]):
            raise ValueError(f"{kept}: this record is damaged (an accuracy is not as it was written); {REMEDY}")
        text = record.get(right.get(name), "")
        if text and right[name] != _counted(name, text):
            raise ValueError(f"{kept}: this record is damaged (the answers by class are not as written); {REMEDY}")
        found[name] = Tested(record[key], tuple(map(int, text.split())))
    if not all("-" in key for key in record):
        say_old(kept)
    return found


def _is_kept(record: Any) -> bool:
    """Whether a record is of accuracies by name; older versions wrote names without a checksum, and no answers."""
    return isinstance(record, dict) and all(
        (NAME.fullmatch(key) and is_share(value))
        or (COUNTS.fullmatch(key) and isinstance(value, str) and NUMBERS.fullmatch(value))
        for key, value in record.items()
    )


def _train_one(material: Path, config: Config, where: str, trial: Trial, report: Report) -> Tested:
    mapped, place = opened(material), torch.device(where)
    if len(trial.X):
        X, Y = torch.from_numpy(trial.X).to(place), torch.from_numpy(trial.Y).to(place)
    else:
        X, Y = mapped.on("train.x", place), one_hot(mapped.tensors["train.y"], len(mapped.classes)).to(place)
    make = factory(trial.network or config.network, mapped.shape, len(mapped.classes))
    test_x, test_y = (mapped.on(f"{trial.split}.{part}", place) for part in "xy")
    engine = training_engine(config, build(make, 0)[0], place)
    given: list[Tensor] = []
    with deterministic(config.deterministic, place):
        accuracy = train_and_test(make, X, Y, trial.recipe, test_x, test_y, trial.seed, engine, given.append)
    if trial.split != "test" or not given:
        return Tested(accuracy)
    right = torch.bincount(test_y[given[0] == test_y].cpu(), minlength=len(mapped.classes))
    return Tested(accuracy, tuple(right.tolist()))
