"""What can't work is refused here, before anything is trained and before a folder is made.

The real network is made, moved to the device and differentiated on two images as the stages will do it; nothing is
trained, and nothing is written. `check` of run/assembly/setup.py has refused what needs no images before.
"""

from collections.abc import Sequence
from math import ceil

import torch
from torch import nn

from trajmatch.core.vector import Layout, functional
from trajmatch.data.networks.convnet import embedding
from trajmatch.data.trajectories import Trajectory
from trajmatch.machine.determinism import deterministic
from trajmatch.machine.messages import counted
from trajmatch.methods import engines
from trajmatch.methods.derivatives import check_features, check_sweep, check_truth
from trajmatch.methods.selection import SELECTIONS
from trajmatch.run.assembly.engine import Compute
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages.steps import STEPS
from trajmatch.settings.checks import needed_snapshots
from trajmatch.settings.config import Config
from trajmatch.settings.methods import METHODS


def check_experts(setup: Setup) -> None:
    """Raise ValueError where experts of a resolved configuration can't be trained, or would have no snapshots."""
    functional(setup.network)
    _check_engine(setup)
    config = setup.config
    every, steps = config.expert.save_every, training_steps(setup)
    if every is not None and every > steps:
        raise ValueError(
            f"--expert.save-every is {every} and must be at most {steps}, the steps of a training of "
            f"{counted(config.expert.epochs, 'epoch')}: there would be no snapshots"
        )


def check_run(setup: Setup, trajectories: Sequence[Trajectory] | None) -> Compute:
    """Raise ValueError where a distillation or its scores can't be had; else say how the outer loop will compute.

    trajectories: the experts where they are known, None where they are still to be trained.
    """
    config, network = setup.config, setup.network
    functional(network)
    _check_engine(setup)
    method = METHODS[config.method]
    if method.experts and trajectories is None:
        check_experts(setup)
        _check_planned(setup)
    if trajectories:
        check_segments(config, trajectories)
        _check_fit(network, trajectories)
    if config.outer.initial in SELECTIONS or method.features or method.parts:
        embedding(network)
    found = setup.outer_compute()
    if method.condenses:
        found = STEPS[method.steps](setup, []).compute
    if config.steps:
        _check_derivatives(setup, found)
    return found


def training_steps(setup: Setup) -> int:
    """Steps of one expert's training."""
    e = setup.config.expert
    return e.epochs * ceil(len(setup.dataset.train) / e.batch)


def check_segments(config: Config, trajectories: Sequence[Trajectory]) -> None:
    """Raise ValueError for an expert that is shorter than the segments reach."""
    needed = needed_snapshots(config.matching)
    for trajectory in trajectories:
        if trajectory.num_rows <= needed:
            raise ValueError(
                f"{trajectory.path} has snapshots 0 to {trajectory.num_rows - 1}, and --matching.last-epoch with "
                f"--matching.expert-epochs needs {needed}: train experts longer or lower them"
            )


def _check_planned(setup: Setup) -> None:
    """Refuse snapshots so far apart that the experts would be shorter than the segments reach."""
    every, needed = setup.config.expert.save_every, needed_snapshots(setup.config.matching)
    if every is None or (last := training_steps(setup) // every) >= needed:
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


def _check_engine(setup: Setup) -> None:
    """Refuse an engine for the training of networks that can't be had here."""
    engines.check(setup.engine, setup.network, setup.device, setup.dataset.shape)


def _check_derivatives(setup: Setup, how: Compute) -> None:
    """Refuse a network without the derivatives that the method's steps take."""
    config, network = setup.config, setup.network
    name, shape, num_classes = config.network.name, setup.dataset.shape, setup.dataset.num_classes
    _, theta = setup.built()
    if METHODS[config.method].features:
        check_features(name, network, theta, shape, num_classes)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with deterministic(config.deterministic, setup.device):
            check_sweep(name, network, theta, how.engine, shape, num_classes, how.together)
        if ":" in name and theta.device.type != "mps":  # which has no float64
            again, theta = setup.built()  # which the check turns into float64
            check_truth(name, again, theta, shape, num_classes)
    finally:
        torch.set_num_threads(threads)
