"""The plane around a set, and statistics of series."""

import pytest

from tests.oracles import random
from trajmatch.measure.landscape import plane, rise, scaled_like
from trajmatch.measure.series import describe, exponent


def test_directions_are_scaled_image_by_image() -> None:
    X, direction = random(3, 2, 4, 4, seed=1), random(3, 2, 4, 4, seed=2)
    direction[1] = 0
    found = scaled_like(direction, X)
    assert (found[[0, 2]].flatten(1).norm(dim=1) - X[[0, 2]].flatten(1).norm(dim=1)).abs().max() < 1e-12
    assert (found[1] == 0).all()
    cosine = (found[0] * direction[0]).sum() / found[0].norm() / direction[0].norm()
    assert abs(float(cosine) - 1) < 1e-12


def test_the_plane_of_a_quadratic_in_closed_form() -> None:
    X, across, up = (random(2, 1, 3, 3, seed=k) for k in range(3, 6))
    places = (-0.5, 0.0, 0.5)
    found = plane(lambda Z: (Z * Z).sum(), X, across, up, places)
    a, b = scaled_like(across, X), scaled_like(up, X)
    for r, y in enumerate(places):
        for c, x in enumerate(places):
            assert found[r][c] == pytest.approx(float((X + x * a + y * b).square().sum()), rel=1e-12)
    assert rise(found) == pytest.approx(sum(sum(row) for row in found) / 8 - found[1][1] * 9 / 8)


def test_a_series_with_a_spike() -> None:
    found = describe([1.0, 2.0, 2.0, 2.0, 8.0])
    assert found.mean == 3.0
    assert found.variance == pytest.approx(6.4)
    assert found.deviation == pytest.approx(6.4**0.5 / 3)
    assert found.spikes == 0.2
    assert found.largest == 4.0


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law(power: float) -> None:
    sizes = [10.0, 20.0, 50.0, 100.0]
    assert exponent(sizes, [7 * size**power for size in sizes]) == pytest.approx(power, abs=1e-12)
