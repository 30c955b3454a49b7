"""The protocol of scores in plain PyTorch: augmentation as a module, mini-batches, and a loop with torch's optimisers.

`train` does to a module what `measure.evaluate.train_and_test` does to a flat vector of weights, with the same draws.
Legend: n images of c x h x w in a mini-batch, m images of the set, C classes.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trajmatch.core.augment import STANDARD, augment, draw, families
from trajmatch.core.draws import derive, generator
from trajmatch.data.called import called, shown
from trajmatch.data.synthetic import SyntheticSet
from trajmatch.methods.training import Training


class Augment(nn.Module):
    """Differentiable siamese augmentation, the one that sets are distilled and scored with; none in evaluation mode.

    One family of transformations is drawn for each call and its parameters for each image. Derivatives in the images
    exist.

    strategy: the families, joined by "_", or "none".
    seed:     of the draws; torch's global generator is not touched.

    The constructor raises ValueError for a family that does not exist.

    >>> Augment("flip_crop")(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(self, strategy: str = STANDARD, seed: int = 0) -> None:
        super().__init__()
        self.strategy, self.families = strategy, families(strategy)
        self.source = generator(seed, "training")

    def forward(self, x: Tensor) -> Tensor:
        """Images x (n, c, h, w) of the network's input space, augmented: of the same shape and type."""
        return augment(x, draw(len(x), self.families, self.source)) if self.training else x

    def extra_repr(self) -> str:
        """What `print` shows between the brackets."""
        return repr(self.strategy)


class Batches:
    """The mini-batches of a recipe: each `for` over them is one epoch, in a new order and with a new augmentation.

    They are pairs of images (n, c, h, w), augmented and, where the recipe does so, mixed by CutMix, and label
    probabilities (n, C), both on the device. The last mini-batch of an epoch may be short.

    synthetic: the set. recipe: how networks are trained on it. seed: of order, augmentation and CutMix. The draws are
    those of a score's network of this seed.
    """

    def __init__(
        self, synthetic: SyntheticSet, recipe: Training, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        _check_set_and_recipe(synthetic, recipe)
        self.images, self.labels = (tensor.to(device) for tensor in synthetic.seen)
        self.recipe = recipe
        self.source = generator(derive(seed, "batches"), "training")

    def __len__(self) -> int:
        return -(-len(self.images) // self.recipe.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.randperm(len(self.images), generator=self.source).split(self.recipe.batch):
            a = draw(len(index), self.recipe.families, self.source)
            here = index.to(self.images.device)
            yield self.recipe.mini_batch(augment(self.images[here], a), self.labels[here], self.source)


def train(network: nn.Module, synthetic: SyntheticSet, recipe: Training, *, seed: int = 0) -> nn.Module:
    """Train a network of yours on a set as the networks of a score are trained; returns it, in evaluation mode.

    network: takes images (n, c, h, w) of the set's input space and gives C outputs for each. It is trained where its
             parameters lie, and its frozen parameters stay. Its weights are where training starts.
    recipe:  `trajmatch.recipe(synthetic)`, that of the set's own scores, or another.
    seed:    of mini-batches, augmentation and dropout.

    Real images must be seen through `synthetic.normalise`. Raises ValueError for a recipe that perturbs weights, which
    only experts have, and for a network without parameters to train, or with other outputs than the set has classes.
    """
    _check_network(network)
    _check_set_and_recipe(synthetic, recipe)
    if recipe.sharpness is not None:
        raise ValueError("recipe.sharpness is set, which experts alone are trained with: leave it None")
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("network has no parameters to train (with requires_grad)")
    device = parameters[0].device
    network.train()
    optimiser = recipe.optimiser(parameters)
    batches = Batches(synthetic, recipe, seed, device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive(seed, "dropout"))
        for epoch in range(recipe.epochs):
            recipe.begin_epoch(optimiser, epoch)
            for x, y in batches:
                optimiser.zero_grad()
                F.cross_entropy(_outputs(network(x), y), y).backward()
                optimiser.step()
    return network.eval()


def _check_network(network: Any) -> None:
    """Raise ValueError for what is no network, such as the class of one."""
    if isinstance(network, type):
        name = network.__name__
        raise ValueError(f"network is {called(network)} and must be an instance of it: {name}(...)")
    if not isinstance(network, nn.Module):
        raise ValueError(f"network is {shown(network)} and must be a torch.nn.Module")


def _check_set_and_recipe(synthetic: Any, recipe: Any) -> None:
    """Raise ValueError for a set's path or a recipe's name in their place."""
    if not isinstance(synthetic, SyntheticSet):
        raise ValueError(f"synthetic is {shown(synthetic)} and must be a set: trajmatch.load(path) reads one")
    if not isinstance(recipe, Training):
        raise ValueError(f"recipe is {shown(recipe)} and must be what trajmatch.recipe(synthetic) gives")


def _outputs(found: Any, y: Tensor) -> Tensor:
    """A network's outputs for label probabilities y (n, C). Raises ValueError where they are not of y's shape."""
    n, C = y.shape
    if not isinstance(found, Tensor):
        raise ValueError(f"network gives {called(found)} and must give a tensor (n, {C}), an output for each class")
    if found.shape == y.shape:
        return found
    if found.dim() == 2 and len(found) == n:
        raise ValueError(
            f"network gives {found.shape[1]} outputs for each image, and the set has {C} classes: it must give {C}"
        )
    raise ValueError(
        f"network gives outputs of shape {tuple(found.shape)} for {n} images, and the set has {C} classes: they must "
        f"be {(n, C)}"
    )
