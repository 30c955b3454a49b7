"""Attention has second derivatives in every engine, and networks without them are refused."""

from math import sqrt
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.oracles import F64, random, relative_error
from trajmatch.core.estimators import Task, adjoint, unrolled
from trajmatch.core.inner import Problem
from trajmatch.core.loss import cross_entropy
from trajmatch.core.student import plain
from trajmatch.core.vector import functional, plain_attention
from trajmatch.data.networks.architectures import ViT
from trajmatch.data.networks.convnet import build
from trajmatch.methods import engines
from trajmatch.methods.derivatives import check_features, check_sweep, check_truth
from trajmatch.methods.engines import EAGER, Engine, student

SHAPE, C = (1, 4, 4), 3


class Attending(nn.Module):
    """Four tokens that attend to one another, by torch's function or by hand."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.by_hand = by_hand
        self.three, self.head = nn.Linear(4, 12), nn.Linear(16, C)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.three(x.flatten(2).view(-1, 1, 4, 4)).chunk(3, -1)
        if self.by_hand:
            seen = (q @ k.transpose(-1, -2) / sqrt(4)).softmax(-1) @ v
        else:
            seen = F.scaled_dot_product_attention(q, k, v)
        outputs: Tensor = self.head(seen.flatten(1))
        return outputs


class Layered(nn.Module):
    """A transformer layer of torch's, which has a fast path of its own in evaluation mode."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, 0.1, batch_first=True, norm_first=norm_first)
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(16, C)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.layer(x.flatten(2).view(-1, 4, 4))
        tokens, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        outputs: Tensor = self.head(tokens.flatten(1))
        return outputs


NETWORKS = {
    "function": lambda: Attending(False),
    "layers": lambda: Layered(True),
    "norm last": lambda: Layered(False),
    "vit": lambda: ViT(SHAPE, C, patch=2, width=8, depth=2, heads=2),
}


def arguments(theta: Tensor, n: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return theta.double(), random(n, *SHAPE, seed=1), random(n, C, seed=2).softmax(1), random(len(theta), seed=3)


def test_attention_s_derivatives_are_those_of_attention_by_hand() -> None:
    theirs, theta = build(lambda: Attending(False), 0)
    mine, _ = build(lambda: Attending(True), 0)
    values = arguments(theta)
    found, wanted = (student(network.double(), EAGER) for network in (theirs, mine))
    assert relative_error(found.gradient(*values[:3]), wanted.gradient(*values[:3])) < 1e-12
    for f, w in zip(found.mixed(*values), wanted.mixed(*values), strict=True):
        assert relative_error(f, w) < 1e-12


@pytest.mark.parametrize("name", NETWORKS)
def test_the_sweep_through_attention_is_one_graph_through_all_steps(name: str) -> None:
    network, theta = build(NETWORKS[name], 0)
    made = student(network.double(), EAGER)
    theta, X, Y, g = arguments(theta, 4)
    task = Task(Problem(lambda X, Y, i: (X, Y), made), theta, theta + 0.1 * g, X, Y, torch.tensor(0.3, dtype=F64), T=4)
    found, wanted = adjoint(task), unrolled(task)
    assert relative_error(found.loss, wanted.loss) < 1e-12
    for f, w in zip(found.d, wanted.d, strict=True):
        assert relative_error(f, w) < 1e-10


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "engine",
    [Engine("fused"), Engine("compiled"), Engine(mixed="forward-over-reverse"), Engine(micro_batch=2)],
    ids=["fused", "compiled", "forward", "parts"],
)
def test_every_engine_differentiates_attention(name: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    network, theta = build(NETWORKS[name], 0)
    values = arguments(theta)
    found, wanted = student(network.double(), engine), student(network, EAGER)
    for f, w in zip(found.mixed(*values), wanted.mixed(*values), strict=True):
        assert relative_error(f, w) < 1e-10
    assert relative_error(found.gradient(*values[:3]), wanted.gradient(*values[:3])) < 1e-10


@pytest.mark.parametrize("name", NETWORKS)
def test_several_networks_with_attention_at_once(name: str) -> None:
    network, theta = build(NETWORKS[name], 0)
    values = arguments(theta)
    made = student(network.double(), EAGER, together=True)
    assert made.many is not None
    two = [torch.stack([t, 0.9 * t]) for t in values]
    for k in range(2):
        wanted = made.mixed(*(t[k] for t in two))
        for f, w in zip(made.many.mixed(*two), wanted, strict=True):
            assert relative_error(f[k], w) < 1e-10


def test_what_torch_is_told_about_attention_is_put_back() -> None:
    def told() -> tuple[bool, ...]:
        b = torch.backends
        return b.mha.get_fastpath_enabled(), b.cuda.flash_sdp_enabled(), b.cuda.mem_efficient_sdp_enabled()

    before = told()
    inside = []
    with pytest.raises(KeyError), plain_attention():
        raise KeyError(inside.append(told()))
    assert inside == [(False, False, False)]
    assert told() == before


class Wrong(torch.autograd.Function):
    """3 x^2, whose backward pass forgets that it depends on x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return 3 * x.square()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 6 * ctx.saved_tensors[0].detach() * g


class Straight(torch.autograd.Function):
    """The sign, whose backward pass is that of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign() + x.square()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


class Applied(nn.Module):
    def __init__(self, operation: Any, first: bool = False) -> None:
        super().__init__()
        self.operation, self.first = operation, first
        self.before, self.head = nn.Linear(16, 8), nn.Linear(8, C)

    def forward(self, x: Tensor) -> Tensor:
        x = self.operation(x.flatten(1)) if self.first else x.flatten(1)
        hidden = self.before(x)
        outputs: Tensor = self.head(hidden if self.first else self.operation(hidden))
        return outputs


def unfused_attention(x: Tensor) -> Tensor:
    tokens = x.view(-1, 1, 2, 4)
    seen = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(tokens, tokens, tokens)[0]
    return seen.reshape(x.shape)


@pytest.mark.parametrize(
    ("operation", "first", "says"),
    [
        (unfused_attention, False, "which has no second derivative, and this method takes it: "),
        (lambda x: x.detach(), True, "whose derivative in the images is zero"),
        (lambda x: (4 * x).round(), True, "whose derivative in the images is zero"),
        (lambda x: torch.from_numpy(x.numpy()), True, "which has no second derivative, and this method takes it: "),
        (lambda x: (x - x.detach()).abs().sqrt() + x, False, "derivative is not finite"),
    ],
    ids=["attention", "detached", "rounded", "numpy", "root of zero"],
)
def test_networks_without_derivatives_are_refused(operation: Any, first: bool, says: str) -> None:
    network, theta = build(lambda: Applied(operation, first), 0)
    with pytest.raises(ValueError, match=r"^--network\.name is mine:made, ") as refused:
        check_sweep("mine:made", network, theta, EAGER, SHAPE, C)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        (Wrong.apply, "whose second derivative is not that of its outputs"),
        (Once.apply, "whose second derivative is not that of its outputs"),  # autograd.grad does not notice
        (Straight.apply, "whose first derivative in its parameters is not that of its outputs"),
        (lambda x: x.square() + x.detach(), "whose first derivative in its parameters is not that of its outputs"),
    ],
    ids=["second", "once", "first", "partly detached"],
)
def test_derivatives_of_something_else_are_refused(operation: Any, says: str) -> None:
    network, theta = build(lambda: Applied(operation), 0)
    with pytest.raises(ValueError, match=r"^--network\.name is mine:made, ") as refused:
        check_truth("mine:made", network, theta, SHAPE, C)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "operation",
    [torch.relu, torch.tanh, F.gelu, lambda x: x.float().square().to(x.dtype), lambda x: F.layer_norm(x, (8,))],
    ids=["relu", "tanh", "gelu", "in float32 inside", "norm"],
)
def test_derivatives_that_are_right_pass(operation: Any) -> None:
    for _ in range(2):
        network, theta = build(lambda: Applied(operation), 0)
        check_sweep("mine:made", network, theta, EAGER, SHAPE, C, together=True)
        check_features("mine:made", network, theta, SHAPE, C)
        check_truth("mine:made", network, theta, SHAPE, C)


def test_features_without_a_derivative_in_the_images_are_refused() -> None:
    for operation, says in (
        (torch.round, "mine:made, whose features' derivative in the images is zero"),
        (torch.detach, "mine:made, which has no derivative of its features in the images, and this method takes it: "),
    ):
        network, theta = build(lambda operation=operation: Applied(operation, True), 0)  # type: ignore[misc]
        with pytest.raises(ValueError, match=says):
            check_features("mine:made", network, theta, SHAPE, C)


def test_a_network_that_can_not_be_pushed_forward_is_refused_for_that_engine_alone() -> None:
    network, theta = build(lambda: Applied(Wrong.apply), 0)
    check_sweep("mine:made", network, theta, EAGER, SHAPE, C)
    with pytest.raises(ValueError, match="mine:made, which has no second derivative"):
        check_sweep("mine:made", network, theta, Engine(mixed="forward-over-reverse"), SHAPE, C)
    with pytest.raises(ValueError, match=r"of several networks at once \(--matching.together no needs none\)"):
        check_sweep("mine:made", network, theta, EAGER, SHAPE, C, together=True)


def test_the_check_takes_the_engine_s_own_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    whole = engines.student
    monkeypatch.setattr(
        engines, "student", lambda network, engine, together: seen.append(engine) or whole(network, engine)
    )
    network, theta = build(NETWORKS["function"], 0)
    check_sweep("vit", network, theta, Engine("compiled", "bf16-sweep", micro_batch=7), SHAPE, C)
    assert seen == [Engine("fused", "bf16-sweep")], "compiling takes half a minute, and computes the same"


def test_a_plain_student_of_a_network_in_double_precision() -> None:
    network, theta = build(NETWORKS["vit"], 0)
    made, values = plain(cross_entropy(functional(network.double()))), arguments(theta)
    theta, z, y, a = values
    step = 1e-6
    ahead, behind = (made.gradient(theta + k * step * a, z, y) for k in (1, -1))
    assert relative_error(made.mixed(*values)[0], (ahead - behind) / (2 * step)) < 1e-6
