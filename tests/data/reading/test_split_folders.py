"""Folders whose splits have any usual name, folders whose classes only look like splits, and what is left out."""

import os
from pathlib import Path

import pytest

from tests.data.user_images import counts, fill, noise, put, read, split_tree, tree


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Training", "Testing"),
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("seg_train", "seg_test"),
        ("train", "dev"),
        ("train", "eval"),
        ("training_set", "test_set"),
        ("train_images", "test_images"),
        ("images_train", "images_val"),
        ("train2017", "val2017"),
        ("TrainData", "TestData"),
        ("ILSVRC_train", "ILSVRC_val"),
        ("trainset", "holdout"),
        ("tr", "te"),
    ],
)
def test_splits_by_any_usual_name(tmp_path: Path, train: str, test: str) -> None:
    data = read(split_tree(tmp_path / "a", train, test))
    assert data.classes == ("cat", "dog")
    assert counts(data) == (8, 4)
    assert f"(the folder '{test}')" in data.read


@pytest.mark.parametrize("around", ["archive", "archive/data", "archive/data/images"])
def test_folders_around_the_splits_are_passed(tmp_path: Path, around: str) -> None:
    split_tree(tmp_path / "a" / around, "train", "test")
    (tmp_path / "a" / "docs").mkdir()
    (tmp_path / "a" / "docs" / "license.txt").write_text("free")
    data = read(tmp_path / "a")
    assert (data.classes, counts(data)) == (("cat", "dog"), (8, 4))
    assert f"read from its folder '{around}'" in data.read
    assert "1 folder beside those that are read (docs)" in data.read


def test_a_split_in_a_folder_of_its_own_name(tmp_path: Path) -> None:
    split_tree(tmp_path / "a", "seg_train/seg_train", "seg_test/seg_test")
    fill(tmp_path / "a" / "seg_pred" / "seg_pred", 3, 9)
    data = read(tmp_path / "a")
    assert (data.classes, counts(data)) == (("cat", "dog"), (8, 4))
    assert "1 folder beside those that are read (seg_pred)" in data.read


def test_classes_that_are_called_like_splits(tmp_path: Path) -> None:
    assert read(tree(tmp_path / "a", "bus", "train", "plane")).classes == ("bus", "plane", "train")
    assert read(tree(tmp_path / "b", "bus/x", "train/x", "plane/x")).classes == ("bus", "plane", "train")
    assert read(tree(tmp_path / "c", "bullet_train", "steam_train", "tram")).classes[0] == "bullet_train"
    assert read(tree(tmp_path / "d", "flask", "test_tube", "beaker")).classes == ("beaker", "flask", "test_tube")
    data = read(tree(tmp_path / "e", "train/bus", "train/train", "train/plane", "test/train", "test/bus", "test/plane"))
    assert (data.classes, counts(data)) == (("bus", "plane", "train"), (12, 12))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train", "test"], "has the folders train, test, which may be splits, but 'train' has fewer than two class"),
        (["cats_train", "dogs_train", "cats_test", "dogs_test"], "which may be splits"),
        (["train/cat", "train/dog", "extra/cat", "extra/dog"], "beside extra, which may be classes or another split"),
        (["train/cat", "train/dog", "bus"], "has a folder 'train' beside bus"),
        (["train/cat", "train/dog", "train_2/cat", "train_2/dog"], r"may be the training split \(train, train_2\)"),
        (["train/cat", "train/dog", "test/cat", "test/dog", "test1/cat", "test1/dog"], "may be the test split"),
        (["train/cat", "train/dog", "test"], "test has no class folders with images, so no labels"),
        (["train/cat", "train/dog", "test/images"], "test has no class folders"),
        (["test/cat", "test/dog"], "has a folder 'test' but no folder 'train' beside it"),
        (["test/cat", "test/dog", "val/cat", "val/dog"], "but no folder 'train' beside it"),
        (["cat", "dog", "test"], "has a folder 'test' but no folder 'train' beside it"),
        (["images/a", "images/b", "masks/a", "masks/b"], "images, masks, which all hold the folders a, b: say which"),
        (
            ["cat/train", "cat/test", "dog/train", "dog/test"],
            "cat holds the folders 'train' and 'test': put the splits",
        ),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path: Path, folders: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tree(tmp_path / "a", *folders))


def test_settings_name_the_splits(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "train/cat", "train/dog", "extra/cat", "extra/dog", "test")
    data = read(root, train_split="train", test_split="extra")
    assert (counts(data), "(the folder 'extra')" in data.read) == ((8, 8), True)
    assert counts(read(root, test_split="extra")) == (8, 8)
    assert counts(read(root, train_split="extra", test_split="none")) == (6, 2)
    classes = read(tree(tmp_path / "b", "cat", "dog", "test"), train_split=".").classes
    assert classes == ("cat", "dog", "test")
    for arguments, message in (
        ({"train_split": "trein"}, "--images.train-split is 'trein' and must be a folder in .* has extra, test, train"),
        ({"train_split": ""}, "--images.train-split is ''"),
        ({"train_split": "train", "test_split": "train"}, "is the training split"),
        ({"train_split": ".", "test_split": "test"}, "is the training split '.*', or one of them lies in the other"),
    ):
        with pytest.raises(ValueError, match=message):
            read(root, **arguments)
    with pytest.raises(ValueError, match=r"--images.test-split is 'test' and has no effect on the digits"):
        read("digits", test_split="test")


def test_an_unlabelled_test_folder_gives_way_to_validation(tmp_path: Path) -> None:
    root = split_tree(tmp_path / "a", "train", "val")
    fill(root / "test", 3, 9)
    data = read(root)
    assert counts(data) == (8, 4)
    assert "(the folder 'val')" in data.read
    assert "1 folder beside those that are read (test)" in data.read


def test_a_stray_image_beside_the_class_folders(tmp_path: Path) -> None:
    root = split_tree(tmp_path / "a", "train", "test")
    put(root / "train" / "cover.png", noise(1))
    data = read(root)
    assert (data.classes, counts(data)) == (("cat", "dog"), (8, 4))
    assert "1 image beside the folders of classes" in data.read


def test_folders_that_hold_the_same_folders_may_be_classes(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "cat/front", "cat/side", "dog/front", "dog/side")
    with pytest.raises(ValueError, match="where the outer ones are the classes"):
        read(root)
    assert counts(read(root, train_split=".")) == (12, 4)


def test_validation_beside_test_is_left_out_and_told(tmp_path: Path) -> None:
    root = split_tree(tmp_path / "a", "train", "test")
    tree(root, "valid/cat", "valid/dog")
    data = read(root)
    assert counts(data) == (8, 4)
    assert "beside those that are read (valid)" in data.read


# Hidden folders, links, and files that are not read


HIDDEN = (".ipynb_checkpoints", ".Trash-1000", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "Thumbs", "lost+found")


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("place", ["cat", "cat/deeper", "."])
def test_hidden_folders_are_not_read(tmp_path: Path, name: str, place: str) -> None:
    root = tree(tmp_path / "a", "cat", "dog", "cat/deeper")
    reference = counts(read(root))
    fill(root / place / name, 3, 9)
    data = read(root)
    assert (data.classes, counts(data)) == (("cat", "dog"), reference)
    assert f"left out: 1 hidden or system folder ({name})" in data.read


def test_hidden_files_are_told(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "cat", "dog")
    (root / "cat" / "._1.png").write_bytes(b"a resource fork")
    (root / "cat" / "notes.txt").write_text("cats")
    put(root / "cover.png", noise(1))
    told = read(root).read
    assert "1 hidden file with an image's name" in told
    assert "1 other file (.txt 1)" in told
    assert "1 image beside the folders of classes or splits" in told


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "cat", "dog")
    elsewhere = fill(tmp_path / "elsewhere", 3, 9)
    (root / "cat" / "more").symlink_to(elsewhere, target_is_directory=True)
    assert sum(counts(read(root))) == 11
    (root / "cat" / "again").symlink_to(root / "cat", target_is_directory=True)
    (root / "cat" / "above").symlink_to(root, target_is_directory=True)
    (elsewhere / "back").symlink_to(root / "cat", target_is_directory=True)
    (root / "cat" / "twice").symlink_to(elsewhere, target_is_directory=True)
    data = read(root)
    assert sum(counts(data)) == 11
    assert "4 links to a folder that is read already or lies above" in data.read
    (root / "everything").symlink_to(root, target_is_directory=True)
    assert read(root).classes == ("cat", "dog")
    (root / "bird").symlink_to(fill(tmp_path / "birds", 4, 8), target_is_directory=True)
    assert read(root).classes == ("bird", "cat", "dog")


def test_formats(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "cat", "dog")
    put(root / "cat" / "a.JFIF", noise(1), format="JPEG")
    put(root / "cat" / "b.tga", noise(2))
    put(root / "cat" / "c.heic", noise(3), format="PNG")
    for name in ("d.svg", "e.SVG", "f.jxl"):
        (root / "dog" / name).write_bytes(b"some picture")
    put(root / "dog" / "without", noise(4), format="PNG")
    put(root / "dog" / "photo.jpg~", noise(5), format="JPEG")
    data = read(root)
    assert sum(counts(data)) == 10
    assert "left out: 4 images in formats that are not read (.svg 2, .heic 1, .jxl 1)" in data.read
    assert "left out: 2 images without an image's suffix" in data.read
    for i in range(2):
        put(root / "cow" / f"{i}.heic", noise(i), format="PNG")
    with pytest.raises(ValueError, match=r"cow has no images that can be read \(2 images in formats .* \(\.heic 2\)\)"):
        read(root)


def test_avif_is_read_where_pillow_can(tmp_path: Path) -> None:
    from PIL import features

    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    root = tree(tmp_path / "a", "cat", "dog")
    put(root / "cat" / "a.avif", noise(1))
    assert sum(counts(read(root))) == 9


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path) + b"/caf\xe9"
    for name in (b"cat", b"d\xf6g"):
        fill(Path(os.fsdecode(root + b"/" + name)), 4, len(name))
    data = read(Path(os.fsdecode(root)))
    assert data.name == "caf\ufffd"
    assert data.classes == ("cat", "d\ufffdg")
    data.read.encode("utf-8")
