"""What an outer step reads, changes and reports; tensors only, so that it can be saved as it is.

Legend: n synthetic images of c x h x w, C classes, P parameters.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trajmatch.core.descent import new_moments


class OuterState(NamedTuple):
    """Everything that an outer step reads and changes.

    X:       (n, c, h, w) images.
    Y:       (n, C) label probabilities, or their logits where labels are learned.
    eta:     () step size of the inner steps.
    average: (n, c, h, w) the delivered images; X where there is no average.
    image_moments, label_moments, rate_moments: (2, *shape) of the optimisers of X, Y and log eta.
    ascent:  (n, c, h, w) the sharpness rule's state; where the ascent is stale, the direction of the next ascent.
    scale:   () factor on the learning rate of the images.
    steps:   () outer steps taken.
    network: (P,) weights that condensation goes on from (methods/condensation.py); (students, ...) iterates of students
             that go on from step to step (methods/kept_students.py); else empty.
    norm:    () running mean of the direction's norm after clipping, where the clip is relative to this mean; else 0.
    parts:   what mdc knows of the leading parts (methods/multisize.py), else empty.
    taken:   () steps of the optimiser of X since its moments were new, without those that a guard left out.
             Condensation counts none.
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
    taken: Tensor = torch.zeros((), dtype=torch.int64)


class Record(NamedTuple):
    """What happened in a step, as scalars (). Losses are means over the segments.

    loss:               at X, or at X + noise; where the ascent is stale, at X + noise + eps.
    loss_perturbed:     at X + eps; None where no second trajectory was taken.
    hypergradient_norm: norm of the descent direction before clipping.
    step_size:          eta before the step.
    conflict:           smallest cosine between two segments' hypergradients; None for one segment.
    healthy:            whether all that the step leaves is finite, and eta positive.
    ends:               numbers of the iterates that trajectory 1 was matched at, one for each segment; None where that
                        is theta_T.
    """

    loss: Tensor
    loss_perturbed: Tensor | None
    hypergradient_norm: Tensor
    step_size: Tensor
    conflict: Tensor | None
    healthy: Tensor
    ends: tuple[int, ...] | None = None


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
        taken=torch.zeros((), dtype=torch.int64, device=X.device),
    )


def guarded(before: OuterState, after: OuterState, accepted: Tensor) -> OuterState:
    """The state after where the step is accepted, else the one before; the step counts in both cases."""
    names = [name for name in OuterState._fields if name != "steps"]  # which stay on the CPU
    return after._replace(**{n: torch.where(accepted, getattr(after, n), getattr(before, n)) for n in names})
