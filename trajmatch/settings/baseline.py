"""The settings of the methods that match no trajectories. No torch here."""

from dataclasses import dataclass
from typing import Literal

from trajmatch.settings import ranges


@dataclass(frozen=True)
class Baseline:
    """How dc, dsa, mdc, dm, rat-bptt and at-bptt work, which match no trajectories. The momentum of all but the last
    two is --outer.momentum."""

    lr_images: ranges.Positive | None = None
    """Learning rate of the images; None is 1 for dm, 0.1 for dc, dsa and mdc, 0.001 (Adam's) for rat-bptt, and 0.02
    (Adam's) for at-bptt."""
    batch: ranges.Count = 256
    """Real images of each class in a step of dc, dsa, mdc, dm, rat-bptt and at-bptt."""
    updates: ranges.Count | None = None
    """Image updates for each network of dc, dsa and mdc; None is 1, 10, 20, 30, 40 or 50, from 1, 2, 20, 30, 40 or 50
    images per class on."""
    epochs: ranges.Count | None = None
    """Epochs of training of a network of dc, dsa and mdc between two image updates; None is 1, 50, 25, 20, 15 or 10,
    from 1, 2, 20, 30, 40 or 50 images per class on."""
    lr: ranges.Positive = 0.01
    """Learning rate of the networks of dc, dsa and mdc on the synthetic images."""
    inner: Literal["auto", "sgd", "momentum", "adam"] = "auto"
    """Inner optimiser of rat-bptt and at-bptt: SGD at the step size that is learned, without momentum (sgd) or with
    --evaluation.momentum, as scores are trained (momentum); or Adam, as published, at a fixed rate. auto is adam for
    at-bptt and sgd for others."""
    inner_lr: ranges.Positive = 0.001
    """Learning rate of Adam as the inner optimiser; the set's step size is what scores train by, by SGD."""
    window: Literal["auto", "random", "adaptive"] = "auto"
    """Inner steps that rat-bptt and at-bptt differentiate: a random window, or AT-BPTT's, chosen by the gradients on
    the way. auto is adaptive for at-bptt and random for others."""
    window_radius: ranges.CountOrNone | None = None
    """Most steps by which AT-BPTT's window differs from --matching.differentiated-steps; None is a quarter of them."""
    window_stages: Literal["auto", "thirds", "accuracy"] = "auto"
    """When AT-BPTT's window goes from its early to its middle and its late stage: after a third and two thirds of the
    steps, or, as published, when the accuracy on real batches has stopped rising. auto is accuracy for at-bptt and
    thirds for others."""
