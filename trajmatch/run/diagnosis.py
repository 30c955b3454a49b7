"""What a diagnosis is: the work that it will do, its numbers, its figure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from trajmatch.run.opened import Opened
from trajmatch.run.options import Options


class Work(NamedTuple):
    """What a diagnosis will do: pieces to count, and about how many seconds they take."""

    pieces: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":  # type: ignore[override]
        return Work(self.pieces + other.pieces, self.seconds + other.seconds)

    @staticmethod
    def trajectories(run: Opened, count: int) -> "Work":
        """Trajectories without derivatives."""
        return Work(count, count * run.rule.T * run.speed.gradient)

    @staticmethod
    def sweeps(run: Opened, count: int, steps: int | None = None) -> "Work":
        """Trajectories with the exact sweep, or with one over so many steps."""
        swept = run.rule.T if steps is None else steps
        return Work(count, count * (run.rule.T * run.speed.gradient + swept * run.speed.sweep))


@dataclass(frozen=True)
class Diagnosis:
    """One way to look at runs.

    work: what it will do. compute: (runs, options, advance) -> numbers; tells advance() the pieces
    that are done. draw: numbers -> figure.
    """

    work: Callable[[Sequence[Opened], Options], Work]
    compute: Callable[[Sequence[Opened], Options, Callable[[int], None]], dict[str, Any]]
    draw: Callable[[dict[str, Any]], Any]
