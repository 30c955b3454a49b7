"""Networks of the user's that would fail late, or compute something else than they seem to: one sentence each."""

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from trajmatch.core.vector import Layout, functional
from trajmatch.data.networks import architectures
from trajmatch.data.networks.check import check_network
from trajmatch.data.networks.convnet import build, convnet, drawn, embedding
from trajmatch.data.networks.fused import fused

SHAPE, C = (1, 4, 4), 3
Make = Callable[[], nn.Module]


class Around(nn.Module):
    """A linear network with something before and after it."""

    def __init__(
        self,
        before: Callable[["Around", Tensor], Tensor] = lambda self, x: x,
        after: Callable[["Around", Tensor], object] = lambda self, x: x,
    ) -> None:
        super().__init__()
        self.before, self.after = before, after
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(16, C))
        self.calls = 0

    def forward(self, x: Tensor) -> object:
        return self.after(self, self.inner(self.before(self, x)))


class Counting(Around):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> object:
        self.seen += len(x)
        return super().forward(x)


class Clamping(Around):
    def forward(self, x: Tensor) -> object:
        self.inner[1].weight.data.clamp_(-0.01, 0.01)
        return super().forward(x)


class Later(Around):
    def forward(self, x: Tensor) -> object:
        self.calls += 1
        return super().forward(x) * (1 + 0.1 * self.calls)


class Random(Around):
    """Random features that are no parameters: another network for each seed."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("features", torch.randn(16, 16))
        self.before = lambda self, x: x.flatten(1) @ self.features


def frozen(first: bool, second: bool = False) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, C))
    network[1].requires_grad_(not first)
    network[2].requires_grad_(not second)
    return network


def pretrained() -> nn.Module:
    network = frozen(True)
    source = torch.Generator().manual_seed(7)
    for parameter in network[1].parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=source))
    return network


def leaves() -> nn.Module:
    sys.exit("no licence")


def raises(error: BaseException) -> Make:
    def make() -> nn.Module:
        raise error

    return make


def in_training_twice() -> nn.Module:
    return Around(after=lambda self, x: (x, x) if self.training else x)


def not_finite_parameter() -> nn.Module:
    network = Around()
    nn.init.constant_(network.inner[1].bias, float("nan"))
    return network


def hooked() -> nn.Module:
    network = Around()
    network.inner[1].weight.register_hook(lambda u: 0.5 * u)
    return network


def converted(dtype: torch.dtype) -> Make:
    return lambda: Around().to(dtype)


def with_one(dtype: torch.dtype) -> Make:
    def make() -> nn.Module:
        network = Around()
        network.scale = nn.Parameter(torch.ones(1, dtype=dtype))
        return network

    return make


BAD: list[tuple[str, object, str]] = [
    ("number", lambda: 3, "which makes something of type int and must make a torch.nn.Module"),
    ("class", lambda: nn.Linear, "which makes something of type type and must make"),
    ("nothing", lambda: None, "which makes something of type NoneType"),
    ("exits", leaves, "which can't take images of 1 x 4 x 4: it ends the program (SystemExit: no licence)"),
    ("key", raises(KeyError("width")), "which can't take images of 1 x 4 x 4: KeyError: 'width'"),
    ("file", raises(FileNotFoundError(2, "No such file", "w.pt")), "FileNotFoundError: [Errno 2] No such"),
    ("silent", raises(AssertionError()), "can't take images of 1 x 4 x 4: AssertionError"),
    ("zero", raises(ZeroDivisionError("division by zero")), "ZeroDivisionError: division by zero"),
    ("value", raises(ValueError("\n\nodd\nmore")), "which can't take images of 1 x 4 x 4: odd"),
    ("empty", lambda: nn.Flatten(), "which has no parameters and nothing to train"),
    ("all frozen", lambda: frozen(True, True), "has frozen parameters alone (requires_grad is False)"),
    ("random frozen", lambda: frozen(True), "which draws '1.weight', which is frozen or a buffer, at random"),
    ("random buffer", Random, "which draws 'features', which is frozen or a buffer, at random"),
    ("double", converted(torch.float64), "has a parameter 'inner.1.weight' in float64 and must"),
    ("half", converted(torch.float16), "has a parameter 'inner.1.weight' in float16"),
    ("complex", with_one(torch.complex64), "has a parameter 'scale' in complex64"),
    ("one double", with_one(torch.float64), "has a parameter 'scale' in float64"),
    ("nan inside", not_finite_parameter, "has a parameter 'inner.1.bias' that is not finite"),
    ("meta", lambda: Around().to("meta"), "which puts 'inner.1.weight' on meta and must"),
    ("lazy", lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(C)), "leaves the size of '1.weight' open"),
    ("width", lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), "outputs for 2 images of 3 classes are (2, 4)"),
    ("maps", lambda: nn.Conv2d(1, C, 4), "whose outputs for 2 images of 3 classes are (2, 3, 1, 1)"),
    ("pair", lambda: Around(after=lambda self, x: (x, x)), "whose outputs for 2 images of 3 classes are tuple"),
    ("squeezed", lambda: Around(after=lambda self, x: x.squeeze()), "outputs for 1 image of 3 classes are (3,)"),
    ("in double", lambda: Around(after=lambda self, x: x.double()), "gives outputs in float64 and must"),
    ("infinite", lambda: Around(after=lambda self, x: x / 0), "which gives outputs that are not finite"),
    ("training", in_training_twice, "whose outputs for 2 images of 3 classes in training mode are tuple"),
    ("dropout", lambda: Around(lambda self, x: F.dropout(x, 0.01, training=True)), "which draws random numbers"),
    ("noise", lambda: Around(after=lambda self, x: x + torch.randn_like(x)), "which draws random numbers"),
    ("python's", lambda: Around(after=lambda self, x: x * random.random()), "which draws random numbers"),
    ("numpy's", lambda: Around(after=lambda self, x: x * float(np.random.rand())), "which draws random numbers"),
    ("now and then", lambda: Around(after=lambda self, x: x * (random.random() < 1)), "which draws random numbers"),
    ("hooked", hooked, "which hooks the gradient of its parameter 'inner.1.weight'"),
    ("later", Later, "which gives other outputs for the same images in evaluation mode when it is called again"),
    ("counting", Counting, "which changes its buffer 'seen' in evaluation mode too"),
    ("clamping", Clamping, "which changes its own weights when it is called, in place"),
    ("in place", lambda: Around(lambda self, x: x.sub_(0.5)), "which changes the images that it is shown, in place"),
    ("coupled", lambda: Around(lambda self, x: x - x.mean(0)), "that depend on the others of its mini-batch"),
    ("no graph", lambda: Around(after=lambda self, x: x.detach()), "which can't be differentiated: element 0 of"),
    ("constant", lambda: Around(after=lambda self, x: 0 * x), "whose outputs do not depend on its parameters"),
]  # fmt: skip


@pytest.mark.parametrize(("factory", "says"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_network_that_can_not_be_used_is_one_sentence(factory: Make, says: str) -> None:
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"^--network\.name is mine:made, ") as refused:
        check_network("mine:made", factory, SHAPE, C)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert torch.equal(torch.get_rng_state(), state), "the check leaves no trace in later draws"


def tied() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Linear(16, C))
    network[3].weight = network[1].weight
    return network


@pytest.mark.parametrize(
    "factory",
    [
        Around,
        pretrained,
        tied,
        lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, C)),
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, C)),
        lambda: nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(16, C))),
    ],
    ids=["linear", "frozen", "tied", "dropout", "batch norm", "weight norm"],
)
def test_networks_that_are_as_they_should_be(factory: Make) -> None:
    check_network("mine:made", factory, SHAPE, C)


def test_batch_norm_of_one_image_and_one_pixel_is_refused_where_a_mini_batch_has_but_one() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, C))

    check_network("mine:made", make, SHAPE, C, fewest=2)
    with pytest.raises(ValueError, match=r"mine:made, which .*Expected more than 1 value per channel when training"):
        check_network("mine:made", make, SHAPE, C, fewest=1)


def test_ctrl_c_in_a_factory_is_the_user_s() -> None:
    with pytest.raises(KeyboardInterrupt):
        check_network("mine:made", raises(KeyboardInterrupt()), SHAPE, C)


def test_frozen_parameters_are_constants_outside_of_theta() -> None:
    network, theta = build(pretrained, 0)
    other, _ = build(pretrained, 5)
    assert Layout.of(network).names == ("2.weight", "2.bias")
    assert len(theta) == 5 * C + C
    kept = network[1].weight.clone()
    assert torch.equal(kept, other[1].weight)
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    moved = theta.double() + 1
    hidden = F.linear(x.flatten(1), kept.double(), network[1].bias.double())
    wanted = F.linear(hidden, *Layout.of(network).split(moved).values())
    torch.testing.assert_close(functional(network.double())(moved, x), wanted, rtol=1e-12, atol=1e-12)
    assert torch.equal(network[1].weight.float(), kept)
    torch.testing.assert_close(functional(embedding(network))(moved, x), hidden, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_part_that_the_factory_keeps_stays_as_it_is(is_frozen: bool) -> None:
    """A backbone that is loaded once, when the module is imported, and is in every network."""
    backbone = drawn(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 5)).requires_grad_(not is_frozen), 1)
    kept = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}

    def make() -> nn.Module:
        return nn.Sequential(backbone, nn.Linear(5, C))

    check_network("mine:made", make, SHAPE, C)
    network, theta = build(make, 0)
    network.double()
    assert backbone.training
    assert all(p.requires_grad is not is_frozen and p.dtype == torch.float32 for p in backbone.parameters())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in backbone.state_dict().items())
    other, elsewhere = build(make, 0)
    assert torch.equal(theta, elsewhere)
    assert functional(other)(theta, torch.zeros(2, *SHAPE)).dtype == torch.float32


def test_a_factory_that_draws_from_python_or_numpy_draws_the_same_for_a_seed() -> None:
    def make() -> nn.Module:
        network = Around()
        nn.init.constant_(network.inner[1].bias, random.random())
        network.inner[1].weight.data = torch.from_numpy(np.random.randn(C, 16)).float()
        return network

    check_network("mine:made", make, SHAPE, C)
    first, again, other = (build(make, seed)[1] for seed in (5, 5, 2**40))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_networks_that_can_not_be_copied_are_used_as_they_are() -> None:
    def scripted() -> nn.Module:
        return nn.Sequential(nn.Flatten(), torch.jit.script(nn.Linear(16, 8)), nn.Tanh(), nn.Linear(8, C))

    def pruned() -> nn.Module:
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, C))
        prune.random_unstructured(network[1], "weight", 0.0)
        return network

    for factory in (scripted, pruned):
        check_network("mine:made", factory, SHAPE, C)


def test_a_frozen_block_is_fused_with_its_constants() -> None:
    def make() -> nn.Module:
        network = convnet((1, 8, 8), 3, depth=2, width=4)
        for layer in (network[0], network[1]):
            layer.requires_grad_(False)
        return network

    network, theta = build(make, 0)
    twin = fused(network, None)
    assert twin is not None
    assert Layout.of(twin) == Layout.of(network)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(functional(twin)(theta, x), functional(network)(theta, x))


MODULES = {
    "leaves": ("import sys\nsys.exit(4)\n", "leaves:make", "can't be imported: it ends the program (SystemExit: 4)"),
    "broken": ("def make(:\n", "broken:make", "can't be imported: SyntaxError: "),
    "fails": ("1 / 0\n", "fails:make", "can't be imported: ZeroDivisionError: division by zero"),
    "missing": ("import nothing_of_this_name\n", "missing:make", "No module named 'nothing_of_this_name'"),
    "value": ("make = 3\n", "value:make", "which is of type int and must be a function of the images' shape"),
    "words": ("make = 'convnet'\n", "words:make", "which is of type str and must be a function"),
    "other": ("def made(): pass\n", "other:make", "can't be imported: module 'other"),
}  # fmt: skip


@pytest.mark.parametrize("case", MODULES)
def test_modules_that_can_not_be_used(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, name, says = MODULES[case]
    module = f"{case}_for_network_tests"
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    asked = f"{module}:{name.partition(':')[2]}"
    with pytest.raises(ValueError, match=f"^--network.name is {asked}, which ") as refused:
        architectures.named(asked)
    assert says in str(refused.value)


@pytest.mark.parametrize("name", [":make", "math:", ":", ".relative:make", "no such module:make", "math.tau.x:make"])
def test_names_that_name_nothing(name: str) -> None:
    with pytest.raises(ValueError, match=r"^--network\.name is ") as refused:
        architectures.named(name)
    assert "\n" not in str(refused.value)
