"""Parquet files whose splits are in their names, saved data sets, and labels that mean something else elsewhere."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.sample_images import Listed
from tests.data.user_images import counts, encoded, noise, read

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def table(labels: Any, seed: int, names: tuple[str, ...] | None = ("cat", "dog"), column: str = "label") -> Any:
    """An arrow table of images of their own, described as `datasets` does."""
    images = [{"bytes": encoded(noise(1000 * seed + i)), "path": None} for i in range(len(labels))]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    found = pyarrow.table({"image": pyarrow.array(images, kind), column: pyarrow.array(labels, pyarrow.int64())})
    if names is None:
        return found
    features = {"image": {"_type": "Image"}, column: {"names": list(names), "_type": "ClassLabel"}}
    return found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


TRAIN, TEST = [0, 1] * 4, [0, 1] * 2


def write(file: Path, labels: Any, seed: int, names: tuple[str, ...] | None = ("cat", "dog")) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table(labels, seed, names), file)
    return file


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("x_train.parquet", "x_test.parquet"),
        ("mnist-Train.parquet", "mnist-Test.parquet"),
        ("TRAIN.parquet", "dev.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"),
        ("training/a.parquet", "testing/a.parquet"),
        ("a/b/c/train.parquet", "a/b/c/eval.parquet"),
    ],
)
def test_splits_in_the_names_of_files_and_folders(tmp_path: Path, train: str, test: str) -> None:
    write(tmp_path / "a" / train, TRAIN, 0)
    write(tmp_path / "a" / test, TEST, 1)
    data = read(tmp_path / "a")
    assert (data.classes, counts(data)) == (("cat", "dog"), (8, 4))
    assert "(the split '" in data.read


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["binary/train/0.parquet", "default/train/0.parquet"],
            r"several folders \(binary, default\): give one of them",
        ),
        (["mnist_train.parquet", "fashion_train.parquet", "mnist_test.parquet"], "files of several data sets"),
        (["cifar10_train.parquet", "cifar100_train.parquet"], "files of several data sets"),
        (["cats.parquet", "dogs.parquet"], "neither named as splits nor pieces of one table"),
        (["cifar10.parquet", "cifar100.parquet"], "neither named as splits nor pieces of one table"),
        (["mnist.parquet", "mnist_test.parquet"], "has mnist.parquet beside a test split: say which by"),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path: Path, files: list[str], message: str) -> None:
    for seed, file in enumerate(files):
        write(tmp_path / "a" / file, TRAIN, seed)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a")


@pytest.mark.parametrize(
    "files",
    [
        ["part-1.parquet", "part-2.parquet"],
        ["0000.parquet", "0001.parquet"],
        ["pets1.parquet", "pets2.parquet"],
        ["data-00000-of-00002-8f3c1e9a.parquet", "data-00001-of-00002-ab3c1e9a.parquet"],
    ],
)
def test_pieces_of_one_table_are_joined(tmp_path: Path, files: list[str]) -> None:
    for seed, file in enumerate(files):
        write(tmp_path / "a" / file, TRAIN, seed)
    data = read(tmp_path / "a")
    assert counts(data) == (12, 4)
    assert "drawn from the training images" in data.read


def test_a_column_that_names_splits_is_told(tmp_path: Path) -> None:
    whole = table(TRAIN, 0).append_column("split", pyarrow.array(["train"] * 6 + ["test"] * 2))
    parquet.write_table(whole, tmp_path / "a.PARQUET")
    assert "the column 'split' is not heeded" in read(tmp_path / "a.PARQUET").read
    assert "the column 'split' is not heeded" in read(tmp_path).read


def test_settings_name_files(tmp_path: Path) -> None:
    write(tmp_path / "cats.parquet", TRAIN, 0)
    write(tmp_path / "dogs.parquet", TEST, 1)
    write(tmp_path / "sub" / "train" / "0.parquet", TEST, 2)
    assert counts(read(tmp_path, train_split="cats", test_split="dogs.parquet")) == (8, 4)
    assert counts(read(tmp_path, train_split="cats.parquet", test_split="none")) == (6, 2)
    with pytest.raises(ValueError, match=r"--images.train-split is 'birds' and .* has the files cats.parquet, dogs"):
        read(tmp_path, train_split="birds")


def test_class_names_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    write(reference / "train.parquet", TRAIN, 0)
    write(reference / "test.parquet", TEST, 1)
    other = tmp_path / "other"
    write(other / "train.parquet", TRAIN, 0)
    write(other / "test.parquet", [1 - label for label in TEST], 1, ("dog", "cat"))
    first, second = read(reference), read(other)
    assert torch.equal(first.test.x, second.test.x)
    assert torch.equal(first.test.y, second.test.y)
    assert "were matched by name" in second.read
    write(other / "test.parquet", TEST, 1, ("cat", "cow"))
    with pytest.raises(ValueError, match=r"test\.parquet has the class 'cow', which the training images have not"):
        read(other)
    write(other / "test.parquet", [1, 1, 2, 2], 1, ("cow", "cat", "dog"))  # no cow is there
    assert read(other).test.y.tolist() == [0, 0, 1, 1]


def test_pieces_of_one_split_with_names_in_another_order(tmp_path: Path) -> None:
    write(tmp_path / "a" / "train-0.parquet", TRAIN, 0)
    write(tmp_path / "a" / "train-1.parquet", [1] * 4, 1, ("dog", "cat"))
    data = read(tmp_path / "a", test_fraction=0.1)
    assert torch.bincount(torch.cat([data.train.y, data.test.y])).tolist() == [8, 4]


@pytest.mark.parametrize("missing", [[-1] * 4, [None] * 4])
def test_an_unlabelled_test_split_gives_way_to_validation(tmp_path: Path, missing: list[int | None]) -> None:
    write(tmp_path / "a" / "train.parquet", TRAIN, 0)
    write(tmp_path / "a" / "test.parquet", missing, 1)
    with pytest.raises(ValueError, match=r"the split 'test' of a has no labels .* --images.test-split"):
        read(tmp_path / "a")
    assert counts(read(tmp_path / "a", test_split="none")) == (6, 2)
    write(tmp_path / "a" / "validation.parquet", TEST, 2)
    data = read(tmp_path / "a")
    assert counts(data) == (8, 4)
    assert "(the split 'validation')" in data.read
    assert "left out: the split 'test', which has no labels" in data.read


def save_to_disk(folder: Path, found: Any, *, described: bool = True, file_format: bool = False) -> None:
    """A split as `datasets.Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    files = [f"data-{i:05d}-of-00002.arrow" for i in range(2)]
    features = json.loads(found.schema.metadata[b"huggingface"])["info"]["features"]
    stored = found if described else found.replace_schema_metadata(None)
    for file, part in zip(files, (stored.slice(0, 3), stored.slice(3)), strict=True):
        new = pyarrow.ipc.new_file if file_format else pyarrow.ipc.new_stream
        with pyarrow.OSFile(str(folder / file), "wb") as sink, new(sink, part.schema) as writer:
            writer.write_table(part)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": file} for file in files]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


@pytest.mark.parametrize("described", [True, False])
def test_saved_data_sets(tmp_path: Path, described: bool) -> None:
    save_to_disk(tmp_path / "a" / "train", table(TRAIN, 0), described=described)
    save_to_disk(tmp_path / "a" / "test", table(TEST, 1), described=described, file_format=described)
    (tmp_path / "a" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    data = read(tmp_path / "a")
    assert (data.classes, counts(data)) == (("cat", "dog"), (8, 4))
    assert counts(read(tmp_path / "a" / "train")) == (6, 2)
    assert counts(read(tmp_path / "a", train_split="test", test_split="train")) == (4, 8)
    (tmp_path / "a" / "test" / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"state\.json has no list of data files"):
        read(tmp_path / "a")
    (tmp_path / "a" / "train" / "data-00001-of-00002.arrow").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"data-00001-of-00002\.arrow cannot be read as Arrow"):
        read(tmp_path / "a")


# Names that repeat, and other sources of the same kinds


def test_repeated_class_names_are_told_apart(tmp_path: Path) -> None:
    x = np.stack([noise(i) for i in range(12)])
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(12) % 3, classes=np.array(["crane", "owl", "crane"]))
    data = read(tmp_path / "a.npz")
    assert data.classes == ("crane (0)", "owl", "crane (2)")
    assert "class names that occur more than once ('crane') are told apart by their numbers" in data.read
    write(tmp_path / "b.parquet", TRAIN, 0, ("cat", "cat"))
    assert read(tmp_path / "b.parquet").classes == ("cat (0)", "cat (1)")
    listed = Listed(list(x), [i % 2 for i in range(12)], ["cat", "cat"])
    assert read(listed).classes == ("cat (0)", "cat (1)")
    np.savez(tmp_path / "c.npz", x=x, y=np.arange(12) % 2, classes=np.array([b"cat", b"dog"]))
    assert read(tmp_path / "c.npz").classes == ("cat", "dog")


def test_npz_splits(tmp_path: Path) -> None:
    x, y = np.stack([noise(i) for i in range(20)]), np.arange(20) % 2
    some = {"x_train": x[:12], "y_train": y[:12], "x_test": x[12:16], "y_test": y[12:16] * 0 - 1}
    np.savez(tmp_path / "a.npz", **some)
    with pytest.raises(ValueError, match=r"the test split of .* has no labels .* --images.test-split"):
        read(tmp_path / "a.npz")
    assert counts(read(tmp_path / "a.npz", test_split="none")) == (8, 4)
    np.savez(tmp_path / "a.npz", **some, x_val=x[16:], y_val=y[16:])
    data = read(tmp_path / "a.npz")
    assert counts(data) == (12, 4)
    assert "('x_val')" in data.read
    assert "left out: the split 'test', whose labels are all -1" in data.read
    np.savez(tmp_path / "b.npz", x_one=x[:12], y_one=y[:12], x_two=x[12:], y_two=y[12:])
    assert counts(read(tmp_path / "b.npz", train_split="one", test_split="two")) == (12, 8)
    with pytest.raises(ValueError, match=r"must have x_three and y_three, as --images.train-split says"):
        read(tmp_path / "b.npz", train_split="three")


def test_data_sets_in_python_with_names_in_another_order() -> None:
    x = [noise(i) for i in range(12)]
    train = Listed(x[:8], [0, 1] * 4, ["cat", "dog"])
    data = read((train, Listed(x[8:], [0, 0, 0, 1], ["dog", "cat"])))
    assert torch.bincount(data.test.y).tolist() == [1, 3]
    assert "were matched by name" in data.read
