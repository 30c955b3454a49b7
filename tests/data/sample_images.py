"""The same small images in every format that `load` reads."""

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trajmatch.data.images import Dataset

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
    pytest.importorskip("pyarrow.parquet")

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
        return train, Listed([convert(item) for item in test_x], test_y.tolist())

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
