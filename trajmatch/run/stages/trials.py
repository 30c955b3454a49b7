"""Networks that are trained from scratch on a set and tested, many at once; those that are done are not done again."""

import re
from collections.abc import Sequence
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
from trajmatch.data.material import opened
from trajmatch.data.networks.convnet import build
from trajmatch.data.synthetic import one_hot
from trajmatch.machine.processes import Peak, Report, processes, run_jobs
from trajmatch.machine.progress import Meter
from trajmatch.measure.evaluate import train_and_test
from trajmatch.methods.training import Training
from trajmatch.run.assembly.engine import training_engine
from trajmatch.run.assembly.letters import evaluation_training
from trajmatch.run.assembly.setup import device, factory
from trajmatch.settings.config import Config, Network

REMEDY = "delete it, and its networks are trained again"
NAME = re.compile("[0-9a-f]{32}(-[0-9a-f]{8})?")


class Job(NamedTuple):
    """One network: what it is trained on, at which rate, from which seed, and where it is tested; or None for the
    configuration's network.

    X and Y are arrays because tensors travel to a worker through shared memory, which small containers lack; where
    they are empty it is trained on all real training images, which a worker finds in the shared file.
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
            where += ("float32",)
        about = (self.recipe, self.seed, self.split, network, where, config.images.normalise, content)
        found.update(repr(about).encode())
        return found.hexdigest()


def set_jobs(key: str, config: Config, X: Tensor, Y: Tensor, eta: float, count: int, split: str = "test") -> list[Job]:
    """`count` networks trained on a set at the learning rate eta."""
    recipe = evaluation_training(config, eta)
    # Every set meets the same networks.
    return [Job(key, X.numpy(), Y.numpy(), recipe, derive(config.seed, "evaluation", i), split) for i in range(count)]


def real_job(key: str, recipe: Training, seed: int, network: Network | None = None) -> Job:
    """A network trained on all real training images."""
    return Job(key, np.empty(0), np.empty(0), recipe, seed, "test", network)


def accuracies_of(config: Config, path: Path, peak: Peak, quiet: bool, jobs: Sequence[Job]) -> dict[str, list[float]]:
    """Accuracies by the jobs' keys, in the jobs' order, however they were spread over processes.

    path: of `shared`. In the folder that it was made for, the accuracy of every network is kept, and found again when
    the same is asked for: what was interrupted goes on. Jobs of one key that are the same in all that the accuracy
    depends on are one network, and count once. Raises ValueError where the file of what is kept is damaged.
    """
    where = device(config.device)
    workers = processes(config.evaluation.workers, where.type)
    # The folder of `shared`, which has a folder of its own in it.
    kept, content = path.parent.parent / NETWORKS, opened(path).content
    done = _found(kept) if kept.exists() else {}
    names = [job.digest(config, content) for job in jobs]
    # A network of the user's or of timm's may be another one the next time: it is trained again, and not kept.
    passing = {name for name, job in zip(names, jobs, strict=True) if ":" in (job.network or config.network).name}
    # The same network may stand under several keys: a set with hard labels is its own hard-labelled one.
    missing = list({name: index for index, name in enumerate(names) if name not in done}.values())
    arguments = [(path, config, str(where), jobs[index]) for index in missing]
    with Meter("evaluate", len(missing), unit="networks", quiet=quiet) as meter:
        for k, accuracy in run_jobs(_train_one, arguments, workers, threads=1, peak=peak):
            done[names[missing[k]]] = accuracy
            write_json(kept, {_sealed(name, value): value for name, value in done.items() if name not in passing})
            meter.advance(f"{jobs[missing[k]].key}: {accuracy:.1%}")
    found: dict[str, dict[str, float]] = {}
    for name, job in zip(names, jobs, strict=True):
        found.setdefault(job.key, {})[name] = done[name]
    return {key: list(accuracies.values()) for key, accuracies in found.items()}


def _sealed(name: str, accuracy: float) -> str:
    """A network's name with a checksum of itself and its accuracy: each entry of the file is checked by itself."""
    return f"{name}-{checksum(f'{name} {accuracy!r}'.encode())}"


def _found(kept: Path) -> dict[str, float]:
    """Accuracies by network, of a file that names what was trained. Raises ValueError where it is damaged."""
    found: dict[str, float] = {}
    record = read_json(kept, _is_kept, REMEDY)
    for key, accuracy in record.items():
        name, sealed, _ = key.partition("-")
        if sealed and key != _sealed(name, accuracy):
            raise ValueError(f"{kept}: this record is damaged (an accuracy is not as it was written); {REMEDY}")
        found[name] = accuracy
    if not all("-" in key for key in record):
        say_old(kept)
    return found


def _is_kept(record: Any) -> bool:
    """Whether a record is of accuracies by name; older versions wrote names without a checksum."""
    return isinstance(record, dict) and all(map(is_share, record.values())) and all(map(NAME.fullmatch, record))


def _train_one(material: Path, config: Config, where: str, job: Job, report: Report) -> float:
    mapped, place = opened(material), torch.device(where)
    t = mapped.tensors
    X, Y = torch.from_numpy(job.X), torch.from_numpy(job.Y)
    if not len(X):
        X, Y = t["train.x"], one_hot(t["train.y"], len(mapped.classes))
    make = factory(job.network or config.network, mapped.shape, len(mapped.classes))
    test_x, test_y = t[f"{job.split}.x"].to(place), t[f"{job.split}.y"].to(place)
    engine = training_engine(config, build(make, 0)[0], place)
    return train_and_test(make, X.to(place), Y.to(place), job.recipe, test_x, test_y, job.seed, engine)
