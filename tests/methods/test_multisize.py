"""MDC: distances of leading parts by plain loops, the choice of a part, and what a step adds to DSA's."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.methods.test_condensation import ALL, DSA, FEATURES, FORWARD, LAYOUT, REAL, STUDENT, THETA, draws
from tests.oracles import F64, random, relative_error
from trajmatch.core.augment import augment
from trajmatch.core.draws import generator
from trajmatch.methods import condensation as b
from trajmatch.methods import multisize
from trajmatch.methods.multisize import Parts, is_measured, moving, next_network, part_distances
from trajmatch.methods.state import OuterState, new_state
from trajmatch.run.stages.steps import condensation
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config

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


def taken(distances: list[list[float]], interval: int) -> list[tuple[int, int]]:
    """Size and frozen images of the part with each network, of which the distances were these."""
    parts, found = Parts.of(torch.empty(0), len(distances[0]) + 1), []
    for network, measured in enumerate(distances):
        parts = next_network(parts, interval)
        found.append((parts.size, parts.frozen))
        if is_measured(network, interval):
            parts = parts._replace(now=torch.tensor(measured))
        parts = Parts.of(parts.packed(), len(measured) + 1)
    return found


def program(distances: list[list[float]], interval: int) -> list[tuple[int, int]]:
    """The same as the authors' program keeps its books: by part, until when it is matched, and whether it was ended.

    A part's end is set when it is chosen; a part that is chosen again gets a new one.
    """
    until: dict[int, int] = {}
    ended: set[int] = set()
    matched, before, found = 0, [], []
    for network, measured in enumerate(distances):
        ended |= {part for part, end in until.items() if end <= network}
        smaller = [part for part in ended if part < matched]
        found.append((matched, max(smaller, default=0)))
        if network == 0 or (network + 1) % interval == 0:
            moved = [abs(one - two) for one, two in zip(measured, before, strict=True)] if before else [1.0]
            matched = 1 + moved.index(max(moved))
            until[matched] = network + 1 + (interval if before else interval - 1)
            before = measured
    return found


@pytest.mark.parametrize("interval", [1, 2, 3, 7])
@pytest.mark.parametrize("ipc", [2, 3, 6])
def test_parts_are_chosen_and_frozen_as_in_the_published_program(interval: int, ipc: int) -> None:
    distances = random(60, ipc - 1, seed=interval).square().tolist()
    found = taken(distances, interval)
    assert found == program(distances, interval)
    assert found[0] == (0, 0)
    if ipc == 6:
        assert len(set(found)) > 3
        # What was frozen before a smaller part was chosen is frozen again with a larger one.
        assert interval > 1 or any(a[1] > b[1] < c[1] for a, b, c in zip(found, found[1:], found[2:], strict=False))


def test_the_part_that_moved_most_is_chosen_and_the_largest_smaller_one_is_frozen() -> None:
    rows = [[9.0] * 5, [9, 9, 4, 9, 9], [9, 9, 4, 9, 1], [9, 3, 4, 9, 1], [9, 3, 4, 0, 1], [9, 3, 4, 0, 1]]
    assert taken(rows, 1) == [(0, 0), (1, 0), (3, 1), (5, 3), (2, 1), (4, 3)]


def test_an_interval_is_a_twentieth_of_a_run_s_networks() -> None:
    for steps, ipc, wanted in ((200_000, 10, 1000), (111, 10, 1), (2000, 10, 10), (39, 2, 1), (401, 2, 2)):
        assert condensation(resolve(Config(method="mdc", steps=steps, ipc=ipc))).interval == wanted


def test_parts_survive_packing() -> None:
    tensors = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.25, 4.0]), torch.tensor([1.0, 0.0, 1.0])
    parts = Parts(*tensors, 3, 17)
    back = Parts.of(parts.packed(), IPC)
    assert all(torch.equal(one, two) for one, two in zip(back[:3], tensors, strict=True))
    assert back[3:] == (3, 17)
    assert back.frozen == 1
    with pytest.raises(ValueError, match="older release"):
        Parts.of(torch.zeros(2 * (IPC - 1) + 3), IPC)


def test_the_loss_adds_the_distance_of_the_part() -> None:
    a = draws()
    wanted = b.real_gradients(STUDENT, THETA, REAL, a)
    whole = b.gradients_distance(FORWARD, LAYOUT, THETA, X.split(IPC), wanted, a)
    part = b.gradients_distance(FORWARD, LAYOUT, THETA, [x[:2] for x in X.split(IPC)], wanted, a)
    both = b.gradients_distance(FORWARD, LAYOUT, THETA, X.split(IPC), wanted, a, part=2)
    assert relative_error(both, whole + part) < 1e-12
    assert float(part.detach()) > 0.1


def test_frozen_images_do_not_move_and_others_do() -> None:
    held = Parts(torch.zeros(3, dtype=F64), torch.zeros(3, dtype=F64), torch.tensor([0, 1, 0], dtype=F64), 3, 9)
    assert moving(held, IPC, 3).flatten().tolist() == [False, False, True, True] * 3
    before = state(held)._replace(steps=torch.tensor(1), network=THETA)
    before = before._replace(image_moments=random(2, *X.shape, seed=4))
    after = stepped(MDC, before)
    change = (after.X - X).flatten(1).norm(dim=1)
    assert change[moving(held, IPC, 3).flatten()].min() > 1e-6
    assert change[~moving(held, IPC, 3).flatten()].max() == 0
    momentum = after.image_moments[0].flatten(1)[~moving(held, IPC, 3).flatten()]
    wanted = MDC.images.mu * before.image_moments[0].flatten(1)[~moving(held, IPC, 3).flatten()]
    assert relative_error(momentum, wanted) < 1e-12  # and gathers nothing meanwhile


def distances_at(before: OuterState, theta: Tensor, step: int) -> Tensor:
    """Of parts at a step's images, real and synthetic ones augmented as the step augments them."""
    source = generator(5, "condensation", step)
    a = [b.shared_draw(ALL, source) for _ in REAL]
    synthetic, real = (
        [b._seen(x, one) for x, one in zip(images, a, strict=True)] for images in (before.X.split(IPC), REAL)
    )
    return part_distances(FEATURES, theta, synthetic, real)


def test_the_feature_distances_of_a_measured_networks_steps_are_summed() -> None:
    first = stepped(MDC, state())
    held = Parts.of(first.parts, IPC)
    assert (held.networks, held.size) == (1, 0)
    assert relative_error(held.now, distances_at(state(), THETA, 0)) < 1e-12
    second = stepped(MDC, first)
    wanted = held.now + distances_at(first, first.network, 1)
    assert relative_error(Parts.of(second.parts, IPC).now, wanted) < 1e-12
    assert Parts.of(second.parts, IPC).networks == 1  # three updates for each network
    third, rare = stepped(MDC, second), replace(MDC, interval=5)
    assert Parts.of(stepped(MDC, third).parts, IPC).now.min() > 0
    fourth = Parts.of(stepped(rare, third).parts, IPC)
    assert (fourth.networks, fourth.size) == (2, 1)
    assert not fourth.now.any()  # the second of five networks is not measured


def test_a_step_descends_on_both_distances() -> None:
    rule = replace(MDC, images=replace(MDC.images, mu=0.0), network=None)
    part = Parts(torch.zeros(3, dtype=F64), torch.zeros(3, dtype=F64), torch.zeros(3, dtype=F64), 1, 9)
    after = stepped(rule, state(part)._replace(steps=torch.tensor(1), network=THETA))
    source = generator(5, "condensation", 1)
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


def test_running_sums_off_the_cpu_are_the_same_sums() -> None:
    rows = random(5, 7, seed=4)
    one_by_one = torch.stack(list(multisize.accumulate(rows)))
    assert torch.allclose(one_by_one, multisize._running_sums(rows), rtol=0, atol=1e-14)
    assert multisize._running_sums(rows.to("meta")).shape == (5, 7)
