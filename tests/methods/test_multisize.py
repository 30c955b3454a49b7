"""MDC: distances of leading parts by plain loops, the choice of a part, and what a step adds to DSA's."""

from dataclasses import replace

import pytest
import torch

from tests.methods.test_baselines import ALL, DSA, FEATURES, FORWARD, LAYOUT, REAL, STUDENT, THETA, draws
from tests.oracles import F64, random, relative_error
from trajmatch.core.augment import augment
from trajmatch.core.draws import generator
from trajmatch.methods import baselines as b
from trajmatch.methods.multisize import Parts, moving, next_network, part_distances
from trajmatch.methods.state import OuterState, new_state

MDC = replace(DSA, parts=True)
IPC = 4
X = random(3 * IPC, 2, 8, 8, seed=3)


def state(parts: Parts | None = None) -> OuterState:
    first = new_state(X, torch.eye(3, dtype=F64).repeat_interleave(IPC, 0), 0.01)
    return first if parts is None else first._replace(parts=parts.packed())


def stepped(rule: b.Condensation, before: OuterState) -> OuterState:
    found, _ = b.condensation_step(rule, FORWARD, LAYOUT, STUDENT, THETA, before, REAL, 5, FEATURES)
    return found


def test_distances_of_parts_by_a_plain_loop() -> None:
    found = part_distances(FEATURES, THETA, X.split(IPC), REAL)
    assert found.shape == (IPC - 1,)
    for size in (1, 2, 3):
        wanted = 0.0
        for x, r in zip(X.split(IPC), REAL, strict=True):
            ours = torch.stack([FEATURES(THETA, one[None])[0] for one in x[:size]]).mean(0)
            wanted += float((ours - FEATURES(THETA, r).mean(0)).square().sum())
        assert float(found[size - 1]) == pytest.approx(wanted, rel=1e-10)


def test_a_part_of_all_the_real_images_has_no_distance() -> None:
    parts = [torch.cat([r, r[:1]]) for r in REAL]
    found = part_distances(FEATURES, THETA, parts, REAL)
    assert float(found[-1]) < 1e-20
    assert float(found[0]) > 1e-3


def test_the_part_that_moved_most_is_chosen_and_the_smaller_one_before_is_frozen() -> None:
    first = next_network(Parts.of(torch.empty(0), IPC))
    assert (first.size, first.frozen, first.networks) == (1, 0, 1)
    second = next_network(first._replace(now=torch.tensor([1.0, 1.0, 1.0])))
    assert (second.size, second.frozen, second.networks) == (1, 0, 2)  # nothing to compare with yet
    assert torch.equal(second.before, torch.ones(3))
    assert torch.equal(second.now, torch.zeros(3))
    third = next_network(second._replace(now=torch.tensor([1.1, 1.2, 0.4])))
    assert (third.size, third.frozen) == (3, 1)
    same = next_network(third._replace(now=torch.tensor([1.1, 1.2, 9.0])))
    assert (same.size, same.frozen) == (3, 1)
    smaller = next_network(same._replace(now=torch.tensor([1.1, 5.0, 9.0])))
    assert (smaller.size, smaller.frozen) == (2, 0)


def test_parts_survive_packing() -> None:
    parts = Parts(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.25, 4.0]), 3, 1, 17)
    back = Parts.of(parts.packed(), IPC)
    assert torch.equal(back.now, parts.now)
    assert torch.equal(back.before, parts.before)
    assert back[2:] == parts[2:]


def test_the_loss_adds_the_distance_of_the_part() -> None:
    a = draws()
    wanted = b.real_gradients(STUDENT, THETA, REAL, a)
    whole = b.gradients_distance(FORWARD, LAYOUT, THETA, X.split(IPC), wanted, a)
    part = b.gradients_distance(FORWARD, LAYOUT, THETA, [x[:2] for x in X.split(IPC)], wanted, a)
    both = b.gradients_distance(FORWARD, LAYOUT, THETA, X.split(IPC), wanted, a, part=2)
    assert relative_error(both, whole + part) < 1e-12
    assert float(part.detach()) > 0.1


def test_frozen_images_do_not_move_and_others_do() -> None:
    held = Parts(torch.zeros(3, dtype=F64), torch.zeros(3, dtype=F64), 3, 2, 1)
    assert moving(held, IPC, 3).flatten().tolist() == [False, False, True, True] * 3
    before = state(held)._replace(steps=torch.tensor(1), network=THETA)
    before = before._replace(image_moments=random(2, *X.shape, seed=4))
    after = stepped(MDC, before)
    change = (after.X - X).flatten(1).norm(dim=1)
    assert change[moving(held, IPC, 3).flatten()].min() > 1e-6
    assert change[~moving(held, IPC, 3).flatten()].max() == 0


def test_the_feature_distances_of_a_networks_steps_are_summed() -> None:
    first = stepped(MDC, state())
    held = Parts.of(first.parts, IPC)
    assert held.networks == 1
    assert relative_error(held.now, part_distances(FEATURES, THETA, X.split(IPC), REAL)) < 1e-12
    second = stepped(MDC, first)
    wanted = held.now + part_distances(FEATURES, first.network, first.X.split(IPC), REAL)
    assert relative_error(Parts.of(second.parts, IPC).now, wanted) < 1e-12
    assert Parts.of(second.parts, IPC).networks == 1  # three updates for each network


def test_a_step_descends_on_both_distances() -> None:
    rule = replace(MDC, images=replace(MDC.images, mu=0.0), network=None)
    after = stepped(rule, state())
    source = generator(5, "condensation", 0)
    a = [b.shared_draw(ALL, source) for _ in REAL]
    at = X.clone().requires_grad_()
    wanted = b.real_gradients(STUDENT, THETA, REAL, a)
    loss = b.gradients_distance(FORWARD, LAYOUT, THETA, at.split(IPC), wanted, a)
    loss = loss + b.gradients_distance(FORWARD, LAYOUT, THETA, [x[:1] for x in at.split(IPC)], wanted, a)
    (d,) = torch.autograd.grad(loss, at)
    assert relative_error(after.X - X, -rule.images.lr * d) < 1e-9
    assert augment(X[:1], a[0]).shape == X[:1].shape


def test_with_one_image_per_class_it_is_dsa() -> None:
    one = new_state(X[:3], torch.eye(3, dtype=F64), 0.01)
    mdc, dsa = stepped(MDC, one), stepped(DSA, one)
    assert torch.equal(mdc.X, dsa.X)
    assert torch.equal(mdc.network, dsa.network)
