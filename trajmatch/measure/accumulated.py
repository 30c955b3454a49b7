"""The accumulated trajectory error, split in two (concurrent matching; method.md section 6).

Legend: J segments after one another, P parameters.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Accumulated(NamedTuple):
    """Errors (J,) at the end of each segment, in units of the way that the expert has gone, |theta*_0 - theta*_t|.

    total:          distance from the expert to the student that was never reset.
    initialisation: the part of the total that comes from having started the segment elsewhere than the expert.
    matching:       distance from the expert to a student that started the segment where the expert did.

    As vectors the last two add up to the first; as norms they bound it.
    """

    total: Tensor
    initialisation: Tensor
    matching: Tensor


def accumulated_error(train: Callable[[Tensor, int], Tensor], expert: Sequence[Tensor]) -> Accumulated:
    """Run the student from the expert's start through all segments without a reset.

    train: (theta (P,), j) -> theta after training on the synthetic set for segment j, the same draws whatever theta.
    expert: theta*_0, and theta* at the end of every segment, J + 1 of them.
    """
    student, rows = expert[0], []
    for j, (start, end) in enumerate(pairwise(expert)):
        reset, student = train(start, j), train(student, j)
        parts = torch.stack([(student - end).norm(), (student - reset).norm(), (reset - end).norm()])
        rows.append(parts / (end - expert[0]).norm())
    return Accumulated(*torch.stack(rows).T)
