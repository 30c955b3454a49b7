"""The settings of what is learned from and by what: the images and the network. No torch here."""

from dataclasses import dataclass
from typing import Annotated, Literal

from trajmatch.settings import ranges

Norm = Literal["instance", "group", "layer", "batch", "none"]
Pooling = Literal["avg", "max", "none"]


@dataclass(frozen=True)
class Images:
    """How the real images are read and seen by a network."""

    size: ranges.Side | None = None
    """Resize the shorter side to this many pixels and crop to a square; None keeps the images as they are."""
    classes: tuple[ranges.Words, ...] = ()
    """Keep only these classes, by name; none named keeps all."""
    colour: Literal["auto", "grey", "rgb"] = "auto"
    """Greyscale or colour; auto is grey where every image is."""
    normalise: Literal["zca", "channel", "none"] = "zca"
    """Whiten with ZCA, or standardise each channel, or only scale pixels to [0, 1]."""
    validation: Annotated[float, ranges.Range(0, 0.5, above=True)] = 0.1
    """Share of the training images on which checkpoints are chosen."""
    hold_out: bool = True
    """Keep the validation images away from the experts. False trains experts on all training images."""
    test_fraction: Annotated[float, ranges.Range(0, 1, above=True, below=True)] = 0.2
    """Share of the images tested on, where the data has no test set of its own."""
    background: ranges.Words = "white"
    """Colour that transparent images are laid on: a name, or #rrggbb."""
    train_split: ranges.Words | None = None
    """What the training split is called in the data, where its name does not tell; . is the folder itself."""
    test_split: ranges.Words | None = None
    """What the test split is called in the data; none draws test images from the training images."""
    image_column: ranges.Words | None = None
    """What the column of images is called in a table (Parquet, the Hub), where its name does not tell."""
    label_column: ranges.Words | None = None
    """What the column of labels is called in a table (Parquet, the Hub), where its name does not tell."""


@dataclass(frozen=True)
class Network:
    """The network: the ConvNet of the field, depth x [conv 3x3, norm, ReLU, pool] and a linear layer, or another."""

    name: ranges.Words = "convnet"
    """convnet, mlp, lenet, alexnet, vgg11, resnet18, resnet18-group, vgg11-batch, resnet18-batch, vit, timm:NAME
    (with arguments as timm:NAME?KEY=VALUE&KEY=VALUE), or MODULE:FACTORY, your own FACTORY((c, h, w), num_classes). The
    other settings are the ConvNet's."""
    depth: ranges.Depth = 3
    """Blocks of the ConvNet: 3 for images of 32 pixels, 4 for 64, 5 for 128."""
    width: ranges.Width = 128
    """Channels of every block of the ConvNet."""
    norm: Norm = "instance"
    """Normalisation of every block; with batch norm a network can be scored, but experts can't be made of it."""
    pooling: Pooling = "avg"
    """Pooling of every block of the ConvNet."""

    def told(self) -> str:
        """The network in words.

        >>> Network(depth=2).told(), Network(name="vit").told()
        ('ConvNet of 2 blocks with 128 channels, instance norm, avg pooling', 'vit')
        """
        if self.name != "convnet":
            return self.name
        blocks = f"{self.depth} block{'s' * (self.depth != 1)}"
        return f"ConvNet of {blocks} with {self.width} channels, {self.norm} norm, {self.pooling} pooling"
