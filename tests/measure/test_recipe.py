"""Augmentation, mini-batches and training in plain PyTorch are those of the networks of a score."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trajmatch
from trajmatch.core.augment import augment, draw, families
from trajmatch.core.draws import derive, generator
from trajmatch.core.sharpness import FlatGSAM
from trajmatch.core.vector import Layout
from trajmatch.data.file_names import SET
from trajmatch.data.networks.convnet import build, convnet, drawn
from trajmatch.data.synthetic import SyntheticSet, save
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


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((nn.Flatten, MADE, SGD), "network is the class Flatten and must be an instance of it: Flatten(...)"),
        (("convnet", MADE, SGD), "network is 'convnet' and must be a torch.nn.Module"),
        ((nn.Flatten(), "runs/a", SGD), "synthetic is 'runs/a' and must be a set: trajmatch.load(path) reads one"),
        ((nn.Flatten(), MADE, "mtt"), "recipe is 'mtt' and must be what trajmatch.recipe(synthetic) gives"),
    ],
)
def test_what_is_no_network_set_or_recipe_is_told(given: tuple[Any, Any, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        train(*given)


class Wide(nn.Module):
    """A network of 5 outputs, which gives them in some form."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.last, self.form = nn.Linear(64, 5), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.last(x.flatten(1)))


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (lambda out: out, "network gives 5 outputs for each image, and the set has 3 classes: it must give 3"),
        (
            lambda out: out[:, 0],
            "network gives outputs of shape (5,) for 5 images, and the set has 3 classes: they must be (5, 3)",
        ),
        (lambda out: (out, out), "network gives a tuple and must give a tensor (n, 3), an output for each class"),
    ],
)
def test_outputs_that_are_not_one_for_each_class_are_told(form: Callable[[Tensor], Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        train(drawn(partial(Wide, form), 0), MADE, SGD)


def test_mini_batches_of_a_path_are_refused() -> None:
    with pytest.raises(ValueError, match="synthetic is 'runs/a' and must be a set"):
        Batches(Path("runs/a"), SGD)  # type: ignore[arg-type]


def test_a_recipe_is_read_from_a_set_s_file_and_folder(tmp_path: Path) -> None:
    save(replace(MADE, info={"config": {"evaluation.epochs": 30}}), tmp_path / SET)
    for place in (tmp_path, tmp_path / SET, str(tmp_path)):
        assert trajmatch.recipe(place).epochs == 30
    with pytest.raises(ValueError, match="nowhere: there is no such file"):
        trajmatch.recipe("nowhere")
    for ask in (trajmatch.recipe, trajmatch.evaluate):
        with pytest.raises(ValueError, match=r"^synthetic is None and must be a set, its file, or its run folder$"):
            ask(None)


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
