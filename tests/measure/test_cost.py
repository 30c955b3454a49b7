"""What a hypergradient costs: the inner problems, the order of the clocks, and whose memory counts."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from trajmatch.core.draws import generator
from trajmatch.core.estimators import adjoint, random_window, truncated
from trajmatch.core.loss import cross_entropy
from trajmatch.core.student import plain
from trajmatch.core.vector import functional
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.measure.cost import FIRST, alternating, estimator, peak_memory, random_task, whole_batches

CPU = torch.device("cpu")
NETWORK, THETA = build(lambda: convnet((2, 8, 8), 3, depth=2, width=4), 0)
STUDENT = plain(cross_entropy(functional(NETWORK)))


def test_sides_take_turns_and_every_other_round_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def side(k: int) -> None:
        calls.append(k)
        clock[0] += 10.0**k

    seconds = alternating([lambda k=k: side(k) for k in range(3)], 4, CPU)  # type: ignore[misc]
    assert calls == [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0]
    assert seconds == [[1.0] * 4, [10.0] * 4, [100.0] * 4]


def test_every_inner_step_takes_all_images_augmented_anew() -> None:
    task = random_task(STUDENT, THETA, 5, (2, 8, 8), 3, 4)
    assert task.X.shape == (5, 2, 8, 8)
    assert task.Y.argmax(1).tolist() == [0, 1, 2, 0, 1]
    views = [task.problem.view(task.X, task.Y, i) for i in range(4)]
    assert all(torch.equal(y, task.Y) for _, y in views)
    assert not torch.equal(views[0][0], views[1][0])
    assert bool(adjoint(task).d.X.flatten(1).norm(dim=1).gt(0).all())
    again = random_task(STUDENT, THETA, 5, (2, 8, 8), 3, 4)
    assert torch.equal(again.problem.view(again.X, again.Y, 3)[0], views[3][0])


def test_a_given_segment_is_matched_in_its_own_precision() -> None:
    task = random_task(STUDENT, THETA, 3, (2, 8, 8), 3, 2)
    s, g, X, Y = (t.double() for t in (task.s, task.g, task.X, task.Y))
    found = whole_batches(STUDENT, s, g, X, Y, 2, generator(0, "test"))
    assert torch.equal(found.s, s)
    assert torch.equal(found.g, g)
    assert found.eta.dtype == torch.float64


def test_a_third_of_the_steps_is_differentiated() -> None:
    task = random_task(STUDENT, THETA, 3, (2, 8, 8), 3, 6)
    assert torch.equal(estimator("truncated", 6)(task).d.X, truncated(2)(task).d.X)
    assert torch.equal(estimator("random-window", 6)(task).d.X, random_window(2, 4)(task).d.X)
    shortest = task._replace(T=1)
    for name in ("truncated", "random-window"):
        assert torch.equal(estimator(name, 1)(shortest).d.X, adjoint(shortest).d.X)


def test_libraries_load_before_memory_is_counted() -> None:
    done: list[str] = []

    def make(T: int) -> Callable[[], Any]:
        done.append(f"make {T}")
        return lambda: done.append(f"run {T}")

    def peak(compute: Callable[[], Any]) -> float:
        done.append("count")
        compute()
        return 7.0

    assert peak_memory(make, 30, peak) == 7.0
    assert done == [f"make {FIRST}", f"run {FIRST}", "make 30", "count", "run 30"]
