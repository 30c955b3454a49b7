from pathlib import Path

import pytest
import torch
from PIL import Image

from trajmatch.data.grid import displayable, image_grid, save_png


def distinct(n: int, c: int = 3) -> torch.Tensor:
    """n images of one colour each."""
    return torch.stack([torch.full((c, 8, 8), (k + 1) / (n + 1)) for k in range(n)])


def colours(picture: Image.Image) -> set[tuple[int, int, int]]:
    found = picture.convert("RGB").getcolors(1 << 24)
    assert found is not None
    return {colour for _, colour in found}  # type: ignore[misc]


@pytest.mark.parametrize(("classes", "ipc", "c"), [(10, 1, 3), (3, 10, 1), (4, 23, 3), (1, 1, 1)])
def test_every_shown_image_has_its_colour_somewhere(classes: int, ipc: int, c: int) -> None:
    labels = torch.arange(classes).repeat_interleave(ipc)
    pixels = distinct(classes * ipc, c)
    picture = image_grid(pixels, labels, [f"class {k}" for k in range(classes)])
    found = colours(picture)
    shown = 0
    for value in pixels[:, 0, 0, 0]:
        level = float(value) * 255
        shown += any(abs(r - level) <= 1 and r == g == b for r, g, b in found)
    assert shown >= min(ipc, 10) * classes


def test_rows_are_classes() -> None:
    pixels = torch.zeros(4, 3, 8, 8)
    pixels[:2, 0] = 1.0  # class 0 red, class 1 blue
    pixels[2:, 2] = 1.0
    picture = image_grid(pixels, [0, 0, 1, 1], ["red", "blue"]).convert("RGB")
    places: dict[tuple[int, int, int], list[int]] = {(255, 0, 0): [], (0, 0, 255): []}
    for y in range(picture.height):
        for x in range(picture.width):
            colour = picture.getpixel((x, y))
            if colour in places:
                places[colour].append(y)  # type: ignore[index]
    assert max(places[255, 0, 0]) < min(places[0, 0, 255])


def test_pixels_outside_the_range_are_clamped() -> None:
    wild = torch.stack([torch.full((1, 8, 8), -3.0), torch.full((1, 8, 8), 7.0)])
    tame = wild.clamp(0, 1)
    assert image_grid(wild, [0, 1], ["a", "b"]).tobytes() == image_grid(tame, [0, 1], ["a", "b"]).tobytes()


def test_two_hundred_classes_stay_a_picture() -> None:
    picture = image_grid(distinct(200), torch.arange(200), [f"n{k:08}" for k in range(200)])
    assert picture.width < 3000
    assert picture.height < 6000


def test_saved_pictures_open_again(tmp_path: Path) -> None:
    picture = image_grid(distinct(3), [0, 1, 2], ["a", "b", "c"])
    save_png(picture, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as found:
        assert found.size == picture.size
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_what_leaves_the_range_is_compressed_and_the_rest_is_untouched() -> None:
    source = torch.Generator().manual_seed(0)
    inside = torch.rand(1, 3, 8, 8, generator=source)
    outside = 4 * torch.randn(1, 3, 8, 8, generator=source)
    found = displayable(torch.cat((inside, outside)))
    assert torch.equal(found[:1], inside)
    assert 0 <= float(found.min()) < 0.01
    assert 0.99 < float(found.max()) <= 1
    middle = outside.abs() < 6  # within 2.5 standard deviations: an affine map, so order and differences remain
    slopes = (found[1:][middle] - found[1:][middle][0]) / (outside[middle] - outside[middle][0])
    assert float(slopes[1:].std() / slopes[1:].mean()) < 1e-3
