"""The README.md of an exported set: its files, how to train on it, and what accuracy to expect."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from trajmatch.core.augment import families
from trajmatch.pages.card import rows
from trajmatch.settings.config import Config

Score = Mapping[str, Any]


class Facts(NamedTuple):
    """What an exported set is, in numbers and words.

    made:     how the set was made: data set, method and so on.
    shape:    (n, c, h, w) of the images that a network sees.
    classes:  names of the classes.
    stored:   images that the set stores, each cut into factor x factor tiles.
    factor:   tiles along each side of a stored image.
    space:    kind of the input space.
    scores:   by name, those of the run; empty where it has not been scored.
    command:  what scores the set.
    config:   the settings that the set was made with; None where its file has none.
    """

    made: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    stored: int
    factor: int
    space: str
    scores: Mapping[str, Score]
    command: str
    config: Config | None


SPACES = {
    "none": "A network sees pixels in [0, 1] as they are.",
    "channel": "A network sees images of which each channel's mean was subtracted, and that were divided by its "
    "standard deviation: those of the training images.",
    "zca": "A network sees whitened images (ZCA of the training images, with 0.1 added to each variance).",
}
FRONT = """\
---
task_categories:
- image-classification
---

"""


def guide(facts: Facts, files: Mapping[str, str], code: str, notes: tuple[str, ...], whitening: bool) -> str:
    """The text of the README.

    files, code, notes: those of the format. whitening: whether a ZCA's statistics are among the files.
    """
    n, c, h, w = facts.shape
    lines = [f"# {n} synthetic images of {c} x {h} x {w}, in {len(facts.classes)} classes", "", f"{facts.made}."]
    if facts.factor > 1:
        lines += [
            "",
            f"The set stores {facts.stored} images, each cut into {facts.factor} x {facts.factor} tiles. The files "
            f"here hold the {n} tiles, enlarged to whole images, as a network sees them.",
        ]
    lines += ["", "| file | what it holds |", "|---|---|", *(f"| `{name}` | {what} |" for name, what in files.items())]
    lines += ["", *notes] if notes else []
    lines += ["", "## Reading it", "", f"{SPACES[facts.space]} {_same(facts.space)}"]
    if facts.space == "zca" and not whitening:
        lines += [
            "",
            "The statistics of the whitening were left out (`--no-whitening`), and the code below needs them: "
            "`trajmatch export` writes them from the run folder, or fit them to the same training images again.",
        ]
    lines += ["", "```python", code.rstrip(), "```", "", "## Training on it", "", *_expected(facts)]
    if facts.config is not None:
        lines += ["", *_training(facts, facts.config)]
    return FRONT + "\n".join(lines) + "\n"


def _same(kind: str) -> str:
    if kind == "none":
        return "Test images must be scaled to [0, 1] too."
    return (
        "Test images must pass the same map, the function `normalise`: without it a network may do no better than "
        "chance."
    )


def _expected(facts: Facts) -> list[str]:
    if not facts.scores:
        return [f"This set has not been scored yet: `{facts.command}` does it."]
    words = {"distilled": "this set", "random": "as many random real images", "whole": "the whole data set"}
    how = facts.scores["distilled"].get("how")
    told = [f"The first line is of {how}.", ""] if how else []
    table = [
        "| trained on | test accuracy, mean and standard deviation | networks |",
        "|---|---|---|",
        *rows(facts.scores, words),
    ]
    return [*table, "", *told, f"`{facts.command}` measures it again."]


def _training(facts: Facts, config: Config) -> list[str]:
    """The recipe in words, and as code where it is short."""
    e, network = config.evaluation, config.network
    plain = (network.name, network.norm, network.pooling) == ("convnet", "instance", "avg")
    if e.recipe != "mtt" or not plain or e.epochs is None:
        name = f"{network.name}, depth {network.depth}, width {network.width}" if plain else network.name
        return [f"The network is {name}; mini-batches have {e.batch} images."]
    told, augment = "", ""
    if e.augment != "none":
        told = " The accuracies above are of augmented mini-batches; without, as below, they are lower."
        augment = (
            "# With trajmatch: from trajmatch.core.augment import augment, draw, and in the place of images[chosen]\n"
            f"# augment(images[chosen], draw(len(chosen), {families(e.augment)}, torch.default_generator))\n"
        )
    shape = ", ".join(map(str, facts.shape[1:]))
    code = f"""\
{_network(facts, config)}

def optimiser(rate):
    return torch.optim.SGD(network.parameters(), rate, momentum={e.momentum}, weight_decay={e.weight_decay})

sgd = optimiser(step_size)
{augment}for epoch in range({e.epochs}):
    if epoch == {max(1, e.epochs // 2)}:
        sgd = optimiser(step_size / 10)
    for chosen in torch.randperm(len(images)).split({e.batch}):
        sgd.zero_grad()
        nn.functional.cross_entropy(network(images[chosen]), labels[chosen]).backward()
        sgd.step()

# test_pixels (n, {shape}) in [0, 1] and test_labels (n,) are yours, with classes in the order of this set.
# accuracy = (network(normalise(test_pixels)).argmax(1) == test_labels).float().mean()"""
    order = "The classes are, in this order: " + ", ".join(f"{k} {name}" for k, name in enumerate(facts.classes)) + "."
    return [f"This code trains a network.{told}", "", "```python", code, "```", "", order]


def _network(facts: Facts, config: Config) -> str:
    """Python that makes the ConvNet of the settings."""
    depth, width = config.network.depth, config.network.width
    _, c, h, w = facts.shape
    wide = c == 1 and h == w == 28  # which the first layer pads to 32
    side = [(length + 4 * wide) // 2**depth for length in (h, w)]
    pad = "1 if block else 3" if wide else "1"
    return f"""\
from torch import nn

layers = []
for block in range({depth}):
    layers += [nn.Conv2d({width} if block else {c}, {width}, 3, padding={pad})]
    layers += [nn.GroupNorm({width}, {width}), nn.ReLU(), nn.AvgPool2d(2)]
network = nn.Sequential(*layers, nn.Flatten(), nn.Linear({width * side[0] * side[1]}, {len(facts.classes)}))"""
