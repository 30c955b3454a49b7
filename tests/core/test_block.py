from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad

from tests.oracles import F64, random, relative_error
from trajmatch.core.block import norm_relu_pool
from trajmatch.data.networks.kernels import CompiledKernels, compiled_kernels

EPS = 1e-5
Block = Callable[[Tensor, Tensor, Tensor], Tensor]
Towards = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def kernels() -> CompiledKernels:
    """The compiled kernels, where this machine can build them."""
    found = compiled_kernels()
    if isinstance(found, str):
        pytest.skip(found)
    return found


def reference(c: Tensor, w: Tensor, b: Tensor, pool: int) -> Tensor:
    y = F.relu(F.group_norm(c, c.shape[1], w, b, EPS))
    return F.avg_pool2d(y, 2) if pool == 2 else y


def inputs(n: int, channels: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """c far from normalised, scales of both signs, shifts."""
    c = 3 * random(n, channels, height, width, seed=seed) + random(channels, 1, 1, seed=seed + 1)
    return c, random(channels, seed=seed + 2), 0.5 * random(channels, seed=seed + 3)


def derivatives(block: Block, c: Tensor, w: Tensor, b: Tensor, gp: Tensor | None = None) -> dict[str, Tensor]:
    """p; its gradients; those of a random contraction of them, in the precision of the arguments."""
    c, w, b = (t.detach().requires_grad_() for t in (c, w, b))
    p = block(c, w, b)
    gp = (random(*p.shape, seed=21).to(c.dtype) if gp is None else gp).requires_grad_()
    first = torch.autograd.grad(p, (c, w, b), gp, create_graph=True)
    towards = [random(*t.shape, seed=22 + i).to(c.dtype) for i, t in enumerate(first)]
    second = torch.autograd.grad(first, (gp, c, w, b), towards, allow_unused=True, materialize_grads=True)
    names = ("p", "gc", "gw", "gb", "d/dgp", "d/dc", "d/dw", "d/db")
    return {name: t.detach() for name, t in zip(names, (p, *first, *second), strict=True)}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert not wanted.pop("d/db").any()
    assert not found.pop("d/db").any()
    for name, w in wanted.items():
        assert found[name].shape == w.shape, name
        assert relative_error(found[name].to(F64), w) < tolerance, name


def assert_exact(kernels: CompiledKernels, pool: int, *arguments: Tensor) -> None:
    block = partial(norm_relu_pool, pool=pool, eps=EPS, kernels=kernels)
    assert_same(derivatives(block, *arguments), derivatives(partial(reference, pool=pool), *arguments), 1e-10)


@pytest.mark.parametrize("channels", [1, 3, 5, 17, 32, 33, 64, 70, 128])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("pool", [1, 2])
def test_both_orders_of_derivatives_are_autograd_s(pool: int, n: int, channels: int, kernels: CompiledKernels) -> None:
    assert_exact(kernels, pool, *inputs(n, channels, 4, 6))


@pytest.mark.parametrize("size", [(2, 2), (8, 2), (2, 10), (12, 14)])
@pytest.mark.parametrize("pool", [1, 2])
def test_images_of_any_even_size(pool: int, size: tuple[int, int], kernels: CompiledKernels) -> None:
    assert_exact(kernels, pool, *inputs(2, 5, *size))


def test_without_pooling_sides_may_be_odd(kernels: CompiledKernels) -> None:
    assert_exact(kernels, 1, *inputs(2, 5, 3, 7))


def test_the_eps_given_is_the_one_used(kernels: CompiledKernels) -> None:
    c, w, b = inputs(2, 3, 4, 4)
    for eps in (1e-5, 0.1, 5.0):
        wanted = F.relu(F.group_norm(c, 3, w, b, eps))
        assert relative_error(norm_relu_pool(c, w, b, 1, eps, kernels), wanted) < 1e-12


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels first": lambda c: c.contiguous(),
    "channels last": lambda c: c.contiguous(memory_format=torch.channels_last),
    "every other channel": lambda c: c.repeat_interleave(2, 1)[:, ::2],
    "every other column": lambda c: c.repeat_interleave(2, 3)[..., ::2],
    "part of a batch": lambda c: torch.cat([c, c])[1 : 1 + len(c)].roll(1, 0),
    "part of a larger image": lambda c: F.pad(c, (1, 2, 3, 4))[:, :, 3:-4, 1:-2],
    "transposed": lambda c: c.transpose(2, 3).contiguous().transpose(2, 3),
    "one image again and again": lambda c: c[:1].expand(3, -1, -1, -1),
}


@pytest.mark.parametrize("view", list(VIEWS))
@pytest.mark.parametrize("channels", [1, 5])
def test_images_may_lie_in_memory_in_any_order(view: str, channels: int, kernels: CompiledKernels) -> None:
    c, w, b = inputs(3, channels, 4, 6)
    assert_exact(kernels, 2, VIEWS[view](c), w, b)


def test_scales_and_shifts_may_lie_in_memory_apart(kernels: CompiledKernels) -> None:
    c, w, b = inputs(2, 5, 4, 6)
    apart = [t.repeat_interleave(3)[::3] for t in (w, b)]
    assert not any(t.is_contiguous() for t in apart)
    assert_exact(kernels, 2, c, *apart)


def test_upstream_gradients_may_be_a_view(kernels: CompiledKernels) -> None:
    arguments = inputs(2, 5, 4, 6)
    block = partial(norm_relu_pool, pool=2, eps=EPS, kernels=kernels)
    for gp in (torch.ones((), dtype=F64).expand(2, 5, 2, 3), random(5, 2, 3, 2, seed=9).permute(3, 0, 1, 2)):
        found, wanted = (derivatives(f, *arguments, gp=gp.detach()) for f in (block, partial(reference, pool=2)))
        assert_same(found, wanted, 1e-10)


@pytest.mark.parametrize("pool", [1, 2])
def test_scales_of_zero_and_below(pool: int, kernels: CompiledKernels) -> None:
    c, _, _ = inputs(3, 6, 4, 6)
    w = torch.tensor([-1.5, 0.0, 0.0, 0.0, -0.01, 2.0], dtype=F64)
    b = torch.tensor([0.3, 0.7, -0.7, 0.0, 0.0, -0.2], dtype=F64)
    assert_exact(kernels, pool, c, w, b)
    block = partial(norm_relu_pool, pool=pool, eps=EPS, kernels=kernels)
    assert_exact(kernels, pool, c, -w.abs(), b)
    zero = derivatives(block, c, torch.zeros(6, dtype=F64), torch.ones(6, dtype=F64))
    assert torch.equal(zero["p"], torch.ones_like(zero["p"]))
    assert not zero["gc"].any()


@pytest.mark.parametrize("level", [0.0, 0.25, -1 / 3, 3.0])
@pytest.mark.parametrize("pool", [1, 2])
def test_a_constant_channel(pool: int, level: float, kernels: CompiledKernels) -> None:
    c, w, b = inputs(3, 4, 4, 6)
    c[:, 1] = level
    c[0, 2] = level
    b[1], b[2] = 0.4, -0.4
    assert_exact(kernels, pool, c, w, b)
    alone = c[:, 1:2], w[1:2], b[1:2]
    wanted = derivatives(partial(reference, pool=pool), *alone)
    for name, t in derivatives(partial(norm_relu_pool, pool=pool, eps=EPS, kernels=kernels), *alone).items():
        assert (t - wanted[name]).norm() <= 1e-10 * wanted[name].norm().clamp(min=1), name


def test_a_channel_that_is_never_positive(kernels: CompiledKernels) -> None:
    c, w, b = inputs(2, 3, 4, 6)
    b[1] = -100
    assert_exact(kernels, 2, c, w, b)
    found = derivatives(partial(norm_relu_pool, pool=2, eps=EPS, kernels=kernels), c, w, b)
    assert not any(t[:, 1].any() for t in (found["p"], found["gc"], found["d/dgp"], found["d/dc"]))


def without_flips(pool: int, dtype: torch.dtype) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Arguments that `dtype` holds exactly, with their true derivatives, every ReLU clearly on one side."""
    c, w, b = (t.to(dtype).to(F64) for t in inputs(3, 5, 4, 6, seed=1))
    # The same numbers contract the gradients in either precision.
    margin = F.group_norm(c, 5, w, b, EPS).abs().min()
    assert margin > 1e-4, "another seed is needed: float32 could decide a ReLU the other way"
    return [t.to(dtype) for t in (c, w, b)], derivatives(partial(reference, pool=pool), c, w, b)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("pool", [1, 2])
def test_lower_precisions_lose_no_more_than_their_rounding(
    pool: int, dtype: torch.dtype, tolerance: float, kernels: CompiledKernels
) -> None:
    arguments, wanted = without_flips(pool, dtype)
    found = derivatives(partial(norm_relu_pool, pool=pool, eps=EPS, kernels=kernels), *arguments)
    assert {t.dtype for t in found.values()} == {dtype}
    assert_same(found, wanted, tolerance)


def test_bfloat16_is_rounded_to_the_nearest_and_ties_to_even(kernels: CompiledKernels) -> None:
    """A channel of +-1 with eps 0 is its own normalisation: w xh + b takes any two values, and torch rounds them."""
    c = torch.tensor([1.0, -1.0], dtype=torch.bfloat16).expand(1, 400, 1, 2)
    b = (2 + random(400, seed=3).abs()).to(torch.bfloat16)
    w = torch.full_like(b, 2**-6)
    w[200:] = 2**-7  # half a unit in the last place of a number in [2, 4)
    wide = b.float()[:, None] + w.float()[:, None] * c.float()[0, :, 0]
    found = norm_relu_pool(c, w, b, 1, 0.0, kernels)
    assert torch.equal(found[0, :, 0], wide.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, kernels: CompiledKernels) -> None:
    arguments = [t.to(dtype) for t in inputs(7, 130, 4, 6)]
    block = partial(norm_relu_pool, pool=2, eps=EPS, kernels=kernels)
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 1, 2):
            torch.set_num_threads(count)
            found.append(derivatives(block, *arguments))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for name, t in found[0].items():
            assert torch.equal(t, other[name]), name


def test_only_what_is_asked_for_is_differentiated(kernels: CompiledKernels) -> None:
    arguments = inputs(2, 5, 4, 6)
    wanted = derivatives(partial(reference, pool=2), *arguments)
    for i, name in enumerate(("gc", "gw", "gb")):
        given = [t.clone().requires_grad_(i == j) for j, t in enumerate(arguments)]
        p = norm_relu_pool(*given, 2, EPS, kernels)
        (found,) = torch.autograd.grad(p, given[i], random(*p.shape, seed=21))
        assert relative_error(found, wanted[name]) < 1e-10, name


def test_nothing_given_is_changed(kernels: CompiledKernels) -> None:
    arguments = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in inputs(2, 5, 4, 6)]
    before = [t.clone() for t in arguments]
    derivatives(partial(norm_relu_pool, pool=2, eps=EPS, kernels=kernels), *arguments)
    for old, new in zip(before, arguments, strict=True):
        assert torch.equal(old, new)


def test_a_third_backward_is_refused(kernels: CompiledKernels) -> None:
    c, w, b = (t.requires_grad_() for t in inputs(2, 3, 4, 4))
    p = norm_relu_pool(c, w, b, 2, EPS, kernels)
    (first,) = torch.autograd.grad(p.square().sum(), c, create_graph=True)
    with pytest.raises(RuntimeError, match="first and second derivatives and no third"):
        torch.autograd.grad(first.square().sum(), c, create_graph=True)


def test_torch_s_own_transform_is_refused_rather_than_wrong(kernels: CompiledKernels) -> None:
    c, w, b = inputs(2, 3, 4, 4)
    with pytest.raises(RuntimeError, match="setup_context"):
        grad(lambda x: norm_relu_pool(x, w, b, 2, EPS, kernels).sum())(c)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operators_say_truly_what_they_return(dtype: torch.dtype, kernels: CompiledKernels) -> None:
    """torch's own check: what a compiler is told (shapes, strides, no side effects) is what happens."""
    c, w, b = (t.float() for t in inputs(2, 5, 4, 6))
    c = c.to(dtype).contiguous(memory_format=torch.channels_last)
    operators = torch.ops.trajmatch
    p, mean, rstd = operators.block_forward(c, w, b, 2, EPS)
    given = (c, w, b, mean, rstd)
    gc, S1, S2 = operators.block_gradient(p, *given, 2)
    for operator, arguments in (
        (operators.block_forward, (c, w, b, 2, EPS)),
        (operators.block_gradient, (p, *given, 2)),
        (operators.block_curvature, (gc, w, b, p, *given, S1, S2, 2)),
    ):
        torch.library.opcheck(operator.default, arguments, test_utils=("test_schema", "test_faketensor"))
