"""Transparency, more than eight bits, several frames and copies: what they become, and that it is told."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.sample_images import Listed
from tests.data.user_images import SIDE, noise, put, read, tree
from trajmatch.data.images import Dataset
from trajmatch.data.reading.pixels import How, decode


def everything(data: Dataset) -> torch.Tensor:
    """All images of a set read without validation images of their own."""
    return torch.cat([data.train.x, data.test.x])


def has(data: Dataset, pixels: Any) -> bool:
    """Whether one of the images has these values, (h, w) or (h, w, c)."""
    wanted = np.asarray(pixels)
    wanted = wanted[None] if wanted.ndim == 2 else wanted.transpose(2, 0, 1)
    return any(bool((x.numpy() == wanted).all()) for x in everything(data))


ALPHA = np.zeros((SIDE, SIDE), np.uint8)
ALPHA[:, SIDE // 2 :] = 255


def transparent(mode: str) -> tuple[Image.Image, dict[str, Any], np.ndarray[Any, Any]]:
    """An image that is transparent on the left, how it is saved, and what it is on white."""
    if mode in ("LA", "RGBA"):
        pixels = noise(1, 1 if mode == "LA" else 3)
        image = Image.fromarray(pixels)
        image.putalpha(Image.fromarray(ALPHA))
        return image, {}, np.where(ALPHA if mode == "LA" else ALPHA[:, :, None], pixels, 255)
    values = np.full((SIDE, SIDE), 7, np.uint8)
    values[:, SIDE // 2 :] = 90
    if mode == "L":
        return Image.fromarray(values), {"transparency": 7}, np.where(values == 7, 255, 90)
    if mode == "I;16":
        return (
            Image.fromarray(values.astype(np.uint16) * 257),
            {"transparency": 7 * 257},
            np.where(values == 7, 255, 90),
        )
    if mode == "RGB":
        on_white = np.where(values == 7, 255, 90)[:, :, None].repeat(3, 2)
        return Image.fromarray(values).convert("RGB"), {"transparency": (7, 7, 7)}, on_white
    palette = Image.frombytes("P", (SIDE, SIDE), values.tobytes())
    palette.putpalette([c for i in range(256) for c in (i, 0, 0)])
    on_white = np.stack([np.where(values == 7, 255, 90), *2 * [np.where(values == 7, 255, 0)]], axis=2)
    return palette, {"transparency": 7}, on_white


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "I;16"])
def test_transparent_images_stand_on_white(tmp_path: Path, mode: str) -> None:
    image, options, on_white = transparent(mode)
    for folder in ("cat", "dog"):
        for i in range(3):
            put(tmp_path / folder / f"{i}.png", noise(i + len(folder), 1 if mode in ("LA", "L", "I;16") else 3))
    if mode == "I;16":
        wide = np.full((SIDE, SIDE), 65535, np.uint16)
        put(tmp_path / "dog" / "wide.png", Image.fromarray(wide))
    put(tmp_path / "cat" / "clear.png", image, **options)
    data = read(tmp_path)
    assert has(data, on_white)
    assert "1 image with transparency stands on white" in data.read
    assert data.shape[0] == (1 if mode in ("LA", "L", "I;16") else 3)


def test_the_background_is_a_setting(tmp_path: Path) -> None:
    image, _, on_white = transparent("LA")
    put(tree(tmp_path, "cat", "dog") / "cat" / "clear.png", image)
    data = read(tmp_path, background="#000000", colour="grey")
    assert has(data, np.where(ALPHA, on_white, 0))
    assert "stands on #000000" in data.read
    red = np.stack([np.where(ALPHA, on_white, value) for value in (255, 0, 0)], axis=2)
    assert has(read(tmp_path, background="red"), red)
    for wrong in ("", "no colour", "#12", "#00000000"):
        with pytest.raises(ValueError, match=f"--images.background is '{wrong}': it must be a colour such as white"):
            read(tmp_path, background=wrong)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path, mode: str) -> None:
    pixels = noise(1, 3 if mode == "RGBA" else 1)
    image = Image.fromarray(pixels).convert(mode)
    tree(tmp_path, "cat", "dog")
    put(tmp_path / "cat" / "clear.png", image, **({"transparency": bytes([255] * 256)} if mode == "P" else {}))
    data = read(tmp_path)
    assert has(data, pixels if mode == "RGBA" else pixels[:, :, None].repeat(3, 2))
    assert "transparency" not in data.read


def png(bits: int, kind: int, row: bytes, transparent: bytes) -> bytes:
    """A PNG of four pixels in a row, with a value that is transparent, in bit depths that Pillow cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", 4, 1, bits, kind, 0, 0, 0)
    parts = (b"IHDR", head), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, content) for name, content in parts)


@pytest.mark.parametrize(
    ("bits", "row", "value", "pixels"),
    [
        (1, b"\x50", 1, [0, 255, 0, 255]),
        (1, b"\x50", 0, [255, 255, 255, 255]),
        (2, b"\x1b", 2, [0, 85, 255, 255]),
        (4, b"\x05\xaf", 10, [0, 85, 255, 255]),
        (8, b"\x00\x55\xaa\xff", 85, [0, 255, 170, 255]),
    ],
)
def test_a_transparent_value_of_few_bits(bits: int, row: bytes, value: int, pixels: list[int]) -> None:
    found = decode(png(bits, 0, row, struct.pack(">H", value)), How())
    assert found.pixels.tolist() == [[pixels]]
    assert found.transparent


def test_a_transparent_colour_of_sixteen_bits() -> None:
    values = [0x0001, 0x2801, 0x5000, 0xFF00]
    row = b"".join(struct.pack(">HHH", *[value] * 3) for value in values)
    found = decode(png(16, 2, row, struct.pack(">HHH", *[0x2801] * 3)), How())
    assert found.pixels.tolist() == [[[0, 255, 80, 255]]] * 3


def test_transparent_arrays(tmp_path: Path) -> None:
    x = np.stack([np.dstack([noise(i), ALPHA]) for i in range(8)])
    y = np.arange(8) % 2
    on_white = np.where(ALPHA[:, :, None], noise(3), 255)
    for arrays in (x, x.transpose(0, 3, 1, 2)):
        np.savez(tmp_path / "a.npz", x=arrays, y=y)
        data = read(tmp_path / "a.npz")
        assert has(data, on_white)
        assert "8 images with transparency stand on white" in data.read
    assert has(read(Listed(list(x), y.tolist())), on_white)
    tensors = [torch.from_numpy(item.transpose(2, 0, 1).copy()) / 255 for item in x]
    assert has(read(Listed(tensors, y.tolist())), on_white)


# More than eight bits


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["png", "tif", "int32", "npz", "python"])
def test_the_range_that_a_set_uses_is_found(tmp_path: Path, bits: int, kind: str) -> None:
    top = 2**bits - 1
    wide = np.random.default_rng(0).integers(0, top // 2, (8, SIDE, SIDE)).astype(np.uint16)
    wide[5, 0, 0] = top  # one image decides for all
    y = np.arange(8) % 2
    source: Any = tmp_path
    if kind == "npz":
        np.savez(tmp_path / "a.npz", x_train=wide[:4], y_train=y[:4], x_test=wide[4:], y_test=y[4:])
        source = tmp_path / "a.npz"
    elif kind == "python":
        source = Listed(list(wide[:4]), y[:4].tolist()), Listed(list(wide[4:]), y[4:].tolist())
    else:
        for i, values in enumerate(wide):
            image = Image.fromarray(values.astype(np.int32) if kind == "int32" else values)
            file = f"{i}.{'png' if kind == 'png' else 'tif'}"
            put(tmp_path / ("train" if i < 4 else "test") / f"c{y[i]}" / file, image)
    data = read(source)
    assert data.shape[0] == 1
    for values in wide:
        assert has(data, np.floor(values * (255 / top) + 0.5).astype(np.uint8))
    assert f"8 images of more than 8 bits: 0 to {top}, the range of {bits} bits that they use" in data.read


def test_sixteen_bits_beside_eight(tmp_path: Path) -> None:
    tree(tmp_path, "cat", "dog")
    put(tmp_path / "cat" / "wide.png", Image.fromarray(np.full((SIDE, SIDE), 4095, np.uint16)))
    data = read(tmp_path, colour="grey")
    assert has(data, np.full((SIDE, SIDE), 255))
    assert "1 image of more than 8 bits: 0 to 4095" in data.read
    assert "more than 8 bits" in read(tmp_path, size=3, colour="rgb").read


def test_ranges_that_files_tell_are_heeded(tmp_path: Path) -> None:
    tree(tmp_path, "cat", "dog")
    values = np.full(SIDE * SIDE, 1000, ">u2").tobytes()  # dark, of 4095
    (tmp_path / "cat" / "a.pgm").write_bytes(b"P5 %d %d 4095\n" % (SIDE, SIDE) + values)
    assert has(read(tmp_path, colour="grey"), np.full((SIDE, SIDE), 62))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((SIDE, SIDE), 70000, np.int32), "go from 70000 to 70000, beyond 16 bits"),
        (np.full((SIDE, SIDE), -1, np.int32), "go from -1 to -1, beyond 16 bits"),
        (np.full((SIDE, SIDE), 3.5, np.float32), r"go from 3.5 to 3.5 and must be in \[0, 1\]"),
        (np.full((SIDE, SIDE), np.nan, np.float32), r"go from nan to nan and must be in \[0, 1\]"),
    ],
)
def test_other_ranges_are_refused(tmp_path: Path, pixels: np.ndarray[Any, Any], message: str) -> None:
    tree(tmp_path, "cat", "dog")
    put(tmp_path / "cat" / "wide.tif", Image.fromarray(pixels))
    with pytest.raises(ValueError, match=rf"the image .*wide\.tif cannot be read: its .*{message}"):
        read(tmp_path)


def test_floating_point_files(tmp_path: Path) -> None:
    for k, folder in enumerate(("cat", "dog")):
        for i in range(4):
            put(tmp_path / folder / f"{i}.tif", Image.fromarray((noise(10 * k + i, 1) / 255).astype(np.float32)))
    data = read(tmp_path)
    assert has(data, noise(12, 1))
    assert "8 images of more than 8 bits: 0 to 1, the range of floating-point values" in data.read
    put(tmp_path / "dog" / "wide.tif", Image.fromarray(noise(1, 1).astype(np.uint16)))
    with pytest.raises(ValueError, match=r"0\.tif and .*wide\.tif hold integers and floating-point values"):
        read(tmp_path)


def colour_png(values: np.ndarray[Any, Any]) -> bytes:
    """A PNG of 16 bits in colour, which Pillow reads and cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bits_in_colour(tmp_path: Path) -> None:
    tree(tmp_path, "cat", "dog")
    pixels = noise(1)
    pixels[0, 0] = 255
    (tmp_path / "cat" / "wide.png").write_bytes(colour_png(pixels.astype(np.uint16) * 257))
    assert has(read(tmp_path), pixels)
    (tmp_path / "cat" / "wide.png").write_bytes(colour_png(pixels.astype(np.uint16) * 16))  # of 4095
    with pytest.raises(ValueError, match=r"wide\.png has 16 bits in colour of which the set uses 12, and Pillow reads"):
        read(tmp_path)


# Frames and copies


def test_several_frames_are_told(tmp_path: Path) -> None:
    tree(tmp_path, "cat", "dog")
    first, second = Image.fromarray(noise(1)), Image.fromarray(noise(2))
    put(tmp_path / "cat" / "two.tif", first, save_all=True, append_images=[second])
    data = read(tmp_path)
    assert has(data, noise(1))
    assert "1 image of several frames, of which the first is read" in data.read


def test_copies_are_told(tmp_path: Path) -> None:
    tree(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog")
    assert "same pixels" not in read(tmp_path).read
    put(tmp_path / "train" / "cat" / "a.png", noise(1))
    put(tmp_path / "test" / "cat" / "b.bmp", noise(1))
    assert "1 test image is also a training image (the same pixels)" in read(tmp_path).read
    put(tmp_path / "test" / "dog" / "c.png", noise(1))
    put(tmp_path / "train" / "cat" / "d.png", noise(1))
    put(tmp_path / "train" / "dog" / "e.png", noise(1))
    told = read(tmp_path).read
    assert "2 test images are also training images" in told
    assert "1 training image is a copy of another of its class" in told
    assert "1 image is in more than one class" in told


def test_copies_count_though_test_images_are_drawn(tmp_path: Path) -> None:
    for folder in ("cat", "dog"):
        for i in range(4):
            put(tmp_path / folder / f"{i}.png", noise(len(folder) if folder == "cat" else i + 10))
    tree(tmp_path, "dog")
    for i in range(4):
        put(tmp_path / "cat" / f"{i}.png", noise(1))
    assert "1 test image is also a training image" in read(tmp_path).read


def test_the_line_is_one_line(tmp_path: Path) -> None:
    x = np.stack([noise(i) for i in range(8)])
    names = np.array(["a\nb", "", "x" * 500, "\u732b"])
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(8) % 4, classes=names)
    told = read(tmp_path / "a.npz", test_fraction=0.5).read
    assert told.startswith(
        f"read {tmp_path / 'a.npz'}: 4 classes (a b, '', {'x' * 39}…, \u732b); 4 images for training,"
    )
    assert "6 x 6 pixels in colour" in told
    assert "\n" not in told
    assert "which are training images too" in told


def test_sixteen_bits_in_arrays_of_colour(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(0, 4096, (8, SIDE, SIDE, 3)).astype(np.uint16)
    wide[0, 0, 0] = 4095
    np.savez(tmp_path / "a.npz", x=wide, y=np.arange(8) % 2)
    first = read(tmp_path / "a.npz")
    assert has(first, np.floor(wide[3] * (255 / 4095) + 0.5).astype(np.uint8))
    second = read(Listed(list(wide), [0, 1] * 4))
    assert torch.equal(everything(first), everything(second))


def test_resizing_is_told(tmp_path: Path) -> None:
    tree(tmp_path, "cat", "dog")
    assert "resized" not in read(tmp_path, size=SIDE).read
    assert "4 x 4 pixels in colour; resized from 6 x 6" in read(tmp_path, size=4).read
    put(tmp_path / "cat" / "large.png", np.zeros((20, 30, 3), np.uint8))
    assert "resized from shorter sides of 6 to 20 pixels" in read(tmp_path, size=4).read
