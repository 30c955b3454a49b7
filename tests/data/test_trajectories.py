"""Rows of an expert's file: read alone, refused in words, and bounded in error where stored as fp16 differences."""

from pathlib import Path

import pytest
import torch

from tests.oracles import random
from trajmatch.core.augment import families
from trajmatch.data.networks.convnet import convnet
from trajmatch.data.trajectories import Trajectory, save_trajectory
from trajmatch.methods.experts import Real, expert
from trajmatch.methods.training import Training


def walk(P: int = 300) -> list[torch.Tensor]:
    """Weights of order 1 that move as an expert's do: by per cents."""
    rows = [random(P, seed=0).float()]
    for k in range(1, 6):
        rows.append(rows[-1] + 0.01 * random(P, seed=k).float())
    return rows


@pytest.mark.parametrize("storage", ["float32", "fp16-deltas"])
@pytest.mark.parametrize("t", [-1, -6, 6, 100])
def test_rows_that_are_not_there(storage: str, t: int, tmp_path: Path) -> None:
    save_trajectory(tmp_path / "e", walk(), {}, storage)
    with pytest.raises(ValueError, match=rf"e: it has snapshots 0 to 5, and {t} was asked for"):
        Trajectory.open(tmp_path / "e").row(t)
    with pytest.raises(ValueError, match="snapshots 0 to 5"):
        Trajectory.open(tmp_path / "e").segment(0, 4, 2)


@pytest.mark.parametrize("storage", ["float32", "fp16-deltas"])
def test_a_file_damaged_after_it_was_opened(storage: str, tmp_path: Path) -> None:
    path = tmp_path / "e"
    save_trajectory(path, walk(), {}, storage)
    trajectory = Trajectory.open(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"e: this file is damaged; delete it"):
        trajectory.row(5)


@pytest.mark.parametrize(("t", "M"), [(0, 1), (0, 5), (2, 2), (4, 1)])
def test_fp16_differences_bound_the_error_of_every_segment(t: int, M: int, tmp_path: Path) -> None:
    rows = walk()
    save_trajectory(tmp_path / "d", rows, {}, "fp16-deltas")
    found = Trajectory.open(tmp_path / "d").segment(0, t, M)
    error = ((found.g - found.s) - (rows[t + M] - rows[t])).norm() / (rows[t + M] - rows[t]).norm()
    assert 0 < float(error) < 2e-3
    # Half-precision weights themselves are worse.
    halves = (rows[t + M].half().float() - rows[t].half().float()) - (rows[t + M] - rows[t])
    assert float(error) < 0.5 * float(halves.norm() / (rows[t + M] - rows[t]).norm())


def test_an_experts_snapshots_differ_in_the_file(tmp_path: Path) -> None:
    """The peers store aliases of the live weights on a CPU, and every trajectory is constant."""
    real = Real(random(8, 1, 8, 8, seed=1).float(), torch.arange(8) % 2)
    recipe = Training(0.1, epochs=3, batch=4, families=families("flip"))
    rows = expert(lambda: convnet((1, 8, 8), 2, 2, 4), real, real, 2, recipe, 0, 0).rows
    save_trajectory(tmp_path / "e", rows, {})
    found = Trajectory.open(tmp_path / "e")
    for t in range(3):
        segment = found.segment(0, t, 1)
        assert float((segment.g - segment.s).norm()) > 1e-3
