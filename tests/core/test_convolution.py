from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracles import random, relative_error
from trajmatch.core.convolution import conv2d

Convolution = Callable[[Tensor, Tensor], Tensor]
IMAGES = (2, 4, 11, 9)
NUM_OUTPUTS = 6


def leaves(*shapes: Sequence[int]) -> list[Tensor]:
    return [random(*shape, seed=40 + i).requires_grad_() for i, shape in enumerate(shapes)]


def images_and_weights(kernel: tuple[int, int] = (3, 3), groups: int = 1) -> list[Tensor]:
    return leaves(IMAGES, (NUM_OUTPUTS, IMAGES[1] // groups, *kernel))


def derivatives(convolution: Convolution, x: Tensor, w: Tensor) -> dict[str, Tensor]:
    """y; its gradients; the gradients of a random contraction of those, and once more."""
    y = convolution(x, w)
    g = random(*y.shape, seed=1).requires_grad_()
    first = torch.autograd.grad(y, (x, w), g, create_graph=True)
    towards = [random(*t.shape, seed=2 + i).requires_grad_() for i, t in enumerate(first)]
    second = torch.autograd.grad(first, (g, x, w), towards, create_graph=True)
    third = torch.autograd.grad(second, (g, x, w, *towards), [random(*t.shape, seed=4) for t in second])
    names = ["y", "dx", "dw", "h_g", "h_x", "h_w", "g", "x", "w", "towards x", "towards w"]
    return dict(zip(names, (y, *first, *second, *third), strict=True))


def assert_same(found: Convolution, wanted: Convolution, x: Tensor, w: Tensor) -> None:
    references = derivatives(wanted, x, w)
    for name, value in derivatives(found, x, w).items():
        assert value.shape == references[name].shape, name
        assert relative_error(value, references[name]) < 1e-12, name


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_three_orders_of_derivatives_are_torch_s(
    kernel: int, stride: int, padding: int, dilation: int, groups: int
) -> None:
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    x, w = images_and_weights((kernel, kernel), groups)
    assert_same(partial(conv2d, **geometry), partial(F.conv2d, **geometry), x, w)


def test_rows_and_columns_may_differ() -> None:
    geometry = {"stride": (2, 1), "padding": [0, 2], "dilation": (1, 3)}
    x, w = images_and_weights((2, 3))
    assert_same(partial(conv2d, **geometry), partial(F.conv2d, **geometry), x, w)


def test_depthwise_convolutions() -> None:
    geometry = {"padding": 1, "groups": 4}
    x, w = leaves(IMAGES, (8, 1, 3, 3))
    assert_same(partial(conv2d, **geometry), partial(F.conv2d, **geometry), x, w)


def test_images_and_weights_may_lie_in_memory_in_any_order() -> None:
    x = random(4, 9, 2, 22, seed=1).permute(2, 0, 3, 1)[:, :, ::2].requires_grad_()
    w = random(3, 3, 4, 12, seed=2).permute(3, 2, 1, 0)[::2].requires_grad_()
    assert x.shape == IMAGES
    for order in (torch.contiguous_format, torch.channels_last):
        assert not any(t.is_contiguous(memory_format=order) for t in (x, w))
    assert_same(conv2d, F.conv2d, x, w)


def test_gradcheck() -> None:
    x, w = leaves((1, 2, 4, 3), (2, 1, 2, 3))
    function = partial(conv2d, stride=(2, 1), padding=1, groups=2)
    assert torch.autograd.gradcheck(function, (x, w))
    with torch.random.fork_rng(devices=[]):  # it draws what it contracts with
        assert torch.autograd.gradgradcheck(function, (x, w))


def test_only_what_is_asked_for_is_differentiated() -> None:
    x, w = images_and_weights()
    for wanted, constant in ((x, w), (w, x)):
        arguments = [t.detach() if t is constant else t for t in (x, w)]
        y, reference = conv2d(*arguments), F.conv2d(x, w)
        (found,) = torch.autograd.grad(y.square().sum(), wanted, create_graph=True)
        (again,) = torch.autograd.grad(found.square().sum(), wanted)
        (first,) = torch.autograd.grad(reference.square().sum(), wanted, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), wanted)
        assert relative_error(found, first) < 1e-12
        assert relative_error(again, second) < 1e-12


PARTIAL = [{"weigh": False}, {"weigh": False, "outermost": True}]
names_of = partial(str.join, " and ")


@pytest.mark.parametrize("options", PARTIAL, ids=names_of)
@pytest.mark.parametrize("geometry", [{}, {"stride": 2, "padding": 2, "dilation": 2, "groups": 2}], ids=["", "strided"])
def test_a_weights_gradient_without_a_value_has_true_derivatives(
    geometry: dict[str, int], options: dict[str, bool]
) -> None:
    x, w = images_and_weights(groups=geometry.get("groups", 1))
    a = random(*w.shape, seed=9)

    def h_of(convolution: Convolution) -> tuple[Tensor, tuple[Tensor, ...]]:
        y = convolution(x, w)
        g = random(*y.shape, seed=1).requires_grad_()
        # Through the value too, so that h depends on w: the gradient in y is 2 g y.
        (dw,) = torch.autograd.grad((g * y.square()).sum(), w, create_graph=True)
        return dw, torch.autograd.grad((dw * a).sum(), (x, w, g))

    value, found = h_of(partial(conv2d, **geometry, **options))
    true_value, wanted = h_of(partial(F.conv2d, **geometry))
    assert torch.equal(value, torch.zeros_like(w))
    assert true_value.norm() > 1
    for f, r in zip(found, wanted, strict=True):
        assert relative_error(f, r) < 1e-12


@pytest.mark.parametrize("options", PARTIAL, ids=names_of)
def test_a_plain_first_derivative_is_the_true_one_whatever_is_left_out_later(options: dict[str, bool]) -> None:
    x, w = images_and_weights()
    found = torch.autograd.grad(conv2d(x, w, **options).square().sum(), (x, w))
    wanted = torch.autograd.grad(F.conv2d(x, w).square().sum(), (x, w))
    for f, r in zip(found, wanted, strict=True):
        assert relative_error(f, r) < 1e-12


def test_the_gradient_in_the_images_keeps_its_value_unless_they_are_the_network_s() -> None:
    x, w = images_and_weights()
    v = random(*IMAGES, seed=9)

    def gradient(options: dict[str, bool]) -> Tensor | None:
        y = conv2d(x, w, **options)
        return torch.autograd.grad(y.square().sum(), (x, w), create_graph=True, allow_unused=True)[0]

    (wanted,) = torch.autograd.grad(F.conv2d(x, w).square().sum(), x, create_graph=True)
    along = torch.autograd.grad((wanted * v).sum(), (x, w))
    for options in ({"weigh": False}, {"outermost": True}):
        found = gradient(options)
        assert found is not None
        assert relative_error(found, wanted) < 1e-12
        for f, r in zip(torch.autograd.grad((found * v).sum(), (x, w)), along, strict=True):
            assert relative_error(f, r) < 1e-12
    assert gradient({"weigh": False, "outermost": True}) is None


def test_two_layers_of_which_the_sweep_wants_second_derivatives_alone() -> None:
    x, w, deep = leaves(IMAGES, (NUM_OUTPUTS, IMAGES[1], 3, 3), (2, NUM_OUTPUTS, 3, 3))

    def along(outer: Convolution, inner: Convolution) -> tuple[Tensor, ...]:
        loss = inner(outer(x, w).sigmoid(), deep).square().mean()
        u = torch.autograd.grad(loss, (w, deep), create_graph=True)
        return torch.autograd.grad(u, (x, w, deep), [random(*t.shape, seed=9) for t in (w, deep)])

    lazy = partial(conv2d, weigh=False)
    for f, r in zip(along(partial(lazy, outermost=True), lazy), along(F.conv2d, F.conv2d), strict=True):
        assert relative_error(f, r) < 1e-12
