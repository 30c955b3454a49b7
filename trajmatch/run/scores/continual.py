"""`trajmatch continual`: classes arrive in steps, each step's are condensed, networks train on all that is kept."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch

from trajmatch.core.draws import derive
from trajmatch.data import synthetic as sets
from trajmatch.data.checksums import identity
from trajmatch.data.file_names import CONFIG, SET, STREAM
from trajmatch.data.files import replacing, write_record
from trajmatch.data.kept import BELONGS, digest, other
from trajmatch.data.material import Material
from trajmatch.data.synthetic import SyntheticSet
from trajmatch.data.trajectories import Trajectory
from trajmatch.machine.determinism import deterministic
from trajmatch.machine.lock import Lock
from trajmatch.machine.messages import LOGGER, hushed
from trajmatch.machine.processes import Report
from trajmatch.machine.shares import run_over_ranks
from trajmatch.measure.continual import band, class_steps, of_classes, widened
from trajmatch.measure.evaluate import train_and_test
from trajmatch.pages import records as shapes
from trajmatch.pages.plots import png, streams
from trajmatch.pages.tables import as_text, mean_and_std
from trajmatch.run.assembly.setup import Setup, check
from trajmatch.run.folder import commit
from trajmatch.run.stages import beforehand
from trajmatch.run.stages.experts import open_experts
from trajmatch.run.stages.run import Run
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.flat import flatten
from trajmatch.settings.kinds import checked
from trajmatch.settings.methods import METHODS
from trajmatch.settings.options import Continual
from trajmatch.settings.ranges import is_count

SCORES = "scores.json"
PLACE = "order-{}/step-{}"
EXPERTS_OF = PLACE + "/experts"


def continual(config: Config, options: Continual, folder: Path, command: str) -> Path:
    """Run the stream in a folder, or go on there; returns the path of the result.

    Only the new classes are condensed at a step, by the configuration's method, with experts of their own; the memory
    is all sets so far, and networks are trained on it at the geometric mean of their step sizes. Pixels are normalised
    or whitened as fitted to all training images, as the published programs do. `config.experts` may name the folder of
    another stream of the same orders, whose experts are taken, so that methods can be compared. Raises ValueError.
    """
    checked(options)
    config = resolve(config)
    check(config)
    _check_place(folder)
    if not is_count(config.experts):
        _check_experts(Path(config.experts), options)
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
        return _told(setup, steps, [rows[order] for order in range(len(steps))], folder, command)


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
) -> list[list[float]]:
    """Accuracies of one order of the classes, by step and network."""
    setup = _setup(config)
    memory: list[tuple[list[int], SyntheticSet]] = []
    found: list[list[float]] = []
    for j, group in enumerate(groups):
        place = folder / PLACE.format(order, j)
        memory.append((group, _condensed(setup, group, (order, j), folder, command)))
        found.append(_scores(setup, memory, options.fresh_networks, place))
        report(((j + 1) * len(group), sum(found[-1]) / len(found[-1])))
    return found


def _check_place(folder: Path) -> None:
    """Raise ValueError where a folder holds anything but a stream, or a stream with a damaged file of accuracies."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out is '{folder}', which is a file: choose another")
    held = {child.name for child in folder.iterdir() if not child.name.startswith(".")} if folder.exists() else set()
    if CONFIG in held:
        raise ValueError(f"--out is '{folder}', which holds a run and no stream: choose another")
    # A stream that was interrupted early has no result yet, but the folder of its first order.
    if held and STREAM not in held and not (folder / PLACE.format(0, 0)).parent.is_dir():
        raise ValueError(f"--out is '{folder}', which is not empty and holds no stream: choose another")
    for path in sorted(folder.glob(PLACE.format("*", "*") + f"/{SCORES}")):
        _held(path, {})


def _check_experts(stream: Path, options: Continual) -> None:
    """Raise ValueError where another stream lacks experts of an order and step, or has fewer there than at first."""
    if not (stream / EXPERTS_OF.format(0, 0)).is_dir():
        raise ValueError(
            f"--experts is '{stream}' and must be a number, or the folder of another continual stream, whose "
            "experts are taken"
        )
    counts = {
        (order, step): len(list((stream / EXPERTS_OF.format(order, step)).glob("expert_*.safetensors")))
        for order in range(options.orders)
        for step in range(options.class_steps)
    }
    wanted = max(1, counts[0, 0])
    lacking = [place for place, count in counts.items() if count < wanted]
    if lacking:
        complete = options.orders - len({order for order, _ in lacking})
        raise ValueError(
            f"--experts is '{stream}', which has experts for all {options.class_steps} of --class-steps in {complete} "
            f"of the {options.orders} of --orders ({PLACE.format(*lacking[0])} has {counts[lacking[0]]} where {wanted} "
            "must be): ask for what it has, or let that stream go on first"
        )


def _part(material: Material, group: list[int]) -> Material:
    """The images of some classes, in the input space of all."""
    content = f"{material.content}, classes {' '.join(map(str, group))}"
    return Material(of_classes(material.dataset, group), material.space, content)


def _known_experts(setup: Setup) -> list[Trajectory] | None:
    """The first step's experts of another stream, or none; None where experts are to be trained."""
    config = setup.config
    if not METHODS[config.method].experts:
        return []
    if is_count(config.experts):
        return None
    return open_experts(setup, Path(config.experts) / EXPERTS_OF.format(0, 0))


def _condensed(
    setup: Setup, group: list[int], order_and_step: tuple[int, int], folder: Path, command: str
) -> SyntheticSet:
    """The set of a step's classes, distilled now or found done."""
    place, experts = folder / PLACE.format(*order_and_step), setup.config.experts
    if not is_count(experts):
        experts = str(Path(experts) / EXPERTS_OF.format(*order_and_step))
    about = replace(setup.config, out=str(place), experts=experts, resume=True, log=())
    with hushed():
        this = Run(about, place, command, material=_part(setup.material, group))
        this.experts()
        this.distill()
    return sets.load(place)


def _scores(setup: Setup, memory: list[tuple[list[int], SyntheticSet]], networks: int, place: Path) -> list[float]:
    """Accuracies on test images of all classes seen, of new networks trained on the whole memory."""
    path, config, material = place / SCORES, setup.config, setup.material
    belongs = {"set": _identities(place, len(memory)), "data": material.content}
    held = _held(path, belongs) if path.exists() else []
    if len(held) >= networks:
        return held[:networks]
    seen = [label for group, _ in memory for label in group]
    known = of_classes(material.dataset, seen)
    where = {label: k for k, label in enumerate(seen)}
    X = torch.cat([one.images for _, one in memory])
    Y = torch.cat([widened(one.seen[1], [where[label] for label in group], len(seen)) for group, one in memory])
    of_known, device = Setup(config, replace(material, dataset=known)), setup.device
    make, engine = of_known.make(), of_known.engine
    recipe = setup.evaluation_training(geometric_mean([one.eta for _, one in memory]))
    x, y = material.space.forward(known.test.x).to(device), known.test.y.to(device)
    X, Y = X.to(device), Y.to(device)
    # One thread, whatever ran before: the numbers are those of the same arithmetic.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for i in range(len(held), networks):
            seed = derive(config.seed, "continual", i)
            with deterministic(config.deterministic, device):
                held.append(train_and_test(make, X, Y, recipe, x, y, seed, engine))
            about = {"images": len(X), "classes": seen, "rate": recipe.lr, BELONGS: belongs}
            write_record(path, {"accuracy": held, **about})
    finally:
        torch.set_num_threads(threads)
    return held


def _identities(place: Path, count: int) -> str:
    """What tells the sets of a stream's steps up to this one from any others."""
    return digest([identity(place.with_name(f"step-{j}") / SET) for j in range(count)])


def _held(path: Path, belongs: dict[str, str]) -> list[float]:
    """The accuracies of a step's networks that are trained already; none where they are of other sets or images.

    Raises ValueError where the file is damaged.
    """
    found = shapes.record(path, shapes.SCORES, "this record is damaged")
    if (what := other(found, belongs)) is not None:
        LOGGER.warning(f"{path} belongs to another {what} than the one here: its networks are trained again")
        return []
    return list(found["accuracy"])


def _told(
    setup: Setup,
    steps: list[list[list[int]]],
    rows: list[list[list[float]]],
    folder: Path,
    command: str,
) -> Path:
    """Write the result and the curve."""
    config, material = setup.config, setup.material
    by = ", by the recipe adamw" if config.evaluation.recipe == "adamw" else ""
    curves = [[step[i] for step in order] for order in rows for i in range(len(order[0]))]
    after = band(curves)
    seen = [sum(len(group) for group in steps[0][: j + 1]) for j in range(len(steps[0]))]
    result: dict[str, Any] = {
        "method": config.method,
        "ipc": config.ipc,
        "dataset": material.dataset.name,
        "images": material.dataset.digest,
        "classes_seen": seen,
        "orders": steps,
        "accuracy": rows,
        "mean": [mean for mean, _ in after],
        "std": [deviation for _, deviation in after],
        "n": f"{len(rows)} orders x {len(rows[0][0])} networks",
        "how": f"accuracy on the test images of all classes seen ({len(material.dataset.test)} of all "
        f"{material.dataset.num_classes} classes) of networks trained from scratch on the whole memory{by}; "
        f"networks after each step: {len(rows[0][0])}, orders of classes: {len(rows)}; mean and population "
        "standard deviation over all of both",
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
    steps = zip(found["classes_seen"], found["mean"], found["std"], strict=True)
    rows = [{"at": f"{seen} classes seen", "score": mean_and_std({"mean": m, "std": s})} for seen, m, s in steps]
    return [
        f"{found['method']}, {found['ipc']} per class, {found['n']}",
        *as_text(rows, head=False),
        f"  {found['how']}",
        f"  written to {path}",
    ]
