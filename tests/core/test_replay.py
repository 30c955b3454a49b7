"""Fixed images of a memory beside the synthetic ones in an inner step: the view, and every estimator through it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from tests.oracles import ALL_FAMILIES, F64, Small, random, relative_error, small
from trajmatch.core.augment import Draw
from trajmatch.core.estimators import Estimator, Task, adjoint, tesla, truncated, unrolled
from trajmatch.core.hypergradient import Hypergradient
from trajmatch.core.inner import Memory, Problem, View, replayed
from trajmatch.data.networks.convnet import build, convnet

MEMORY = Memory(random(5, 2, 8, 8, seed=31), random(5, 3, seed=32).softmax(1), 3)
NETWORK = build(lambda: convnet((2, 8, 8), 3, depth=2, width=4), 5)[0].double()
T = len(ALL_FAMILIES)


def draws(families: tuple[str, ...], n: int) -> list[Draw]:
    """Augmentations of n images, whose parameters are of no interest here."""
    return [Draw(family, torch.full((n, 3), 0.5, dtype=F64)) for family in families]


def test_a_mini_batch_of_the_memory_stands_behind_the_synthetic_one() -> None:
    made = small(("identity",) * 10, batch=4)
    view = replayed(made.problem.view, MEMORY, draws(("identity",) * 10, 4), torch.Generator().manual_seed(3))
    seen: list[int] = []
    for i in range(10):
        z, y = view(made.X, made.Y, i)
        own, labels = made.problem.view(made.X, made.Y, i)
        assert torch.equal(z[: len(own)], own)
        assert torch.equal(y[: len(own)], labels)
        rows = [int((image == MEMORY.X).flatten(1).all(1).nonzero()) for image in z[len(own) :]]
        assert torch.equal(y[len(own) :], MEMORY.Y[rows])
        assert len(rows) in (3, 2)
        seen += rows
    # One permutation of the memory after another, as the synthetic images are taken.
    assert [sorted(seen[k : k + 5]) for k in range(0, 25, 5)] == [[0, 1, 2, 3, 4]] * 5
    assert seen[:5] != seen[5:10]


def test_the_memory_is_augmented_by_the_family_of_the_step() -> None:
    made, families = small(("flip", "scale")), ("flip", "scale")
    view = replayed(made.problem.view, MEMORY, draws(families, 7), torch.Generator().manual_seed(3))
    behind = view(made.X, made.Y, 0)[0][7:]
    # A flip makes an image itself or its mirror image: each of those here is one of the two.
    both = torch.cat([MEMORY.X, MEMORY.X.flip(3)])
    assert all((both == image).flatten(1).all(1).any() for image in behind)
    scaled = view(made.X, made.Y, 1)[0][7:]
    assert not any((both == image).flatten(1).all(1).any() for image in scaled)


def with_memory(made: Small) -> tuple[View, Task]:
    """The view and the task of a small problem, with the memory in its inner steps."""
    source, a = torch.Generator().manual_seed(3), draws(ALL_FAMILIES, 7)
    view = replayed(made.problem.view, MEMORY, a, source)
    problem = Problem(view, made.problem.student)
    return view, Task(problem, made.s, made.g, made.X, made.Y, made.eta, T)


def loss(theta: Tensor, z: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy by torch's own, with the parameters cut out of theta one by one."""
    named, at = {}, 0
    for name, p in NETWORK.named_parameters():
        named[name] = theta[at : at + p.numel()].reshape(p.shape)
        at += p.numel()
    return F.cross_entropy(functional_call(NETWORK, named, (z,)), y)


def by_autograd(made: Small, fixed: list[tuple[Tensor, Tensor]], iota: int) -> Hypergradient:
    """One autograd graph: the fixed images are constants, and the mean is over all images of a step."""
    X, Y, eta = (t.clone().requires_grad_() for t in (made.X, made.Y, made.eta))
    theta = made.s.clone().requires_grad_()
    for i, (old_z, old_y) in enumerate(fixed):
        z, y = made.problem.view(X, Y, i)
        (u,) = torch.autograd.grad(loss(theta, torch.cat([z, old_z]), torch.cat([y, old_y])), theta, create_graph=True)
        theta = theta - eta * u
        if i < T - iota:
            theta = theta.detach().requires_grad_()
    L = (theta - made.g).square().sum() / (made.s - made.g).square().sum()
    return Hypergradient(*torch.autograd.grad(L, (X, Y, eta)))


@pytest.mark.parametrize(
    ("estimate", "iota"), [(adjoint, T), (unrolled, T), (truncated(3), 3)], ids=["adjoint", "unrolled", "truncated"]
)
def test_hypergradients_beside_fixed_images_are_autograd_s(estimate: Estimator, iota: int) -> None:
    made = small(ALL_FAMILIES)
    view, task = with_memory(made)
    fixed = [tuple(t[7:].clone() for t in view(made.X, made.Y, i)) for i in range(T)]
    found, wanted = estimate(task).d, by_autograd(made, fixed, iota)  # type: ignore[arg-type]
    for name, f, w in zip(Hypergradient._fields, found, wanted, strict=True):
        assert f.shape == w.shape, name
        assert relative_error(f, w) < 1e-10, name


def test_tesla_beside_fixed_images_is_autograd_s_without_the_chain() -> None:
    made = small(ALL_FAMILIES)
    view, task = with_memory(made)
    found = tesla(task)
    wanted = torch.zeros_like(made.X)
    for i in range(T):
        X = made.X.clone().requires_grad_()
        theta = found.thetas[i].clone().requires_grad_()
        (u,) = torch.autograd.grad(loss(theta, *view(X, made.Y, i)), theta, create_graph=True)
        wanted -= made.eta * torch.autograd.grad(u @ found.q, X)[0]
    assert relative_error(found.d.X, wanted) < 1e-10
