"""The settings of scores. No torch here."""

from dataclasses import dataclass
from typing import Annotated, Literal

from trajmatch.settings import ranges


@dataclass(frozen=True)
class Evaluation:
    """How a set is scored: networks trained on it from scratch, tested on real images."""

    networks: ranges.Few = 5
    """Networks trained on the distilled set."""
    recipe: Literal["mtt", "adamw"] = "mtt"
    """How a network of a score is trained: mtt is SGD at the learned step size, and at a tenth of it after half the
    epochs; adamw is AdamW at 0.001, halved after each fifth of the epochs, with half of the mini-batches mixed by
    CutMix. Scores of the two are not to be compared with each other."""
    epochs: ranges.Count | None = None
    """Epochs for which a network of a score is trained on the synthetic set; None is 1000 for the recipe mtt and 2000
    for adamw."""
    momentum: ranges.Share = 0.9
    """Momentum of SGD in the training of a network of a score; the recipe adamw has none."""
    weight_decay: ranges.NotNegative = 5e-4
    """Weight decay in the training of a network of a score."""
    batch: ranges.Count = 256
    """Synthetic images per step of a network of a score."""
    augment: ranges.Families = "color_crop_cutout_flip_scale_rotate"
    """Families of augmentation in the training of a network of a score, joined by '_', or none."""
    random_draws: Annotated[int, ranges.Range(0, 10_000)] = 5
    """Draws of random real images, on each of which one network is trained as on the set, and one at the learning rate
    that random images like best on validation images. Up to four times as many are drawn where a network is small; 0
    leaves these scores out."""
    validation_networks: Annotated[int, ranges.Range(0, 10_000)] = 2
    """Networks per snapshot by which one snapshot is chosen on validation images; 0 leaves the choice out."""
    whole_epochs: ranges.Count | None = None
    """Epochs for which one network is trained on all training images; None takes the experts' final test accuracy."""
    foreign: Literal["none", "convnet", "mlp", "lenet", "alexnet", "vgg11", "resnet18", "vit"] = "lenet"
    """Another network on which a run's set is scored too, beside as many random real images, each at the best of three
    rates; it tells whether the set carries over to networks that it was not made for. none leaves these scores out."""
    workers: ranges.Threads | None = None
    """Processes that train networks at once, one thread each; None takes one per core (one on a GPU). The accuracies do
    not depend on it."""
