"""A set in every format: what the code of its README reads is the set, to the bit, and nothing is lost in silence."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trajmatch.data.formats import arrays, folder, parquet, torch_files
from trajmatch.data.formats.form import Form, lost
from trajmatch.data.reading.parquet import read_file
from trajmatch.data.synthetic import SyntheticSet, class_labels, one_hot
from trajmatch.data.whitening import InputSpace, fit

Write = Callable[[SyntheticSet, Path, bool], Form]
WRITERS: dict[str, Write] = {
    "folder": folder.write,
    "parquet": parquet.write,
    "npz": arrays.write,
    "mtt": torch_files.write_mtt,
    "ddranking": torch_files.write_dd_ranking,
}
CLASSES = ("b/c", "a", "ü")


def real(c: int) -> Tensor:
    """Real images (40, c, 4, 4), uint8."""
    source = torch.Generator().manual_seed(c)
    return torch.randint(0, 256, (40, c, 4, 4), generator=source).to(torch.uint8)


def low_rank(c: int) -> InputSpace:
    """A whitening of which all directions but five have one scale."""
    whole = fit("zca", real(c))
    scale = torch.cat([whole.scale[-5:], whole.scale[:1]])
    return InputSpace("zca", whole.mean, scale, whole.basis[:, -5:], whole.shape)


def space(kind: str, c: int) -> InputSpace:
    return low_rank(c) if kind == "low" else fit(kind, real(c))


def made(kind: str, c: int = 3, soft: bool = False, factor: int = 1) -> SyntheticSet:
    """Six images with values far outside of what PNG holds."""
    source = torch.Generator().manual_seed(7)
    X = 3 * torch.randn(6, c, 4, 4, generator=source)
    Y = torch.randn(6, 3, generator=source).softmax(1) if soft else one_hot(class_labels(3, 2), 3)
    return SyntheticSet(X, Y, 1 / 30, CLASSES, space(kind, c), factor=factor)


def read(form: Form, place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the code of a README makes, run in the folder."""
    monkeypatch.chdir(place)
    found: dict[str, Any] = {}
    exec(form.code, found)
    return found


@pytest.mark.parametrize(
    ("kind", "c", "soft", "factor"),
    [("none", 3, True, 1), ("channel", 1, False, 2), ("zca", 3, False, 1), ("low", 3, True, 2), ("zca", 1, True, 1)],
)
@pytest.mark.parametrize("name", WRITERS)
def test_the_code_of_the_readme_reads_the_set(
    name: str, kind: str, c: int, soft: bool, factor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = made(kind, c, soft, factor)
    form = WRITERS[name](wanted, tmp_path, True)
    found = read(form, tmp_path, monkeypatch)
    assert torch.equal(found["images"], wanted.images)
    # Learned labels are kept as logits by some, and as text by one.
    torch.testing.assert_close(found["labels"], wanted.seen[1], rtol=1e-5, atol=1e-7)
    assert found["step_size"] == wanted.eta
    pixels = real(c).float() / 255
    torch.testing.assert_close(found["normalise"](pixels), wanted.normalise(pixels), rtol=0, atol=2e-5)
    there = {one.relative_to(tmp_path).as_posix() for one in tmp_path.rglob("*") if one.suffix != ".png"}
    folders = {"images/b_c", "images/a", "images/ü", "images", "data"} | {
        f"images/{k}" for k in ("0_b_c", "1_a", "2_ü")
    }
    assert {file.rstrip("/") for file in form.files} - {"images"} == there - folders


@pytest.mark.parametrize("name", ["npz", "mtt", "ddranking"])
def test_any_number_of_channels(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = made("zca", c=5)
    assert torch.equal(read(WRITERS[name](wanted, tmp_path, True), tmp_path, monkeypatch)["images"], wanted.X)


@pytest.mark.parametrize("name", ["folder", "parquet"])
def test_png_refuses_other_channels_before_it_writes(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 or 3 channels, and those of this set have 5"):
        WRITERS[name](made("channel", c=5), tmp_path, True)
    assert not list(tmp_path.iterdir())


def test_without_the_whitening_the_files_are_small(tmp_path: Path) -> None:
    for name, writer in WRITERS.items():
        (tmp_path / name).mkdir()
        files = writer(made("zca"), tmp_path / name, False).files
        assert not any("whitening" in file for file in files)
        assert not list((tmp_path / name).glob("whitening*"))


def test_a_folder_says_what_png_loses_and_has_it_beside(tmp_path: Path) -> None:
    wanted = made("zca", soft=True)
    form = folder.write(wanted, tmp_path, True)
    gap = (wanted.pixels.clamp(0, 1) * 255).round() / 255 - wanted.pixels
    assert f"{float(gap.abs().max()):.3g}" in form.notes[0]
    outside = ((wanted.pixels < 0) | (wanted.pixels > 1)).double().mean()
    assert f"{float(outside):.1%}" in form.notes[0]
    with np.load(tmp_path / "set.npz", allow_pickle=False) as found:
        assert np.array_equal(found["pixels"], wanted.pixels.numpy())
        assert found["classes"].tolist() == list(CLASSES)
    with open(tmp_path / "labels.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [CLASSES[k] for k in wanted.labels.tolist()]
    assert [int(row["label"]) for row in rows] == wanted.labels.tolist()
    assert len({row["file"] for row in rows}) == 6
    assert all((tmp_path / row["file"]).is_file() for row in rows)


def test_real_images_lose_nothing_in_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a coreset, through a whitening and back: no second file is needed."""
    here = space("channel", 3)
    wanted = SyntheticSet(here.forward(real(3)[:6]), one_hot(class_labels(3, 2), 3), 0.1, CLASSES, here)
    assert lost(wanted.pixels) is None
    form = folder.write(wanted, tmp_path, True)
    assert not (tmp_path / "set.npz").exists()
    assert not form.notes
    torch.testing.assert_close(read(form, tmp_path, monkeypatch)["images"], wanted.X, rtol=0, atol=1e-6)


def test_parquet_is_a_data_set_with_classes_by_name(tmp_path: Path) -> None:
    wanted = made("channel", soft=True)
    parquet.write(wanted, tmp_path, True)
    found = read_file(tmp_path / parquet.NAME)
    assert tuple(found.classes) == CLASSES
    assert list(found.train.labels) == wanted.labels.tolist()


def test_dd_ranking_has_numbers_of_its_own_for_data_that_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    here = InputSpace("channel", torch.full((3,), 0.4), torch.full((3,), 0.25), torch.empty(0), (3, 32, 32))
    labels = one_hot(torch.arange(10), 10)
    wanted = SyntheticSet(here.forward(pixels), labels, 0.1, torch_files.CIFAR10, here)
    form = torch_files.write_dd_ranking(wanted, tmp_path, True)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
    normal = (pixels - mean[:, None, None]) / std[:, None, None]
    found = read(form, tmp_path, monkeypatch)
    torch.testing.assert_close(found["images"], normal, rtol=0, atol=1e-5)
    torch.testing.assert_close(found["normalise"](pixels), normal, rtol=0, atol=1e-5)
    assert "CIFAR10" in form.notes[0]
