"""What a diagnosis is: the pieces of work that it takes, its numbers, its figure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trajmatch.run.diagnose.subject import Opened
from trajmatch.settings.options import Diagnose


@dataclass(frozen=True)
class Diagnosis:
    """One way to look at runs.

    pieces: (run, options) -> the number of pieces of work that one run takes.
    look:   (run, options, advance) -> the numbers of one run; `look` tells advance(count) the pieces that are done.
    draw:   numbers of all runs -> figure.
    about:  options -> numbers that hold for all runs; by default there are none.
    alone:  the diagnosis looks at one run only, and the numbers of that run are the record itself.
    """

    pieces: Callable[[Opened, Diagnose], int]
    look: Callable[[Opened, Diagnose, Callable[[int], None]], dict[str, Any]]
    draw: Callable[[dict[str, Any]], Any]
    about: Callable[[Diagnose], dict[str, Any]] = lambda options: {}
    alone: bool = False

    def total(self, runs: Sequence[Opened], options: Diagnose) -> int:
        """The pieces of work of all runs."""
        return sum(self.pieces(run, options) for run in (runs[:1] if self.alone else runs))

    def numbers(self, runs: Sequence[Opened], options: Diagnose, advance: Callable[[int], None]) -> dict[str, Any]:
        """The record: what holds for all runs, and the numbers of every run below the name of the run."""
        if self.alone:
            return self.about(options) | self.look(runs[0], options, advance)
        return self.about(options) | {"runs": [run.about | self.look(run, options, advance) for run in runs]}
