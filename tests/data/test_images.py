"""Splits, canonical order, size and colour, export, and the errors of `load`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trajmatch.data.images import Dataset, Images, check_ipc, export_folder, load
from trajmatch.data.reading.pixels import Colour, decode_splits
from trajmatch.data.reading.source import Split


def random_pixels(n: int, c: int = 3, side: int = 6, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 (n, side, side, c)."""
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, c), dtype=np.uint8)


def decode(item: Any, size: int | None, colour: Colour) -> Any:
    """One image as uint8 (c, h, w)."""
    arrays, _ = decode_splits([Split([item], np.zeros(1, np.int64), str)], size, colour)
    return arrays[0][0]


def save_npz(path: Path, n: int = 60, classes: int = 3, c: int = 3, **arrays: Any) -> Path:
    np.savez(path, x=random_pixels(n, c), y=np.arange(n) % classes, **arrays)
    return path


def assert_same(a: Dataset, b: Dataset) -> None:
    for split in ("train", "validation", "test"):
        first, second = getattr(a, split), getattr(b, split)
        assert len(first) > 0
        assert torch.equal(first.x, second.x)
        assert torch.equal(first.y, second.y)


def rows(images: Images) -> set[bytes]:
    return {x.numpy().tobytes() for x in images.x}


def test_splits_are_stratified_and_disjoint(tmp_path: Path) -> None:
    data = load(save_npz(tmp_path / "a.npz"), validation=0.25, test_fraction=0.2)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [36, 12, 12]
    assert data.shape == (3, 6, 6)
    assert data.num_classes == 3
    for split in (data.train, data.validation, data.test):
        assert split.x.dtype == torch.uint8
        assert split.y.dtype == torch.int64
        assert len(set(torch.bincount(split.y).tolist())) == 1
    parts = [rows(s) for s in (data.train, data.validation, data.test)]
    assert len(set.union(*parts)) == 60
    assert sum(map(len, parts)) == 60


def test_validation_can_stay_in_training(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "a.npz")
    out, within = load(path, validation=0.25), load(path, validation=0.25, hold_out=False)
    assert (len(within.train), len(within.validation)) == (48, 12)
    assert rows(within.validation) < rows(within.train)
    assert torch.equal(within.validation.x, out.validation.x)
    assert rows(within.train) == rows(out.train) | rows(out.validation)


def test_seed_decides_the_splits(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "a.npz")
    assert_same(load(path, seed=3), load(path, seed=3))
    assert not torch.equal(load(path, seed=3).test.x, load(path, seed=4).test.x)


def test_seed_decides_the_validation_images(tmp_path: Path) -> None:
    x, y = random_pixels(60), np.arange(60) % 3
    np.savez(tmp_path / "a.npz", x_train=x[:48], y_train=y[:48], x_test=x[48:], y_test=y[48:])
    first, second = load(tmp_path / "a.npz", seed=3), load(tmp_path / "a.npz", seed=4)
    assert torch.equal(first.test.x, second.test.x)
    assert not torch.equal(first.validation.x, second.validation.x)


def test_the_digest_of_all_images_is_the_same_for_every_seed_and_share(tmp_path: Path) -> None:
    x, y = random_pixels(60), np.arange(60) % 3
    np.savez(tmp_path / "one.npz", x=x, y=y)
    found = load(tmp_path / "one.npz").digest
    assert len(found) == 32
    drawn: list[dict[str, Any]] = [
        {"seed": 4}, {"validation": 0.3}, {"hold_out": False}, {"test_fraction": 0.4}, {"colour": "rgb"}
    ]  # fmt: skip
    assert {load(tmp_path / "one.npz", **one).digest for one in drawn} == {found}
    np.savez(tmp_path / "turned.npz", x=x[::-1], y=y[::-1])
    assert load(tmp_path / "turned.npz").digest == found
    np.savez(tmp_path / "split.npz", x_train=x[:48], y_train=y[:48], x_test=x[48:], y_test=y[48:])
    split = load(tmp_path / "split.npz").digest
    assert load(tmp_path / "split.npz", seed=4).digest == split

    pixels, labels, fixed = x.copy(), y.copy(), y[48:].copy()
    pixels[7, 0, 0, 0] ^= 1
    labels[[0, 1]] = labels[[1, 0]]
    fixed[[0, 1]] = fixed[[1, 0]]
    np.savez(tmp_path / "pixel.npz", x=pixels, y=y)
    np.savez(tmp_path / "label.npz", x=x, y=labels)
    np.savez(tmp_path / "test.npz", x_train=x[:48], y_train=y[:48], x_test=x[48:], y_test=fixed)
    np.savez(tmp_path / "names.npz", x=x, y=y, class_names=np.array(["a", "b", "c"]))
    others = [load(tmp_path / f"{name}.npz").digest for name in ("pixel", "label", "test", "names")]
    others += [load(tmp_path / "one.npz", **one).digest for one in ({"size": 4}, {"classes": ["0", "1"]})]
    assert len({found, split, *others}) == 8


def test_global_generators_are_untouched(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "a.npz")
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    load(path)
    assert torch.equal(torch.rand(1), expected)


@pytest.fixture(autouse=True)
def _restore_global_generator() -> Any:
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


def test_order_of_the_source_does_not_matter(tmp_path: Path) -> None:
    x, y = random_pixels(60), np.arange(60) % 3
    order = np.random.default_rng(1).permutation(60)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    np.savez(tmp_path / "b.npz", x=x[order], y=y[order])
    a, b = load(tmp_path / "a.npz"), load(tmp_path / "b.npz")
    assert_same(a, b)
    assert (a.train.y.diff() >= 0).all()


def test_classes_are_kept_and_renumbered(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "a.npz", classes=3, class_names=np.array(["ant", "bee", "cow"]))
    whole, some = load(path, hold_out=False), load(path, classes=["cow", "ant"], hold_out=False)
    assert some.classes == ("ant", "cow")
    cows = load(path, classes=["bee", "cow"], hold_out=False).train
    assert rows(Images(cows.x[cows.y == 1], cows.y)) <= rows(whole.train) | rows(whole.test)
    x = np.load(path)["x"].transpose(0, 3, 1, 2)
    assert rows(some.train) | rows(some.test) == {x[i].tobytes() for i in range(60) if i % 3 != 1}


def test_size_resizes_the_shorter_side_and_crops_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 200  # the central square
    assert (decode(pixels, 8, "auto") == 200).all()
    assert (decode(pixels, 4, "auto")[:, :, 1:3] > 190).all()
    assert decode(pixels.transpose(1, 0, 2), 4, "auto").shape == (3, 4, 4)
    assert decode(pixels[:, :, 0], 5, "rgb").shape == (3, 5, 5)


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((32, 32), np.uint8)
    stripes[:, ::2] = 255
    small = decode(stripes, 8, "auto")
    assert np.abs(small[:, :, 1:-1].astype(int) - 127).max() < 10


def test_mixed_sizes_need_a_size(tmp_path: Path) -> None:
    for name, shape in (("a/1.png", (8, 8)), ("a/2.png", (8, 8)), ("b/1.png", (8, 8)), ("b/2.png", (10, 9))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"2\.png is 9 x 10 pixels .* but .*1\.png is 8 x 8: .*--images\.size"):
        load(tmp_path, test_fraction=0.5)
    with pytest.raises(ValueError, match=r"class 'a' has 1 image to draw validation images from .*: too few"):
        load(tmp_path, size=8, test_fraction=0.5)
    assert load(tmp_path, size=8, test_fraction=0.5, hold_out=False).shape == (1, 8, 8)


def image_of_mode(mode: str) -> Image.Image:
    """A 4 x 4 image with known contents in the given mode."""
    grey = Image.fromarray(np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4))
    if mode == "I;16":
        return Image.fromarray((np.asarray(grey).astype(np.uint16)) * 257)
    if mode == "I":
        return Image.fromarray((np.asarray(grey).astype(np.int32)) * 257)
    return grey.convert(mode)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "I", "RGB", "RGBA", "P", "CMYK"])
def test_modes_become_eight_bits(mode: str) -> None:
    grey = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)
    auto = decode(image_of_mode(mode), None, "auto")
    assert len(auto) == (1 if mode in ("L", "LA", "I;16", "I") else 3)
    for channel in (*auto, *decode(image_of_mode(mode), None, "rgb"), *decode(image_of_mode(mode), None, "grey")):
        np.testing.assert_array_equal(channel, grey)


def test_sixteen_bits_are_rounded() -> None:
    wide = np.array([[50 * 257 + 200, 65535]], np.uint16)  # 50.8 of 255
    assert decode(Image.fromarray(wide), None, "auto").tolist() == [[[51, 255]]]
    with pytest.raises(ValueError, match="beyond 16 bits"):
        decode(Image.fromarray(np.full((2, 2), 70000, np.int32)), None, "auto")


def test_sixteen_bit_png_and_palette_with_transparency(tmp_path: Path) -> None:
    image_of_mode("I;16").save(tmp_path / "wide.png")
    np.testing.assert_array_equal(decode(tmp_path / "wide.png", None, "auto")[0], np.asarray(image_of_mode("L")))
    image_of_mode("P").save(tmp_path / "palette.png", transparency=bytes(range(256)))
    assert decode(tmp_path / "palette.png", None, "auto").shape == (3, 4, 4)


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    pixels = random_pixels(1)[0][:4]
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(decode(tmp_path / "a.png", None, "auto"), pixels[::-1, ::-1].transpose(2, 0, 1))


def test_colour_is_decided_over_all_images(tmp_path: Path) -> None:
    for i in range(4):
        for name in ("a", "b"):
            (tmp_path / name).mkdir(exist_ok=True)
            mode = "RGB" if (name, i) == ("b", 2) else "L"
            Image.fromarray(random_pixels(1, seed=i + 10 * len(name + "b"))[0]).convert(mode).save(
                tmp_path / name / f"{i}.png"
            )
    data = load(tmp_path, test_fraction=0.25, validation=0.3)
    assert data.shape[0] == 3
    is_grey = [bool((x[0] == x[1]).all()) for s in (data.train, data.validation, data.test) for x in s.x]
    assert sorted(is_grey) == [False] + [True] * 7
    assert load(tmp_path, colour="grey", test_fraction=0.25, validation=0.3).shape[0] == 1


@pytest.mark.parametrize("hold_out", [True, False])
@pytest.mark.parametrize(
    "names", [["ant", "bee", "cow"], ["cow", "ant", "bee"], ["a/b", "A_B", ".c"], ["9", "10", "11"]]
)
def test_exported_folder_loads_to_the_same_tensors(tmp_path: Path, hold_out: bool, names: list[str]) -> None:
    path = save_npz(tmp_path / "a.npz", class_names=np.array(names))
    data = load(path, hold_out=hold_out, seed=5)
    export_folder(data, tmp_path / "out")
    again = load(tmp_path / "out", hold_out=hold_out, seed=5)
    assert_same(data, again)
    folders = [child.name for child in (tmp_path / "out" / "train").iterdir()]
    if names[0] in ("ant", "9"):
        assert sorted(folders) == sorted(names)
        assert again.classes == data.classes
    else:
        assert sorted(folders)[0].startswith("0_")


def test_export_numbers_ten_or_more_classes_with_zeros(tmp_path: Path) -> None:
    names = np.array([f"c{11 - i}" for i in range(12)])
    data = load(save_npz(tmp_path / "a.npz", n=72, classes=12, c=1, class_names=names), hold_out=False)
    export_folder(data, tmp_path / "out")
    assert_same(data, load(tmp_path / "out", hold_out=False))
    assert (tmp_path / "out" / "test" / "00_c11" / "00000.png").is_file()


def test_export_of_a_class_without_test_images(tmp_path: Path) -> None:
    x, y = random_pixels(40), np.arange(40) % 4
    np.savez(tmp_path / "a.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:23], y_test=y[20:23])
    data = load(tmp_path / "a.npz")
    assert 3 not in data.test.y
    export_folder(data, tmp_path / "out")
    assert_same(data, load(tmp_path / "out"))


def test_export_writes_only_into_a_new_folder(tmp_path: Path) -> None:
    data = load(save_npz(tmp_path / "a.npz"))
    with pytest.raises(ValueError, match="is not an empty folder"):
        export_folder(data, tmp_path)


def test_digits() -> None:
    data = load("digits")
    assert data.shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert sum(map(len, (data.train, data.validation, data.test))) == 1797
    everything = torch.cat([data.train.x, data.validation.x, data.test.x])
    assert set(everything.unique().tolist()) == {round(v * 255 / 16) for v in range(17)}
    assert load("digits", size=16, colour="rgb").shape == (3, 16, 16)


def test_check_ipc(tmp_path: Path) -> None:
    data = load(save_npz(tmp_path / "a.npz", class_names=np.array(["ant", "bee", "cow"])))
    check_ipc(data, 14)
    with pytest.raises(ValueError, match=r"--ipc is 15 but class 'ant' of a has 14 training images"):
        check_ipc(data, 15)
    with pytest.raises(ValueError, match="--ipc must be from 1 to 14"):
        check_ipc(data, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "--images.size is 0"),
        ({"validation": 0.0}, "--images.validation is 0.0"),
        ({"validation": 0.6}, "--images.validation is 0.6: it must be above 0 and at most 0.5"),
        ({"test_fraction": 1.0}, "--images.test-fraction is 1.0"),
        ({"colour": "sepia"}, "--images.colour is 'sepia'"),
        ({"classes": ["ant", "beee"]}, "has no class 'beee', did you mean 'bee'"),
        ({"classes": ["zzz"]}, "has no class 'zzz': its classes are ant, bee, cow"),
        ({"classes": ["ant"]}, "has only one class, 'ant'"),
        ({"classes": []}, "has no images"),
        ({"test_fraction": 0.99}, "class 'ant' has 20 images to draw test images from"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    path = save_npz(tmp_path / "a.npz", class_names=np.array(["ant", "bee", "cow"]))
    with pytest.raises(ValueError, match=message):
        load(path, **arguments)


def test_named_class_without_images(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "a.npz", class_names=np.array(["ant", "bee", "cow", "dog"]))
    with pytest.raises(ValueError, match=r"class 'dog' of .*a\.npz has no images"):
        load(path)
    assert load(path, classes=["ant", "bee"]).classes == ("ant", "bee")
