"""`trajmatch import`: experts and sets of MTT's program, and of those after it, as files that every verb takes.

Those programs train on all training images, so that validation images are none of their own here.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trajmatch.core.vector import Layout
from trajmatch.data import synthetic as sets
from trajmatch.data.file_names import SET
from trajmatch.data.formats import peer
from trajmatch.data.formats.peer import Kind
from trajmatch.data.synthetic import SyntheticSet, wrong_set
from trajmatch.data.trajectories import save_trajectory
from trajmatch.data.whitening import InputSpace
from trajmatch.machine.messages import LOGGER
from trajmatch.machine.progress import Meter
from trajmatch.methods import engines
from trajmatch.methods.training import accuracy
from trajmatch.run.assembly.setup import Setup, check
from trajmatch.run.exchange.target import check_free, new_folder
from trajmatch.run.stages.experts import expert_path, foreign_settings
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.flat import flatten
from trajmatch.settings.kinds import checked
from trajmatch.settings.options import Import

# The learning rate of MTT's evaluation before it has learned one.
FIRST_RATE = 0.01
NAMES = ("images_best.pt", "labels_best.pt", "lr_best.pt", "whitening.pt")


class Found(NamedTuple):
    """A file that is imported, and what it holds."""

    path: Path
    kind: Kind
    value: Any


def import_files(paths: Sequence[Path], config: Config, options: Import, target: Path) -> list[str]:
    """Import the experts, or the set, of some files or of a folder of them; what was done, as lines of text.

    Raises ValueError where a file is damaged, of another shape than the data and the network, or the target is there
    already; nothing is written then.
    """
    checked(options)
    check_free(target)
    files = _files(paths)
    config = resolve(config)
    check(config)
    if config.network.name != "convnet":
        raise ValueError(f"--network.name is '{config.network.name}' and must be convnet, whose weights are the same")
    kinds = {file.kind for file in files}
    if "experts" in kinds and len(kinds) > 1:
        raise ValueError("experts and a set are imported one by one: name the files of one of them")
    if "experts" not in kinds and not {"images", "labels"} <= kinds:
        missing = "images" if "images" not in kinds else "labels"
        raise ValueError(f"{files[0].path}: a set needs images and labels, and no file of {missing} was named")
    setup = _normalised(Setup.load(config), options)
    return _experts(setup, files, target) if "experts" in kinds else _set(setup, files, options, target)


def _files(paths: Sequence[Path]) -> list[Found]:
    """The files, or those of a folder that have the names that the programs give them, each read."""
    if not paths:
        raise ValueError("no file was named: trajmatch import replay_buffer_0.pt ..., or images_best.pt labels_best.pt")
    found = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(path.glob("replay_buffer_*.pt"), key=lambda one: [int(d) for d in re.findall(r"\d+", one.name)])
        inside = inside or [path / name for name in NAMES if (path / name).is_file()]
        if not inside:
            raise ValueError(f"{path}: this folder holds no replay_buffer_*.pt and no images_best.pt")
        found += inside
    values = [(path, peer.read(path)) for path in found]
    files = [Found(path, peer.kind(value, path), value) for path, value in values]
    for kind in ("images", "labels", "step size", "whitening"):
        if len(same := [file.path for file in files if file.kind == kind]) > 1:
            raise ValueError(f"{same[1]}: this holds a set's {kind}, as {same[0]} does: name one of them")
    return files


def _normalised(setup: Setup, options: Import) -> Setup:
    """The same with the input space that the files were made in. Raises ValueError."""
    kind, given = setup.config.images.normalise, bool(options.mean or options.std)
    if kind != "channel":
        if given:
            raise ValueError(f"--mean and --std belong to --images.normalise channel, and it is {kind}")
        return setup
    c = setup.dataset.shape[0]
    if not len(options.mean) == len(options.std) == c or min(options.std) <= 0:
        raise ValueError(
            f"--mean and --std must be {c} numbers each, above 0 in --std, as the other program normalised its images: "
            "MTT's are 0.4914 0.4822 0.4465 and 0.2023 0.1994 0.2010 for CIFAR-10"
        )
    mean, std = torch.tensor(options.mean), torch.tensor(options.std)
    space = InputSpace("channel", mean, std, torch.empty(0), setup.dataset.shape)
    return Setup(setup.config, replace(setup.material, space=space, seen=f", seen through {space.digest()}"))


def _experts(setup: Setup, files: Sequence[Found], target: Path) -> list[str]:
    """Write each expert to a file of its own, with its accuracy on the test images here."""
    network, _ = setup.built()
    layout, forward = Layout.of(network), engines.forward(network, setup.engine)
    test = setup.dataset.test
    x, y = setup.material.space.forward(test.x).to(setup.device), test.y.to(setup.device)
    everyone = [(file.path, k, expert) for file in files for k, expert in enumerate(file.value)]
    accuracies = []
    with new_folder(target) as place, Meter("import", len(everyone), unit="experts") as meter:
        for index, (path, k, expert) in enumerate(everyone):
            rows = peer.rows(expert, layout.shapes, f"{path}, expert {k}")
            accuracies.append(accuracy(forward, rows[-1].to(setup.device), x, y))
            header = {
                "settings": foreign_settings(setup),
                "index": index,
                "epochs": len(rows) - 1,
                "test_accuracy": accuracies[-1:],
                "seconds": 0.0,
                "names": layout.names,
                "shapes": layout.shapes,
                "foreign": f"expert {k} of {path.name}, of another program",
            }
            save_trajectory(expert_path(place, index), rows, header, setup.config.expert.storage)
            meter.advance(f"{accuracies[-1]:.1%} on test")
    mean, chance = sum(accuracies) / len(accuracies), 1 / setup.dataset.num_classes
    if mean < 1.5 * chance:
        LOGGER.warning(
            f"{mean:.2%} on test is close to chance ({chance:.2%}): the classes of --data may be in another "
            "order there, or the images normalised otherwise (--images.normalise)"
        )
    flags = "--images.no-hold-out with the same --images.* and --network.*"
    return [
        f"{target}: {len(everyone)} experts of another program, {mean:.2%} on the test images of {setup.dataset.name}; "
        f"distil from them by --experts {target} {flags}"
    ]


def _set(setup: Setup, files: Sequence[Found], options: Import, target: Path) -> list[str]:
    """Write the set to a file that `trajmatch evaluate` takes."""
    by_kind = {file.kind: file for file in files}
    images, labels = by_kind["images"], by_kind["labels"]
    X, dataset = images.value.detach().float().clone(), setup.dataset
    if tuple(X.shape[1:]) != dataset.shape:
        raise ValueError(f"{images.path}: its images are {tuple(X.shape[1:])}, and those of --data {dataset.shape}")
    Y, taken = peer.probabilities(labels.value, dataset.num_classes, labels.path)
    if len(X) != len(Y) or len(X) % dataset.num_classes:
        raise ValueError(
            f"{images.path}: it has {len(X)} images for {len(Y)} labels of {dataset.num_classes} classes, and must "
            "have as many of each class"
        )
    X, Y = _by_class(X, Y, labels.path) if taken == "classes" else (X, Y)
    eta, told = _rate(by_kind.get("step size"), options)
    space = setup.material.space
    if (whitening := by_kind.get("whitening")) is not None:
        space = peer.space(whitening.value, dataset.shape, whitening.path)
    config = replace(setup.config, ipc=len(X) // dataset.num_classes, factor=1, out=None, resume=False)
    config = replace(config, outer=replace(config.outer, step_size=eta))
    info = {"dataset": dataset.name, "ipc": config.ipc, "config": flatten(config)}
    info["foreign"] = f"{images.path.name}, of another program"
    found = SyntheticSet(X, Y, eta, dataset.classes, space, info)
    if (wrong := wrong_set(found)) is not None:
        raise ValueError(f"{images.path}: this set cannot be used: {wrong}")
    with new_folder(target) as place:
        sets.save(found, place / SET)
    for line in (told, f"{labels.path}: its labels are taken for {taken}"):
        LOGGER.info(line)
    return [f"{target / SET}: {len(X)} images of another program; trajmatch evaluate {target} scores them"]


def _rate(file: Found | None, options: Import) -> tuple[float, str]:
    """The step size, and where it comes from, in words."""
    if options.step_size is not None:
        return options.step_size, f"the step size is {options.step_size:g}, as --step-size says"
    if file is not None:
        found = peer.step_size(file.value, file.path)
        return found, f"the step size is {found:g}, from {file.path}"
    return FIRST_RATE, f"no file tells the learned step size, and {FIRST_RATE:g} is assumed: --step-size names another"


def _by_class(X: torch.Tensor, Y: torch.Tensor, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels sorted by class. Raises ValueError where classes have different numbers of images."""
    labels = Y.argmax(1)
    counts = torch.bincount(labels, minlength=Y.shape[1])
    if int(counts.min()) != int(counts.max()):
        raise ValueError(
            f"{path}: it has {int(counts.min())} images of class {int(counts.argmin())} and {int(counts.max())} of "
            f"class {int(counts.argmax())}, and must have as many of each"
        )
    order = labels.argsort(stable=True)
    return X[order], Y[order]
