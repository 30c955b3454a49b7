"""What an outer step reads, changes and reports; tensors only, so that it can be saved as it is.

Legend: n synthetic images of c x h x w, C classes, P parameters.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trajmatch.core.descent import new_moments


class OuterState(NamedTuple):
    """Everything that an outer step reads and changes.

    X, eta: images and step size. Y (n, C): label probabilities, or their logits where labels are learned. average: the
    delivered images (X where there is no EMA). ascent: the sharpness rule's state; where the ascent is stale, the
    direction of the next one. scale: factor on the image learning rate. steps: outer steps taken, (). network: weights
    (P,) that a baseline goes on from (methods/condensation.py), else empty. norm: running mean of the direction's norm,
    after clipping, (), where it is clipped by that, else 0. parts: what mdc knows of the leading parts
    (methods/multisize.py).
    """

    X: Tensor
    Y: Tensor
    eta: Tensor
    average: Tensor
    image_moments: Tensor
    label_moments: Tensor
    rate_moments: Tensor
    ascent: Tensor
    scale: Tensor
    steps: Tensor
    network: Tensor = torch.empty(0)
    norm: Tensor = torch.zeros(())
    parts: Tensor = torch.empty(0)


class Record(NamedTuple):
    """What happened in a step, as scalars (): losses at X (or X + noise) and at X + eps, norm of the direction.

    Where the ascent is stale, the loss is that at X + noise + eps, the only one there is.

    Losses are means over the segments. conflict: the smallest cosine between two segments' hypergradients, None for
    one segment.
    """

    loss: Tensor
    loss_perturbed: Tensor | None
    hypergradient_norm: Tensor
    step_size: Tensor
    conflict: Tensor | None
    healthy: Tensor


def new_state(X: Tensor, Y: Tensor, eta: float) -> OuterState:
    """The state before the first step, from images (n, c, h, w), labels or logits (n, C), and the inner step size."""
    step_size = torch.tensor(eta, dtype=X.dtype, device=X.device)
    return OuterState(
        X=X,
        Y=Y,
        eta=step_size,
        average=X,
        image_moments=new_moments(X),
        label_moments=new_moments(Y),
        rate_moments=new_moments(step_size),
        ascent=torch.zeros_like(X),
        scale=torch.ones_like(step_size),
        steps=torch.zeros((), dtype=torch.int64),
        # On X's device, where a guard chooses between two states.
        network=X.new_empty(0),
        norm=torch.zeros_like(step_size),
        parts=X.new_empty(0),
    )
