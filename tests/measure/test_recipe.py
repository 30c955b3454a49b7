"""Augmentation, mini-batches and training in plain PyTorch are those of the networks of a score."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import trajmatch
from trajmatch.core.augment import augment, draw, families
from trajmatch.core.draws import derive, generator
from trajmatch.core.sharpness import FlatGSAM
from trajmatch.core.vector import Layout
from trajmatch.data.networks.convnet import build, convnet, drawn
from trajmatch.data.synthetic import SyntheticSet
from trajmatch.data.whitening import fit
from trajmatch.measure.evaluate import gradient_with_state
from trajmatch.measure.recipe import Augment, Batches, train
from trajmatch.methods import training
from trajmatch.methods.training import AdamWTraining, Training

LABELS = torch.arange(12) % 3
X = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
MADE = SyntheticSet(X, torch.eye(3)[LABELS], 0.05, ("a", "b", "c"), fit("none", X))
SGD = Training(0.05, 6, batch=5, momentum=0.9, weight_decay=0.01, families=families("flip_crop"), lr_drop=0.5)
ADAMW = AdamWTraining(0.01, 6, batch=5, weight_decay=0.01, families=families("flip_crop"))
make = partial(convnet, (1, 8, 8), 3, 2, 8)


@pytest.mark.parametrize("recipe", [SGD, ADAMW])
def test_training_takes_the_steps_that_scores_take(recipe: Training) -> None:
    """Torch's optimisers beside the flat vector of weights, over a change of the rate and the restart of momentum.

    In float64, for Adam makes steps of the rounding of derivatives that are zero, as those of biases before a norm are.
    """
    made = replace(MADE, X=MADE.X.double(), Y=MADE.Y.double())
    module, theta = build(make, 3)
    before = theta = theta.double()
    gradient = gradient_with_state(module.double())
    for now in training.train(gradient, theta, made.X, made.Y, recipe, derive(7, "batches")):
        theta = now.theta
    network = train(drawn(make, 3).double(), made, recipe, seed=7)
    assert not network.training
    found = Layout.of(network).join({name: p.detach() for name, p in network.named_parameters()})
    assert (theta - before).norm() > 0.1
    assert (found - theta).norm() < 1e-9 * (theta - before).norm()


def test_mini_batches_are_an_epoch_each_time_and_others_the_next() -> None:
    plain = replace(SGD, families=())
    batches = Batches(MADE, plain, seed=1)
    assert len(batches) == 3
    first, second = list(batches), list(batches)
    assert [len(x) for x, _ in first] == [5, 5, 2]
    for epoch in (first, second):
        images = torch.cat([x for x, _ in epoch])
        assert sorted(images.flatten(1).sum(1).tolist()) == sorted(X.flatten(1).sum(1).tolist())
    assert not torch.equal(first[0][0], second[0][0])


def test_the_augmentation_is_that_of_the_draws_and_none_in_evaluation_mode() -> None:
    module, source = Augment("flip_crop_scale", seed=4), generator(4, "training")
    for _ in range(3):
        assert torch.equal(module(X), augment(X, draw(12, ("flip", "crop", "scale"), source)))
    assert module.eval()(X) is X
    with pytest.raises(ValueError, match="'turn' is not a family"):
        Augment("flip_turn")


def test_what_can_not_be_trained_is_refused() -> None:
    with pytest.raises(ValueError, match=r"recipe\.sharpness is set"):
        train(drawn(make, 0), MADE, replace(SGD, sharpness=FlatGSAM()))
    with pytest.raises(ValueError, match="no parameters to train"):
        train(nn.Flatten(), MADE, SGD)


def test_the_recipe_of_a_set_is_that_of_its_settings_or_what_is_asked_for() -> None:
    found = trajmatch.recipe(MADE)
    assert (found.lr, found.epochs, found.momentum, found.lr_drop) == (0.05, 1000, 0.9, 0.5)
    asked = trajmatch.recipe(MADE, "adamw", augment="none")
    assert isinstance(asked, AdamWTraining)
    assert (asked.lr, asked.epochs, asked.families) == (0.001, 2000, ())
    own = replace(MADE, info={"config": {"evaluation.epochs": 30, "evaluation.augment": "flip"}})
    assert (trajmatch.recipe(own).epochs, trajmatch.recipe(own, rate=0.2).lr) == (30, 0.2)
    with pytest.raises(ValueError, match="there is no setting 'epoch'; there are augment, batch, epochs"):
        trajmatch.recipe(MADE, epoch=3)
    with pytest.raises(ValueError, match=r"--evaluation\.epochs is 0 and must be at least 1"):
        trajmatch.recipe(MADE, epochs=0)
