"""Round trips and refusals of every file: trajectories, synthetic sets, and the writing itself."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.utils.data import DataLoader

from tests.oracles import random
from trajmatch.data import files, synthetic
from trajmatch.data.files import read_header, write_json, write_text
from trajmatch.data.images import Images
from trajmatch.data.synthetic import SyntheticSet, class_labels, draw_real, initial_images, one_hot
from trajmatch.data.tensors import read_tensors, save_tensors
from trajmatch.data.trajectories import Trajectory, save_trajectory
from trajmatch.data.whitening import fit

ROWS = [random(200, seed=k).float() * (1 + k / 10) for k in range(4)]


def test_float32_trajectory_round_trip(tmp_path: Path) -> None:
    save_trajectory(tmp_path / "e", ROWS, {"index": 3})
    found = Trajectory.open(tmp_path / "e")
    assert found.num_rows == 4
    assert found.header["index"] == 3
    for t, row in enumerate(ROWS):
        assert torch.equal(found.row(t), row)
    segment = found.segment(7, 1, 2)
    assert torch.equal(segment.s, ROWS[1])
    assert torch.equal(segment.g, ROWS[3])
    assert (segment.e, segment.t) == (7, 1)


def test_a_row_is_a_fresh_tensor(tmp_path: Path) -> None:
    save_trajectory(tmp_path / "e", ROWS, {})
    trajectory = Trajectory.open(tmp_path / "e")
    trajectory.row(1).zero_()
    assert torch.equal(trajectory.row(1), ROWS[1])


def test_fp16_deltas_keep_the_segment_within_a_tenth_of_a_per_cent(tmp_path: Path) -> None:
    walk = [ROWS[0] + 0.01 * k * ROWS[1] for k in range(4)]
    save_trajectory(tmp_path / "d", walk, {}, "fp16-deltas")
    save_trajectory(tmp_path / "f", walk, {})
    found = Trajectory.open(tmp_path / "d")
    assert torch.equal(found.row(0), walk[0])
    error = (found.row(3) - found.row(1)) - (walk[3] - walk[1])
    assert 0 < float(error.norm() / (walk[3] - walk[1]).norm()) < 1e-3
    assert (tmp_path / "d").stat().st_size < 0.8 * (tmp_path / "f").stat().st_size
    with pytest.raises(ValueError, match=r"expert\.storage"):
        save_trajectory(tmp_path / "g", [ROWS[0], ROWS[0] + 1e6], {}, "fp16-deltas")


def test_trajectory_refusals(tmp_path: Path) -> None:
    save_trajectory(tmp_path / "e", ROWS, {})
    with pytest.raises(ValueError, match="snapshots 0 to 3, and 4 was asked for"):
        Trajectory.open(tmp_path / "e").row(4)
    with pytest.raises(ValueError, match="no such file"):
        Trajectory.open(tmp_path / "missing")
    whole = (tmp_path / "e").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut.*damaged"):
        Trajectory.open(tmp_path / "cut")
    safetensors.torch.save_file({"theta": ROWS[0]}, tmp_path / "other")
    with pytest.raises(ValueError, match="not a file that trajmatch wrote"):
        Trajectory.open(tmp_path / "other")
    save_tensors(tmp_path / "set", {"x": ROWS[0]}, {"kind": "checkpoint"})
    with pytest.raises(ValueError, match="not an expert's trajectory"):
        Trajectory.open(tmp_path / "set")


def test_a_failed_write_harms_nothing_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    for write in (lambda: write_text(path, "new"), lambda: save_tensors(path, {"x": ROWS[0]}, {})):
        with pytest.raises(OSError, match="No space"):
            write()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_the_librarys_wrapped_system_error_is_unwrapped(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No such file|[Nn]ot a directory") as caught:
        save_tensors(tmp_path / "missing" / "x", {"x": ROWS[0]}, {})
    assert caught.value.errno is not None


def make_set(kind: str) -> SyntheticSet:
    pixels = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    space = fit(kind, pixels)
    Y = one_hot(class_labels(3, 2), 3)
    return SyntheticSet(space.forward(pixels[:6]), Y, 0.0123, ("a", "b", "c"), space, {"ipc": 2, "method": "satm"})


@pytest.mark.parametrize("kind", ["none", "channel", "zca"])
def test_synthetic_set_round_trip(kind: str, tmp_path: Path) -> None:
    wanted = make_set(kind)
    synthetic.save(wanted, tmp_path / "distilled.safetensors")
    for path in (tmp_path, tmp_path / "distilled.safetensors"):
        found = synthetic.load(path)
        assert torch.equal(found.X, wanted.X)
        assert torch.equal(found.Y, wanted.Y)
        assert (found.eta, found.classes, found.info) == (wanted.eta, wanted.classes, wanted.info)
        assert torch.equal(found.pixels, wanted.pixels)
    pixels = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))[:6]
    torch.testing.assert_close(found.pixels, pixels, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.normalise(found.pixels), found.images, atol=1e-4, rtol=0)


def test_images_of_another_range_are_not_normalised() -> None:
    made = make_set("channel")
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    eight = (pixels * 255).round().to(torch.uint8)
    torch.testing.assert_close(made.normalise(eight), made.normalise(eight / 255))
    with pytest.raises(ValueError, match=r"normalise: images have values from 2.* to 2.* and must be in \[0, 1\]: div"):
        made.normalise(pixels * 255)
    with pytest.raises(ValueError, match="before any other normalisation"):
        made.normalise(pixels * 255 - 100)
    with pytest.raises(ValueError, match="values from nan to nan"):
        made.normalise(torch.full_like(pixels, torch.nan))
    with pytest.raises(ValueError, match="images are int64 and must be uint8"):
        made.normalise(eight.long())
    for images, says in (
        (
            eight.numpy(),
            r"^normalise: images are an ndarray and must be a tensor \(n, c, h, w\): torch\.from_numpy\(images\)$",
        ),
        ([1], r"^normalise: images are a list and must be a tensor \(n, c, h, w\)$"),
    ):
        with pytest.raises(ValueError, match=says):
            made.normalise(images)  # type: ignore[arg-type]


def test_a_synthetic_set_is_a_torch_dataset() -> None:
    found = make_set("channel")
    generator = torch.Generator().manual_seed(0)
    batches = list(DataLoader(found, batch_size=4, shuffle=True, generator=generator))
    assert [len(x) for x, _ in batches] == [4, 2]
    assert sum(float(y.sum()) for _, y in batches) == 6
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert "6 images of 3 x 4 x 4, 3 classes" in repr(found)


def test_set_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"distilled\.safetensors: there is no such file"):
        synthetic.load(tmp_path)
    save_trajectory(tmp_path / "e", ROWS, {})
    with pytest.raises(ValueError, match="not a synthetic set"):
        synthetic.load(tmp_path / "e")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="text"):
        read_header(tmp_path / "text")
    with pytest.raises(ValueError, match="text"):
        read_tensors(tmp_path / "text")


def test_real_images_are_drawn_class_by_class() -> None:
    labels = torch.tensor([2, 0, 1, 0, 2, 1, 0, 2, 1])
    real = Images(torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1).expand(9, 1, 2, 2).contiguous(), labels)
    index = draw_real(real, 3, 2, torch.Generator().manual_seed(0))
    assert labels[index].tolist() == [0, 0, 1, 1, 2, 2]
    assert len(set(index.tolist())) == 6
    space = fit("none", real.x)
    X = initial_images("real", real, space, 3, 2, seed=0)
    assert X.shape == (6, 1, 2, 2)
    assert torch.equal(X, initial_images("real", real, space, 3, 2, seed=0))
    assert not torch.equal(X, initial_images("real", real, space, 3, 2, seed=5))
    noise = initial_images("noise", real, space, 3, 2, seed=0)
    assert noise.min() < 0
