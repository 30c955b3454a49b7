"""Training experts: many networks, in processes or shards, each written to its file as soon as it is done."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trajmatch.core.vector import Layout
from trajmatch.data.file_names import EXPERT, UNFINISHED
from trajmatch.data.material import Mapped, opened, shared
from trajmatch.data.networks.convnet import build
from trajmatch.data.trajectories import REMEDY, Trajectory, save_trajectory
from trajmatch.data.whitening import InputSpace
from trajmatch.machine.determinism import deterministic
from trajmatch.machine.lock import Lock, tidy
from trajmatch.machine.messages import LOGGER
from trajmatch.machine.processes import Peak, Report, processes, saving
from trajmatch.machine.progress import Meter
from trajmatch.machine.shares import run_over_ranks
from trajmatch.methods.experts import Real, expert
from trajmatch.run.assembly.engine import training_engine
from trajmatch.run.assembly.letters import expert_training
from trajmatch.run.assembly.setup import Setup, factory
from trajmatch.run.stages.unfinished import Unfinished
from trajmatch.settings.config import Config
from trajmatch.settings.flat import EXPERT_FIELDS, difference, settings
from trajmatch.settings.ranges import is_count

MOST_EXPERTS = 100_000
# What the header of an expert must have for a run. FOREIGN marks one of another program: it has no training accuracy.
HEADER = ("settings", "index", "epochs", "test_accuracy", "train_accuracy", "seconds")
FOREIGN = "foreign"


def count_or_folder(experts: str) -> int | Path:
    """The value of --experts: how many to train, or where trained ones are. Raises ValueError."""
    if is_count(experts.removeprefix("-")):
        count = 0 if experts.startswith("-") else int(experts) if len(experts) < 20 else MOST_EXPERTS + 1
        if not 1 <= count <= MOST_EXPERTS:
            limit = "at least 1" if count < 1 else f"at most {MOST_EXPERTS}"
            raise ValueError(f"--experts is {experts} and must be {limit}, or a folder of trained experts")
        return count
    if not Path(experts).is_dir():
        raise ValueError(f"--experts is '{experts}', which is neither a number nor a folder")
    return Path(experts)


def expert_path(folder: Path, index: int) -> Path:
    """The file of one expert."""
    return folder / EXPERT.format(f"{index:04}")


def expert_settings(setup: Setup) -> dict[str, Any]:
    """What an expert depends on: the pixels it was shown, whatever file they came from, and how it was trained."""
    flat = settings(setup.config, EXPERT_FIELDS)
    # How the pixels were read is in their hash; a folder of the same pixels makes the same expert.
    kept = {k: v for k, v in flat.items() if not k.startswith("images.") and k != "expert.storage"}
    return {**kept, "images.normalise": setup.config.images.normalise, "data": setup.material.content}


def foreign_settings(setup: Setup) -> dict[str, Any]:
    """What must be the same where an expert of another program is used: it has seen all training images."""
    kept = dict(settings(setup.config, ("network",)))
    kept |= {f"images.{key}": getattr(setup.config.images, key) for key in ("normalise", "hold_out")}
    space = setup.material.space
    statistics = [space.mean.tolist(), space.scale.tolist()] if space.kind == "channel" else None
    return {**kept, "data": setup.dataset.digest, "statistics": statistics}


def seen_as(setup: Setup, trajectories: Sequence[Trajectory]) -> Setup:
    """The same with the input space that experts of another program were trained in, where it is not fitted here."""
    for trajectory in trajectories:
        statistics = trajectory.header["settings"].get("statistics") if FOREIGN in trajectory.header else None
        if statistics is not None:
            mean, scale = map(torch.tensor, statistics)
            space = InputSpace("channel", mean, scale, torch.empty(0), setup.dataset.shape)
            return Setup(setup.config, replace(setup.material, space=space, seen=f", seen through {space.digest()}"))
    return setup


def told_foreign(trajectories: Sequence[Trajectory]) -> str:
    """What is said of experts beside their number where another program has trained some of them."""
    count = sum(FOREIGN in t.header for t in trajectories)
    return "" if not count else " of another program" if count == len(trajectories) else f", {count} of another program"


def curves(trajectory: Trajectory) -> tuple[list[float | None], list[float | None]]:
    """Accuracies after each epoch, on test and on training images: None where one was not measured, or none at all."""
    header = trajectory.header
    unknown: list[float | None] = [None] * (header["epochs"] - 1)
    if FOREIGN in header:
        return [*unknown, header["test_accuracy"][-1]], []
    return header["test_accuracy"][1:], [*unknown, header["train_accuracy"]]


def open_experts(setup: Setup, folder: Path, count: int | None = None) -> list[Trajectory]:
    """The complete experts of a folder, the first `count` of them (all, if None), in order of their number.

    Raises ValueError where an expert was trained with other settings, naming its file and the setting.
    """
    found: list[Trajectory] = []
    for path in sorted(folder.glob(EXPERT.format("*"))):
        trajectory = Trajectory.open(path)
        foreign = FOREIGN in trajectory.header
        needed = [key for key in HEADER if not (foreign and key == "train_accuracy")]
        if missing := [key for key in needed if key not in trajectory.header]:
            raise ValueError(f"{path}: the header of this expert has no {missing[0]}; {REMEDY}")
        wanted = expert_settings(setup)
        if foreign:
            wanted = {**foreign_settings(setup), "statistics": trajectory.header["settings"].get("statistics")}
        if (what := difference(trajectory.header["settings"], wanted)) is not None:
            instead = "" if what.startswith("--data") else "ask for what is there, or "
            what = what if instead else "the images are others"
            raise ValueError(f"{path} is an expert trained with other settings: {what}; {instead}choose another folder")
        parameters = Layout.of(setup.network).size
        if (held := trajectory.header["parameters"]) != parameters:
            raise ValueError(
                f"{path} has snapshots of {held} weights, and the network of these settings {parameters}: delete it, "
                "and the expert is trained again"
            )
        if count is None or int(trajectory.header["index"]) < count:
            found.append(trajectory)
    return found


def named_experts(setup: Setup, folder: Path) -> list[Trajectory]:
    """The experts of a folder that a user has named. Raises ValueError as `open_experts`, and where it holds none."""
    found = open_experts(setup, folder)
    if not found:
        inner = folder / "experts"
        advice = f"did you mean {inner}?" if inner.is_dir() else f"trajmatch experts --out {folder} trains them"
        raise ValueError(f"--experts: {folder} holds no experts; {advice}")
    return found


def shard_of(shard: str | None, count: int) -> list[int]:
    """The experts of shard i/n: i, i + n, i + 2n, ... below count; all without a shard."""
    first, step = map(int, (shard or "0/1").split("/"))
    return list(range(first, count, step))


def train_experts(setup: Setup, folder: Path, count: int, peak: Peak) -> list[Trajectory]:
    """Train experts 0..count-1, or this shard's part of them, that the folder does not hold; return those it then has.

    Raises ValueError (settings), OSError (files), FloatingPointError (an expert diverged).
    """
    folder.mkdir(parents=True, exist_ok=True)
    tidy(folder)
    asked = shard_of(setup.config.expert.shard, count)
    with ExitStack() as locks:
        for index in _missing(setup, folder, asked):
            name = f".expert_{index:04}.lock"
            locks.enter_context(Lock(folder, name, f"expert {index}; shards of one folder are --expert.shard"))
        # Asked for again: another process may have ended in between.
        if missing := _missing(setup, folder, asked):
            _train_missing(setup, folder, missing, peak)
    return open_experts(setup, folder, count)


def _missing(setup: Setup, folder: Path, asked: list[int]) -> list[int]:
    """Those experts that a folder does not hold."""
    have = {int(t.header["index"]) for t in open_experts(setup, folder)}
    return [index for index in asked if index not in have]


def _train_missing(setup: Setup, folder: Path, missing: list[int], peak: Peak) -> None:
    config, where = setup.config, setup.device
    workers = processes(config.expert.workers, where.type)
    total = len(missing) * config.expert.epochs
    about = expert_settings(setup)
    reached = [0] * len(missing)
    with shared(setup.material, folder) as path, Meter("experts", total, unit="epochs") as meter:
        jobs = [(path, config, str(where), index, expert_path(folder, index), about) for index in missing]

        def listen(job: int, said: str | tuple[int, float]) -> None:
            if isinstance(said, str):
                LOGGER.warning(said)
                return
            epoch, accuracy = said
            if epoch > reached[job] + 1:
                LOGGER.info(f"expert {missing[job]} goes on after epoch {epoch - 1}, where it was saved")
                meter.skip(epoch - 1)
            reached[job] = epoch
            meter.advance(f"expert {missing[job]}, epoch {epoch}: {accuracy:.1%} on test")

        for _ in run_over_ranks(_train_one, jobs, workers, config.expert.threads, listen, peak):
            pass  # each job has written its own file


def real(mapped: Mapped, split: str, place: torch.device) -> Real:
    """One split of the shared images, on a device, where all networks of a process share it."""
    return Real(mapped.on(f"{split}.x", place), mapped.on(f"{split}.y", place))


def _with_memory(mapped: Mapped, training: Real, place: torch.device) -> Real:
    """The training images of an expert, with the memory of a stream where experts see it."""
    if not mapped.passes:
        return training
    return replace(training, memory=(mapped.on("memory.x", place), mapped.on("memory.y", place)), passes=mapped.passes)


def _train_one(
    material: Path, config: Config, where: str, index: int, path: Path, about: dict[str, Any], report: Report
) -> None:
    mapped = opened(material)
    place = torch.device(where)
    training, test = (real(mapped, split, place) for split in ("train", "test"))
    make = factory(config.network, mapped.shape, len(mapped.classes))
    recipe = expert_training(config)
    network, _ = build(make, 0)
    engine = training_engine(config, network, place)
    bits = {**about, "engine": engine.name, "device": where, "torch": torch.__version__}
    unfinished = Unfinished(path.with_name(UNFINISHED.format(f"{index:04}")), bits, config.outer.checkpoint_seconds)
    try:
        since = unfinished.load(place)
    except ValueError as error:
        since = None
        report(f"{error}; expert {index} is trained from its beginning")

    def tell(epoch: int, accuracy: float) -> None:
        report((epoch, accuracy))

    seen = _with_memory(mapped, training, place)
    num_classes, every, keep = len(mapped.classes), config.expert.save_every, unfinished.keep
    with deterministic(config.deterministic, place), saving(unfinished.write):
        result = expert(make, seen, test, num_classes, recipe, config.seed, index, every, tell, engine, keep, since)
    layout = Layout.of(network)
    header = {
        "settings": about,
        "index": index,
        "epochs": config.expert.epochs,
        "test_accuracy": result.test_accuracy,
        "train_accuracy": result.train_accuracy,
        "names": layout.names,
        "shapes": layout.shapes,
        "seconds": round(unfinished.spent, 3),
        "threads": torch.get_num_threads(),
        "device": where,
        "torch": torch.__version__,
    }
    save_trajectory(path, result.rows, header, config.expert.storage)
    unfinished.remove()


@contextmanager
def stopwatch(into: dict[str, float], name: str) -> Iterator[None]:
    """Add the block's seconds to into[name], also when it ends in an exception."""
    began = time.monotonic()
    try:
        yield
    finally:
        into[name] = into.get(name, 0.0) + time.monotonic() - began
