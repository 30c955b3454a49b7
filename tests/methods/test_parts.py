"""Outer steps with an early stop, a mask, a norm of the images: derived anew with plain autograd."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.methods.test_outer import LOSS, MTT, SATM, SEED, SEGMENT, STUDENT, S, T, state
from tests.oracles import F64, random, relative_error
from trajmatch.core.augment import augment, draw
from trajmatch.core.descent import Adam, brought_to
from trajmatch.core.draws import generator
from trajmatch.core.estimators import adjoint
from trajmatch.core.sharpness import SAM
from trajmatch.data.trajectories import Segment
from trajmatch.methods.outer import Rule, estimator, outer_step, tasks
from trajmatch.methods.state import OuterState

FAMILIES = MTT.families


def target(k: int, rule: Rule, before: OuterState) -> Segment:
    """A segment whose end lies beside iterate k of the trajectory of the images."""
    thetas = adjoint(tasks(replace(rule, early=False), STUDENT, before, [SEGMENT], SEED)[0]).thetas
    off = random(len(S), seed=77)
    return Segment(S, thetas[k] + 0.1 * (thetas[k] - thetas[k - 1]).norm() * off / off.norm(), 0, 0)


def trajectory(
    X: Tensor,
    before: OuterState,
    segment: Segment,
    start: Tensor,
    first: int,
    iota: int,
    alpha: float = 0.0,
    k: int = 0,
) -> tuple[list[Tensor], int, Tensor, Tensor]:
    """Iterates, the end by definition, L there, and dL/dX through the last iota steps before it, by one graph."""
    source = generator(SEED, "inner", int(before.steps), *([k] if k else []))
    a = [draw(len(X), FAMILIES, source) for _ in range(T)]

    def run(X: Tensor, theta: Tensor, since: int, end: int) -> list[Tensor]:
        found = [theta]
        for i in range(since, end):
            at = found[-1] if found[-1].requires_grad else found[-1].detach().requires_grad_()
            (u,) = torch.autograd.grad(LOSS(at, augment(X, a[i]), before.Y), at, create_graph=True)
            found.append(at - before.eta * u)
        return found

    values = [theta.detach() for theta in run(X, start, first, T)]
    lengths = [float((theta - segment.g).abs().sum()) for theta in values[1:]]
    end = first + 1 + max(i for i, length in enumerate(lengths) if length == min(lengths))
    since = max(first, end - iota)
    X = X.clone().requires_grad_()
    theta = run(X, values[since - first], since, end)[-1]
    e = (theta - segment.g).detach() ** 2
    m = (e >= e.sort().values[int(alpha * len(e))]).to(e)
    L = (m * (theta - segment.g) ** 2).sum() / (m * (S - segment.g) ** 2).sum()
    return values, end, L.detach(), torch.autograd.grad(L, X)[0]


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize(("iota", "tau"), [(2, 4), (T, 0), (2, 0)])
def test_two_trajectories_that_end_early(iota: int, tau: int, alpha: float) -> None:
    before = state()
    rule = replace(SATM, iota=iota, tau=tau, gamma=0.0, sharpness=SAM(0.05), early=True, alpha=alpha)
    segment = target(3, rule, before)
    after, record = outer_step(rule, STUDENT, before, [segment], SEED)
    values, end, loss, d1 = trajectory(before.X, before, segment, S, 0, iota, alpha)
    assert record.ends == (end,) == (3,)
    assert relative_error(record.loss, loss) < 1e-10
    # Trajectory 2 goes on as far before that end as tau is before T.
    restart = max(0, end - (T - tau))
    assert restart == (1 if tau else 0)
    X = before.X + 0.05 * d1 / d1.norm()
    _, _, loss_2, d2 = trajectory(X, before, segment, values[restart], restart, iota, alpha)
    assert record.loss_perturbed is not None
    assert relative_error(record.loss_perturbed, loss_2) < 1e-10
    assert relative_error(after.X - before.X, -3.0 * (0.5 * before.image_moments[0] + d2)) < 1e-9
    e = (values[end] - segment.g) ** 2
    m = (e >= e.sort().values[int(alpha * len(e))]).to(e)
    q = 2 * m * (values[end] - segment.g) / (m * (S - segment.g) ** 2).sum()
    rate = 0.5 * before.rate_moments[0] + q @ (values[end] - S)
    assert relative_error(after.eta.log() - before.eta.log(), -0.1 * rate) < 1e-9


@pytest.mark.parametrize("interval", [1, 2, 4])
def test_segments_of_one_step_end_each_for_itself(interval: int) -> None:
    before = state()
    rule = replace(MTT, early=True, alpha=0.25, interval=interval)
    segments = [target(2, rule, before), SEGMENT]
    after, record = outer_step(rule, STUDENT, before, segments, SEED)
    found = [trajectory(before.X, before, one, S, 0, T, 0.25, k) for k, one in enumerate(segments)]
    assert record.ends == tuple(end for _, end, _, _ in found)
    assert record.ends[0] < T
    d = (found[0][3] + found[1][3]) / 2
    assert relative_error(after.X - before.X, -3.0 * (0.5 * before.image_moments[0] + d)) < 1e-9
    assert relative_error(record.loss, (found[0][2] + found[1][2]) / 2) < 1e-10


@pytest.mark.parametrize("changed", [{"early": True}, {"alpha": 0.3}, {"norm": 2.0}])
@pytest.mark.parametrize("rule", [MTT, SATM, replace(SATM, stale=True, tau=0), replace(MTT, estimator="tesla")])
def test_each_part_changes_the_step_of_every_rule(rule: Rule, changed: dict[str, Any]) -> None:
    before = state()
    segment = target(3, rule, before)
    plain, record = outer_step(rule, STUDENT, before, [segment], SEED)
    after, other = outer_step(replace(rule, **changed), STUDENT, before, [segment], SEED)
    assert relative_error(after.X, plain.X) > 1e-4
    assert record.ends is None
    assert (other.ends is None) == ("early" not in changed)
    assert other.healthy


def test_what_is_kept_is_all_where_the_end_is_not_known() -> None:
    assert SATM.kept() == {4, 5}
    assert replace(SATM, early=True).kept() == set(range(T))
    assert [SATM.restart(end) for end in range(1, T + 1)] == [0, 0, 1, 2, 3, 4]
    assert [MTT.restart(end) for end in range(1, T + 1)] == [0] * T
    assert estimator(replace(MTT, estimator="truncated", early=True), 0, 0) is not None


def test_adam_on_images_of_one_norm() -> None:
    before = state()
    at = before._replace(X=brought_to(before.X, 3.0), image_moments=torch.zeros_like(before.image_moments))
    at = at._replace(taken=0 * at.taken)
    rule = replace(MTT, images=Adam(0.05), norm=3.0)
    found = [at]
    X = torch.nn.Parameter(at.X.clone())
    theirs = torch.optim.Adam([X], lr=0.05)
    for _ in range(3):
        free = outer_step(replace(rule, norm=None), STUDENT, found[-1], [SEGMENT], SEED)[0]
        X.grad = free.image_moments[0] - 0.9 * found[-1].image_moments[0]
        X.grad = X.grad / (1 - 0.9)
        theirs.step()
        with torch.no_grad():
            X.copy_(torch.stack([3.0 * x / x.square().sum().sqrt() for x in X]))
        found.append(outer_step(rule, STUDENT, found[-1], [SEGMENT], SEED)[0])
        assert relative_error(found[-1].X, X) < 1e-8
        assert torch.allclose(found[-1].X.flatten(1).norm(dim=1), torch.full((6,), 3.0, dtype=F64), rtol=1e-12)
    assert relative_error(found[-1].X, at.X) > 1e-3


def test_an_image_of_zeros_keeps_its_place() -> None:
    X = torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), 3.0)])
    found = brought_to(X, 1.0)
    assert not found[0].any()
    assert torch.equal(found[1], torch.full((1, 2, 2), 0.5))
