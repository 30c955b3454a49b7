"""The settings of steps that match no trajectories. No torch here."""

from dataclasses import dataclass
from typing import Annotated, Literal

from trajmatch.settings import ranges


@dataclass(frozen=True)
class Baseline:
    """How dc, dsa, mdc, dm, rat-bptt and at-bptt work, which match no trajectories, and the later steps of satm-bptt.
    The momentum of dc, dsa, mdc and dm is --outer.momentum."""

    lr_images: ranges.Positive | None = None
    """Learning rate of the images; None is 1 for dm, 0.1 for dc, dsa and mdc, and of Adam 0.001 for rat-bptt, 0.02 for
    at-bptt, and for satm-bptt 0.01, or 0.03 from five images per class on."""
    batch: ranges.Count | None = None
    """Real images of each class in a step; None is 50 for satm-bptt, fewer on a folder of more than 100 classes, and
    256 for others."""
    augment: ranges.Families = "none"
    """Families of augmentation of the real images whose loss is differentiated, joined by '_', or none: one is drawn
    for each outer step, and its parameters for each image."""
    since: ranges.CountOrNone | None = None
    """Outer step from which satm-bptt differentiates the loss on real images, after training on the synthetic ones; the
    steps before it match segments of experts, as satm does. None is a third of the steps, or two thirds from five
    images per class on, and in short runs up to 80 of them."""
    rate_factor: ranges.Positive | None = None
    """By what satm-bptt multiplies the learned step size at the outer step --baseline.since, from which it
    differentiates the loss on real images; None is 1."""
    rate: Literal["auto", "learned", "fixed"] = "auto"
    """Whether the step size is learned where the loss on real images is differentiated; auto is learned. In a few
    inner steps a smaller one looks better than it is for a whole training."""
    inner_steps: ranges.Count | None = None
    """Inner steps of that training in an outer step; None is twice --matching.inner-steps for satm-bptt with new
    networks, and --matching.inner-steps elsewhere."""
    differentiated_steps: ranges.Count | None = None
    """How many inner steps of that training are differentiated; None is for satm-bptt all with --baseline.students and
    half of them without, and --matching.differentiated-steps for rat-bptt and at-bptt."""
    updates: ranges.Count | None = None
    """Image updates for each network of dc, dsa and mdc; None is 1, 10, 20, 30, 40 or 50, from 1, 2, 20, 30, 40 or 50
    images per class on."""
    epochs: ranges.Count | None = None
    """Epochs of training of a network of dc, dsa and mdc between two image updates; None is 1, 50, 25, 20, 15 or 10,
    from 1, 2, 20, 30, 40 or 50 images per class on."""
    lr: ranges.Positive = 0.01
    """Learning rate of the networks of dc, dsa and mdc on the synthetic images."""
    students: Annotated[int, ranges.Range(0, 1000)] | None = None
    """Networks whose training on the synthetic images goes on from one outer step to the next, by turns, so that the
    loss on real images is seen at every age of a training; 0 trains a new network in every outer step. None is 10 for
    satm-bptt with five images per class and more, and 0 elsewhere. Not with Adam inside, nor with AT-BPTT's window."""
    inner_batch: ranges.Count | None = None
    """Synthetic images in an inner step of that training, or all where they are fewer; None is --matching.batch, but
    for --baseline.students of satm-bptt as many as a network of a score sees, --evaluation.batch."""
    oldest: ranges.Count = 1000
    """Inner steps after which such a network is replaced by a new one; scores take as many epochs."""
    inner: Literal["auto", "sgd", "momentum", "adam"] = "auto"
    """Inner optimiser of that training: SGD at the step size that is learned, without momentum (sgd) or with it
    (momentum), as scores are trained; or Adam at a fixed rate (adam), as published. auto is momentum for satm-bptt,
    adam for at-bptt, and sgd for rat-bptt."""
    inner_momentum: ranges.Share = 0.9
    """Momentum of SGD as the inner optimiser, where it has momentum; scores have --evaluation.momentum."""
    inner_lr: ranges.Positive = 0.001
    """Learning rate of Adam as the inner optimiser; the set's step size is what scores train by, by SGD."""
    window: Literal["auto", "random", "adaptive"] = "auto"
    """Which inner steps of that training are differentiated: a random window, or AT-BPTT's, chosen by the gradients on
    the way. auto is adaptive for at-bptt and random for others."""
    window_radius: ranges.CountOrNone | None = None
    """Most steps by which AT-BPTT's window differs from the number of differentiated steps; None is a quarter of it."""
    window_stages: Literal["auto", "thirds", "accuracy"] = "auto"
    """When AT-BPTT's window goes from its early to its middle and its late stage: after a third and two thirds of the
    steps, or, as published, when the accuracy on real batches has stopped rising. auto is accuracy for at-bptt and
    thirds for others."""
