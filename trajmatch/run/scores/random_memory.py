"""A memory of random real images in a stream of classes: what the sets of `trajmatch continual` have to beat.

Legend: n images of c x h x w.
"""

from collections.abc import Sequence
from dataclasses import replace

from trajmatch.core.draws import derive, generator
from trajmatch.machine.determinism import deterministic, one_thread
from trajmatch.measure.continual import of_classes
from trajmatch.measure.evaluate import train_and_test
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages.random_images import random_set


def random_memory(setup: Setup, seen: Sequence[int], rate: float, networks: int) -> list[float]:
    """Test accuracies on the classes seen, of networks trained on as many random real images of each as a set has.

    seen: numbers of the classes, in the order in which they came. rate: learning rate, such as that of the memory of
    sets at this step. Every network has a draw of its own; networks and mini-batches are those that the memory of sets
    meets (seed "continual"). Real images are seen through the input space of all training images. Raises ValueError
    where a class has fewer training images than --ipc.
    """
    config, device = setup.config, setup.device
    known = Setup(config, replace(setup.material, dataset=of_classes(setup.dataset, seen)))
    recipe = replace(setup.evaluation_training(rate), lr=rate)
    test = known.dataset.test
    x, y = setup.material.space.forward(test.x).to(device), test.y.to(device)
    found = []
    with one_thread():
        for i in range(networks):
            X, Y = random_set(known, generator(config.seed, "random real images", i))
            seed = derive(config.seed, "continual", i)
            with deterministic(config.deterministic, device):
                made = train_and_test(known.make(), X.to(device), Y.to(device), recipe, x, y, seed, known.engine)
            found.append(made)
    return found
