"""An expert's trajectory made straight, from the snapshots in its file, which stays as it is."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from trajmatch.core.straight import between, movement, shares
from trajmatch.data.trajectories import Segment, Trajectory


@dataclass(frozen=True)
class Straight:
    """The straight way from the first to the last snapshot of an expert, or through waypoints on it, piece by piece.

    trajectory: the expert's own.
    sizes:      numbers of each tensor of parameters, in their order.
    waypoints:  snapshots between the first and the last that the way goes through, evenly spaced.
    """

    trajectory: Trajectory
    sizes: tuple[int, ...]
    waypoints: int = 0

    @property
    def end(self) -> int:
        """The number of the last snapshot."""
        return self.trajectory.num_rows - 1

    @cached_property
    def knots(self) -> list[int]:
        """The snapshots that the pieces of the way join."""
        pieces = self.waypoints + 1
        return sorted({round(self.end * k / pieces) for k in range(pieces + 1)})

    @cached_property
    def _share(self) -> Tensor:
        """lambda (R, W) in float64. Every snapshot is read once."""
        rows = (self.trajectory.row(t).double() for t in range(self.end + 1))
        return shares(movement(rows, self.sizes), self.knots)

    def at(self, t: float) -> Tensor:
        """theta^(t) (P,) float32, for any t from 0 to the last snapshot; a later t is the last.

        Between two snapshots lambda goes evenly. Raises ValueError for a damaged file, and for a t below 0.
        """
        if t >= self.end:
            return self.trajectory.row(self.end)
        row = int(t)
        piece = bisect_right(self.knots, row) - 1
        a, b = self.knots[piece], self.knots[piece + 1]
        ahead = self._share[row + 1] if row + 1 < b else self._share[self.end]  # 1: the end of every piece
        share = self._share[row] + (t - row) * (ahead - self._share[row])
        return between(self.trajectory.row(a), self.trajectory.row(b), share, self.sizes)

    def segment(self, e: int, t: float, M: int) -> Segment:
        """The segment from t to t + M of this expert, known as number e; where the expert ends, it ends too."""
        return Segment(self.at(t), self.at(t + M), e, t)
