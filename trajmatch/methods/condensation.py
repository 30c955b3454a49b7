"""Condensation without trajectories: matching gradients (DC, DSA) or mean features (DM) of real and synthetic images.

Legend: C classes of ipc synthetic images c x h x w, n = C ipc in all, sorted by class; B real images of each class in a
step; P parameters of a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trajmatch.core.augment import Draw, augment, draw
from trajmatch.core.descent import Momentum
from trajmatch.core.draws import derive, generator
from trajmatch.core.student import Student
from trajmatch.core.tiles import decoded, repeated
from trajmatch.core.vector import Forward, Layout
from trajmatch.methods.multisize import Parts, is_measured, moving, next_network, part_distances
from trajmatch.methods.state import OuterState, Record
from trajmatch.methods.training import Training, train

MEAN_FEATURES, GRADIENTS = "mean-features", "gradients"


@dataclass(frozen=True)
class Condensation:
    """What a step does, and what is done between steps.

    matched:  MEAN_FEATURES under a new random network at every step (DM, arXiv 2110.04181), or GRADIENTS (DC, arXiv
              2006.05929; with augmentation DSA, arXiv 2102.08259).
    images:   optimiser of X.
    families: of the augmentation that a class's real and synthetic images share.
    updates:  image updates for each network.
    network:  how a network is trained on the synthetic images between two updates; None does not train it.
    parts:    whether the gradients of a leading part of the images are matched too (MDC, methods/multisize.py).
    interval: networks for which the leading part stays the same.
    factor:   tiles along each side of an image, each of which a network sees as an image; 1 cuts nothing.
    """

    matched: str
    images: Momentum
    families: tuple[str, ...]
    updates: int = 1
    network: Training | None = None
    parts: bool = False
    interval: int = 1
    factor: int = 1


def shared_draw(families: tuple[str, ...], source: torch.Generator) -> Draw:
    """One draw for all images of a step, real and synthetic: siamese augmentation."""
    return draw(1, families, source)


def _seen(x: Tensor, a: Draw) -> Tensor:
    return augment(x, Draw(a.family, a.u.expand(len(x), -1)))


def feature_distance(
    features: Forward, theta: Tensor, synthetic: Sequence[Tensor], real: Sequence[Tensor], draws: Sequence[Draw]
) -> Tensor:
    """Sum over classes of |mean features of real - mean features of synthetic images|^2, ()."""
    total = torch.zeros((), dtype=theta.dtype, device=theta.device)
    for x, r, a in zip(synthetic, real, draws, strict=True):
        with torch.no_grad():
            wanted = features(theta, _seen(r, a)).flatten(1).mean(0)
        total = total + (features(theta, _seen(x, a)).flatten(1).mean(0) - wanted).square().sum()
    return total


def gradient_distance(layout: Layout, wanted: Tensor, found: Tensor) -> Tensor:
    """Sum over weights with two or more dimensions, and over their rows, of 1 - cosine of two gradients (P,).

    A row is all that leads to one output: of a convolution (out, in h w). Biases and norms do not count, as published.
    """
    total = torch.zeros((), dtype=found.dtype, device=found.device)
    one, two = layout.split(wanted), layout.split(found)
    for name in layout.names:
        if one[name].dim() > 1:
            cosine = F.cosine_similarity(one[name].flatten(1), two[name].flatten(1), dim=1, eps=1e-12)
            total = total + (1 - cosine).sum()
    return total


def real_gradients(student: Student, theta: Tensor, real: Sequence[Tensor], draws: Sequence[Draw]) -> list[Tensor]:
    """For each class, the gradient (P,) of the cross-entropy on its real images."""
    one_hot, found = torch.eye(len(real), dtype=theta.dtype, device=theta.device), []
    for label, (r, a) in enumerate(zip(real, draws, strict=True)):
        found.append(student.gradient(theta, _seen(r, a), one_hot[label].expand(len(r), -1)))
    return found


def gradients_distance(
    forward: Forward,
    layout: Layout,
    theta: Tensor,
    synthetic: Sequence[Tensor],
    wanted: Sequence[Tensor],
    draws: Sequence[Draw],
    part: int = 0,
) -> Tensor:
    """Sum () over classes of the distance of the gradient of the cross-entropy on synthetic images from the wanted one.

    part: the distance of the first so many images of each class is added; 0 adds nothing.
    """
    total = torch.zeros((), dtype=theta.dtype, device=theta.device)
    at = theta.detach().requires_grad_()
    for label, (x, u, a) in enumerate(zip(synthetic, wanted, draws, strict=True)):
        for images in (x, x[:part]) if part else (x,):
            labels = torch.full((len(images),), label, device=theta.device)
            loss = F.cross_entropy(forward(at, _seen(images, a)), labels)
            total = total + gradient_distance(layout, u, torch.autograd.grad(loss, at, create_graph=True)[0])
    return total


def _measured(
    rule: Condensation,
    parts: Parts,
    features: Forward,
    theta: Tensor,
    synthetic: Sequence[Tensor],
    real: Sequence[Tensor],
    draws: Sequence[Draw],
) -> Parts:
    """The parts after an update, where its network is measured with the distances in it."""
    now, before, chosen = (tensor.to(theta, non_blocking=True) for tensor in (parts.now, parts.before, parts.chosen))
    if is_measured(parts.networks - 1, rule.interval):
        one, two = ([_seen(x, a) for x, a in zip(images, draws, strict=True)] for images in (synthetic, real))
        now = now + part_distances(features, theta, one, two, rule.factor**2)
    return Parts(now, before, chosen, parts.size, parts.networks)


def condensation_step(
    rule: Condensation,
    forward: Forward,
    layout: Layout,
    student: Student,
    fresh: Tensor,
    state: OuterState,
    real: Sequence[Tensor],
    seed: int,
    features: Forward | None = None,
) -> tuple[OuterState, Record]:
    """One update of the images. A pure function of its arguments; `state.steps` numbers the step.

    forward:  outputs for GRADIENTS, features for MEAN_FEATURES, of weights laid out as `layout` says.
    student:  gives the gradients of real images, and trains the network between updates.
    fresh:    (P,) weights of a new random network, which every `updates`th step takes; the other steps go on from
              state.network.
    real:     for each class, (B, c, h, w) real images.
    seed:     of all draws of the run.
    features: the features that parts are measured by, where the rule matches parts.
    """
    step, ipc, tiles = int(state.steps), len(state.X) // len(real), rule.factor**2
    source = generator(seed, "condensation", step)
    draws = [shared_draw(rule.families, source) for _ in real]
    theta, parts = state.network, Parts.of(state.parts, ipc)
    if step % rule.updates == 0:
        theta, parts = fresh, next_network(parts, rule.interval)
    with torch.enable_grad():
        X = state.X.detach().requires_grad_()
        synthetic = decoded(X, rule.factor).split(tiles * ipc)
        if rule.matched == MEAN_FEATURES:
            loss = feature_distance(forward, theta, synthetic, real, draws)
        else:
            wanted = real_gradients(student, theta, real, draws)
            part = tiles * parts.size if rule.parts else 0
            loss = gradients_distance(forward, layout, theta, synthetic, wanted, draws, part)
        (d,) = torch.autograd.grad(loss, X)
    if rule.parts:
        d = torch.where(moves := moving(parts, ipc, len(real)).to(d.device, non_blocking=True), d, torch.zeros_like(d))
    moved, moments = _moved(rule, state, d)
    if rule.parts and features is not None:
        moved = torch.where(moves, moved, state.X)  # momentum does not move frozen images either
        parts = _measured(rule, parts, features, theta, [x.detach() for x in synthetic], real, draws)
        state = state._replace(parts=parts.packed())
    if rule.network is not None and (step + 1) % rule.updates:
        given = decoded(moved, rule.factor), repeated(state.Y, rule.factor)
        for now in train(student.gradient, theta, *given, rule.network, derive(seed, "network", step)):
            theta = now.theta
    after = state._replace(X=moved, average=moved, image_moments=moments, network=theta, steps=state.steps + 1)
    return after, _record(loss.detach(), d.norm(), after)


def _moved(rule: Condensation, state: OuterState, d: Tensor) -> tuple[Tensor, Tensor]:
    """The images after a step of their optimiser along `d`, and the optimiser's moments."""
    moved, moments = rule.images.step(state.X, d, state.image_moments, int(state.steps))
    # Not `if`: reading the scale would make a GPU wait.
    return torch.where(state.scale == 1, moved, state.X + state.scale * (moved - state.X)), moments


def _record(loss: Tensor, norm: Tensor, after: OuterState) -> Record:
    """What is told of an update; it is healthy where all of it is finite."""
    healthy = torch.isfinite(loss) & torch.isfinite(norm) & after.X.isfinite().all()
    return Record(loss, None, norm, after.eta, None, healthy)
