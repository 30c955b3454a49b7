"""Students that go on from one outer step to the next: the loss on real images is seen at every age of a training.

Ours. A network of a score is trained on the synthetic images for a thousand steps; one that is new in every outer step
is seen in its first hundred alone. Here an outer step takes the next T steps of one of a few students (method.md
section 5). Legend: P parameters, T inner steps; an iterate is (P,) or (rows, P), as in core/inner_optimisers.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Turn(NamedTuple):
    """Whose turn it is in an outer step.

    student: 0, 1, ...: the student that takes the step's T inner steps.
    age:     inner steps that it has taken before.
    anew:    whether it begins at new weights, and takes those `age` steps first.
    """

    student: int
    age: int
    anew: bool


@dataclass(frozen=True)
class Kept:
    """Students that take turns.

    count:  of them.
    oldest: inner steps after which a student begins anew.
    """

    count: int
    oldest: int

    def turn(self, step: int, T: int) -> Turn:
        """Of outer step 0, 1, ... of those that have students. A function of its arguments, so that nothing is kept.

        The first lives begin at ages that are spread evenly, so that all ages are seen from the beginning.
        """
        student, visit = step % self.count, step // self.count
        visits = -(-self.oldest // T)
        at = (student * visits // self.count + visit) % visits
        return Turn(student, at * T, visit == 0 or at == 0)


def of_student(students: Tensor, turn: Turn, begun: Tensor, T: int, train: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The iterate from which a student takes its turn.

    students: (count, *iterate) as the state keeps them, or empty before the first step. begun: the iterate of new
    weights. train: (iterate, number) -> the iterate after T more inner steps, which are not differentiated.
    """
    if students.dim() > 1 and not turn.anew:
        return students[turn.student]
    at = begun
    for number in range(turn.age // T):
        at = train(at, number)
    return at


def with_student(students: Tensor, kept: Kept, turn: Turn, at: Tensor) -> Tensor:
    """All students (count, *iterate) after a turn that ended at an iterate."""
    if students.dim() <= 1:
        students = at.new_zeros(kept.count, *at.shape)
    number = torch.arange(kept.count, device=at.device).view(-1, *[1] * at.dim())
    return torch.where(number == turn.student, at, students)
