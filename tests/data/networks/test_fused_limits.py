"""What the fused network leaves alone, and what its kernels refuse."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trajmatch.core.block import norm_relu_pool
from trajmatch.data.networks.convnet import InstanceNorm, build, convnet
from trajmatch.data.networks.fused import FusedBlock, FusedConvolution, fused
from trajmatch.data.networks.kernels import CompiledKernels, compiled_kernels


@pytest.fixture(scope="module")
def kernels() -> CompiledKernels:
    found = compiled_kernels()
    if isinstance(found, str):
        pytest.skip(found)
    return found


def images(seed: int = 0) -> Tensor:
    return torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(seed))


def block() -> list[nn.Module]:
    return [nn.Conv2d(4, 4, 3, padding=1), InstanceNorm(4), nn.ReLU()]


class OtherOrder(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return self[2](self[1](x)) + self[0](x)


class Doubled(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def repeated_convolution() -> nn.Module:
    conv, norm, relu = block()
    return nn.Sequential(conv, norm, relu, conv, nn.Flatten())


def repeated_norm() -> nn.Module:
    conv, norm, relu = block()
    return nn.Sequential(conv, norm, relu, norm)


def other_order() -> nn.Module:
    return nn.Sequential(OtherOrder(*block()), *block())


def without_parameters() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(4, 4, affine=False), nn.ReLU(), *block())


def subclass() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 3), Doubled(4, 4), nn.ReLU(), *block())


def hooked() -> nn.Module:
    network = nn.Sequential(*block(), *block())
    network[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    return network


MAKERS = [repeated_convolution, repeated_norm, other_order, without_parameters, subclass, hooked]


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_not_just_a_block_keeps_its_value(make: Callable[[], nn.Module], kernels: CompiledKernels) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = make()
    for parameter in network.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(2))
    twin = fused(network, kernels)
    if make is repeated_norm:
        assert twin is None
        return
    assert twin is not None
    assert sum(isinstance(module, FusedBlock) for module in twin.modules()) == 1
    torch.testing.assert_close(twin(images()), network(images()), rtol=1e-5, atol=1e-5)


def test_a_convolution_that_is_used_twice_or_watched_stays_torchs_own(kernels: CompiledKernels) -> None:
    with torch.random.fork_rng(devices=[]):
        repeated, network = repeated_convolution(), nn.Sequential(*block())
    twin = fused(repeated, kernels)
    assert twin is not None
    assert not any(isinstance(module, FusedConvolution) for module in twin.modules())
    network[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    twin = fused(network, kernels)
    assert twin is not None
    assert not isinstance(twin[0], FusedConvolution)  # type: ignore[index]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["image", "weight"])
def test_what_is_not_finite_stays_so(bad: float, where: str, kernels: CompiledKernels) -> None:
    network, _ = build(lambda: convnet((4, 8, 8), 3, depth=2, width=4), 0)
    twin = fused(network, kernels)
    assert twin is not None
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if where == "image":
            z[0, 0, 0, 0] = bad
        else:
            next(network.parameters()).view(-1)[0] = bad
        assert torch.equal(twin(z).isfinite(), network(z).isfinite())
        assert not twin(z).isfinite().all()


def test_a_gradient_through_nan_is_nan(kernels: CompiledKernels) -> None:
    c, one = torch.full((1, 2, 4, 4), float("nan"), requires_grad=True), torch.ones(2)
    p = norm_relu_pool(c, one, one, 2, 1e-5, kernels)
    assert p.isnan().all()
    assert torch.autograd.grad(p.sum(), c)[0].isnan().all()


def test_kernels_refuse_what_they_would_misread(kernels: CompiledKernels) -> None:
    c, one = torch.zeros(1, 4, 4, 4), torch.ones(4)
    with pytest.raises(ValueError, match=r"of shapes \(1, 4, 4, 4\), \(3,\) and \(4,\) do not fit"):
        norm_relu_pool(c, torch.ones(3), one, 1, 1e-5, kernels)
    with pytest.raises(ValueError, match="with pool 3"):
        norm_relu_pool(c, one, one, 3, 1e-5, kernels)
    with pytest.raises(TypeError, match=r"torch\.float32, torch\.float64 and torch\.float32 and must be one of"):
        norm_relu_pool(c, one.double(), one, 1, 1e-5, kernels)
    with pytest.raises(TypeError, match="float16"):
        norm_relu_pool(c.half(), one.half(), one.half(), 1, 1e-5, kernels)
    half = FusedBlock(InstanceNorm(4).half(), 1, kernels)  # which torch computes
    assert half(images().half()).dtype == torch.float16


def test_a_third_derivative_is_refused(kernels: CompiledKernels) -> None:
    c, one = images().double().requires_grad_(), torch.ones(4, dtype=torch.float64)
    p = norm_relu_pool(c, one, one, 1, 1e-5, kernels)
    (first,) = torch.autograd.grad(p.square().sum(), c, create_graph=True)
    torch.autograd.grad(first.square().sum(), c, retain_graph=True)
    with pytest.raises(RuntimeError, match="first and second derivatives and no third"):
        torch.autograd.grad(first.square().sum(), c, create_graph=True)
