"""Random real images as the memory of a stream."""

from dataclasses import replace

import torch

from tests.small import FLAGS
from trajmatch.core.draws import derive, generator
from trajmatch.data.synthetic import one_hot
from trajmatch.measure.evaluate import train_and_test
from trajmatch.run.assembly.setup import Setup, factory
from trajmatch.run.scores.memory import random_memory
from trajmatch.settings.checks import resolve
from trajmatch.settings.command_line import settings_of


def test_networks_are_trained_on_random_images_of_the_classes_seen_alone() -> None:
    config = settings_of("run", "digits-ipc1", FLAGS[1:]).config
    config = resolve(replace(config, ipc=4, evaluation=replace(config.evaluation, epochs=30)))
    setup = Setup.load(config)
    found = [random_memory(setup, [7, 2, 5], 0.05, number) for number in range(2)]
    assert found[1] == random_memory(setup, [7, 2, 5], 0.05, 1)
    assert found[0] != found[1], "each has a draw of its own"
    assert sum(found) / 2 > 0.6, "three digits from four examples of each; chance is a third"
    train, test = setup.dataset.train, setup.dataset.test
    source, rows = generator(config.seed, "random real images", 0), []
    for label in (7, 2, 5):  # once more, from the equations of the draw
        members = (train.y == label).nonzero().squeeze(1)
        rows.append(members[torch.randperm(len(members), generator=source)[:4]])
    X = setup.material.space.forward(train.x[torch.cat(rows)])
    Y = one_hot(torch.arange(3).repeat_interleave(4), 3)
    kept = torch.cat([(test.y == label).nonzero().squeeze(1) for label in (7, 2, 5)])
    y = torch.tensor([(7, 2, 5).index(label) for label in test.y[kept].tolist()])
    recipe, seed = setup.evaluation_training(0.05), derive(config.seed, "continual", 0)
    three = factory(config.network, setup.dataset.shape, 3)
    x = setup.material.space.forward(test.x[kept])
    assert abs(train_and_test(three, X, Y, recipe, x, y, seed, setup.engine) - found[0]) < 0.02
