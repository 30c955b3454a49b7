"""Networks trained on the memory of a stream of classes, and on as many random real images, which sets have to beat.

Legend: n images of c x h x w, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from torch import Tensor

from trajmatch.core.draws import derive, generator
from trajmatch.data.files import write_record
from trajmatch.data.kept import BELONGS
from trajmatch.data.synthetic import SyntheticSet
from trajmatch.machine.determinism import deterministic, one_thread
from trajmatch.measure.continual import memory_of, of_classes
from trajmatch.measure.evaluate import train_and_test
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.scores.stream_folder import RANDOM_SCORES, SCORES, held_scores, identities
from trajmatch.run.stages.random_images import random_set

# What a stream has kept of a step: the classes that its labels are of, in their order, and the set.
Kept = tuple[list[int], SyntheticSet]


def rate(memory: Sequence[Kept]) -> float:
    """The learning rate of networks that are trained on the memory."""
    return geometric_mean([one.eta for _, one in memory])


def on_sets(setup: Setup, memory: Sequence[Kept], seen: Sequence[int], networks: int, place: Path) -> list[float]:
    """Accuracies on test images of all classes seen, of new networks trained on the whole memory."""
    X, Y = memory_of([(classes, *one.seen) for classes, one in memory], seen)
    return _accuracies(setup, memory, seen, (len(X), networks), place / SCORES, lambda number: (X, Y))


def on_random(setup: Setup, memory: Sequence[Kept], seen: Sequence[int], networks: int, place: Path) -> list[float]:
    """The same of networks trained on as many random real images of each class as a set has: random_memory's."""
    counts, images = (setup.config.ipc * len(seen), networks), partial(_drawn, _of(setup, seen))
    return _accuracies(setup, memory, seen, counts, place / RANDOM_SCORES, images)


def random_memory(setup: Setup, seen: Sequence[int], eta: float, number: int) -> float:
    """Test accuracy on the classes seen, of a network trained on as many random real images of each as a set has.

    seen: numbers of the classes, in the order in which they came. eta: learning rate, such as that of the memory of
    sets at this step. Every network has a draw of its own; networks and mini-batches are those that the memory of sets
    meets (seed "continual"). Real images are seen through the input space of all training images. Raises ValueError
    where a class has fewer training images than --ipc.
    """
    known = _of(setup, seen)
    return _tester(known, eta)(*_drawn(known, number), number)


def _of(setup: Setup, seen: Sequence[int]) -> Setup:
    """The same for the classes seen alone."""
    return Setup(setup.config, replace(setup.material, dataset=of_classes(setup.dataset, seen)))


def _drawn(known: Setup, number: int) -> tuple[Tensor, Tensor]:
    """Random real images (n, c, h, w) of network `number`, and their labels (n, C)."""
    return random_set(known, generator(known.config.seed, "random real images", number))


def _tester(known: Setup, eta: float) -> Callable[[Tensor, Tensor, int], float]:
    """What trains a network on images (n, c, h, w) with labels (n, C), and tests it; its number decides its draws."""
    config, device, test = known.config, known.device, known.dataset.test
    recipe, make = known.evaluation_training(eta), known.make()
    x, y = known.material.space.forward(test.x).to(device), test.y.to(device)

    def tested(X: Tensor, Y: Tensor, number: int) -> float:
        seed = derive(config.seed, "continual", number)
        with one_thread(), deterministic(config.deterministic, device):
            return train_and_test(make, X.to(device), Y.to(device), recipe, x, y, seed, known.engine)

    return tested


def _accuracies(
    setup: Setup,
    memory: Sequence[Kept],
    seen: Sequence[int],
    counts: tuple[int, int],
    path: Path,
    images: Callable[[int], tuple[Tensor, Tensor]],
) -> list[float]:
    """The accuracies of a step's networks: those that its file holds, and new ones, each written when it is there.

    counts: of the images that each is trained on, and of the networks. images: those of a network, with their labels.
    """
    many, networks = counts
    belongs = {"set": identities(path.parent, len(memory)), "data": setup.material.content}
    held = held_scores(path, belongs) if path.exists() else []
    if len(held) >= networks:
        return held[:networks]
    tested, lr = _tester(_of(setup, seen), rate(memory)), setup.evaluation_training(rate(memory)).lr
    about: dict[str, Any] = {"images": many, "classes": list(seen), "rate": lr, BELONGS: belongs}
    for number in range(len(held), networks):
        held.append(tested(*images(number), number))
        write_record(path, {"accuracy": held, **about})
    return held
