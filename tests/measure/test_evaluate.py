import statistics
from functools import partial

import pytest
import torch

from trajmatch.core.augment import families
from trajmatch.core.draws import derive
from trajmatch.core.loss import cross_entropy, gradient
from trajmatch.core.vector import functional
from trajmatch.data.networks import build, convnet
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
