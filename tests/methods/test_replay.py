"""The memory of a stream in experts and in outer steps: ascent, several segments, and segments at once."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracles import F64, random, relative_error
from trajmatch.core.augment import draw
from trajmatch.core.descent import Momentum
from trajmatch.core.draws import batches, derive, generator
from trajmatch.core.inner import Memory, replayed, training_view
from trajmatch.core.sharpness import SAM
from trajmatch.core.vector import functional
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.data.trajectories import Segment
from trajmatch.methods import engines
from trajmatch.methods.engines import EAGER
from trajmatch.methods.experts import Real, expert
from trajmatch.methods.outer import Rule, estimator, match, outer_step, tasks
from trajmatch.methods.state import OuterState, new_state
from trajmatch.methods.training import Training, train

NETWORK, THETA = build(lambda: convnet((1, 8, 8), 5, depth=1, width=3), 4)
NETWORK.double()
STUDENT = engines.student(NETWORK, EAGER, together=True)
MEMORY = Memory(random(6, 1, 8, 8, seed=1), F.one_hot(torch.arange(6) % 3 + 2, 5).double(), 4)
RULE = Rule(
    T=4, iota=4, images=Momentum(0.5), rate=Momentum(0.1), batch=3, families=("flip", "scale"), memory=MEMORY,
    estimator="adjoint",
)  # fmt: skip


def state() -> OuterState:
    """Four images of the first two of five classes."""
    Y = F.one_hot(torch.arange(4) // 2, 5).double()
    return new_state(random(4, 1, 8, 8, seed=2), Y, 0.3)


def segments(count: int) -> list[Segment]:
    s = THETA.double()
    return [Segment(s, s + 0.1 * random(len(s), seed=10 + k), k, 0) for k in range(count)]


def drawn_again(rule: Rule, k: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """b_i and the fixed images and labels of inner step i, drawn as section 7 of method.md says."""
    source = generator(7, "inner", 0, *([k] if k else []))
    stream = batches(4, rule.batch, source)
    permuted = [next(stream) for _ in range(rule.T)]
    a = [draw(len(b), rule.families, source) for b in permuted]
    view = replayed(training_view(permuted, a), MEMORY, a, generator(7, "memory", 0, k))
    X = torch.zeros(4, 1, 8, 8, dtype=F64)
    return [(b, *(t[len(b) :] for t in view(X, state().Y, i))) for i, b in enumerate(permuted)]


def test_k_segments_together_and_one_by_one_have_the_same_hypergradient() -> None:
    found = []
    for together in (False, True):
        rule = replace(RULE, together=together)
        given = tasks(rule, STUDENT, state(), segments(2), 7)
        found.append(match(rule, estimator(rule, 7, 0), given, 7, 0))
    assert found[0].d.X.shape == (4, 1, 8, 8)
    assert relative_error(found[1].d.X, found[0].d.X) < 1e-10
    assert relative_error(found[1].loss, found[0].loss) < 1e-12
    assert relative_error(found[1].d.eta, found[0].d.eta) < 1e-10


def test_each_segment_has_a_draw_of_the_memory_of_its_own() -> None:
    first, second = (drawn_again(RULE, k) for k in (0, 1))
    assert not torch.equal(first[0][1], second[0][1])
    given = tasks(RULE, STUDENT, state(), segments(2), 7)
    for k, task in enumerate(given):
        for i, (b, old, labels) in enumerate(drawn_again(RULE, k)):
            z, y = task.problem.view(state().X, state().Y, i)
            assert torch.equal(z[len(b) :], old)
            assert torch.equal(y[len(b) :], labels)


def test_an_ascent_moves_the_synthetic_images_alone() -> None:
    rule = replace(RULE, sharpness=SAM(0.2), tau=0)
    plain, record = outer_step(rule, STUDENT, state(), segments(1), 7)
    assert bool(record.healthy)
    assert record.loss_perturbed is not None
    (task,) = tasks(rule, STUDENT, state(), segments(1), 7)
    estimate = estimator(rule, 7, 0)
    d = estimate(task).d.X
    moved = state().X + 0.2 * d / d.norm()
    wanted = state().X - 0.5 * estimate(task._replace(X=moved)).d.X
    assert relative_error(plain.X, wanted) < 1e-10
    assert torch.equal(plain.Y, state().Y)


def test_an_expert_sees_the_memory_so_many_times_in_an_epoch() -> None:
    """Expert 0 is what `train` makes of the images written out one by one."""
    make, recipe = lambda: convnet((1, 8, 8), 5, depth=1, width=3), Training(0.05, 2, 4, 0.9, families=("flip",))
    x, y = random(6, 1, 8, 8, seed=3).float(), torch.arange(6) % 2
    old, old_y = MEMORY.X.float(), torch.full((6, 5), 0.2)
    kept = Real(x, y, memory=(old, old_y), passes=3)
    found = expert(make, kept, Real(x, y), 5, recipe, seed=9, index=0)
    network, theta = build(make, derive(9, "expert", 0, "weights"))
    X = torch.cat([x, old, old, old])
    Y = torch.cat([F.one_hot(y, 5).float(), old_y, old_y, old_y])
    gradient = engines.student(network, EAGER).gradient
    for now in train(gradient, theta, X, Y, recipe, derive(9, "expert", 0, "batches")):
        theta = now.theta
    assert now.step == 2 * 6  # 24 images by 4, twice
    assert torch.equal(found.rows[-1], theta)
    right = functional(network)(theta, x).argmax(1) == y
    assert found.train_accuracy == int(right.sum()) / len(x)  # of the real images
    assert not torch.equal(expert(make, Real(x, y), Real(x, y), 5, recipe, seed=9, index=0).rows[-1], theta)
