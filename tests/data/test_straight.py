"""An expert's path made straight: points on it, its ends, its pieces, and the file, which stays as it is."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.oracles import random, relative_error
from trajmatch.data.straight import Straight
from trajmatch.data.trajectories import Trajectory, save_trajectory

SIZES, K = (4, 6), 10


def expert(folder: Path, storage: str = "float32") -> Trajectory:
    """A crooked trajectory of 11 snapshots."""
    rows = [random(10, seed=0).float()]
    for k in range(K):
        rows.append(rows[-1] + random(10, seed=k + 1).float() / (k + 1))
    save_trajectory(folder / "e.safetensors", rows, {"index": 0}, storage)
    return Trajectory.open(folder / "e.safetensors")


def by_loops(trajectory: Trajectory, t: float, a: int, b: int) -> Tensor:
    """theta^(t) on the piece from snapshot a to b, in float64 and layer by layer."""
    rows = [trajectory.row(k).double() for k in range(K + 1)]
    parts = []
    for layer in (slice(0, 4), slice(4, 10)):
        moves = [float((rows[k + 1][layer] - rows[k][layer]).norm()) for k in range(a, b)]
        done = sum(moves[: int(t) - a]) + (t - int(t)) * (moves[int(t) - a] if int(t) < b else 0)
        share = done / sum(moves)
        parts.append((1 - share) * rows[a][layer] + share * rows[b][layer])
    return torch.cat(parts)


@pytest.mark.parametrize("storage", ["float32", "fp16-deltas"])
@pytest.mark.parametrize(("waypoints", "knots"), [(0, [0, 10]), (1, [0, 5, 10]), (2, [0, 3, 7, 10])])
def test_points_between_snapshots(waypoints: int, knots: list[int], storage: str, tmp_path: Path) -> None:
    trajectory = expert(tmp_path, storage)
    straight = Straight(trajectory, SIZES, waypoints)
    assert straight.knots == knots
    for t in (0, 0.25, 2, 2.9, 3, 4.5, 5, 6.99, 7, 9.5):
        a = max(k for k in knots[:-1] if k <= t)
        b = min(k for k in knots if k > a)
        assert relative_error(straight.at(t).double(), by_loops(trajectory, t, a, b)) < 1e-6
    for knot in knots:
        assert torch.equal(straight.at(knot), trajectory.row(knot))


def test_a_point_of_each_layer_lies_on_the_line_and_goes_one_way(tmp_path: Path) -> None:
    straight = Straight(expert(tmp_path), SIZES)
    way, last = straight.at(K) - straight.at(0), -1.0
    for t in range(21):
        gone = straight.at(t / 2)[:4] - straight.at(0)[:4]
        share = float(gone @ way[:4] / (way[:4] @ way[:4]))
        assert float((gone - share * way[:4]).norm()) < 1e-5
        assert share > last
        last = share


def test_a_segment_ends_with_the_expert(tmp_path: Path) -> None:
    straight = Straight(expert(tmp_path), SIZES)
    s, g, e, t = straight.segment(3, 1.5, 2)
    assert (e, t) == (3, 1.5)
    assert torch.equal(s, straight.at(1.5))
    assert torch.equal(g, straight.at(3.5))
    assert torch.equal(straight.segment(3, 9.5, 2).g, straight.trajectory.row(K))


def test_as_many_waypoints_as_snapshots_give_the_expert_back(tmp_path: Path) -> None:
    trajectory = expert(tmp_path)
    straight = Straight(trajectory, SIZES, 50)
    for t in range(K + 1):
        assert torch.equal(straight.at(t), trajectory.row(t))
    between = (trajectory.row(4) + trajectory.row(5)) / 2
    assert relative_error(straight.at(4.5), between) < 1e-6


def test_the_file_stays_and_is_checked(tmp_path: Path) -> None:
    trajectory = expert(tmp_path)
    before = trajectory.path.read_bytes()
    Straight(trajectory, SIZES).segment(0, 0.5, 1)
    assert trajectory.path.read_bytes() == before
    trajectory.path.write_bytes(before[:-4] + b"\xff\xff\xff\xff")
    with pytest.raises(ValueError, match="this file is damaged"):
        Straight(trajectory, SIZES).at(0.5)
