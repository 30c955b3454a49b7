"""The student: the inner loss with the derivatives that training and the sweep take of it.

How they are computed is an engine's business (methods/engines.py); that they are the loss's derivatives is all that
the rest of the core knows of them. Legend: P parameters; z (n, c, h, w) and y (n, C) one mini-batch; a (P,).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from trajmatch.core.loss import Loss
from trajmatch.core.loss import gradient as gradient_of
from trajmatch.core.mixed import MixedOf, Three, inputs_alone, reverse_over_reverse
from trajmatch.core.vector import Forward

Gradient = Callable[[Tensor, Tensor, Tensor], Tensor]
Mixed = Callable[[Tensor, Tensor, Tensor, Tensor], Three]
InputsAlone = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Student(NamedTuple):
    """The inner loss l(theta, z, y) and its derivatives, where u = grad_theta l and h = <u, a>.

    loss:         (theta, z, y) -> l ()
    gradient:     (theta, z, y) -> u (P,)
    mixed:        (theta, z, y, a) -> dh/dtheta (P,), dh/dz, dh/dy
    inputs_alone: (theta, z, y, a) -> dh/dz, dh/dy
    forward:      (theta, z) -> the network's outputs, for labels that an expert gives; None where nobody asks
    many:         the student of several networks at once; None where they are to be computed one by one
    """

    loss: Loss
    gradient: Gradient
    mixed: Mixed
    inputs_alone: InputsAlone
    forward: Forward | None = None
    many: "Student | None" = None


def plain(loss: Loss, mixed: MixedOf = reverse_over_reverse) -> Student:
    """A student whose derivatives are autograd's, one operation after another."""
    return Student(loss, partial(gradient_of, loss), partial(mixed, loss), partial(inputs_alone, loss))


def stacked(loss: Loss) -> Student:
    """The derivatives of K networks at once, every argument and result with K in front, by torch's vmap.

    Its convolutions become grouped ones: faster than one network after another on a GPU, and slower on a CPU.
    """
    gradient = grad(loss)

    def along(theta: Tensor, z: Tensor, y: Tensor, a: Tensor) -> Tensor:
        u: Tensor = gradient(theta, z, y)
        return u @ a

    mixed, inputs = grad(along, argnums=(0, 1, 2)), grad(along, argnums=(1, 2))
    return Student(vmap(loss), vmap(gradient), vmap(mixed), vmap(inputs))


def in_parts(forward: Forward, size: int | None) -> Forward:
    """The same outputs, of at most `size` images at a time; None takes all at once."""
    if size is None:
        return forward
    return lambda theta, z: torch.cat([forward(theta, part) for part in z.split(size)])


# (derivative's name, its arguments for each chunk) -> its values, in the chunks' order, wherever they are computed.
Over = Callable[[str, Sequence[tuple[Tensor, ...]]], Iterable[Any]]


def in_turn(student: Student) -> Over:
    """Derivatives of one chunk after another, computed here: one chunk's memory at a time."""
    return lambda name, given: (getattr(student, name)(*arguments) for arguments in given)


def micro_batched(student: Student, size: int, over: Over | None = None) -> Student:
    """The same derivatives from at most `size` images at a time: memory that does not grow with the mini-batch.

    Exact for a loss that is a mean over the mini-batch and a network that does not couple its images, as instance,
    group and layer norm do not and batch norm does: the derivatives are means over chunks, weighted by their sizes, and
    summed in their order. over: what computes the chunks' derivatives; None is `in_turn`.
    """
    spread = in_turn(student) if over is None else over

    def chunks(name: str, theta: Tensor, z: Tensor, y: Tensor, *a: Tensor) -> Iterator[tuple[float, Any]]:
        parts = list(zip(z.split(size), y.split(size), strict=True))
        weights = [len(zk) / len(z) for zk, _ in parts]
        return zip(weights, spread(name, [(theta, zk, yk, *a) for zk, yk in parts]), strict=True)

    def total_gradient(theta: Tensor, z: Tensor, y: Tensor) -> Tensor:
        u = torch.zeros_like(theta)
        for weight, u_k in chunks("gradient", theta, z, y):
            u = u + weight * u_k
        return u

    def total_mixed(theta: Tensor, z: Tensor, y: Tensor, a: Tensor) -> Three:
        h_theta, h_z, h_y = torch.zeros_like(theta), [], []
        for weight, (along_theta, along_z, along_y) in chunks("mixed", theta, z, y, a):
            h_theta = h_theta + weight * along_theta
            h_z.append(weight * along_z)
            h_y.append(weight * along_y)
        return h_theta, torch.cat(h_z), torch.cat(h_y)

    def all_inputs(theta: Tensor, z: Tensor, y: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        parts = list(chunks("inputs_alone", theta, z, y, a))
        return torch.cat([w * h_z for w, (h_z, _) in parts]), torch.cat([w * h_y for w, (_, h_y) in parts])

    outputs = None if student.forward is None else in_parts(student.forward, size)
    return Student(student.loss, total_gradient, total_mixed, all_inputs, outputs)
