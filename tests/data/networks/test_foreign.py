"""Networks of timm: their arguments, refusals in a sentence, and timm itself where it is installed."""

import json
import math
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.small import command, rows, succeed
from trajmatch.core.loss import cross_entropy, gradient
from trajmatch.core.vector import with_parameters
from trajmatch.data.networks import foreign
from trajmatch.data.networks.architectures import named
from trajmatch.data.networks.check import check_network
from trajmatch.data.networks.convnet import build, seeded
from trajmatch.data.networks.foreign import arguments

SMALL_VIT = "timm:vit_tiny_patch16_224?patch_size=4&embed_dim=24&depth=1&num_heads=2"
SMALL_RESNET = "timm:test_resnet"  # with batch norm
OPERATORS = torch.library.Library("torchvision", "FRAGMENT")  # keeps what it defines as long as it lives


def test_arguments_have_types() -> None:
    found = arguments("a=4&b=-2&c=1e-3&d=.5&e=True&f=false&g=gelu&h=2,2,6&i=7,&j=none&k=inf&l=1_0", "")
    assert found == {
        "a": 4, "b": -2, "c": 1e-3, "d": 0.5, "e": True, "f": False, "g": "gelu", "h": (2, 2, 6), "i": (7,),
        "j": "none", "k": "inf", "l": "1_0",
    }  # fmt: skip
    assert [type(found[key]) for key in "abcdef"] == [int, int, float, float, bool, bool]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit?patch_size", "'patch_size' must be KEY=VALUE"),
        ("vit?", "'' must be KEY=VALUE"),
        ("vit?a=", "'a=' must be KEY=VALUE"),
        ("vit?a=1&&b=2", "'' must be KEY=VALUE"),
        ("vit?a b=1", "'a b=1' must be KEY=VALUE"),
        ("vit?a=1&a=2", "which gives a twice"),
        ("vit?num_classes=3", "num_classes is not to be given: the images and their classes decide it"),
        ("vit?pretrained=true", "pretrained is not to be given: every network here starts from random weights"),
        ("resnet18.a1_in1k", "means pretrained weights: .* name it as timm:resnet18, or"),
        ("resnet18.a1_in1k?drop_rate=0.5", "means pretrained weights: .* name it as timm:resnet18, or"),
        ("hf-hub:timm/resnet18.a1_in1k", "means pretrained weights: .* name it as timm:resnet18, or"),
    ],
)
def test_what_is_refused_before_timm_is_looked_for(name: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "import_module", lambda module: pytest.fail(f"imports {module}"))
    with pytest.raises(ValueError, match=says) as refused:
        named(f"timm:{name}")
    assert str(refused.value).startswith(f"--network.name is timm:{name}, ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ModuleNotFoundError("No module", name="timm"), "needs timm: pip install 'trajmatch"),
        (ModuleNotFoundError("No module named 'tqdm'", name="tqdm"), "can't be imported here: No module named 'tqdm'$"),
        (RuntimeError("something else"), "can't be imported here: something else$"),
        (RuntimeError("operator torchvision::nms does not exist\nmore"), "::nms does not exist.* torchvision==9.9.9 "),
    ],
)
def test_timm_that_can_not_be_had(error: Exception, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise error

    monkeypatch.setattr(foreign, "import_module", missing)
    monkeypatch.setattr(foreign, "version", lambda package: "9.9.9")
    with pytest.raises(ValueError, match=says) as refused:
        named("timm:resnet10t")((3, 32, 32), 10)
    assert "\n" not in str(refused.value)


class Timm:
    """What of timm is used: models by name, of which only transformers take a size."""

    def list_models(self) -> list[str]:
        return ["vit_tiny", "resnet10t"]

    def create_model(self, name: str, pretrained: bool, num_classes: int, in_chans: int, **size: object) -> nn.Module:
        if size and name != "vit_tiny":
            raise TypeError("unexpected keyword argument 'img_size'")
        assert not pretrained
        assert size in ({}, {"img_size": (16, 16)})
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


@pytest.mark.parametrize("name", ["vit_tiny", "resnet10t"])
def test_networks_of_timm_get_a_size_where_they_take_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "import_module", lambda name: Timm())
    assert isinstance(named(f"timm:{name}")((3, 16, 16), 7), nn.Module)
    with pytest.raises(ValueError, match="timm:vit_tinny, which timm does not have; it has vit_tiny"):
        named("timm:vit_tinny")((3, 16, 16), 7)


@pytest.fixture(scope="module")
def _real_timm() -> None:
    """timm itself; where torchvision was built for another torch, with the two operators that its import needs."""
    for package in ("timm", "torchvision"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'trajmatch[timm]'")
    try:
        import_module("timm")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in ("nms", "qnms"):
            OPERATORS.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        import_module("timm")


@pytest.mark.usefixtures("_real_timm")
@pytest.mark.parametrize(("name", "rate"), [(SMALL_VIT, 0.2), (SMALL_RESNET, 0.1)])
def test_a_network_of_the_real_timm_learns(name: str, rate: float) -> None:
    factory = partial(named(name), (3, 16, 16), 7)
    check_network(name, factory, (3, 16, 16), 7)
    network, theta = build(factory, 0)
    loss = cross_entropy(with_parameters(network.train()))
    x = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(40):
        losses.append(float(loss(theta, x, torch.eye(7))))
        theta = theta - rate * gradient(loss, theta, x, torch.eye(7))
    assert losses[-1] < 0.7 * losses[0]
    assert torch.equal(build(factory, 0)[1], build(factory, 0)[1])
    assert not torch.equal(build(factory, 0)[1], build(factory, 1)[1])


@pytest.mark.usefixtures("_real_timm")
def test_arguments_reach_the_real_timm() -> None:
    network = build(partial(named(f"{SMALL_VIT}&qkv_bias=false"), (3, 16, 16), 7), 0)[0]
    assert isinstance(network.patch_embed, nn.Module)
    assert network.patch_embed.proj.weight.shape == (24, 3, 4, 4)
    assert network.pos_embed.shape == (1, 17, 24)
    assert len(network.blocks) == 1
    assert network.blocks[0].attn.qkv.bias is None


@pytest.mark.usefixtures("_real_timm")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "vit_tiny_patch16_224?patchsize=4",
            "VisionTransformer has no argument patchsize; did you mean patch_size[?]$",
        ),
        ("test_resnet?nonsense=4", "its class ResNet has no argument nonsense$"),
        ("vit_tiny_patch16_224?num_heads=5", "timm can't make for images of 16 x 16: .*divisible by num_heads$"),
        ("vit_tiny_patch16_224?patch_size=four", "timm can't make for images of 16 x 16: unsupported operand"),
        ("restnet10t", "which timm does not have; it has resnet10t$"),
        ("tf_efficientnet_b0_ap", "which timm does not have; it has tf_efficientnet_b0$"),  # an old name, of weights
    ],
)
def test_what_the_real_timm_can_not_make_is_one_sentence(name: str, says: str) -> None:
    with seeded(0), pytest.raises(ValueError, match=says) as refused:
        named(f"timm:{name}")((3, 16, 16), 7)
    assert str(refused.value).startswith(f"--network.name is timm:{name}, which ")
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("_real_timm")
def test_a_run_of_real_timm_networks(tmp_path: Path) -> None:
    """Experts and outer steps of a ViT of timm's; then the set is scored by a network of timm's with batch norm."""
    folder = tmp_path / "run"
    small = ["--network.name", SMALL_VIT, "--matching.inner-steps", 3, "--experts", 1, "--steps", 1]
    succeed(*command("run", *small, "--out", folder))
    assert [row["step"] for row in rows(folder)] == [1]
    assert 0 < rows(folder)[0]["hypergradient_norm"] < math.inf
    few = ["--evaluation.networks", 1, "--evaluation.epochs", 2, "--evaluation.workers", 1, "--rates", 0.01]
    succeed("evaluate", folder, *few, "--networks", SMALL_RESNET)
    found = json.loads((folder / "transfer.json").read_text())["networks"][SMALL_RESNET]
    assert 0 < found["tuned"]["mean"] < 1
