"""The networks to which the field transfers distilled sets: MLP, LeNet, AlexNet, VGG11, ResNet18, a ViT, and any other.

They are as the published programs build them for 32 pixels, where they begin with small convolutions; for other
sides, poolings and strides that would leave a norm a single pixel are left out, and what is larger at the end than at
32 pixels is averaged to that size.
Legend: shape (c, h, w) of one image.
"""

from difflib import get_close_matches
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trajmatch.data.networks.convnet import norm_layer
from trajmatch.data.networks.foreign import Factory, Shape, of_timm, of_user

SMALLEST, LARGEST = 8, 256
VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")


def mlp(shape: Shape, num_classes: int) -> nn.Module:
    """A perceptron with two hidden layers of 128."""
    c, h, w = _checked(shape, "mlp")
    hidden = [nn.Linear(c * h * w, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, num_classes))


def lenet(shape: Shape, num_classes: int) -> nn.Module:
    """Two convolutions of 5 x 5 with max pooling, and three linear layers."""
    c, h, w = _checked(shape, "lenet")
    first, second = 0 if min(h, w) >= 32 else 2, 0 if min(h, w) >= 20 else 2
    h, w = ((((side + 2 * first - 4) // 2) + 2 * second - 4) // 2 for side in (h, w))
    features = [nn.Conv2d(c, 6, 5, padding=first), nn.ReLU(), nn.MaxPool2d(2)]
    features += [nn.Conv2d(6, 16, 5, padding=second), nn.ReLU(), nn.MaxPool2d(2)]
    rest, size = _averaged(h, w, 5)
    classifier = [nn.Linear(16 * size, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, num_classes)]
    return nn.Sequential(*features, *rest, nn.Flatten(), *classifier)


def alexnet(shape: Shape, num_classes: int) -> nn.Module:
    """Five convolutions, three max poolings, one linear layer; no norm."""
    c, h, w = _checked(shape, "alexnet")
    pad = 4 if c == 1 and h == w == 28 else 2
    h, w = ((side + 2 * pad - 4) // 8 for side in (h, w))
    layers: list[nn.Module] = [nn.Conv2d(c, 128, 5, padding=pad), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(128, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    for before, after in ((192, 256), (256, 192), (192, 192)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    rest, size = _averaged(h, w, 4)
    return nn.Sequential(*layers, nn.MaxPool2d(2), *rest, nn.Flatten(), nn.Linear(192 * size, num_classes))


def vgg11(shape: Shape, num_classes: int, norm: str = "instance") -> nn.Module:
    """Eight convolutions of 3 x 3 with norm, five max poolings, one linear layer."""
    c, h, w = _checked(shape, "vgg11")
    pad = 3 if c == 1 and h == w == 28 else 1
    h, w = h + 2 * (pad - 1), w + 2 * (pad - 1)
    layers: list[nn.Module] = []
    convolutions = 0
    for what in VGG11:
        if isinstance(what, int):
            layers += [nn.Conv2d(c, what, 3, padding=1 if convolutions else pad), norm_layer(norm, what), nn.ReLU()]
            c, convolutions = what, convolutions + 1
        elif min(h, w) >= 4 or convolutions == 8:  # a norm comes after all but the last
            layers.append(nn.MaxPool2d(2))
            h, w = h // 2, w // 2
    rest, size = _averaged(h, w, 1)
    return nn.Sequential(*layers, *rest, nn.Flatten(), nn.Linear(512 * size, num_classes))


class MeanPixel(nn.Module):
    """The mean over pixels, whose derivative repeats to the bit on CUDA; that of adaptive pooling does not."""

    def forward(self, x: Tensor) -> Tensor:
        """x (n, c, h, w) -> (n, c, 1, 1)."""
        return x.mean((2, 3), keepdim=True)


class Residual(nn.Module):
    """ReLU(x' + two convolutions of 3 x 3 with norm); x' is x, or a convolution of it where sizes differ."""

    def __init__(self, before: int, after: int, stride: int, norm: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
            norm_layer(norm, after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            norm_layer(norm, after),
        )
        same = stride == 1 and before == after
        across = [nn.Conv2d(before, after, 1, stride, bias=False), norm_layer(norm, after)]
        self.across = nn.Identity() if same else nn.Sequential(*across)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, before, h, w) -> (n, after, h / stride, w / stride)."""
        return F.relu(self.across(x) + self.body(x))


def resnet18(shape: Shape, num_classes: int, norm: str = "instance") -> nn.Module:
    """A first convolution of 3 x 3, four times two residual blocks, the mean over pixels, one linear layer."""
    c, h, w = _checked(shape, "resnet18")
    layers: list[nn.Module] = [nn.Conv2d(c, 64, 3, padding=1, bias=False), norm_layer(norm, 64), nn.ReLU()]
    before, side = 64, min(h, w)
    for after, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        stride = stride if side >= 2 * stride else 1
        side //= stride
        layers += [Residual(before, after, stride, norm), Residual(after, after, 1, norm)]
        before = after
    return nn.Sequential(*layers, MeanPixel(), nn.Flatten(), nn.Linear(512, num_classes))


class ViT(nn.Module):
    """A vision transformer: patches, a class token, learned places, layers with the norm first."""

    def __init__(self, shape: Shape, num_classes: int, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        c, h, w = shape
        self.patches = nn.Conv2d(c, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 1 + (h // patch) * (w // patch), width))
        layers = [
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        ]
        self.layers = nn.Sequential(*layers, nn.LayerNorm(width))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, c, h, w) -> outputs (n, num_classes)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.places
        outputs: Tensor = self.head(self.layers(tokens)[:, 0])
        return outputs


def vit(shape: Shape, num_classes: int) -> nn.Module:
    """A small vision transformer: 8 x 8 patches, 6 layers of width 192 with 3 heads."""
    _, h, w = _checked(shape, "vit")
    if h != w or h % 8:
        raise ValueError(
            f"--network.name is vit, which takes square images whose side 8 divides, and these are {h} x {w}"
        )
    return ViT(shape, num_classes, patch=h // 8, width=192, depth=6, heads=3)


def named(name: str) -> Factory:
    """What makes the network of a name: one of ARCHITECTURES, timm:NAME, or MODULE:FACTORY, the user's own code.

    Raises ValueError for a name that is none of them, and for one that can't be had here.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    before, colon, after = name.partition(":")
    if not colon:
        known = ("convnet", *ARCHITECTURES)
        near = get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? There are" if near else "there are"
        raise ValueError(f"--network.name is '{name}'; {hint} {', '.join(known)}, timm:NAME and MODULE:FACTORY")
    return of_timm(after) if before == "timm" else of_user(name)


def _averaged(h: int, w: int, most: int) -> tuple[list[nn.Module], int]:
    """What averages a map of h x w to at most `most` x `most`, and the pixels that are left."""
    if max(h, w) <= most:
        return [], h * w
    if most == 1:
        return [MeanPixel()], 1
    h, w = min(h, most), min(w, most)
    return [nn.AdaptiveAvgPool2d((h, w))], h * w


def _checked(shape: Shape, name: str) -> Shape:
    _, h, w = shape
    if not (min(h, w) >= SMALLEST and max(h, w) <= LARGEST):
        raise ValueError(f"network: {name} takes images of {SMALLEST} to {LARGEST} pixels, and these are {h} x {w}")
    return shape


# Networks by name. Those with a norm come with instance norm, which the field's tables of transfer use. Networks with
# batch norm can be trained on a set and scored; experts can't be made of them, for experts are weights alone.
ARCHITECTURES: dict[str, Factory] = {
    "mlp": mlp,
    "lenet": lenet,
    "alexnet": alexnet,
    "vgg11": vgg11,
    "vgg11-batch": partial(vgg11, norm="batch"),
    "resnet18": resnet18,
    "resnet18-group": partial(resnet18, norm="group"),
    "resnet18-batch": partial(resnet18, norm="batch"),
    "vit": vit,
}
