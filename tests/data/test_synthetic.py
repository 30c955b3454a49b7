"""The synthetic set's promises: exact numbers back, pixels not clamped, the right real images first."""

from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from trajmatch.core.tiles import decoded, encoded
from trajmatch.data import synthetic
from trajmatch.data.files import read_header
from trajmatch.data.grid import displayable, image_grid
from trajmatch.data.images import Images
from trajmatch.data.synthetic import SyntheticSet, class_labels, draw_real, initial_images, one_hot
from trajmatch.data.tensors import read_tensors, save_tensors
from trajmatch.data.whitening import InputSpace, fit

KINDS = ["none", "channel", "zca"]
SOURCE = torch.Generator().manual_seed(0)
REAL = Images(torch.randint(0, 256, (30, 3, 4, 4), generator=SOURCE).to(torch.uint8), torch.arange(30) % 3)


def example(space: InputSpace, eta: float = 0.1) -> SyntheticSet:
    X = 3 * torch.randn(6, *space.shape, generator=torch.Generator().manual_seed(1))
    Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(2)).softmax(1)
    return SyntheticSet(X, Y, eta, ("a", "b", "c"), space)


@pytest.mark.parametrize("kind", KINDS)
def test_the_space_comes_back_with_the_set(kind: str, tmp_path: Path) -> None:
    wanted = example(fit(kind, REAL.x))
    synthetic.save(wanted, tmp_path / "x")
    found = synthetic.load(str(tmp_path / "x"))
    assert (found.space.kind, found.space.shape) == (kind, (3, 4, 4))
    for name, tensor in wanted.space.to_tensors().items():
        assert torch.equal(found.space.to_tensors()[name], tensor)
    assert torch.equal(found.normalise(REAL.x), wanted.normalise(REAL.x))


def test_a_notebook_shows_the_picture_of_a_set() -> None:
    found = replace(example(fit("none", REAL.x)), classes=("a", "<b>", "c"), info={"dataset": "<i>"})
    html = found._repr_html_()
    assert "6 images of 3 x 4 x 4, 3 classes" in html
    assert "dataset=&lt;i&gt;" in html
    assert "step size 0.1" in html
    data = html.split("base64,")[1].split('"')[0]
    picture = Image.open(BytesIO(b64decode(data))).convert("RGB")
    wanted = image_grid(displayable(found.stored_pixels), found.labels, found.classes)
    assert picture.tobytes() == wanted.tobytes()
    assert 'src="data:image/png' in html


@pytest.mark.parametrize("eta", [1 / 3, 1e-12, 0.1 + 1e-15])
def test_the_step_size_comes_back_to_the_last_bit(eta: float, tmp_path: Path) -> None:
    synthetic.save(example(fit("none", REAL.x), eta), tmp_path / "x")
    assert synthetic.load(tmp_path / "x").step_size == eta


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_the_inverse_and_are_not_clamped(kind: str) -> None:
    found = example(fit(kind, REAL.x))
    assert found.pixels.min() < -0.01
    assert found.pixels.max() > 1.01
    # float32, and a 48 x 48 whitening matrix whose smallest scale is 0.1.
    torch.testing.assert_close(found.space.forward(found.pixels), found.X, rtol=0, atol=1e-4)


def test_soft_labels_name_their_likeliest_class() -> None:
    found = example(fit("none", REAL.x))
    assert found.labels.tolist() == [max(range(3), key=row.__getitem__) for row in found.Y.tolist()]
    assert found.labels.dtype == torch.int64
    assert len(set(found.labels.tolist())) > 1
    image, label = found[4]
    assert torch.equal(image, found.X[4])
    assert torch.equal(label, found.Y[4])


@pytest.mark.parametrize("kind", KINDS)
def test_real_images_first_are_of_their_class_and_in_the_input_space(kind: str) -> None:
    space = fit(kind, REAL.x)
    X = initial_images("real", REAL, space, 3, 4, seed=3)
    everything = space.forward(REAL.x)
    # float32 products of different sizes round differently.
    distance = (X.flatten(1)[:, None] - everything.flatten(1)[None]).abs().amax(2)  # (12, 30)
    nearest = distance.argmin(1)
    assert float(distance.min(1).values.max()) < 1e-4
    assert len(set(nearest.tolist())) == 12
    assert torch.equal(REAL.y[nearest], class_labels(3, 4))


def test_noise_is_standard_in_the_input_space() -> None:
    space = InputSpace("none", torch.empty(0), torch.empty(0), torch.empty(0), (3, 32, 32))
    X = initial_images("noise", REAL, space, 3, 4, seed=3)
    assert X.shape == (12, 3, 32, 32)
    # 36,864 draws: the standard errors are 0.005 and 0.004.
    assert abs(float(X.mean())) < 0.03
    assert float(X.std()) == pytest.approx(1.0, abs=0.03)
    assert not torch.equal(X, initial_images("noise", REAL, space, 3, 4, seed=4))


def test_draws_of_real_images_are_random_in_the_class() -> None:
    drawn = [draw_real(REAL, 3, 2, torch.Generator().manual_seed(seed)) for seed in range(40)]
    assert {int(i) for index in drawn for i in index} == set(range(30))
    # A permutation's first entries come in any order.
    assert any(int(index[0]) > int(index[1]) for index in drawn)
    assert any(int(index[0]) < int(index[1]) for index in drawn)


def test_labels_as_rows() -> None:
    found = one_hot(class_labels(3, 2), 3)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.eye(3)[[0, 0, 1, 1, 2, 2]])


def test_a_loaded_set_does_not_follow_its_file(tmp_path: Path) -> None:
    path, wanted = tmp_path / "x", example(fit("none", REAL.x))
    synthetic.save(wanted, path)
    found = synthetic.load(path)
    with open(path, "r+b") as file:  # in place, so that a view of the file would see it
        size = path.stat().st_size
        file.seek(size // 2)
        file.write(bytes(size - size // 2))
    with pytest.raises(ValueError, match="x: this file is damaged"):
        synthetic.load(path)
    assert torch.equal(found.X, wanted.X)
    assert torch.equal(found.Y, wanted.Y)


def test_sets_are_compared_by_identity() -> None:
    space = fit("none", torch.zeros(2, 3, 4, 4))
    one, two = example(space), example(space)
    assert one == one
    assert one != two
    assert len({one, two}) == 2


def cut(kind: str = "channel", factor: int = 2) -> SyntheticSet:
    return replace(example(fit(kind, REAL.x)), factor=factor)


def test_a_set_of_tiles_offers_what_is_stored_and_what_a_network_sees() -> None:
    found = cut()
    assert len(found) == 24
    assert found.images.shape == (24, 3, 4, 4)
    assert found.pixels.shape == (24, 3, 4, 4)
    assert torch.equal(found.images, decoded(found.X, 2))
    assert torch.equal(found.labels, found.Y.argmax(1).repeat_interleave(4))
    image, label = found[-3]
    assert torch.equal(image, found.images[21])
    assert torch.equal(label, found.Y[5])
    batches = list(torch.utils.data.DataLoader(found, batch_size=10, generator=torch.Generator()))
    assert [len(images) for images, _ in batches] == [10, 10, 4]
    assert torch.equal(torch.cat([labels for _, labels in batches]), found.seen[1])
    images, labels = synthetic.leading(found, 1)
    assert torch.equal(images, found.images[[*range(4), *range(8, 12), *range(16, 20)]])
    assert torch.equal(labels, found.Y[::2].repeat_interleave(4, 0))


def test_a_set_without_tiles_offers_one_and_the_same() -> None:
    found = example(fit("zca", REAL.x))
    assert found.images is found.X
    assert found.seen[1] is found.Y
    assert torch.equal(found.pixels, found.stored_pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_stored_pixels_are_the_tiles_side_by_side(kind: str) -> None:
    flat = torch.rand(24, 3, 1, 1, generator=torch.Generator().manual_seed(5)).expand(-1, -1, 4, 4)
    space = fit(kind, REAL.x)
    found = SyntheticSet(encoded(space.forward(flat), 2), example(space).Y, 0.1, ("a", "b", "c"), space, factor=2)
    # Whitening does not leave an image of one colour as one: what is stored of it are its averages.
    wanted = encoded(found.pixels if kind == "zca" else flat, 2)
    torch.testing.assert_close(found.stored_pixels, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_the_factor_comes_back_and_stands_in_the_header(factor: int, tmp_path: Path) -> None:
    wanted = cut(factor=factor)
    synthetic.save(wanted, tmp_path / "x")
    found = synthetic.load(tmp_path / "x")
    assert found.factor == factor
    assert torch.equal(found.images, wanted.images)
    assert found.X.shape == wanted.X.shape
    assert read_header(tmp_path / "x").get("factor") == (None if factor == 1 else factor)
    assert (synthetic.content(found) == synthetic.content(cut(factor=1))) == (factor == 1)


@pytest.mark.parametrize("factor", [0, 3, 8, 2.0, True, "2", None])
def test_a_factor_that_cuts_no_image_is_refused(factor: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"not written, because its factor is {factor} and must"):
        synthetic.save(cut(factor=factor), tmp_path / "x")
    assert not (tmp_path / "x").exists()
    synthetic.save(cut(), tmp_path / "x")
    header = read_header(tmp_path / "x") | {"factor": factor}
    save_tensors(tmp_path / "y", read_tensors(tmp_path / "x"), header)
    with pytest.raises(ValueError, match=f"y: this set cannot be used: its factor is {factor} and must"):
        synthetic.load(tmp_path / "y")
