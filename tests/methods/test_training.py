from functools import partial

import pytest
import torch
from torch import nn

from tests.oracles import F64, random, relative_error
from trajmatch.core.cutmix import cutmix, draw_cut
from trajmatch.core.draws import generator
from trajmatch.core.loss import cross_entropy, gradient
from trajmatch.core.vector import Layout, functional
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.methods.experts import Expert, Real, expert
from trajmatch.methods.schedule import Choice, Window
from trajmatch.methods.training import AdamWTraining, Training, accuracy, images_at_once, train

X, Y = random(10, 1, 8, 8, seed=1), torch.eye(3, dtype=F64)[torch.arange(10) % 3]


def network() -> nn.Module:
    return convnet((1, 8, 8), 3, depth=2, width=4)


def test_train_against_torch_sgd_with_a_drop_that_restarts_momentum() -> None:
    recipe = Training(lr=0.2, epochs=5, batch=4, momentum=0.9, weight_decay=1e-2, lr_drop=0.5)
    ours, theta = build(network, 0)
    ours.double()
    progress = list(train(partial(gradient, cross_entropy(functional(ours))), theta.double(), X, Y, recipe, seed=3))
    assert [p.step for p in progress] == list(range(1, 16))
    assert [p.epoch_ended for p in progress] == [False, False, True] * 5

    theirs, _ = build(network, 0)
    theirs.double().requires_grad_()
    source = torch.Generator().manual_seed(0)
    from trajmatch.core.draws import generator

    source = generator(3, "training")
    for epoch in range(5):
        if epoch in (0, 2):  # a new optimiser, so no momentum
            optimiser = torch.optim.SGD(theirs.parameters(), 0.2 if epoch < 2 else 0.02, 0.9, weight_decay=1e-2)
        for index in torch.randperm(10, generator=source).split(4):
            torch.rand(len(index), 3, generator=source)  # the augmentation's numbers, of no effect here
            loss = nn.functional.cross_entropy(theirs(X[index]), Y[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    wanted = Layout.of(theirs).join(dict(theirs.named_parameters())).detach()
    assert relative_error(wanted, theta.double()) > 1e-2
    assert relative_error(progress[-1].theta, wanted) < 1e-10


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_train_against_torch_adamw_whose_rate_is_halved_at_every_fifth(mix: float) -> None:
    def normless() -> nn.Module:
        # A bias before a norm has no gradient but for rounding, which Adam's division would make visible.
        return convnet((1, 8, 8), 3, depth=2, width=4, norm="none")

    recipe = AdamWTraining(lr=0.01, epochs=7, batch=4, weight_decay=0.1, mix=mix)
    ours, theta = build(normless, 0)
    ours.double()
    gradients = partial(gradient, cross_entropy(functional(ours)))
    found = list(train(gradients, theta.double(), X, Y, recipe, seed=3))[-1].theta

    theirs, _ = build(normless, 0)
    theirs.double().requires_grad_()
    optimiser = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, [1, 2, 4, 5], gamma=0.5)  # 7 k // 5
    source, mixed = generator(3, "training"), 0
    for _ in range(7):
        for index in torch.randperm(10, generator=source).split(4):
            torch.rand(len(index), 3, generator=source)  # the augmentation's numbers, of no effect here
            cut = draw_cut(len(index), mix, source)
            mixed += bool(len(cut.order))
            z, y = cutmix(X[index], Y[index], cut)
            optimiser.zero_grad()
            nn.functional.cross_entropy(theirs(z), y).backward()
            optimiser.step()
        scheduler.step()
    assert (mixed > 0) == (mix > 0)
    assert (mixed < 21) == (mix < 1)
    wanted = Layout.of(theirs).join(dict(theirs.named_parameters())).detach()
    assert relative_error(wanted, theta.double()) > 1e-2
    assert relative_error(found, wanted) < 1e-10


def test_adamw_without_augmentation_mixes_nothing_either() -> None:
    recipe = AdamWTraining(lr=0.01, epochs=1, families=("flip",))
    assert recipe.augmented(("crop",)) == AdamWTraining(lr=0.01, epochs=1, families=("crop",))
    assert recipe.augmented(()) == AdamWTraining(lr=0.01, epochs=1, mix=0.0)
    assert Training(0.1, 1, families=("flip",)).augmented(()) == Training(0.1, 1)


@pytest.mark.parametrize(("epochs", "rates"), [(1, [8.0]), (2, [8.0, 4]), (5, [8.0, 4, 2, 1, 0.5]), (3, [8.0, 4, 2])])
def test_a_short_training_by_adamw_halves_its_rate_once_an_epoch_at_most(epochs: int, rates: list[float]) -> None:
    recipe, lr, found = AdamWTraining(8.0, epochs), 8.0, []
    for epoch in range(epochs):
        lr, _ = recipe.at_epoch(epoch, lr, torch.zeros(2, 1))
        found.append(lr)
    assert found == rates


def test_accuracy_counts_over_chunks() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1])
    guesses = torch.tensor([0, 1, 1, 0, 0])
    images = nn.functional.one_hot(guesses, 3).double()
    assert accuracy(lambda theta, x: x, labels, images, labels, chunk=2) == 3 / 5


def test_large_images_are_tested_fewer_at_a_time() -> None:
    seen = []

    def forward(theta: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return torch.zeros(len(images), 2)

    for side in (8, 32, 64):
        accuracy(forward, torch.zeros(1), torch.zeros(1100, 1, side, side), torch.zeros(1100))
    assert seen == [1000, 100, 1000, 100, 250, 250, 250, 250, 100]
    assert images_at_once(torch.zeros(3, 1, 400, 400), 100) == 1


def one(index: int = 0, seed: int = 0, save_every: int | None = None) -> Expert:
    real = Real(X.float(), torch.arange(10) % 3)
    return expert(network, real, real, 3, Training(0.1, 2, 4, families=("flip",)), seed, index, save_every)


def test_snapshots_differ_and_are_no_aliases_of_live_weights() -> None:
    rows = one().rows
    assert len(rows) == 3
    assert len({row.data_ptr() for row in rows}) == 3
    for a, b in ((0, 1), (1, 2)):
        assert float((rows[a] - rows[b]).norm()) > 1e-3


def test_an_expert_is_a_function_of_seed_and_index() -> None:
    first, again = one(), one()
    assert all(torch.equal(a, b) for a, b in zip(first.rows, again.rows, strict=True))
    for other in (one(index=1), one(seed=1)):
        assert not torch.equal(first.rows[0], other.rows[0])
    assert len(first.test_accuracy) == 3
    assert 0 <= first.train_accuracy <= 1


def test_snapshots_every_k_steps() -> None:
    fine, coarse = one(save_every=2).rows, one().rows
    assert len(fine) == 1 + 6 // 2  # two epochs of three steps
    assert torch.equal(fine[-1], coarse[-1])


def test_an_expert_that_diverges_says_so() -> None:
    real = Real(X.float(), torch.arange(10) % 3)
    with pytest.raises(FloatingPointError, match=r"--expert\.lr"):
        expert(network, real, real, 3, Training(float("inf"), 2, 4), 0, 0)


def test_schedule() -> None:
    rule = Window(2, 5)
    found = [rule.choose(3, seed=1, step=step)[0] for step in range(200)]
    assert {c.t for c in found} == {2, 3, 4}
    assert {c.e for c in found} == {0, 1, 2}
    assert rule.choose(3, seed=1, step=7) == [found[7]]
    assert Window(4, 5).choose(1, 0, 0) == [Choice(0, 4)]


def test_a_single_epoch_is_trained_at_the_full_rate() -> None:
    ours, theta = build(network, 0)
    loss = cross_entropy(functional(ours.double()))
    ends = [
        list(train(partial(gradient, loss), theta.double(), X, Y, Training(0.2, 1, 10, lr_drop=d), 0))[-1].theta
        for d in (0.5, None)
    ]
    assert torch.equal(*ends)
