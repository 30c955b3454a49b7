"""Steps on stored images that are cut into tiles: those on the images that a network sees, taken back to the stored."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.func import vjp

from tests.methods.test_condensation import DM, DSA, FEATURES, FORWARD, LAYOUT, REAL, STUDENT, THETA
from tests.methods.test_multisize import MDC
from tests.methods.test_systems import LEARNED, MTT, SATM, SEGMENTS, TEACHER, C
from tests.methods.test_systems import STUDENT as SMALL
from tests.methods.test_systems import theta as WEIGHTS
from tests.oracles import F64, random, relative_error
from trajmatch.core.descent import Momentum
from trajmatch.core.draws import generator, smoothing_noise
from trajmatch.core.sharpness import SAM
from trajmatch.core.tiles import decoded, repeated
from trajmatch.methods import condensation as b
from trajmatch.methods.multisize import Parts, part_distances
from trajmatch.methods.outer import Rule, outer_step
from trajmatch.methods.real_loss import real_loss_step
from trajmatch.methods.state import OuterState, new_state

F, IPC = 2, 2
PLAIN = Momentum(1.0, 0.0)


def taken_back(X: Tensor, d: Tensor) -> Tensor:
    """The transpose of the view at X, on a derivative in the images that a network sees."""
    (found,) = vjp(lambda S: decoded(S, F), X)[1](d)
    return found


def pair(Y: Tensor, channels: int = 1) -> tuple[OuterState, OuterState]:
    """A state of stored images, and one of the images that a network sees of them."""
    X = random(C * IPC, channels, 8, 8, seed=3)
    return new_state(X, Y, 0.1), new_state(decoded(X, F), repeated(Y, F), 0.1)


HARD = torch.eye(C, dtype=F64).repeat_interleave(IPC, 0)


@pytest.mark.parametrize(
    ("name", "iota", "batch"),
    [("truncated", 2, 7), ("truncated", 6, None), ("tesla", 6, None), ("random-window", 3, 7), ("unrolled", 6, None)],
)
@pytest.mark.parametrize("segments", [1, 3])
def test_a_matching_step_is_that_on_what_the_network_sees(
    name: str, iota: int, batch: int | None, segments: int
) -> None:
    seen = replace(MTT, estimator=name, iota=iota, images=PLAIN, rate=PLAIN, batch=batch, combining="mean")
    stored, decoded_state = pair(HARD)
    one, _ = outer_step(replace(seen, factor=F), SMALL, stored, SEGMENTS[:segments], 11)
    two, record = outer_step(seen, SMALL, decoded_state, SEGMENTS[:segments], 11)
    assert bool(record.healthy)
    assert relative_error(one.X - stored.X, taken_back(stored.X, two.X - decoded_state.X)) < 1e-10
    assert float(one.eta) == pytest.approx(float(two.eta), rel=1e-12)
    assert float(one.eta) != 0.1


def test_learned_labels_are_of_stored_images() -> None:
    rule = replace(LEARNED, images=PLAIN, label=PLAIN)
    Y = random(C * IPC, C, seed=4)
    stored, decoded_state = pair(Y)
    one, _ = outer_step(replace(rule, factor=F), SMALL, stored, SEGMENTS[:1], 11)
    two, _ = outer_step(rule, SMALL, decoded_state, SEGMENTS[:1], 11)
    assert relative_error(one.Y - Y, (two.Y - repeated(Y, F)).unflatten(0, (-1, F**2)).sum(1)) < 1e-10


def test_a_teacher_s_labels_are_means_over_tiles() -> None:
    stored, decoded_state = pair(HARD)
    one, _ = outer_step(replace(TEACHER, factor=F), SMALL, stored, SEGMENTS[:1], 11)
    two, _ = outer_step(TEACHER, SMALL, decoded_state, SEGMENTS[:1], 11)
    assert one.Y.shape == HARD.shape
    assert relative_error(one.Y, two.Y.unflatten(0, (-1, F**2)).mean(1)) < 1e-12


def test_the_ascent_and_its_noise_are_on_stored_images() -> None:
    """Second step of SATM by hand: d2 is the derivative at X + eps, eps along d1, which is that at X + z."""
    rule = replace(SATM, images=PLAIN, factor=F, sharpness=SAM(0.4), tau=0)
    stored, _ = pair(HARD)
    plain = replace(rule, sharpness=None, gamma=0.0, iota=rule.iota)
    z = smoothing_noise(stored.X, rule.gamma, generator(11, "noise", 0))
    noisy = stored._replace(X=stored.X + z)
    d1 = noisy.X - outer_step(plain, SMALL, noisy, SEGMENTS[:1], 11)[0].X
    moved = stored._replace(X=stored.X + 0.4 * d1 / d1.norm())
    wanted = outer_step(plain, SMALL, moved, SEGMENTS[:1], 11)[0].X - moved.X
    found = outer_step(rule, SMALL, stored, SEGMENTS[:1], 11)[0].X - stored.X
    assert relative_error(found, wanted) < 1e-10


def test_the_loss_on_real_images_is_taken_back_too() -> None:
    rule = Rule(6, 3, PLAIN, PLAIN, batch=None, families=MTT.families)
    real = random(5, 1, 8, 8, seed=8), torch.eye(C, dtype=F64)[torch.arange(5) % C]
    stored, decoded_state = pair(HARD)
    one, _ = real_loss_step(replace(rule, factor=F), SMALL, WEIGHTS.double(), stored, real, 11)
    two, _ = real_loss_step(rule, SMALL, WEIGHTS.double(), decoded_state, real, 11)
    assert relative_error(one.X - stored.X, taken_back(stored.X, two.X - decoded_state.X)) < 1e-10


@pytest.mark.parametrize("rule", [DM, DSA], ids=["dm", "dsa"])
def test_a_condensation_step_is_that_on_what_the_network_sees(rule: b.Condensation) -> None:
    stored, decoded_state = pair(HARD, channels=2)
    rule = replace(rule, images=PLAIN)
    features = FEATURES if rule.matched == b.MEAN_FEATURES else FORWARD
    one, _ = b.condensation_step(replace(rule, factor=F), features, LAYOUT, STUDENT, THETA, stored, REAL, 5)
    two, _ = b.condensation_step(rule, features, LAYOUT, STUDENT, THETA, decoded_state, REAL, 5)
    assert relative_error(one.X - stored.X, taken_back(stored.X, two.X - decoded_state.X)) < 1e-10


def test_the_network_between_two_updates_is_trained_on_what_it_sees() -> None:
    still = replace(DSA, images=Momentum(0.0, 0.0))
    stored, decoded_state = pair(HARD, channels=2)
    one, _ = b.condensation_step(replace(still, factor=F), FORWARD, LAYOUT, STUDENT, THETA, stored, REAL, 5)
    two, _ = b.condensation_step(still, FORWARD, LAYOUT, STUDENT, THETA, decoded_state, REAL, 5)
    assert relative_error(one.network, two.network) < 1e-12
    assert relative_error(one.network, THETA) > 1e-4


def test_parts_are_of_stored_images() -> None:
    X = random(3 * 4, 2, 8, 8, seed=3)
    found = part_distances(FEATURES, THETA, decoded(X, F).split(4 * F**2), REAL, F**2)
    for size in (1, 2, 3):
        wanted = sum(
            float((FEATURES(THETA, decoded(x[:size], F)).mean(0) - FEATURES(THETA, r).mean(0)).square().sum())
            for x, r in zip(X.split(4), REAL, strict=True)
        )
        assert float(found[size - 1]) == pytest.approx(wanted, rel=1e-10)
    parts = Parts(found, found, torch.tensor([1.0, 0.0, 0.0]), 2, 1)._replace(networks=2)
    state = new_state(X, torch.eye(3, dtype=F64).repeat_interleave(4, 0), 0.01)._replace(parts=parts.packed())
    state = state._replace(network=THETA, steps=torch.tensor(1))
    rule = replace(MDC, images=PLAIN, factor=F, interval=5)
    after, _ = b.condensation_step(rule, FORWARD, LAYOUT, STUDENT, THETA, state, REAL, 5, FEATURES)
    changed = (after.X != X).flatten(1).any(1).view(3, 4)
    assert changed.tolist() == [[False, True, True, True]] * 3
