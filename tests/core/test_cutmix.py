"""CutMix: what is mixed, where it comes from, and that the label follows the area."""

import pytest
import torch

from tests.oracles import F64, random, relative_error
from trajmatch.core.cutmix import Cut, cutmix, draw_cut
from trajmatch.core.draws import generator

X, Y = random(5, 2, 8, 6, seed=1), torch.eye(5, dtype=F64)
ORDER = torch.tensor([2, 0, 1, 4, 3])


def cut(share: float, down: float, right: float, order: torch.Tensor = ORDER) -> Cut:
    return Cut(share, torch.tensor([down, right], dtype=F64), order)


def test_a_rectangle_comes_from_the_other_image_and_all_else_stays() -> None:
    z, y = cutmix(X, Y, cut(0.25, 0.5, 0.5))  # half of each side: 4 x 3, of which whole pixels each way 2 and 1
    wanted = X.clone()
    wanted[:, :, 2:6, 2:4] = X[ORDER][:, :, 2:6, 2:4]
    assert torch.equal(z, wanted)
    assert relative_error(y, Y + 8 / 48 * (Y[ORDER] - Y)) < 1e-12


def test_the_border_cuts_the_rectangle_and_its_share_of_the_label() -> None:
    z, y = cutmix(X, Y, cut(0.25, 0.0, 0.99))
    changed = (z != X).any(1)
    assert changed[:, :2, 4:].all()
    assert int(changed.sum()) == 5 * 4
    assert relative_error(y, Y + 4 / 48 * (Y[ORDER] - Y)) < 1e-12


@pytest.mark.parametrize("seed", range(20))
def test_labels_are_shares_of_pixels_and_stay_probabilities(seed: int) -> None:
    """Images that hold their own number: the mean of each is what its label says it is."""
    numbers = torch.arange(5, dtype=F64)
    z, y = cutmix(numbers.view(5, 1, 1, 1).expand(5, 1, 16, 16), Y, draw_cut(5, 1.0, generator(seed)))
    assert relative_error(z.mean((1, 2, 3)) + 1, y @ numbers + 1) < 1e-12
    assert relative_error(y.sum(1), torch.ones(5, dtype=F64)) < 1e-12
    assert bool((y >= 0).all())


def test_nothing_is_mixed_with_itself_or_without_a_draw() -> None:
    z, y = cutmix(X, Y, cut(0.5, 0.4, 0.4, torch.arange(5)))
    assert torch.equal(z, X)
    assert relative_error(y, Y) < 1e-12
    z, y = cutmix(X, Y, draw_cut(5, 0.0, generator(1)))
    assert z is X
    assert y is Y


def test_arguments_stay_as_they_are() -> None:
    x, y = X.clone(), Y.clone()
    cutmix(x, y, cut(0.25, 0.5, 0.5))
    assert torch.equal(x, X)
    assert torch.equal(y, Y)


def test_draws_mix_as_often_as_asked_and_cover_shares_and_places() -> None:
    source = generator(3)
    drawn = [draw_cut(4, 0.5, source) for _ in range(2000)]
    mixing = [one for one in drawn if len(one.order)]
    assert 0.45 < len(mixing) / len(drawn) < 0.55  # four standard errors
    shares = torch.tensor([one.share for one in mixing])
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.04)
    assert float(shares.std()) == pytest.approx(12**-0.5, abs=0.02)
    places = torch.stack([one.place for one in mixing])
    assert places.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.04)
    assert {tuple(one.order.tolist()) for one in mixing} >= {(0, 1, 2, 3), (3, 2, 1, 0)}
    again = draw_cut(4, 0.5, generator(3))
    assert again.share == drawn[0].share
    assert torch.equal(again.place, drawn[0].place)
