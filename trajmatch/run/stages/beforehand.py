"""What can't work is refused here, before anything is trained and before a folder is made.

The real network is made, moved to the device and differentiated on two images as the stages will do it; nothing is
trained, and nothing is written. `assemble.check` has refused what needs no images before.
"""

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor, nn

from trajmatch.core.vector import Layout, functional
from trajmatch.data.material import Material
from trajmatch.data.networks.convnet import build, embedding
from trajmatch.data.trajectories import Trajectory
from trajmatch.methods import engines
from trajmatch.methods.derivatives import check_features, check_sweep, check_truth
from trajmatch.methods.selection import SELECTIONS
from trajmatch.run.assembly import engine as compute
from trajmatch.run.assembly import setup
from trajmatch.run.assembly.engine import Compute
from trajmatch.run.stages.steps import Condenser
from trajmatch.settings.config import Config
from trajmatch.settings.methods import METHODS


def check_experts(config: Config, material: Material) -> None:
    """Raise ValueError where experts of a resolved configuration can't be trained, or would have no snapshots."""
    network, _ = made(config, material)
    functional(network)
    _check_engine(config, network, material)
    every, steps = config.expert.save_every, training_steps(config, material)
    if every is not None and every > steps:
        raise ValueError(
            f"--expert.save-every is {every} and must be at most {steps}, the steps of a training of "
            f"{config.expert.epochs} epochs: there would be no snapshots"
        )


def check_run(config: Config, material: Material, trajectories: Sequence[Trajectory] | None) -> Compute:
    """Raise ValueError where a distillation or its scores can't be had; else say how the outer loop will compute.

    trajectories: the experts where they are known, None where they are still to be trained.
    """
    network, theta = made(config, material)
    functional(network)
    _check_engine(config, network, material)
    method = METHODS[config.method]
    if method.experts and trajectories is None:
        check_experts(config, material)
        _check_planned(config, material)
    if trajectories:
        check_segments(config, trajectories)
        _check_fit(network, trajectories)
    if config.outer.initial in SELECTIONS or config.method in ("dm", "mdc"):
        embedding(network)
    found = _outer(config, network, material)
    if config.steps:
        _check_derivatives(config, network, theta, material, found)
    return found


def made(config: Config, material: Material) -> tuple[nn.Module, Tensor]:
    """The network of a configuration and weights of it, on its device. Raises ValueError where it can't be there."""
    place, dataset = setup.device(config.device), material.dataset
    network, theta = build(setup.factory(config.network, dataset.shape, dataset.num_classes), 0)
    return network.to(place), theta.to(place)


def training_steps(config: Config, material: Material) -> int:
    """Steps of one expert's training."""
    return config.expert.epochs * ceil(len(material.dataset.train) / config.expert.batch)


def needed_snapshots(config: Config) -> int:
    """The number of the last snapshot that a segment may end at."""
    return config.matching.last_epoch - 1 + config.matching.expert_epochs


def check_segments(config: Config, trajectories: Sequence[Trajectory]) -> None:
    """Raise ValueError for an expert that is shorter than the segments reach."""
    needed = needed_snapshots(config)
    for trajectory in trajectories:
        if trajectory.num_rows <= needed:
            raise ValueError(
                f"{trajectory.path} has snapshots 0 to {trajectory.num_rows - 1}, and --matching.last-epoch with "
                f"--matching.expert-epochs needs {needed}: train experts longer or lower them"
            )


def _check_planned(config: Config, material: Material) -> None:
    """Refuse snapshots so far apart that the experts would be shorter than the segments reach."""
    every, needed = config.expert.save_every, needed_snapshots(config)
    if every is None or (last := training_steps(config, material) // every) >= needed:
        return
    raise ValueError(
        f"--expert.save-every is {every}, which gives snapshots 0 to {last}, and --matching.last-epoch with "
        f"--matching.expert-epochs needs {needed}: take them more often, train experts longer, or lower those"
    )


def _check_fit(network: nn.Module, trajectories: Sequence[Trajectory]) -> None:
    """Refuse weights of another network: a user's own may have changed since."""
    layout = Layout.of(network)
    for trajectory in trajectories:
        shapes = tuple(map(tuple, trajectory.header.get("shapes", layout.shapes)))
        if shapes != layout.shapes:
            raise ValueError(
                f"{trajectory.path} holds weights of a network whose parameters have other shapes than those of "
                "--network.name now: choose other --experts"
            )


def _check_engine(config: Config, network: nn.Module, material: Material) -> None:
    """Refuse an engine for the training of networks that can't be had here."""
    place = setup.device(config.device)
    engines.check(compute.training_engine(config, network, place), network, place, material.dataset.shape)


def _outer(config: Config, network: nn.Module, material: Material) -> Compute:
    dataset, place = material.dataset, setup.device(config.device)
    synthetic = (config.ipc * dataset.num_classes, *dataset.shape)
    found = compute.outer_compute(config, network, place, synthetic, material.nbytes)
    return Condenser(config, material, place).compute() if METHODS[config.method].condenses else found


def _check_derivatives(config: Config, network: nn.Module, theta: Tensor, material: Material, how: Compute) -> None:
    """Refuse a network without the derivatives that the method's steps take."""
    name, shape, num_classes = config.network.name, material.dataset.shape, material.dataset.num_classes
    if config.method == "dm":
        check_features(name, network, theta, shape, num_classes)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        check_sweep(name, network, theta, how.engine, shape, num_classes, how.together)
        if ":" in name and theta.device.type != "mps":  # which has no float64
            again, theta = made(config, material)
            check_truth(name, again, theta, shape, num_classes)
    finally:
        torch.set_num_threads(threads)
