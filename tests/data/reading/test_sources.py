"""Every kind of source gives the same tensors for the same images, and one clear sentence when something is wrong."""

import re
import shlex
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.sample_images import (
    NAMES,
    TEST,
    TRAIN,
    WRITERS,
    Listed,
    assert_same,
    cifar10_files,
    images,
    png,
    write_files,
    write_folder,
    write_table,
)
from trajmatch.data.images import export_folder, load
from trajmatch.data.reading.source import natural


@pytest.mark.parametrize("kind", WRITERS)
def test_every_source_gives_the_same_tensors(tmp_path: Path, kind: str) -> None:
    reference = load(write_folder(tmp_path / "reference"), seed=2)
    data = load(WRITERS[kind](tmp_path / "source"), seed=2)
    assert (len(data.train), len(data.validation), len(data.test)) == (21, 3, 9)
    assert data.classes == (("0", "1", "2") if kind == "medmnist" else NAMES)
    assert_same(data, reference)
    export_folder(data, tmp_path / "exported")
    assert_same(load(tmp_path / "exported", seed=2), reference)


@pytest.mark.parametrize("kind", WRITERS)
def test_every_source_can_be_resized_and_reduced(tmp_path: Path, kind: str) -> None:
    names = ["0", "2"] if kind == "medmnist" else ["ant", "cow"]
    data = load(WRITERS[kind](tmp_path / "source"), size=8, classes=names, colour="grey")
    assert data.shape == (1, 8, 8)
    assert_same(data, load(write_folder(tmp_path / "reference"), size=8, classes=["ant", "cow"], colour="grey"))


def test_sources_without_a_test_split(tmp_path: Path) -> None:
    x, y = images(30, 0)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    reference = load(tmp_path / "a.npz", seed=1)
    assert len(reference.test) == 6
    for i, (pixels, label) in enumerate(zip(x, y, strict=True)):
        (tmp_path / "tree" / str(label) / "deeper").mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / str(label) / "deeper" / f"{i}.PNG").write_bytes(png(pixels))
    assert_same(load(tmp_path / "tree", seed=1), reference)
    assert_same(load(Listed([Image.fromarray(item) for item in x], y.tolist()), seed=1), reference)
    assert_same(load(write_table(tmp_path / "one.parquet", x, y, described=False), seed=1), reference)
    (tmp_path / "pieces").mkdir()
    write_table(tmp_path / "pieces" / "part-1.parquet", x[:9], y[:9], ("img", "fine_label"))
    write_table(tmp_path / "pieces" / "part-2.parquet", x[9:], y[9:], ("img", "fine_label"))
    assert_same(load(tmp_path / "pieces", seed=1), reference)
    export_folder(reference, tmp_path / "exported")
    assert_same(load(tmp_path / "exported", seed=1), reference)


def test_labels_with_gaps_are_renumbered(tmp_path: Path) -> None:
    x, y = images(30, 0)
    np.savez(tmp_path / "a.npz", x=x, y=np.array([3, 7, 40])[y])
    data = load(tmp_path / "a.npz")
    assert data.classes == ("3", "7", "40")
    assert data.train.y.unique().tolist() == [0, 1, 2]


def test_natural_order() -> None:
    assert sorted(["c10", "c9", "b", "10", "9", "c1a"], key=natural) == ["9", "10", "b", "c1a", "c9", "c10"]


# Folders


def test_tiny_imagenet_layout(tmp_path: Path) -> None:
    (x, y), (test_x, test_y) = images(TRAIN, 0), images(TEST, 1)
    root = tmp_path / "tiny"
    for folder in [*(f"train/{name}/images" for name in NAMES), "val/images", "test/images"]:
        (root / folder).mkdir(parents=True)
    for i, (pixels, label) in enumerate(zip(x, y, strict=True)):
        (root / "train" / NAMES[label] / "images" / f"{i}.JPEG").write_bytes(png(pixels))
        (root / "train" / NAMES[label] / "boxes.txt").write_text("0 0 1 1")
    lines = []
    for i, (pixels, label) in enumerate(zip(test_x, test_y, strict=True)):
        (root / "val" / "images" / f"val_{i}.JPEG").write_bytes(png(pixels))
        lines.append(f"val_{i}.JPEG\t{NAMES[label]}\t0\t0\t1\t1")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines))
    (root / "test" / "images" / "test_0.JPEG").write_bytes(png(x[0]))  # has no label
    data = load(root)
    assert data.classes == NAMES
    assert_same(data, load(write_folder(tmp_path / "reference")))
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG ant")
    with pytest.raises(ValueError, match=r"line 1 of .*val_annotations\.txt is 'val_0\.JPEG ant'"):
        load(root)


def test_files_that_are_no_images_are_ignored(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "a")
    reference = load(root)
    (root / "train" / ".git").mkdir()
    (root / "train" / "__MACOSX").mkdir()
    (root / "train" / "ant" / "._1.png").write_bytes(b"resource fork")
    (root / "train" / "ant" / "readme.txt").write_text("ants")
    assert_same(load(root), reference)


def test_folder_errors(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "a")
    (root / "train" / "dog").mkdir()
    with pytest.raises(ValueError, match=r"the class folder .*dog has no images"):
        load(root)
    (root / "train" / "dog").rmdir()
    (root / "test" / "dog").mkdir()
    (root / "test" / "dog" / "1.png").write_bytes(png(images(1, 0)[0][0]))
    with pytest.raises(ValueError, match=r"class 'dog' of .* has test images but no training images"):
        load(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no class folders"):
        load(tmp_path / "empty")
    with pytest.raises(ValueError, match="has images but no class folders"):
        load(root / "train" / "ant")
    (root / "train").rename(root / "elsewhere")
    with pytest.raises(ValueError, match="has a folder 'test' but no folder 'train'"):
        load(root)


def test_one_class_only(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    for i, pixels in enumerate(images(5, 0)[0]):
        (tmp_path / "ant" / f"{i}.png").write_bytes(png(pixels))
    with pytest.raises(ValueError, match="has only one class, 'ant': at least two are needed"):
        load(tmp_path)


def test_damaged_images_are_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "a")
    whole = (root / "train" / "bee" / "4.png").read_bytes()
    for content in (b"not an image", whole[: len(whole) // 2], b""):
        (root / "train" / "bee" / "4.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"the image .*bee.4\.png cannot be read"):
            load(root)
    x, y = images(TRAIN, 0)
    write_table(tmp_path / "p" / "train-0.parquet", x[:10], y[:10])
    write_table(tmp_path / "p" / "train-1.parquet", [*map(png, x[10:13]), b"broken", *map(png, x[14:])], y[10:])
    with pytest.raises(ValueError, match=r"the image row 3 of .*train-1\.parquet cannot be read"):
        load(tmp_path / "p")


# Paths


def test_missing_paths_suggest_near_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flowers").mkdir()
    with pytest.raises(ValueError, match=r"^--data is '.*flower' and does not exist, did you mean 'flowers'\?"):
        load(tmp_path / "flower")
    with pytest.raises(ValueError, match=r"^--data is 'digit' and does not exist, did you mean 'digits'\?"):
        load("digit")
    with pytest.raises(ValueError, match="zzzz' and does not exist: give 'digits', a folder"):
        load(tmp_path / "zzzz")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match="--data is 'flowers/roses' and does not exist"
    ):  # beside a folder: not a name on the Hub
        load("flowers/roses")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"a\.txt is no known source of images"):
        load(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="a tuple of 3 is no source"):
        load((1, 2, 3))
    with pytest.raises(ValueError, match="int is no source of images"):
        load(3)


# Arrays


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, "has the keys a: it must have x_train and y_train, or x and y"),
        ({"x": np.zeros((4, 2, 2), np.uint8)}, "has images 'x' but no labels 'y'"),
        ({"x": np.zeros((4, 2, 2), np.float32), "y": np.arange(4)}, "'x' of .* has type float32: images must be uint8"),
        ({"x": np.zeros((4, 2, 2, 2), np.uint8), "y": np.arange(4)}, r"has shape \(4, 2, 2, 2\)"),
        ({"x": np.zeros((4, 2, 2), np.uint8), "y": np.arange(4) / 2}, "'y' of .* has type float64"),
        ({"x": np.zeros((4, 2, 2), np.uint8), "y": np.eye(4, dtype=int)}, r"'y' of .* shape \(4, 4\)"),
        ({"x": np.zeros((4, 2, 2), np.uint8), "y": np.arange(3)}, "has 4 images in 'x' but 3 labels in 'y'"),
        ({"x": np.zeros((4, 2, 2), np.uint8), "y": np.arange(4) - 1}, "row 0 of 'x' of .* has the label -1"),
        (
            {"x": np.zeros((4, 2, 2), np.uint8), "y": np.arange(4), "classes": np.array(["a", "b"])},
            "row 2 of 'x' of .* has the label 2: labels must be 0 to 1, one for each of the 2 class names",
        ),
        (
            {"x_train": np.zeros((4, 2, 2), np.uint8), "y_train": np.arange(4) % 2}
            | {"x_test": np.zeros((0, 2, 2), np.uint8), "y_test": np.arange(0)},
            "the test split of .* is empty",
        ),
        ({"x": np.zeros((0, 2, 2), np.uint8), "y": np.arange(0)}, "has no images"),
        (
            {"x": np.array([{}], dtype=object), "y": np.arange(1)},
            "it holds objects of Python, which are not read",
        ),  # pickle
    ],
)
def test_npz_errors(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "a.npz")


def test_npz_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"nothing")
    np.savez(tmp_path / "whole.npz", x=np.zeros((4, 2, 2), np.uint8), y=np.arange(4) % 2)
    whole = (tmp_path / "whole.npz").read_bytes()
    np.save(tmp_path / "b.npy", np.zeros(3))
    for content in (b"nothing", b"", whole[:-30], (tmp_path / "b.npy").read_bytes()):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz cannot be read as \.npz arrays: .* damaged, or no \.npz file\.$"):
            load(tmp_path / "a.npz")


def test_npz_of_files_that_are_no_arrays(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x", "text")
        file.writestr("y", "text")
    with pytest.raises(ValueError, match=r"'x' of .*a\.npz has type \|S4: images must be uint8"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["data.npz", "cifar-10-python.tar.gz", "my data.TGZ", "data.arrow"])
def test_a_folder_around_a_file_of_images_names_the_file(tmp_path: Path, name: str) -> None:
    root = tmp_path / "e7"
    (root / "empty").mkdir(parents=True)
    (root / name).write_bytes(b"")
    word = shlex.quote(str(root / name))
    with pytest.raises(ValueError, match=f"^{re.escape(f'{root} holds {name}: give --data {word}.')}$"):
        load(root)
    (root / "z.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=re.escape(f"holds {name}, z.npz: give one of them, such as --data {word}.")):
        load(root)


def test_a_folder_around_cifar_names_it_and_images_go_before_a_file_beside_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    inner = write_files(tmp_path / "a" / "cifar-10-batches-py", cifar10_files())
    with pytest.raises(ValueError, match=re.escape(f"a holds cifar-10-batches-py: give --data {inner}.")):
        load(tmp_path / "a")
    root = write_folder(tmp_path / "b")
    reference = load(root)
    (root / "features.npz").write_bytes(b"")
    assert_same(load(root), reference)


# Data sets in Python


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([torch.zeros(3, 4, 4) - 1], [0], r"row 0 of the data set Listed has values from -1 to -1: .* \[0, 1\]"),
        ([torch.full((3, 4, 4), torch.nan)], [0], r"values from nan to nan"),
        ([torch.zeros(3, 4, 4, dtype=torch.int64)], [0], "row 0 .* has type int64"),
        (["a.png"], [0], "row 0 .* is a str: it must be a PIL image, a tensor or an array"),
        ([torch.zeros(3, 4, 4)], [0.5], "row 0 .* has the label 0.5"),
        ([torch.zeros(5, 4, 4)], [0], r"row 0 .* is a Tensor of type float32 and shape \(5, 4, 4\), where \(c, h, w\)"),
        ([3], [0], "row 0 of the data set Listed is an int: it must be a PIL image"),
    ],
)
def test_torch_errors(x: Any, y: Any, message: str) -> None:
    good = torch.zeros(3, 4, 4)
    with pytest.raises(ValueError, match=message):
        load(Listed([*x, good, good, good], [*y, 0, 1, 1]))


def test_float_pixels_are_rounded() -> None:
    x = [torch.full((1, 4, 4), value) for value in (0.999, 0.001, 0.5, 0.498)]
    data = load(Listed(x, [0, 0, 1, 1]), test_fraction=0.5, hold_out=False)
    values = torch.cat([data.train.x, data.test.x]).unique().tolist()
    assert values == [0, 127, 128, 255]  # 0.255, 126.99, 127.5 (to even), 254.7


def test_torch_items_must_be_pairs() -> None:
    with pytest.raises(
        ValueError, match=r"^row 0 of the data set list is an int and must be a pair of an image and a label"
    ):
        load([1, 2])
    with pytest.raises(ValueError, match="row 0 of the data set list is a tuple of 3 and must be a pair"):
        load([(torch.zeros(1, 4, 4), 0, "a.png")])


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (
            torch.zeros(8, 8, 3),
            "a Tensor of type float32 and shape (8, 8, 3), where (c, h, w) is expected, with c from 1 to 4, or (h, w); "
            "permute(2, 0, 1) brings its channels there.",
        ),
        (
            np.zeros((3, 8, 8)),
            "an ndarray of type float64 and shape (3, 8, 8), where (h, w, c) is expected, with c from 1 to 4, or "
            "(h, w); transpose(1, 2, 0) brings its channels there.",
        ),
        (
            torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
            "a Tensor of type uint8 and shape (2, 3, 8, 8), where (c, h, w) is expected, with c from 1 to 4, or (h, w)",
        ),
        (torch.tensor(0.5), "a Tensor of type float32 and shape (), where (c, h, w) is expected"),
        (torch.zeros(3, 0, 4), "a Tensor of type float32 and shape (3, 0, 4), which holds no pixel."),
    ],
)
def test_images_of_another_shape_are_told_as_the_user_has_them(image: Any, says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'row 0 of the data set Listed is {says}')}"):
        load(Listed([image] * 4, [0, 0, 1, 1]))


def test_what_is_no_map_style_data_set_is_told() -> None:
    with pytest.raises(
        ValueError, match=r"^the data set Listed is a class and must be an instance of it: Listed\(\.\.\."
    ):
        load(Listed)
    with pytest.raises(ValueError, match=r"^the data set dict is no source of images: give 'digits', .* a map-style"):
        load({"train": Listed([], [])})


def test_torch_pair_with_different_classes() -> None:
    x = [torch.zeros(1, 4, 4)] * 4
    with pytest.raises(ValueError, match="the test set Listed has the class 'c', which the training images have not"):
        load((Listed(x, [0, 0, 1, 1], ["a", "b"]), Listed(x, [0, 0, 1, 1], ["b", "c"])))
