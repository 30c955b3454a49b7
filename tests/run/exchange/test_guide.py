"""The README of an exported set is true of sets of every kind: its network fits them, and its augmentation runs."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from trajmatch.core.augment import augment, draw
from trajmatch.data.networks.convnet import convnet
from trajmatch.run.exchange.guide import Facts, guide
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.presets import preset

CLASSES = ("a", "b", "c")


def text(config: Config | None, shape: tuple[int, ...] = (12, 3, 32, 32), **changes: Any) -> str:
    facts = Facts("Distilled", shape, CLASSES, 3, 2, "zca", {}, "trajmatch evaluate x", config)
    return guide(facts._replace(**changes), {"set.npz": "all"}, "import torch\n", ("A note.",), False)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 32, 32)])
def test_its_network_is_the_convnet(shape: tuple[int, int, int]) -> None:
    config = resolve(preset("images"))
    code = re.findall(r"```python\n(.*?)```", text(config, (12, *shape)), flags=re.DOTALL)[1]
    found: dict[str, Any] = {"torch": torch}
    with torch.random.fork_rng(devices=[]):
        exec(code[: code.index("def optimiser")], found)
        wanted = convnet(shape, 3, config.network.depth, config.network.width)
    found["network"].load_state_dict(wanted.state_dict())
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found["network"](x), wanted(x))


def test_its_augmentation_runs() -> None:
    line = re.search(r"# (augment\(images.*\))", text(resolve(preset("images"))))
    assert line is not None
    source = torch.Generator().manual_seed(0)
    words = line[1].replace("torch.default_generator", "source")
    x = torch.randn(3, 3, 8, 8, generator=source)
    here = {"augment": augment, "draw": draw, "images": x, "chosen": torch.arange(2), "source": source}
    assert eval(words, here).shape == (2, 3, 8, 8)


def test_what_is_said_of_tiles_missing_statistics_and_other_recipes() -> None:
    config = resolve(preset("images"))
    said = text(config)
    assert "stores 3 images, each cut into 2 x 2 tiles" in said
    assert "--no-whitening" in said
    assert "has not been scored yet: `trajmatch evaluate x`" in said
    assert "0 a, 1 b, 2 c" in said
    assert "tiles" not in text(config, factor=1)
    other = replace(config, network=replace(config.network, name="vgg11"))
    assert "The network is vgg11" in text(other)
    assert "nn.Conv2d" not in text(other)
    assert "Training on it" in text(None)
