"""A class-incremental stream with a memory of distilled sets: GDumb's protocol.

Legend: C classes in S steps; n images of c x h x w in the memory.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor

from trajmatch.core.draws import generator
from trajmatch.data.images import Dataset, Images


def class_steps(num_classes: int, steps: int, seed: int, order: int) -> list[list[int]]:
    """The classes of each step: a permutation drawn from (seed, order), in S parts of equal size.

    Raises ValueError where the classes can't be parted equally, or into single ones.
    """
    if not 1 <= steps <= num_classes or num_classes % steps:
        raise ValueError(f"--class-steps is {steps} and must divide the {num_classes} classes into equal parts")
    permutation = torch.randperm(num_classes, generator=generator(seed, "class order", order)).tolist()
    size = num_classes // steps
    if size < 2:
        raise ValueError(
            f"--class-steps is {steps}, which leaves one class to a step, and there is nothing to tell apart"
        )
    return [sorted(permutation[k * size : (k + 1) * size]) for k in range(steps)]


def of_classes(dataset: Dataset, classes: Sequence[int]) -> Dataset:
    """Only these classes of a data set, renumbered in the order that is given."""

    def part(images: Images) -> Images:
        numbers = torch.full((dataset.num_classes,), -1)
        numbers[list(classes)] = torch.arange(len(classes))
        y = numbers[images.y]
        return Images(images.x[y >= 0], y[y >= 0])

    names = tuple(dataset.classes[k] for k in classes)
    train, validation, test = (part(split) for split in (dataset.train, dataset.validation, dataset.test))
    return Dataset(dataset.name, names, train, validation, test, dataset.held_out)


def beside_old(dataset: Dataset, new: Sequence[int], old: Sequence[int]) -> Dataset:
    """The new classes of a data set, and behind them the old ones, of which it has test images alone."""
    both, alone = of_classes(dataset, [*new, *old]), of_classes(dataset, new)
    return replace(both, train=alone.train, validation=alone.validation)


def passes(real: float, kept: float, weight: float) -> int:
    """How often each kept image is seen in an epoch over the new classes' real images, at least once.

    real, kept: images of a class that are real, and that are kept. weight: how often images of an old class are seen,
    for each time that images of a new one are.
    """
    return max(1, round(weight * real / kept))


def memory_of(parts: Sequence[tuple[Sequence[int], Tensor, Tensor]], classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """All images (n, c, h, w) of a memory, with label probabilities (n, C) among these classes.

    parts: for each step the classes that its labels are of, its images (n_step, c, h, w) and labels (n_step, C_step).
    """
    where = {label: k for k, label in enumerate(classes)}
    labels = [widened(Y, [where[label] for label in known], len(classes)) for known, _, Y in parts]
    return torch.cat([X for _, X, _ in parts]), torch.cat(labels)


def widened(Y: Tensor, classes: Sequence[int], num_classes: int) -> Tensor:
    """Label probabilities (n, C_step) of a step's classes among all that have been seen, (n, C)."""
    wide = torch.zeros(len(Y), num_classes, dtype=Y.dtype)
    wide[:, list(classes)] = Y
    return wide


def band(accuracies: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Mean and population standard deviation after each step, over class orders and networks.

    accuracies: (orders x networks, steps).
    """
    return [(fmean(column), pstdev(column)) for column in zip(*accuracies, strict=True)]


def curve(orders: Sequence[Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Accuracies by order, step and network, with their `band`, as a record keeps them."""
    runs = [[step[i] for step in order] for order in orders for i in range(len(order[0]))]
    after = band(runs)
    return {"accuracy": orders, "mean": [mean for mean, _ in after], "std": [deviation for _, deviation in after]}
