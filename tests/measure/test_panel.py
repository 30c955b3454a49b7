"""Panels: fixed draws, cosines and interference in closed form."""

from math import isnan

import pytest
import torch

from tests.oracles import F64, Y0, Quadratic, random
from trajmatch.core.augment import families
from trajmatch.core.descent import Momentum
from trajmatch.core.draws import generator
from trajmatch.core.estimators import Task
from trajmatch.core.loss import cross_entropy
from trajmatch.core.student import plain
from trajmatch.core.vector import functional
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.data.trajectories import Segment
from trajmatch.measure.panel import cosines, interference, losses, matching_loss, mean_and_error, panel
from trajmatch.methods.outer import Rule

T = 9


def quadratics() -> tuple[Quadratic, list[Task]]:
    """Three segments of one quadratic."""
    q = Quadratic.make()
    ends = [(random(5, seed=30 + k), random(5, seed=40 + k)) for k in range(3)]
    return q, [Task(q.problem, s, g, q.x, Y0, q.eta, T) for s, g in ends]


def hypergradients(q: Quadratic, tasks: list[Task]) -> list[torch.Tensor]:
    move = torch.eye(5, dtype=F64) - q.power(T)
    ends = [q.x + q.power(T) @ (task.s - q.x) for task in tasks]
    return [
        move @ (2 * (end - task.g) / (task.s - task.g).square().sum()) for end, task in zip(ends, tasks, strict=True)
    ]


def test_cosines_in_closed_form() -> None:
    q, tasks = quadratics()
    d, found = hypergradients(q, tasks), cosines(tasks)
    wanted = torch.tensor([[float(a @ b / a.norm() / b.norm()) for b in d] for a in d], dtype=F64)
    assert (found - wanted).abs().max() < 1e-12
    assert (found < 0.9).any()


def test_interference_is_the_relative_change_in_closed_form() -> None:
    q, tasks = quadratics()
    rate = 0.05
    found = interference(tasks, lambda d: q.x - rate * d)

    def loss(task: Task, x: torch.Tensor) -> torch.Tensor:
        end = x + q.power(T) @ (task.s - x)
        return (end - task.g).square().sum() / (task.s - task.g).square().sum()

    for a, d in enumerate(hypergradients(q, tasks)):
        for b, task in enumerate(tasks):
            wanted = loss(task, q.x - rate * d) / loss(task, q.x) - 1
            assert abs(float(found[a, b] - wanted)) < 1e-12
    assert (found.diagonal() < 0).all(), "a small step along a segment's own hypergradient helps it"


def test_losses_keep_no_iterates_and_are_the_closed_form() -> None:
    q, tasks = quadratics()
    for task, found in zip(tasks, losses(tasks), strict=True):
        end = q.x + q.power(T) @ (task.s - q.x)
        assert abs(float(found - (end - task.g).square().sum() / (task.s - task.g).square().sum())) < 1e-12


def test_a_panel_draws_by_expert_and_start_whatever_else_is_in_it() -> None:
    network, theta = build(lambda: convnet((3, 8, 8), 3, depth=2, width=4), 0)
    student = plain(cross_entropy(functional(network)))
    rule = Rule(4, 4, Momentum(0.0), Momentum(0.0), batch=2, families=families("crop_color"))
    X, Y = torch.randn(5, 3, 8, 8, generator=generator(0)), torch.eye(3)[torch.arange(5) % 3]
    segments = [Segment(theta, theta + 0.1, e, t) for e in range(2) for t in range(2)]
    given = (X, Y, torch.tensor(0.1))
    tasks, again = panel(rule, student, segments, *given, seed=1), panel(rule, student, segments[2:], *given, seed=1)
    for one, two in zip(tasks[2:], again, strict=True):
        assert all(torch.equal(one.problem.view(X, Y, i)[0], two.problem.view(X, Y, i)[0]) for i in range(4))
        assert matching_loss(one) == matching_loss(two)
    views = [task.problem.view(X, Y, 0)[0] for task in tasks]
    assert not any(torch.equal(views[a], views[b]) for a in range(4) for b in range(a))
    other = panel(rule, student, segments, *given, seed=2)
    assert not torch.equal(other[0].problem.view(X, Y, 0)[0], views[0])


def test_mean_and_error() -> None:
    samples = [random(2, 3, seed=k) for k in range(7)]
    mean, error = mean_and_error(samples)
    column = [float(sample[1, 2]) for sample in samples]
    centre = sum(column) / 7
    assert float(mean[1, 2]) == pytest.approx(centre)
    assert float(error[1, 2]) == pytest.approx((sum((v - centre) ** 2 for v in column) / 6 / 7) ** 0.5)
    assert isnan(float(mean_and_error(samples[:1])[1][0, 0]))
