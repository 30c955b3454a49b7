"""Students that go on: whose turn it is, at what age, and the derivative through their turn against plain autograd."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.methods.test_outer import LOSS, STUDENT, S, T, state
from tests.methods.test_real_loss import FAMILIES, REAL, RULE
from tests.oracles import F64, random, relative_error
from trajmatch.core.augment import augment, draw
from trajmatch.core.descent import Momentum
from trajmatch.core.draws import generator
from trajmatch.methods.kept_students import Kept, Turn, of_student, with_student
from trajmatch.methods.outer import inner_problem
from trajmatch.methods.real_loss import RealLoss, real_loss_step
from trajmatch.methods.state import OuterState, new_state

MU, ETA = 0.9, 0.05
PLAIN = replace(RULE, images=Momentum(1.0, 0.0), rate=Momentum(0.0), iota=T)
HOW = RealLoss(momentum=MU, kept=Kept(2, 3 * T))


@pytest.mark.parametrize(
    ("count", "oldest", "inner"), [(1, 40, 10), (4, 100, 10), (3, 95, 10), (10, 1000, 30), (5, 3, 10)]
)
def test_turns_see_every_age_equally_often(count: int, oldest: int, inner: int) -> None:
    kept, visits = Kept(count, oldest), -(-oldest // inner)
    turns = [kept.turn(step, inner) for step in range(count * visits * 3)]
    assert [turn.student for turn in turns] == [step % count for step in range(len(turns))]
    for student in range(count):
        own = [turn for turn in turns if turn.student == student]
        assert own[0].anew
        for before, turn in pairwise(own):
            assert turn.anew is (before.age + inner >= oldest), "it goes on until it is old"
            assert turn.age == (0 if turn.anew else before.age + inner)
    ages = sorted(turn.age for turn in turns)
    assert ages == sorted(list(range(0, visits * inner, inner)) * 3 * count)
    firsts = [turn.age for turn in turns[:count]]
    assert firsts == sorted(firsts)
    assert max(firsts) - min(firsts) >= (count - 1) * (visits // count) * inner, "the first ages are spread"


def momentum_steps(X: Tensor, at: Tensor, v: Tensor, step: int, number: int, graph: bool) -> tuple[Tensor, Tensor]:
    """T steps of SGD with momentum, written out anew, with the draws of an outer step's training `number`."""
    source = generator(5, "inner", step, *([number] if number else []))
    for _ in range(T):
        (u,) = torch.autograd.grad(
            LOSS(at, augment(X, draw(len(X), FAMILIES, source)), state().Y), at, create_graph=graph
        )
        v = MU * v + u
        at = at - ETA * v
        if not graph:
            at, v = at.detach().requires_grad_(), v.detach()
    return at, v


def by_autograd(before: OuterState, at: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss on real images after the T inner steps of an outer step from (at, v), dloss/dX, and where they end."""
    X = before.X.clone().requires_grad_()
    end, speed = momentum_steps(X, at.detach().requires_grad_(), v, int(before.steps), 0, True)
    loss = LOSS(end, *REAL)
    return loss.detach(), torch.autograd.grad(loss, X)[0], end.detach(), speed.detach()


def test_a_student_goes_on_and_the_derivative_is_autograds() -> None:
    """Two students, whose lives are three turns: the second one begins at the age of one turn."""
    now = new_state(state().X, state().Y, ETA)
    held: dict[int, tuple[Tensor, Tensor]] = {}
    for step in range(7):
        before, fresh = now, S + 0.01 * random(len(S), seed=step)
        now, record = real_loss_step(PLAIN, STUDENT, fresh, before, REAL, 5, HOW)
        student, new = step % 2, (fresh.clone().requires_grad_(), torch.zeros_like(fresh))
        if step == 1:  # which takes the steps of its missing turn first
            new = momentum_steps(before.X, *new, step, 1, False)
        # Of the first student turns 0 and 3 begin anew, of the second turns 0 and 2.
        at, v = new if step in (0, 1, 6, 5) else held[student]
        loss, dX, end, speed = by_autograd(before, at, v)
        assert relative_error(record.loss, loss) < 1e-10
        assert relative_error(now.X - before.X, -dX) < 1e-8
        assert relative_error(now.network[student], torch.stack([end, speed])) < 1e-10
        other = 1 - student
        assert torch.equal(now.network[other], before.network[other] if step else torch.zeros_like(now.network[other]))
        held[student] = end, speed


def test_only_the_last_steps_of_a_turn_are_differentiated() -> None:
    before = new_state(state().X, state().Y, ETA)
    after, record = real_loss_step(replace(PLAIN, iota=2), STUDENT, S, before, REAL, 5, HOW)
    whole, same = real_loss_step(PLAIN, STUDENT, S, before, REAL, 5, HOW)
    assert torch.equal(record.loss, same.loss)
    assert torch.equal(after.network, whole.network)
    X = before.X.clone().requires_grad_()
    source, at, v = generator(5, "inner", 0), S.clone().requires_grad_(), torch.zeros_like(S)
    for i in range(T):
        if i <= T - 2:
            at, v = at.detach().requires_grad_(), v.detach()
        late = i >= T - 2
        (u,) = torch.autograd.grad(
            LOSS(at, augment(X, draw(len(X), FAMILIES, source)), state().Y), at, create_graph=late
        )
        v = MU * v + u
        at = at - ETA * v
    (dX,) = torch.autograd.grad(LOSS(at, *REAL), X)
    assert relative_error(after.X - before.X, -dX) < 1e-8
    assert relative_error(after.X - before.X, whole.X - before.X) > 0.01


def test_students_begin_with_the_first_step_that_has_them() -> None:
    """`since` steps of another kind before change no turn, and plain SGD keeps weights alone."""
    before = new_state(state().X, state().Y, ETA)
    late = before._replace(steps=torch.tensor(4))
    after, _ = real_loss_step(replace(PLAIN, since=4), STUDENT, S, late, REAL, 5, HOW)
    assert after.network[0].any()
    assert not after.network[1].any()
    plain, _ = real_loss_step(PLAIN, STUDENT, S, before, REAL, 5, replace(HOW, momentum=0.0))
    assert plain.network.shape == (2, len(S))
    fresh, _ = real_loss_step(replace(PLAIN, iota=T), STUDENT, S, before, REAL, 5, RealLoss())
    assert torch.equal(plain.X, fresh.X), "at its first turn a student is a new network"


def test_a_student_goes_on_from_its_last_turn_or_begins_anew() -> None:
    students = torch.stack([torch.full((2, 3), 5.0), torch.ones(2, 3)])
    begun, calls = torch.zeros(2, 3), []

    def train(at: Tensor, number: int) -> Tensor:
        calls.append(number)
        return at + 1

    assert torch.equal(of_student(students, Turn(1, 8, False), begun, 4, train), torch.ones(2, 3))
    assert calls == []
    assert torch.equal(of_student(students, Turn(0, 8, True), begun, 4, train), torch.full((2, 3), 2.0))
    assert calls == [0, 1]
    assert torch.equal(of_student(students, Turn(1, 0, True), begun, 4, train), begun)
    after = with_student(students, Kept(2, 9), Turn(0, 8, False), begun)
    assert torch.equal(after[0], begun)
    assert torch.equal(after[1], students[1])


def test_the_draws_of_a_students_first_steps_are_its_own() -> None:
    problem = inner_problem(RULE, STUDENT, 6, 5, 1)
    first, second = (inner_problem(RULE, STUDENT, 6, 5, 1, k).view(state().X, state().Y, 0)[0] for k in (1, 2))
    assert not torch.equal(first, second)
    assert not torch.equal(first, problem.view(state().X, state().Y, 0)[0])
    assert first.dtype == F64
