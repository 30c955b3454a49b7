"""Parquet's errors, and Hub names with a stand-in for the network."""

import socket
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.data.sample_images import NAMES, TEST, TRAIN, assert_same, images, write_folder, write_table
from trajmatch.data.images import load
from trajmatch.data.reading import hub as hubs
from trajmatch.data.reading import parquet


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
    with pytest.raises(ValueError, match=r"f\.parquet cannot be read as Parquet: .*[^.]\.$"):
        load(tmp_path / "f.parquet")
    (tmp_path / "g").mkdir()
    for part in ("one", "two"):
        write_table(tmp_path / "g" / part / "train.parquet", x, y)
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
    pytest.importorskip("pyarrow.parquet")

    def split(seed: int, n: int) -> Any:
        table = pyarrow.parquet.read_table(write_table(tmp_path / "hub.parquet", *images(n, seed)))
        return StoredSplit(table)

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
    monkeypatch.setattr(parquet, "require", lambda *_: None)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(hubs.urllib.request, "getproxies", dict)
    for key in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(key, raising=False)
    return state


class StoredSplit:
    """As much of `datasets.Dataset` as is used."""

    def __init__(self, table: Any) -> None:
        self.features = types.SimpleNamespace(arrow_schema=table.schema)
        self.table = table.replace_schema_metadata(None)

    def with_format(self, kind: str) -> "StoredSplit":
        assert kind == "arrow"
        return self

    def __getitem__(self, rows: slice) -> Any:
        assert rows == slice(None)
        return self.table


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
