"""Experts derived anew from `train`: which iterates are kept, on what they are scored, from which seeds."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tests.oracles import random
from trajmatch.core.augment import Draw, augment, draw
from trajmatch.core.draws import derive, generator
from trajmatch.core.loss import cross_entropy, gradient
from trajmatch.core.sharpness import Sharpness, VaSSO
from trajmatch.core.vector import functional
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.methods.experts import Expert, Real, expert
from trajmatch.methods.training import Standing, Training, accuracy, train

X, LABELS = random(10, 1, 8, 8, seed=1).float(), torch.arange(10) % 3
TRAINING, TEST = Real(X, LABELS), Real(random(90, 1, 8, 8, seed=2).float(), torch.arange(90) % 3)
RECIPE = Training(lr=0.1, epochs=3, batch=4, momentum=0.5, families=("flip", "crop"))  # three steps an epoch


def network() -> nn.Module:
    return convnet((1, 8, 8), 3, depth=2, width=4)


def fixed() -> nn.Module:
    """A network whose initial weights are the same for every seed."""
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        for parameter in flat.parameters():
            parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter))
    return flat


def iterates(seed: int, index: int) -> tuple[list[Tensor], nn.Module]:
    """theta after every step, the initial one first."""
    module, theta = build(network, derive(seed, "expert", index, "weights"))
    loss, Y = cross_entropy(functional(module)), nn.functional.one_hot(LABELS, 3).float()
    steps = train(partial(gradient, loss), theta, X, Y, RECIPE, derive(seed, "expert", index, "batches"))
    return [theta, *(now.theta for now in steps)], module


@pytest.mark.parametrize("save_every", [None, 1, 2, 4])
def test_snapshots_are_the_iterates_asked_for(save_every: int | None) -> None:
    found = expert(network, TRAINING, TEST, 3, RECIPE, 7, 2, save_every)
    wanted, _ = iterates(7, 2)
    every = 3 if save_every is None else save_every
    assert len(found.rows) == 1 + 9 // every
    for row, theta in zip(found.rows, wanted[::every], strict=True):
        assert torch.equal(row, theta)
    assert not torch.equal(found.rows[0], found.rows[-1])


def test_accuracies_are_of_the_epochs_and_of_the_right_images() -> None:
    told: list[tuple[int, float]] = []
    found = expert(network, TRAINING, TEST, 3, RECIPE, 7, 2, report=lambda epoch, share: told.append((epoch, share)))
    thetas, module = iterates(7, 2)
    forward = functional(module)
    wanted = [accuracy(forward, theta, TEST.x, TEST.y) for theta in thetas[::3]]
    assert len(set(wanted)) > 1
    assert found.test_accuracy == wanted
    assert told == list(zip([1, 2, 3], wanted[1:], strict=True))
    assert found.train_accuracy == accuracy(forward, thetas[-1], X, LABELS)
    assert found.train_accuracy != wanted[-1]


def test_experts_differ_in_their_batches_too() -> None:
    """From the same weights: the order of the batches depends on the index and on the seed."""

    def run(seed: int, index: int) -> Expert:
        return expert(fixed, TRAINING, TEST, 3, RECIPE, seed, index)

    first = run(0, 0)
    for other in (run(0, 1), run(1, 0)):
        assert torch.equal(first.rows[0], other.rows[0])
        assert not torch.equal(first.rows[1], other.rows[1])


def test_training_sees_the_augmented_images_each_batch_with_its_own_draw() -> None:
    seen: list[Tensor] = []

    def loss(theta: Tensor, z: Tensor, y: Tensor) -> Tensor:
        seen.append(z.detach().clone())
        return (theta * z.sum()).sum() + 0 * y.sum()

    list(train(loss, torch.ones(1), X, torch.eye(3)[LABELS], RECIPE, seed=5))
    source, wanted, draws = generator(5, "training"), [], list[Draw]()
    for _ in range(3):
        for index in torch.randperm(10, generator=source).split(4):
            draws.append(draw(len(index), RECIPE.families, source))
            wanted.append(augment(X[index], draws[-1]))
    assert {a.family for a in draws} == {"flip", "crop"}
    assert all(torch.equal(a, b) for a, b in zip(seen, wanted, strict=True))


@pytest.mark.parametrize("rule", [None, VaSSO(0.1)])
@pytest.mark.parametrize("save_every", [None, 2])
@pytest.mark.parametrize("epochs", [1, 3])
def test_an_expert_goes_on_to_the_same_bits(rule: Sharpness | None, save_every: int | None, epochs: int) -> None:
    recipe = replace(RECIPE, sharpness=rule, lr_drop=0.7)
    kept: list[tuple[Expert, Standing]] = []

    def keep(so_far: Expert, at: Standing) -> None:
        kept.append((Expert(list(so_far.rows), list(so_far.test_accuracy)), at))

    whole = expert(network, TRAINING, TEST, 3, recipe, 7, 2, save_every, keep=keep)
    assert [at.epoch for _, at in kept] == [1, 2, 3]
    again = expert(network, TRAINING, TEST, 3, recipe, 7, 2, save_every, since=kept[epochs - 1])
    assert len(again.rows) == len(whole.rows)
    assert all(torch.equal(a, b) for a, b in zip(again.rows, whole.rows, strict=True))
    assert (again.test_accuracy, again.train_accuracy) == (whole.test_accuracy, whole.train_accuracy)


def test_divergence_names_the_expert_and_the_epoch() -> None:
    with pytest.raises(FloatingPointError, match=r"expert 4: .*epoch 1;.*--expert\.lr"):
        expert(network, TRAINING, TEST, 3, Training(float("inf"), 2, 4), 0, 4)
