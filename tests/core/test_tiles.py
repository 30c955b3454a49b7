"""Several images in one: the maps against torch's own, their transpose, and hypergradients through them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracles import F64, random, relative_error
from trajmatch.core.augment import Draw
from trajmatch.core.estimators import ESTIMATORS, Task
from trajmatch.core.hypergradient import Hypergradient
from trajmatch.core.inner import Problem, pulled_view, training_view
from trajmatch.core.loss import cross_entropy
from trajmatch.core.student import micro_batched, plain
from trajmatch.core.tiles import decoded, encoded, joined, repeated, tiles
from trajmatch.core.vector import functional
from trajmatch.data.networks.convnet import build, convnet

FAMILIES = ("identity", "rotate", "crop", "color", "flip")


def by_torch(S: Tensor, factor: int) -> Tensor:
    """The same as `decoded`, from torch's operations, image by image and tile by tile."""
    h, w = S.shape[2] // factor, S.shape[3] // factor
    cut = [
        image[:, i * h : (i + 1) * h, j * w : (j + 1) * w] for image in S for i in range(factor) for j in range(factor)
    ]
    return F.interpolate(torch.stack(cut), scale_factor=factor, mode="bilinear", align_corners=False)


@pytest.mark.parametrize(("factor", "h", "w"), [(2, 8, 8), (2, 2, 4), (3, 6, 9), (4, 8, 4), (5, 5, 10)])
def test_what_a_network_sees_is_torchs_interpolation_of_each_tile(factor: int, h: int, w: int) -> None:
    S = random(3, 2, h, w, seed=1)
    assert decoded(S, factor).shape == (3 * factor**2, 2, h, w)
    assert relative_error(decoded(S, factor), by_torch(S, factor)) < 1e-12
    assert torch.equal(joined(tiles(S, factor), factor), S)


def test_a_factor_of_one_is_the_very_same_tensor() -> None:
    S, Y = random(2, 1, 4, 4, seed=1), random(2, 3, seed=2)
    assert decoded(S, 1) is S
    assert encoded(S, 1) is S
    assert repeated(Y, 1) is Y


def test_labels_follow_the_tiles_of_their_image() -> None:
    assert repeated(torch.tensor([3, 5]), 2).tolist() == [3, 3, 3, 3, 5, 5, 5, 5]
    S = torch.stack([torch.full((1, 4, 4), value) for value in (3.0, 5.0)])
    assert decoded(S, 2).amax((1, 2, 3)).tolist() == [3, 3, 3, 3, 5, 5, 5, 5]


@pytest.mark.parametrize("factor", [2, 3])
def test_stored_images_are_shrunk_ones_side_by_side(factor: int) -> None:
    x = random(factor**2, 1, 6, 6, seed=1)
    S = encoded(x, factor)
    side = 6 // factor
    for k, image in enumerate(x):
        i, j = divmod(k, factor)
        found = S[0, :, i * side : (i + 1) * side, j * side : (j + 1) * side]
        assert relative_error(found, F.avg_pool2d(image[None], factor)[0]) < 1e-12
    flat = torch.ones(factor**2, 1, 6, 6, dtype=F64)
    assert relative_error(decoded(encoded(flat, factor), factor), flat) < 1e-12


@pytest.mark.parametrize("batch", [None, 5])
def test_the_pull_back_is_the_transpose_of_the_view(batch: int | None) -> None:
    """Row by row: the matrix of the view, found by applying torch's operations to unit images."""
    factor, n = 2, 3
    X, Y = random(n, 1, 4, 4, seed=1), random(n, 3, seed=2)
    index = torch.arange(n * 4) if batch is None else torch.tensor([7, 0, 11, 3, 2])
    view = training_view([index], [Draw("identity", random(len(index), 3, seed=5))], factor)
    units = torch.eye(X.numel(), dtype=F64).view(-1, *X.shape)
    matrix = torch.stack([by_torch(unit, factor)[index].flatten() for unit in units], 1)
    problem = Problem(view, plain(lambda theta, z, y: theta.sum()))
    (z, y), pull = pulled_view(problem, X, Y, 0)
    assert relative_error(z.flatten(), matrix @ X.flatten()) < 1e-12
    assert torch.equal(y, Y[index // 4])
    a, b = random(*z.shape, seed=3), random(*y.shape, seed=4)
    dX, dY = pull((a, b))
    assert relative_error(dX.flatten(), matrix.T @ a.flatten()) < 1e-12
    sums = torch.zeros_like(Y).index_add(0, index // 4, b)
    assert relative_error(dY, sums) < 1e-12


def task(batch: int | None, factor: int = 2, n: int = 3) -> Task:
    """Inner steps of a small ConvNet in float64 on n stored images, with every kind of augmentation."""
    network, theta = build(lambda: convnet((2, 8, 8), 3, depth=2, width=4), 5)
    s = theta.double()
    source = torch.Generator().manual_seed(1)
    m = n * factor**2
    b = [torch.randperm(m, generator=source)[: batch or m] for _ in FAMILIES]
    a = [Draw(f, torch.rand(len(i), 3, generator=source, dtype=F64)) for f, i in zip(FAMILIES, b, strict=True)]
    problem = Problem(training_view(b, a, factor), plain(cross_entropy(functional(network.double()))))
    X, Y = random(n, 2, 8, 8, seed=11), random(n, 3, seed=12).softmax(1)
    eta = torch.tensor(0.2, dtype=F64)
    return Task(problem, s, s + 0.1 * random(len(s), seed=10), X, Y, eta, len(FAMILIES))


def unrolled(of: Task, since: int) -> Hypergradient:
    """Autograd through the unroll from a constant theta_since, with torch's interpolation in the graph."""
    X, Y, eta = (t.clone().requires_grad_() for t in (of.X, of.Y, of.eta))
    theta = of.rollout(of.T)[since].clone().requires_grad_()
    for i in range(since, of.T):
        images = of.problem.view(by_torch(X, 2), Y.repeat_interleave(4, 0), i)
        (u,) = torch.autograd.grad(of.problem.student.loss(theta, *images), theta, create_graph=True)
        theta = theta - eta * u
    L = ((theta - of.g) ** 2).sum() / ((of.s - of.g) ** 2).sum()
    return Hypergradient(*torch.autograd.grad(L, (X, Y, eta)))


@pytest.mark.parametrize("batch", [None, 5])
@pytest.mark.parametrize(("name", "iota"), [("adjoint", 5), ("unrolled", 5), ("truncated", 2)])
def test_hypergradients_against_an_unrolled_graph(name: str, iota: int, batch: int | None) -> None:
    one = task(batch)
    found = ESTIMATORS[name](iota, one.T)(one).d
    # The same steps on images that are decoded beforehand: the view of factor 1 has the same draws.
    seen = replaced(task(batch), batch)
    wanted = unrolled(seen, one.T - iota)
    for field, f, w in zip(Hypergradient._fields, found, wanted, strict=True):
        assert relative_error(f, w) < 1e-8, field


def replaced(of: Task, batch: int | None) -> Task:
    """The task, whose view takes images that a network sees where they are already decoded."""
    plain_view = task(batch, factor=1, n=12).problem.view

    def view(X: Tensor, Y: Tensor, i: int) -> tuple[Tensor, Tensor]:
        return plain_view(X, Y, i) if len(X) == 12 else of.problem.view(X, Y, i)

    return of._replace(problem=of.problem._replace(view=view))


def test_micro_batches_of_tiles_give_the_same() -> None:
    one = task(None)
    parts = one._replace(problem=one.problem._replace(student=micro_batched(one.problem.student, 5)))
    for f, w in zip(ESTIMATORS["adjoint"](5, 5)(parts).d, ESTIMATORS["adjoint"](5, 5)(one).d, strict=True):
        assert relative_error(f, w) < 1e-10
