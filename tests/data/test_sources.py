"""Every kind of source gives the same tensors for the same images, and one clear sentence when something is wrong."""

import io
import json
import pickle
import socket
import struct
import sys
import tarfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trajmatch.data import archives, parquet
from trajmatch.data.images import Dataset, export_folder, load
from trajmatch.data.records import natural

NAMES = ("ant", "bee", "cow")
TRAIN, TEST = 24, 9


def images(n: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pixels uint8 (n, 32, 32, 3) and labels (n,) of three classes."""
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), np.arange(n) % 3


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def assert_same(a: Dataset, b: Dataset) -> None:
    for split in ("train", "validation", "test"):
        first, second = getattr(a, split), getattr(b, split)
        assert len(first) > 0
        assert torch.equal(first.x, second.x)
        assert torch.equal(first.y, second.y)


# Writers: one per format. Each puts the same 24 + 9 images at `path` and returns what `load` is given.


def write_folder(path: Path, test: str = "test") -> Path:
    for split, (x, y) in (("train", images(TRAIN, 0)), (test, images(TEST, 1))):
        for i, (pixels, label) in enumerate(zip(x, y, strict=True)):
            file = path / split / NAMES[label] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(pixels))
    return path


def write_npz(path: Path) -> Path:
    (x, y), (test_x, test_y) = images(TRAIN, 0), images(TEST, 1)
    np.savez(path, x_train=x, y_train=y, x_test=test_x, y_test=test_y, classes=np.array(NAMES))
    return path.with_suffix(".npz")


def write_medmnist(path: Path) -> Path:
    (x, y), (test_x, test_y) = images(TRAIN, 0), images(TEST, 1)
    val = {"val_images": x[:3], "val_labels": y[:3, None]}
    x, test_x = x.transpose(0, 3, 1, 2), test_x.transpose(0, 3, 1, 2)
    np.savez(path, train_images=x, train_labels=y[:, None], test_images=test_x, test_labels=test_y[:, None], **val)
    return path.with_suffix(".npz")


def write_table(
    file: Path, x: Any, y: Any, columns: tuple[str, str] = ("image", "label"), described: bool = True
) -> Path:
    """A Parquet file as `datasets` writes it."""
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    structs = [{"bytes": item if item is None or isinstance(item, bytes) else png(item), "path": None} for item in x]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({columns[0]: pyarrow.array(structs, kind), columns[1]: pyarrow.array([int(i) for i in y])})
    if described:
        features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": list(NAMES), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(table, file)
    return file


def write_parquet(path: Path) -> Path:
    (x, y), (test_x, test_y) = images(TRAIN, 0), images(TEST, 1)
    write_table(path / "train-00000-of-00002.parquet", x[:10], y[:10])
    write_table(path / "train-00001-of-00002.parquet", x[10:], y[10:])
    write_table(path / "test-00000-of-00001.parquet", test_x, test_y)
    write_table(path / "validation-00000-of-00001.parquet", x[:3], y[:3])
    return path


def cifar_batch(x: Any, y: Any, key: str = "labels") -> bytes:
    flat = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(len(x), 3072)
    return pickle.dumps({"data": flat, key: [int(i) for i in y], "batch_label": "a batch"}, protocol=2)


def cifar10_files() -> dict[str, bytes]:
    (x, y), (test_x, test_y) = images(TRAIN, 0), images(TEST, 1)
    files = {f"data_batch_{i + 1}": cifar_batch(x[i::5], y[i::5]) for i in range(5)}
    meta = pickle.dumps({"label_names": list(NAMES), "num_vis": 3072}, protocol=2)
    return {**files, "test_batch": cifar_batch(test_x, test_y), "batches.meta": meta}


def cifar100_files() -> dict[str, bytes]:
    key = "fine_labels"
    meta = pickle.dumps({"fine_label_names": list(NAMES), "coarse_label_names": ["thing"]}, protocol=2)
    return {"train": cifar_batch(*images(TRAIN, 0), key), "test": cifar_batch(*images(TEST, 1), key), "meta": meta}


def write_files(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    file = path.with_suffix(".tar.gz")
    with tarfile.open(file, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


class Listed(torch.utils.data.Dataset[Any]):
    """A map-style data set of given items."""

    def __init__(self, x: Any, y: Any, classes: Any = None) -> None:
        self.x, self.y = x, y
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        return self.x[i], self.y[i]


def pair(convert: Callable[[Any], Any]) -> Callable[[Path], Any]:
    def write(_: Path) -> Any:
        (x, y), (test_x, test_y) = images(TRAIN, 0), images(TEST, 1)
        train = Listed([convert(item) for item in x], y.tolist(), list(NAMES))
        return train, Listed([convert(item) for item in test_x], y[:TEST].tolist())

    return write


def channels_first(item: Any) -> torch.Tensor:
    return torch.from_numpy(item.transpose(2, 0, 1).copy())


WRITERS: dict[str, Callable[[Path], Any]] = {
    "folder": write_folder,
    "validation folder": lambda path: write_folder(path, "val"),
    "npz": write_npz,
    "medmnist": write_medmnist,
    "parquet": write_parquet,
    "parquet in data": lambda path: write_parquet(path / "data").parent if not path.mkdir() else path,
    "cifar10": lambda path: write_files(path, cifar10_files()),
    "cifar10 tar": lambda path: write_tar(path, cifar10_files()),
    "cifar100": lambda path: write_files(path, cifar100_files()),
    "cifar100 tar": lambda path: write_tar(path, cifar100_files()),
    "PIL pair": pair(Image.fromarray),
    "array pair": pair(lambda item: item),
    "uint8 tensor pair": pair(channels_first),
    "float tensor pair": pair(lambda item: channels_first(item) / 255),
    "float64 array pair": pair(lambda item: item / 255.0),
}


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
    with pytest.raises(ValueError, match="has no class folders"):
        load(root / "train" / "ant" / "..", classes=None) if False else load(tmp_path_empty(tmp_path))
    with pytest.raises(ValueError, match="has images but no class folders"):
        load(root / "train" / "ant")
    (root / "train").rename(root / "training")
    with pytest.raises(ValueError, match="has a folder 'test' but no folder 'train'"):
        load(root)


def tmp_path_empty(tmp_path: Path) -> Path:
    path = tmp_path / "empty"
    path.mkdir()
    return path


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
    with pytest.raises(ValueError, match=r"flower does not exist, did you mean 'flowers'\?"):
        load(tmp_path / "flower")
    with pytest.raises(ValueError, match=r"digit does not exist, did you mean 'digits'\?"):
        load("digit")
    with pytest.raises(ValueError, match="zzzz does not exist: give 'digits', a folder"):
        load(tmp_path / "zzzz")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="roses does not exist"):  # beside a folder: not a name on the Hub
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
        ({"x": np.array([{}], dtype=object), "y": np.arange(1)}, "cannot be read as .npz"),  # would need pickle
    ],
)
def test_npz_errors(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "a.npz")


def test_npz_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.npz cannot be read as \.npz arrays"):
        load(tmp_path / "a.npz")


# Data sets in Python


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([torch.zeros(3, 4, 4) - 1], [0], r"row 0 of the data set Listed has values from -1 to -1: .* \[0, 1\]"),
        ([torch.full((3, 4, 4), torch.nan)], [0], r"values from nan to nan"),
        ([torch.zeros(3, 4, 4, dtype=torch.int64)], [0], "row 0 .* has type int64"),
        (["a.png"], [0], "row 0 .* is a str: it must be a PIL image, a tensor or an array"),
        ([torch.zeros(3, 4, 4)], [0.5], "row 0 .* has the label 0.5"),
        ([torch.zeros(5, 4, 4)], [0], "row 0 .* cannot be read"),
    ],
)
def test_torch_errors(x: Any, y: Any, message: str) -> None:
    good = torch.zeros(3, 4, 4)
    with pytest.raises(ValueError, match=message):
        load(Listed([*x, good, good, good], [*y, 0, 1, 1]))


def test_torch_items_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="row 0 of the data set list is a int: it must be a pair"):
        load([1, 2])


def test_torch_pair_with_different_classes() -> None:
    x = [torch.zeros(1, 4, 4)] * 4
    with pytest.raises(ValueError, match="have different classes"):
        load((Listed(x, [0, 0, 1, 1], ["a", "b"]), Listed(x, [0, 0, 1, 1], ["b", "a"])))


# CIFAR archives


def python2_batch(x: Any, y: Any) -> bytes:
    """The opcodes with which Python 2 wrote the published batches."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    flat = x.transpose(0, 3, 1, 2).tobytes()
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    rebuilt = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    size = b"J" + struct.pack("<i", len(x))
    state = b"(K\x01" + size + b"M\x00\x0c\x86" + dtype + b"\x89T" + struct.pack("<i", len(flat)) + flat + b"tb"
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in y) + b"e"
    return b"\x80\x02}(" + text(b"data") + rebuilt + state + text(b"labels") + labels + b"u."


def test_batches_written_by_python_2() -> None:
    x, y = images(5, 0)
    content = archives.unpickle(python2_batch(x, y), "a batch")
    np.testing.assert_array_equal(content["data"], x.transpose(0, 3, 1, 2).reshape(5, 3072))
    assert content["labels"] == y.tolist()


class Command:
    """Runs something when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_that_run_code_are_refused(tmp_path: Path, protocol: int) -> None:
    victim = tmp_path / "victim"
    victim.write_text("alive")
    for call in (Command(victim.unlink), Command(eval, f"open({str(victim)!r}, 'w')"), Command(getattr, {}, "clear")):
        files = cifar10_files() | {"data_batch_3": pickle.dumps({"data": call}, protocol=protocol)}
        with pytest.raises(ValueError, match=r"data_batch_3 is refused as a CIFAR archive: it asks for \w+\."):
            load(write_tar(tmp_path / "cifar", files))
        assert victim.read_text() == "alive"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"data": np.zeros((1, 3072))}, protocol=2), "an array of type 'f8'"),
        (pickle.dumps({"data": np.array([None])}, protocol=2), "an array of type 'O8'"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8, "F")}, protocol=2), "not plain bytes in C order"),
        (pickle.dumps([1], protocol=2), "it holds a list, not a dict"),
        (b"cnumpy\nndarray\n}b.", "is refused"),  # sets attributes of a global
        (b"cnumpy\nload\n.", "it asks for numpy.load"),
        (b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00utf-7\x86R.", "codec 'utf-7'"),
        (b"", "is refused"),
    ],
)
def test_other_pickles_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        archives.unpickle(content, "a batch")


def test_incomplete_archives(tmp_path: Path) -> None:
    files = cifar10_files()
    del files["data_batch_4"]
    with pytest.raises(ValueError, match="it has no file 'data_batch_4'"):
        load(write_files(tmp_path / "a", files))
    files = cifar10_files() | {"data_batch_1": cifar_batch(*images(5, 0), "other")}
    with pytest.raises(ValueError, match=r"data_batch_1 must have 'data', bytes \(n, 3072\), and a list 'labels'"):
        load(write_files(tmp_path / "b", files))
    files = cifar10_files() | {"batches.meta": pickle.dumps({}, protocol=2)}
    with pytest.raises(ValueError, match=r"batches\.meta has no list 'label_names'"):
        load(write_files(tmp_path / "c", files))
    (tmp_path / "d.tar.gz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"d\.tar\.gz cannot be read as a tar archive"):
        load(tmp_path / "d.tar.gz")
    whole = write_tar(tmp_path / "e", cifar10_files()).read_bytes()
    (tmp_path / "f.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"f\.tar\.gz cannot be read as a tar archive"):
        load(tmp_path / "f.tar.gz")


# Parquet and the Hub


def test_parquet_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = images(6, 0)
    with pytest.raises(ValueError, match=r"row 2 of .*a\.parquet has no image bytes in column 'image'"):
        load(write_table(tmp_path / "a.parquet", [*x[:2], None, *x[3:]], y))
    with pytest.raises(ValueError, match=r"b\.parquet has the columns picture, label: .* one image column named image"):
        load(write_table(tmp_path / "b.parquet", x, y, ("picture", "label"), described=False))
    with pytest.raises(ValueError, match="it must have one label column named label or fine_label"):
        load(write_table(tmp_path / "c.parquet", x, y, ("image", "kind"), described=False))
    assert load(write_table(tmp_path / "d.parquet", x, y, ("picture", "kind")), hold_out=False).classes == NAMES
    with pytest.raises(ValueError, match=r"row 0 of .*e\.parquet has the label -1: labels must be 0 to 2"):
        load(write_table(tmp_path / "e.parquet", x, y - 1))
    (tmp_path / "f.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"f\.parquet cannot be read as Parquet"):
        load(tmp_path / "f.parquet")
    for part in ("one", "two"):
        write_table(tmp_path / "g" / part / "train.parquet", x, y) if (tmp_path / "g").mkdir(
            exist_ok=True
        ) is None else 0
    with pytest.raises(ValueError, match=r"several folders \(one, two\): give one of them"):
        load(tmp_path / "g")
    monkeypatch.setattr(parquet.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"needs the package pyarrow: install it with: pip install 'trajmatch\[hf\]'"):
        load(tmp_path / "d.parquet")


def test_hub_names_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"'owner/name' is no local file .*: pip install 'trajmatch\[hf\]'"):
        load("owner/name")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A stand-in for the package `datasets` and for the network; `splits` is what the Hub has."""
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    def split(seed: int, n: int) -> Any:
        table = pyarrow.parquet.read_table(write_table(tmp_path / "hub.parquet", *images(n, seed)))
        features = types.SimpleNamespace(arrow_schema=table.schema)
        bare = table.replace_schema_metadata(None)
        return types.SimpleNamespace(features=features, with_format=lambda _: {slice_key(): bare})

    state = types.SimpleNamespace(splits={"train": split(0, TRAIN), "test": split(1, TEST)}, error=None, connects=True)

    def load_dataset(_: str) -> Any:
        if state.error is not None:
            raise state.error
        return state.splits

    def connect(*_: Any, **__: Any) -> Any:
        if not state.connects:
            raise OSError("no network")
        return types.SimpleNamespace(close=lambda: None)

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr(parquet, "_require", lambda *_: None)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(parquet.urllib.request, "getproxies", dict)
    for key in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(key, raising=False)
    return state


class slice_key:
    """Equal to the full slice, which is not hashable before Python 3.12."""

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, slice | slice_key)


def test_hub_names(tmp_path: Path, hub: types.SimpleNamespace) -> None:
    data = load("owner/name", seed=2)
    assert data.name == "name"
    assert data.classes == NAMES
    assert_same(data, load(write_folder(tmp_path / "reference"), seed=2))
    hub.splits = {"a": hub.splits["train"], "b": hub.splits["test"]}
    with pytest.raises(ValueError, match="has the splits a, b: one must be named 'train'"):
        load("owner/name")


def test_hub_names_without_a_network(hub: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.connects = False
    message = "'owner/name' is no local file or folder and the Hugging Face Hub cannot be reached: give a local Parquet"
    with pytest.raises(ValueError, match=message):
        load("owner/name")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # then the local cache is asked
    assert load("owner/name").classes == NAMES
    hub.error = ConnectionError("not in the cache\nand more")
    with pytest.raises(
        ValueError, match=r"'owner/name' cannot be loaded .* \(not in the cache\): give a local Parquet"
    ):
        load("owner/name")
