"""Whether a network has the derivatives that an outer step takes, tried on two images before anything is trained.

Legend: c x h x w one image, C classes, P parameters.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from trajmatch.core.draws import generator
from trajmatch.core.loss import Loss, cross_entropy
from trajmatch.core.mixed import reverse_over_reverse
from trajmatch.core.vector import functional
from trajmatch.data.networks.convnet import embedding
from trajmatch.data.networks.foreign import RAISED_BY_USERS, reason
from trajmatch.methods import engines
from trajmatch.methods.engines import Engine

Shape = tuple[int, int, int]
# Steps of the differences with which derivatives are compared, relative to |theta|. In float64 the two agree far
# better than the bound, unless the network computes in less inside: then nothing can be told.
STEPS, BOUND = (1e-7, 1e-8), 0.02


def check_sweep(
    name: str, network: nn.Module, theta: Tensor, engine: Engine, shape: Shape, num_classes: int, together: bool = False
) -> None:
    """Raise ValueError where the first or the mixed second derivative is missing, not finite or without the images.

    The derivatives are taken as the engine takes them, on theta's device; a compiled engine is tried as the fused one,
    whose code it compiles.
    """
    plain = replace(engine, name="fused" if engine.name == "compiled" else engine.name, micro_batch=None)
    student = engines.student(network, plain, together)
    point = _point(theta, shape, num_classes)
    _taken(name, "first derivative", lambda: [student.gradient(*point[:3])])
    found = _taken(name, "second derivative", lambda: [*student.mixed(*point), *student.inputs_alone(*point)])
    if not found[1].any():
        raise ValueError(
            f"--network.name is {name}, whose derivative in the images is zero, so that nothing could be distilled "
            "with it: its outputs must depend on them through differentiable operations"
        )
    if together and (many := student.many) is not None:
        two = [torch.stack([t, t]) for t in point]
        _taken(
            name, "derivative of several networks at once (--matching.together no needs none)", lambda: many.mixed(*two)
        )


def check_features(name: str, network: nn.Module, theta: Tensor, shape: Shape, num_classes: int) -> None:
    """Raise ValueError where features, before the last linear layer, have no derivative in the images."""
    _, z, _, _ = _point(theta, shape, num_classes)
    features = functional(embedding(network))

    def derivative() -> Sequence[Tensor]:
        images = z.clone().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(features(theta, images).square().sum(), images)

    if not _taken(name, "derivative of its features in the images", derivative)[0].any():
        raise ValueError(f"--network.name is {name}, whose features' derivative in the images is zero")


def check_truth(name: str, network: nn.Module, theta: Tensor, shape: Shape, num_classes: int) -> None:
    """Raise ValueError where derivatives are not those of the outputs: compared with differences, in float64.

    A user's own operation may have a backward pass that autograd can't look into, or another one on purpose. Where
    the network does not compute in float64, or not in its precision, there is nothing to compare with.
    """
    loss = cross_entropy(functional(network.cpu().double()))
    theta, z, y, a = (t.cpu().double() for t in _point(theta, shape, num_classes))
    try:
        h_theta, h_z, _ = reverse_over_reverse(loss, theta, z, y, a)
        first = _gradients(loss, theta, z, y)
        seconds, firsts = zip(*(_differences(loss, theta, z, y, a, step) for step in STEPS), strict=True)
    except RAISED_BY_USERS:  # a network need compute in float32 alone
        return
    for which, exact, differences in (
        ("first derivative in its parameters", (first[0] * a).sum(), [one[0] for one in firsts]),
        ("first derivative in the images", (first[1] * _along(z)).sum(), [one[1] for one in firsts]),
        ("second derivative", torch.cat([h_theta, h_z.flatten()]), seconds),
    ):
        trusted = _apart(differences[0], differences[1]) < BOUND
        if trusted and _apart(exact, differences[1]) > BOUND:
            raise ValueError(
                f"--network.name is {name}, whose {which} is not that of its outputs: an operation in it has a "
                "backward pass of its own that is another one, or that can't be differentiated again"
            )


def _point(theta: Tensor, shape: Shape, num_classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """theta a little off the initial weights, two images, their labels, an adjoint."""
    source = generator(0, "check of derivatives")
    moved = theta + 0.01 * torch.randn(theta.shape, generator=source).to(theta)
    z = torch.randn(2, *shape, generator=source).to(theta)
    y = torch.eye(num_classes)[torch.arange(2) % num_classes].to(theta)
    return moved, z, y, torch.randn(theta.shape, generator=source).to(theta)


def _taken(name: str, what: str, derivative: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor]:
    try:
        found = derivative()
    except MemoryError:
        raise
    except RAISED_BY_USERS as error:
        raise ValueError(
            f"--network.name is {name}, which has no {what}, and this method takes it: {reason(error)}"
        ) from None
    if not all(bool(t.isfinite().all()) for t in found):
        raise ValueError(f"--network.name is {name}, whose {what} is not finite")
    return found


def _gradients(loss: Loss, theta: Tensor, z: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    theta, z = (t.detach().requires_grad_() for t in (theta, z))
    with torch.enable_grad():
        return torch.autograd.grad(loss(theta, z, y), (theta, z))


def _along(z: Tensor) -> Tensor:
    return torch.randn(z.shape, generator=generator(0, "direction of images")).to(z)


def _differences(loss: Loss, theta: Tensor, z: Tensor, y: Tensor, a: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Central differences: of the gradients along a, (P + n c h w,), and of the loss along a and in the images."""
    r, v = step * theta.norm() / a.norm(), _along(z)
    s = step * z.norm() / v.norm()
    ahead, behind = (torch.cat([u.flatten() for u in _gradients(loss, theta + k * r * a, z, y)]) for k in (1, -1))
    with torch.no_grad():
        along_theta = (loss(theta + r * a, z, y) - loss(theta - r * a, z, y)) / (2 * r)
        along_z = (loss(theta, z + s * v, y) - loss(theta, z - s * v, y)) / (2 * s)
    return (ahead - behind) / (2 * r), torch.stack([along_theta, along_z])


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-30))
