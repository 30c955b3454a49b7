import statistics
from functools import partial

import pytest
import torch
from torch import nn

from trajmatch.core.augment import draw, families
from trajmatch.core.draws import derive, generator
from trajmatch.core.loss import cross_entropy, gradient
from trajmatch.core.vector import functional
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.measure.evaluate import Score, train_and_test
from trajmatch.methods.training import Training, accuracy, train

SOURCE = torch.Generator().manual_seed(0)
LABELS = torch.arange(12) % 3
X = torch.randn(12, 1, 8, 8, generator=SOURCE)
# A class is a bright block: what a network can learn from 12 images.
X[:, :, :2, :2] += 4 * torch.nn.functional.one_hot(LABELS, 3)[:, :1, None, None]
X[:, :, -2:, -2:] += 4 * torch.nn.functional.one_hot(LABELS, 3)[:, 1:2, None, None]
Y = torch.eye(3)[LABELS]


def score(seed: int, lr: float = 0.1, epochs: int = 30) -> float:
    recipe = Training(lr, epochs, momentum=0.9, weight_decay=5e-4, families=families("flip"), lr_drop=0.5)
    return train_and_test(lambda: convnet((1, 8, 8), 3, 2, 8), X, Y, recipe, X, LABELS, seed)


def test_a_network_learns_what_can_be_learned_and_nothing_without_a_rate() -> None:
    assert score(0) == 1.0
    assert score(0, lr=0.0) < 1.0


def test_a_score_is_a_function_of_its_seed() -> None:
    assert score(1, epochs=2) == score(1, epochs=2)
    assert len({score(seed, lr=0.0) for seed in range(6)}) > 1


def test_statistics() -> None:
    found = Score.of([0.5, 0.7, 0.6], "so")
    assert found.mean == pytest.approx(0.6)
    assert found.std == pytest.approx(statistics.pstdev([0.5, 0.7, 0.6]))
    assert found.n == 3
    assert str(found) == "60.00% +- 8.16% (n = 3)"


def test_a_score_is_of_the_last_weights_on_the_test_images() -> None:
    """From its two seeds anew, with 500 test images of noise, on which every network scores something else."""
    source = torch.Generator().manual_seed(1)
    test_x, test_y = torch.randn(500, 1, 8, 8, generator=source), torch.randint(3, (500,), generator=source)
    recipe = Training(0.1, 3, batch=5, momentum=0.9, families=families("flip_crop"))
    found, wanted = [], []
    for seed in range(4):
        module, theta = build(lambda: convnet((1, 8, 8), 3, 2, 8), derive(seed, "weights"))
        forward = functional(module)
        for now in train(partial(gradient, cross_entropy(forward)), theta, X, Y, recipe, derive(seed, "batches")):
            theta = now.theta
        wanted.append(accuracy(forward, theta, test_x, test_y))
        found.append(train_and_test(lambda: convnet((1, 8, 8), 3, 2, 8), X, Y, recipe, test_x, test_y, seed))
    assert found == wanted
    assert len(set(found)) > 2


def test_a_single_score_has_no_spread() -> None:
    assert Score.of([0.25], "once").record() == {"mean": 0.25, "std": 0.0, "n": 1, "how": "once"}


class Mixed(nn.Module):
    """Batch norm and dropout, which training and testing treat differently."""

    def __init__(self) -> None:
        super().__init__()
        first = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
        self.layers = nn.Sequential(*first, nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(x)
        return found


def test_batch_norm_is_tested_with_its_running_statistics_and_without_dropout() -> None:
    """The same by torch's own optimiser on the module itself."""
    source = torch.Generator().manual_seed(2)
    test_x, test_y = 3 * torch.randn(500, 1, 8, 8, generator=source) + 1, torch.randint(3, (500,), generator=source)
    recipe = Training(0.05, 8, batch=5, momentum=0.9, weight_decay=0.01)
    before = torch.get_rng_state()
    found = [train_and_test(Mixed, X, Y, recipe, test_x, test_y, seed) for seed in range(3)]
    assert torch.equal(torch.get_rng_state(), before)
    wanted = []
    for seed in range(3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "weights"))
            module = Mixed()
            torch.manual_seed(derive(seed, "dropout"))
            draws = generator(derive(seed, "batches"), "training")
            optimiser = torch.optim.SGD(module.parameters(), recipe.lr, recipe.momentum, weight_decay=0.01)
            for _ in range(recipe.epochs):
                for index in torch.randperm(12, generator=draws).split(5):
                    optimiser.zero_grad()
                    torch.nn.functional.cross_entropy(module(X[index]), Y[index]).backward()
                    optimiser.step()
                    draw(len(index), (), draws)
        module.eval()
        with torch.no_grad():
            wanted.append(float((module(test_x).argmax(1) == test_y).double().mean()))
    assert found == pytest.approx(wanted, abs=0.005)
    assert len(set(found)) > 1


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


def test_dropout_is_off_in_what_is_differentiated_and_on_where_a_set_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    network, theta = build(with_dropout, 0)
    forward = functional(network)
    assert torch.equal(forward(theta, X), forward(theta, X))
    modes, call = [], nn.Dropout.forward

    def seen(self: nn.Dropout, x: torch.Tensor) -> torch.Tensor:
        modes.append(self.training)
        return call(self, x)

    monkeypatch.setattr(nn.Dropout, "forward", seen)
    recipe = Training(0.1, 3)
    first, second = (train_and_test(with_dropout, X, Y, recipe, X, LABELS, 0) for _ in range(2))
    assert modes == [True, True, True, False] * 2
    assert first == second, "dropout is drawn from the seed"
