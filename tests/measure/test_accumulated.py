"""The accumulated error and its two parts, against a linear student."""

import torch

from tests.oracles import Quadratic, random
from trajmatch.measure.accumulated import accumulated_error

T = 6


def test_the_errors_of_a_linear_student_in_closed_form() -> None:
    q = Quadratic.make()
    expert = [random(5, seed=50 + k) for k in range(4)]
    R = q.power(T)
    found = accumulated_error(lambda theta, j: q.x + j + R @ (theta - q.x - j), expert)
    gap = torch.zeros(5, dtype=q.x.dtype)
    for j in range(3):
        way = (expert[j + 1] - expert[0]).norm()
        matching = q.x + j + R @ (expert[j] - q.x - j) - expert[j + 1]
        assert abs(float(found.initialisation[j] - (R @ gap).norm() / way)) < 1e-12
        assert abs(float(found.matching[j] - matching.norm() / way)) < 1e-12
        gap = R @ gap + matching
        assert abs(float(found.total[j] - gap.norm() / way)) < 1e-12
    assert found.initialisation[0] == 0
    assert (found.initialisation[1:] > 0.01).all()
    assert (found.total <= found.initialisation + found.matching + 1e-12).all()


def test_a_student_that_follows_the_expert_makes_no_error() -> None:
    expert = [random(5, seed=60 + k) for k in range(3)]
    found = accumulated_error(lambda theta, j: theta + (expert[j + 1] - expert[j]), expert)
    assert float(torch.stack(found).abs().max()) < 1e-14
