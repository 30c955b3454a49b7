from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import torch
from PIL import Image, ImageFont

from trajmatch.data import lettering
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


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.size == b.size and a.tobytes() == b.tobytes()


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with no fonts but those that come with Pillow and matplotlib."""
    monkeypatch.setattr(lettering, "_system_fonts", lambda: iter(()))
    lettering._font_files.cache_clear()
    lettering._font_for.cache_clear()
    yield
    lettering._font_files.cache_clear()
    lettering._font_for.cache_clear()


def test_a_name_that_no_font_can_draw_is_the_number_of_its_class(no_system_fonts: None) -> None:
    pixels = distinct(2)
    for name in ("\u732b", "\U0001f980", "cat \u732b", "", " \n ", "\x07"):
        assert same(image_grid(pixels, [0, 1], ["ant", name]), image_grid(pixels, [0, 1], ["ant", "class 1"])), name
        assert same(image_grid(pixels, [1, 1], ["ant", name]), image_grid(pixels, [1, 1], ["ant", "class 1"])), name


def test_a_name_is_drawn_with_a_font_that_has_its_signs(no_system_fonts: None) -> None:
    text = lettering.lettering(14)
    for name in ("caf\u00e9", "\u041a\u043e\u0442", "\u03b3\u03ac\u03c4\u03b1"):  # Pillow's own font lacks them
        font = text.font(name)
        assert text.name(name, 0) == name
        missing = bytes(font.getmask("\U0010ffff"))
        assert all(bytes(font.getmask(sign)) != missing for sign in name)
    assert text.font("ant").getname() == ImageFont.load_default(14).getname()
    letters = {bytes(text.font("caf\u00e9").getmask(sign)) for sign in "caf\u00e9"}
    assert len(letters) == 4


def test_a_font_of_this_machine_is_found(monkeypatch: pytest.MonkeyPatch, no_system_fonts: None) -> None:
    other = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "STIXGeneral.ttf")
    sign = "\u2a7d"  # a letter that neither of the two first fonts has
    if lettering._has_all(ImageFont.truetype(lettering._font_files()[0], 14), sign):
        sign = "\U0001d4d0"
    assert lettering.lettering(14).name(sign, 3) == "class 3"
    monkeypatch.setattr(lettering, "_system_fonts", lambda: iter([__file__, other]))
    lettering._font_files.cache_clear()
    lettering._font_for.cache_clear()
    assert lettering.lettering(14).name(sign, 3) == sign


def test_names_do_not_break_the_layout() -> None:
    pixels = distinct(4)
    plain = image_grid(pixels, [0, 0, 1, 1], ["a b", "c"])
    assert same(image_grid(pixels, [0, 0, 1, 1], ["a\nb", "\tc\r\n"]), plain)
    assert image_grid(pixels, [0, 0, 1, 1], ["x" * 100_000, "c"]).width < plain.width + 400
