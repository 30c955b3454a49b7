"""K segments computed at once give what they give one by one."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.oracles import F64, random, relative_error
from trajmatch.core.augment import families
from trajmatch.core.descent import Momentum
from trajmatch.core.estimators import Task, adjoint, stack, unrolled
from trajmatch.core.inner import Problem
from trajmatch.core.sharpness import SAM
from trajmatch.core.student import stacked
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.data.trajectories import Segment
from trajmatch.methods import engines
from trajmatch.methods.engines import Engine
from trajmatch.methods.outer import Rule, outer_step
from trajmatch.methods.state import OuterState, new_state

MTT = Rule(
    T=6, iota=6, images=Momentum(3.0, 0.5), rate=Momentum(0.1), label=Momentum(1.0, 0.9),
    families=families("color_crop_cutout_flip_scale_rotate"),
)  # fmt: skip
SATM = replace(MTT, iota=2, tau=4, gamma=0.2, sharpness=SAM(0.4))
RULES = {
    "mtt": MTT,
    "closed form": replace(MTT, second_order_rate=False),
    "batches": replace(MTT, batch=4),
    "tesla": replace(MTT, estimator="tesla", labels="teacher"),
    "window": replace(MTT, estimator="random-window", iota=2, labels="learned"),
    "satm": SATM,
    "satm learned": replace(SATM, labels="learned", second_order_rate=False, interval=2),
    "satm teacher": replace(SATM, labels="teacher", combining="adaptive"),
}

network, theta = build(lambda: convnet((1, 8, 8), 3, depth=2, width=4), 1)
network.double()
S = theta.double()
SEGMENTS = [Segment(S + 0.02 * random(len(S), seed=k), S + 0.1 * random(len(S), seed=10 + k), 0, k) for k in range(3)]


def state() -> OuterState:
    return new_state(random(6, 1, 8, 8, seed=3), torch.eye(3, dtype=F64).repeat_interleave(2, 0), 0.1)


@pytest.mark.parametrize("engine", ["eager", "fused"])
@pytest.mark.parametrize("name", RULES)
def test_together_and_one_by_one_are_the_same_step(name: str, engine: str) -> None:
    student, calls = engines.student(network, Engine(engine), together=True), []
    assert student.many is not None

    def counted(*arguments: Tensor) -> Tensor:
        calls.append(len(arguments[0]))
        return student.many.gradient(*arguments)  # type: ignore[union-attr]

    watched = student._replace(many=student.many._replace(gradient=counted))
    apart, record = outer_step(RULES[name], watched, state(), SEGMENTS, 7)
    assert not calls
    at_once, recorded = outer_step(replace(RULES[name], together=True), watched, state(), SEGMENTS, 7)
    assert calls
    assert set(calls) == {3}
    moved = {"X", "eta"} | ({"Y"} if RULES[name].labels != "fixed" else set())
    for key in moved:
        before, one, other = (getattr(s, key) for s in (state(), apart, at_once))
        assert relative_error(other - before, one - before) < 1e-9, key
    for key in ("loss", "hypergradient_norm", "conflict"):
        assert relative_error(getattr(recorded, key), getattr(record, key)) < 1e-10, key
    assert bool(recorded.healthy)


def test_a_stacked_task_has_the_estimates_of_its_parts_in_a_row() -> None:
    plain = engines.student(network, Engine())
    view = lambda k: lambda X, Y, i: (X.roll(i + k, 0) * (1 + 0.1 * k), Y.roll(i + k, 0))  # noqa: E731
    first = state()
    tasks = [
        Task(Problem(view(k), plain), s, g, first.X, first.Y, first.eta, 5) for k, (s, g, *_) in enumerate(SEGMENTS)
    ]
    whole = adjoint(stack(tasks, stacked(plain.loss)))
    for k, task in enumerate(tasks):
        alone = unrolled(task)
        assert relative_error(whole.loss[k], alone.loss) < 1e-12
        assert relative_error(whole.thetas[3][k], alone.thetas[3]) < 1e-12
        for found, wanted in zip(whole.d, alone.d, strict=True):
            assert relative_error(found[k], wanted) < 1e-10
    with pytest.raises(ValueError, match="one segment at a time"):
        unrolled(stack(tasks, stacked(plain.loss)))


def test_one_segment_is_never_stacked() -> None:
    student = engines.student(network, Engine(), together=True)
    student = student._replace(many=student.many._replace(gradient=None))  # type: ignore[union-attr, arg-type]
    one, other = (
        outer_step(replace(MTT, together=together), student, state(), SEGMENTS[:1], 7)[0] for together in (False, True)
    )
    assert torch.equal(one.X, other.X)
