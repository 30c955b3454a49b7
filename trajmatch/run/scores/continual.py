"""`trajmatch continual`: classes arrive in steps, each step's are condensed, networks train on all that is kept."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from trajmatch.data import synthetic as sets
from trajmatch.data.file_names import STREAM
from trajmatch.data.files import replacing, write_record
from trajmatch.data.kept import BELONGS, digest
from trajmatch.data.material import Material, Replay
from trajmatch.data.synthetic import SyntheticSet
from trajmatch.data.trajectories import Trajectory
from trajmatch.machine.lock import Lock
from trajmatch.machine.messages import LOGGER, counted
from trajmatch.machine.processes import Report
from trajmatch.machine.progress import Meter
from trajmatch.machine.shares import run_over_ranks
from trajmatch.measure.continual import beside_old, class_steps, curve, memory_of, of_classes, passes
from trajmatch.pages import records as shapes
from trajmatch.pages.plots import png, streams
from trajmatch.pages.tables import as_text, mean_and_std
from trajmatch.run.assembly.setup import Setup, check
from trajmatch.run.folder import commit
from trajmatch.run.scores.memory import Kept, on_random, on_sets
from trajmatch.run.scores.stream_folder import EXPERTS_OF, PLACE, SCORES, check_experts, check_place
from trajmatch.run.stages import beforehand
from trajmatch.run.stages.experts import open_experts
from trajmatch.run.stages.run import Run
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config, MethodName
from trajmatch.settings.flat import flatten
from trajmatch.settings.kinds import checked
from trajmatch.settings.methods import METHODS
from trajmatch.settings.options import Continual, Who
from trajmatch.settings.ranges import is_count

ALSO = "; random: of {}, each on as many random real images, at the same rate"


def continual(config: Config, options: Continual, folder: Path, command: str) -> Path:
    """Run the stream in a folder, or go on there; returns the path of the result.

    Only the new classes are condensed at a step, by the configuration's method, with experts of their own; the memory
    is all sets so far, and networks are trained on it at the geometric mean of their step sizes. `options.replay` says
    where the memory is used before that, by methods that match trajectories. Pixels are normalised or whitened as
    fitted to all training images, as the published programs do. `config.experts` may name the folder of another stream
    of the same orders, whose experts are taken, so that methods can be compared. Raises ValueError.
    """
    checked(options)
    config = resolve(config)
    check(config)
    options = _heeded(config, options)
    check_place(folder)
    if not is_count(config.experts):
        check_experts(Path(config.experts), options)
    _setup.cache_clear()  # the images may be others now
    setup = _setup(config)
    steps = [class_steps(setup.dataset.num_classes, options.class_steps, config.seed, k) for k in range(options.orders)]
    batch, new = config.matching.batch, config.ipc * config.factor**2 * len(steps[0][0])
    if batch is not None and batch > new:
        raise ValueError(f"--matching.batch is {batch} and must be at most the {new} images that a step condenses")
    if not (folder / PLACE.format(0, 0)).exists():
        # What can't work is found at the first step, and leaves no folder.
        first = Setup(config, _part(setup.material, steps[0][0]))
        beforehand.check_run(first, _known_experts(first))
    folder.mkdir(parents=True, exist_ok=True)
    with Lock(folder):  # the runs of its steps have their own
        jobs = [(config, options, order, groups, folder, command) for order, groups in enumerate(steps)]

        def listen(order: int, said: tuple[int, float]) -> None:
            LOGGER.info(f"order {order + 1} of {len(steps)}, {said[0]} classes: {said[1]:.2%}")

        rows = dict(run_over_ranks(_one_order, jobs, 1, torch.get_num_threads(), listen))
        return _told(setup, options, steps, [rows[order] for order in range(len(steps))], folder, command)


def _heeded(config: Config, options: Continual) -> Continual:
    """The options without a replay that the method has no use for. What has no effect is said in a line."""
    if METHODS[config.method].steps == "none" and config.outer.initial == "real":
        options = replace(options, random_networks=0)  # the sets are random real images themselves
    options = replace(options, replay=_possible(options.replay, config.method))
    if options.replay_weight != Continual.replay_weight and options.replay not in ("experts", "both"):
        LOGGER.info(f"--replay-weight has no effect with --replay {options.replay}")
    return options


def _possible(replay: Who, name: MethodName) -> Who:
    """What of a replay the method has a use for; what has none is said in a line."""
    method = METHODS[name]
    if replay == "none" or method.matches:
        return replay
    if not method.through_training:
        LOGGER.info(f"--replay {replay} has no effect with --method {name}, which matches no trajectories")
        return "none"
    if replay != "students":  # which are there to see the memory
        LOGGER.info(f"--replay {replay}: no expert sees the memory, for --method {name} has none")
    return "none" if replay == "experts" else "students"


@lru_cache(maxsize=1)
def _setup(config: Config) -> Setup:
    """The images and what the configuration makes of them, once in a process. Raises ValueError."""
    return Setup.load(config)


def _one_order(
    config: Config,
    options: Continual,
    order: int,
    groups: list[list[int]],
    folder: Path,
    command: str,
    report: Report,
) -> tuple[list[list[float]], list[list[float]]]:
    """Accuracies of one order of the classes, by step and network: of its sets, and of random images."""
    setup = _setup(config)
    memory: list[Kept] = []
    found: list[list[float]] = []
    by_random: list[list[float]] = []
    with Meter(f"order {order + 1} of {options.orders}", len(groups), unit="class steps") as meter:
        for j, group in enumerate(groups):
            place, old = folder / PLACE.format(order, j), [label for before in groups[:j] for label in before]
            done = (place / SCORES).exists()
            with meter.parts():
                material, classes = _material(setup, group, old, memory, options)
                memory.append((classes, _condensed(setup, material, (order, j), folder, command)))
                seen = [*old, *group]
                found.append(on_sets(setup, memory, seen, options.fresh_networks, place))
                by_random.append(on_random(setup, memory, seen, options.random_networks, place))
            report((len(seen), fmean(found[-1])))
            if done:  # before, and it costs nothing now
                meter.skip(1)
            else:
                meter.advance()
    return found, by_random


def _part(material: Material, group: list[int]) -> Material:
    """The images of some classes, in the input space of all."""
    content = f"{material.content}, classes {' '.join(map(str, group))}"
    return Material(of_classes(material.dataset, group), material.space, content)


def _material(
    setup: Setup, group: list[int], old: list[int], memory: list[Kept], options: Continual
) -> tuple[Material, list[int]]:
    """What a step is condensed from, and the classes that its labels are of: the new, and with a replay the old."""
    part = _part(setup.material, group)
    if not memory or options.replay == "none":
        return part, group
    classes, whole = [*group, *old], setup.material
    X, Y = memory_of([(known, *one.seen) for known, one in memory], classes)
    real, kept = len(part.dataset.train) / len(group), len(X) / len(old)
    times = passes(real, kept, options.replay_weight) if options.replay in ("experts", "both") else 0
    of_sets = digest([sets.content(one) for _, one in memory])
    content = f"{part.content} of {' '.join(map(str, classes))}"
    if times:  # which experts depend on
        content += f", {times} passes over {of_sets}"
    replay = Replay(X, Y, len(old), times, options.replay in ("students", "both"), of_sets)
    return Material(beside_old(whole.dataset, group, old), whole.space, content, replay=replay), classes


def _known_experts(setup: Setup) -> list[Trajectory] | None:
    """The first step's experts of another stream, or none; None where experts are to be trained."""
    config = setup.config
    if not METHODS[config.method].experts:
        return []
    if is_count(config.experts):
        return None
    return open_experts(setup, Path(config.experts) / EXPERTS_OF.format(0, 0))


def _condensed(
    setup: Setup, material: Material, order_and_step: tuple[int, int], folder: Path, command: str
) -> SyntheticSet:
    """The set of a step's classes, distilled now or found done."""
    place, experts = folder / PLACE.format(*order_and_step), setup.config.experts
    if not is_count(experts):
        experts = str(Path(experts) / EXPERTS_OF.format(*order_and_step))
    about = replace(setup.config, out=str(place), experts=experts, resume=True, log=())
    this = Run(about, place, command, material=material)
    this.experts()
    this.distill()
    return sets.load(place)


def _told(
    setup: Setup,
    options: Continual,
    steps: list[list[list[int]]],
    orders: list[tuple[list[list[float]], list[list[float]]]],
    folder: Path,
    command: str,
) -> Path:
    """Write the result and the curves."""
    config, material = setup.config, setup.material
    rows, by_random = ([order[k] for order in orders] for k in range(2))
    by = ", by the recipe adamw" if config.evaluation.recipe == "adamw" else ""
    seen = [sum(len(group) for group in steps[0][: j + 1]) for j in range(len(steps[0]))]
    replay = {"replay": options.replay, "replay_weight": options.replay_weight} if options.replay != "none" else {}
    beside = {"random": curve(by_random)} if options.random_networks else {}
    also = ALSO.format(counted(options.random_networks, "more network")) if beside else ""
    result: dict[str, Any] = {
        "method": config.method,
        **replay,
        "ipc": config.ipc,
        "dataset": material.dataset.name,
        "images": material.dataset.digest,
        "classes_seen": seen,
        "orders": steps,
        **curve(rows),
        **beside,
        "n": f"{counted(len(rows), 'order')} x {counted(len(rows[0][0]), 'network')}",
        "how": f"accuracy on the test images of all classes seen ({len(material.dataset.test)} of all "
        f"{material.dataset.num_classes} classes) of networks trained from scratch on the whole memory{by}; "
        f"networks after each step: {len(rows[0][0])}, orders of classes: {len(rows)}; mean and population "
        f"standard deviation over all of both{also}",
        "config": {k: v for k, v in flatten(config).items() if k not in ("out", "resume", "experts")},
        "command": command,
        "commit": commit(),
    }
    write_record(folder / STREAM, {**result, BELONGS: {"data": material.content}})
    with replacing(folder / "continual.png") as temporary:
        temporary.write_bytes(png(streams([result], [config.method])))
    return folder / STREAM


def lines(path: Path) -> list[str]:
    """A result as text."""
    found = shapes.record(path, shapes.TOLD)
    random = found.get("random")
    rows = []
    for j, seen in enumerate(found["classes_seen"]):
        row = {"at": f"{seen} classes seen"}
        for name, one in ((found["method"], found), ("random", random)):
            if one is not None:
                row[name] = mean_and_std({"mean": one["mean"][j], "std": one["std"][j]})
        rows.append(row)
    return [
        f"{found['method']}, {found['ipc']} per class, {found['n']}",
        *as_text(rows, head=random is not None),
        f"  {found['how']}",
        f"  written to {path}",
    ]
