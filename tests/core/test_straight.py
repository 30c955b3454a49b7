"""Movement, shares and points of a straight way, by hand and by plain loops."""

from itertools import pairwise

import pytest
import torch

from tests.oracles import random, relative_error
from trajmatch.core.straight import between, movement, shares

SIZES = (3, 5, 2)
ROWS = [random(10, seed=k).cumsum(0) for k in range(7)]


def lengths(k: int) -> list[float]:
    """How far each layer moves from row k - 1 to row k."""
    return [float((ROWS[k][a:b] - ROWS[k - 1][a:b]).square().sum().sqrt()) for a, b in ((0, 3), (3, 8), (8, 10))]


def test_movement_is_the_sum_of_lengths() -> None:
    found = movement(iter(ROWS), SIZES)
    assert found.shape == (7, 3)
    assert not found[0].any()
    for t in range(1, 7):
        wanted = torch.tensor([sum(lengths(k)[layer] for k in range(1, t + 1)) for layer in range(3)])
        assert relative_error(found[t], wanted.double()) < 1e-7


@pytest.mark.parametrize("knots", [[0, 6], [0, 2, 6], [0, 1, 2, 3, 4, 5, 6]])
def test_shares_begin_anew_at_every_knot(knots: list[int]) -> None:
    found = shares(movement(ROWS, SIZES), knots)
    for a, b in pairwise(knots):
        for layer in range(3):
            whole = sum(lengths(k)[layer] for k in range(a + 1, b + 1))
            for t in range(a, b):
                part = sum(lengths(k)[layer] for k in range(a + 1, t + 1))
                assert float(found[t, layer]) == pytest.approx(part / whole, rel=1e-12, abs=1e-15)
    assert bool((found[-1] == 1).all())


def test_a_layer_that_does_not_move_is_at_its_end() -> None:
    still = [torch.cat([torch.ones(3, dtype=row.dtype), row[3:]]) for row in ROWS]
    found = shares(movement(still, SIZES), [0, 6])
    assert bool((found[:, 0] == 1).all())
    assert found.isfinite().all()


def test_between_goes_layer_by_layer() -> None:
    found = between(ROWS[0], ROWS[6], torch.tensor([0.0, 0.25, 1.0], dtype=ROWS[0].dtype), SIZES)
    assert torch.equal(found[:3], ROWS[0][:3])
    assert relative_error(found[3:8], 0.75 * ROWS[0][3:8] + 0.25 * ROWS[6][3:8]) < 1e-14
    assert relative_error(found[8:], ROWS[6][8:]) < 1e-14
