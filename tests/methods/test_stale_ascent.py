"""The ascent along the last step's hypergradient: derived anew, its identities, and what it leaves in the state."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.methods.test_outer import MTT, SATM, SEED, SEGMENT, STUDENT, S, T, state, unroll
from tests.oracles import F64, random, relative_error
from trajmatch.core.draws import generator
from trajmatch.core.sharpness import ASAM, GSAM, SAM, Sharpness, VaSSO
from trajmatch.data.trajectories import Segment
from trajmatch.methods.outer import outer_step
from trajmatch.methods.state import OuterState

STALE = replace(SATM, stale=True, tau=0)


def with_memory() -> tuple[OuterState, Tensor]:
    memory = random(6, 1, 8, 8, seed=21)
    return state()._replace(ascent=memory), memory


def noise_at(X: Tensor) -> Tensor:
    noise = torch.randn(X.shape, generator=generator(SEED, "noise", 1), dtype=F64)
    return 0.2 * X.flatten(1).norm(dim=1).view(-1, 1, 1, 1) / 8 * noise


@pytest.mark.parametrize(
    ("rule", "eps", "next_ascent", "direction"),
    [
        (SAM(0.4), lambda m, X: 0.4 * m / m.norm(), lambda m, d: d, lambda m, d: d),
        (
            ASAM(0.4, 0.02),
            lambda m, X: 0.4 * (X.abs() + 0.02) ** 2 * m / ((X.abs() + 0.02) * m).norm(),
            lambda m, d: d,
            lambda m, d: d,
        ),
        (
            GSAM(0.4, 0.3),
            lambda m, X: 0.4 * m / m.norm(),
            lambda m, d: d,
            lambda m, d: d - 0.3 * (m - (m * d).sum() / (d * d).sum() * d),
        ),
        (VaSSO(0.4, 0.2), lambda m, X: 0.4 * m / m.norm(), lambda m, d: 0.8 * m + 0.2 * d, lambda m, d: d),
    ],
    ids=["sam", "asam", "gsam", "vasso"],
)
def test_a_stale_step_derived_anew(rule: Sharpness, eps: object, next_ascent: object, direction: object) -> None:
    before, m = with_memory()
    after, record = outer_step(replace(STALE, sharpness=rule), STUDENT, before, [SEGMENT], SEED)
    X = before.X
    theta_T, loss, d = unroll(X + noise_at(X) + eps(m, X), before.eta, S, 0, 2)  # type: ignore[operator]
    assert relative_error(record.loss, loss) < 1e-10
    assert record.loss_perturbed is None
    step = direction(m, d)  # type: ignore[operator]
    assert relative_error(after.X - X, -3.0 * (0.5 * before.image_moments[0] + step)) < 1e-10
    assert relative_error(after.ascent, next_ascent(m, d)) < 1e-10  # type: ignore[operator]
    q = 2 * (theta_T - SEGMENT.g) / (S - SEGMENT.g).square().sum()
    rate = 0.5 * before.rate_moments[0] + q @ (theta_T - S)
    assert relative_error(after.eta.log() - before.eta.log(), -0.1 * rate) < 1e-10


def test_the_first_step_is_not_perturbed() -> None:
    before = state()
    assert not before.ascent.any()
    stale, _ = outer_step(replace(STALE, gamma=0.0), STUDENT, before, [SEGMENT], SEED)
    plain, _ = outer_step(replace(STALE, gamma=0.0, sharpness=None), STUDENT, before, [SEGMENT], SEED)
    assert torch.equal(stale.X, plain.X)
    assert torch.equal(stale.eta, plain.eta)
    assert not torch.equal(stale.X, before.X)


def test_without_noise_and_radius_and_truncation_it_is_mtt() -> None:
    before, _ = with_memory()
    rule = replace(STALE, gamma=0.0, sharpness=SAM(1e-300), iota=T, second_order_rate=True)
    after, _ = outer_step(rule, STUDENT, before, [SEGMENT], SEED)
    wanted, _ = outer_step(MTT, STUDENT, before, [SEGMENT], SEED)
    assert relative_error(after.X - before.X, wanted.X - before.X) < 1e-12
    assert relative_error(after.eta - before.eta, wanted.eta - before.eta) < 1e-12


def test_of_several_segments_it_remembers_the_combined_hypergradient() -> None:
    before, _ = with_memory()
    other = Segment(S + 0.05 * random(len(S), seed=31), S + 0.1 * random(len(S), seed=32), 1, 1)
    after, record = outer_step(STALE, STUDENT, before, [SEGMENT, other], SEED)
    assert record.conflict is not None
    direction = (before.X - after.X) / 3.0 - 0.5 * before.image_moments[0]
    assert relative_error(after.ascent, direction) < 1e-10
    alone, _ = outer_step(STALE, STUDENT, before, [SEGMENT], SEED)
    assert relative_error(after.ascent, alone.ascent) > 0.01


def test_a_fresh_ascent_leaves_the_memory_as_it_is() -> None:
    before, m = with_memory()
    after, _ = outer_step(SATM, STUDENT, before, [SEGMENT], SEED)
    assert torch.equal(after.ascent, m)
