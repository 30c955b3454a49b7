"""Files whole or not at all: whatever fails on the way, the old file stays and nothing is left beside it."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from trajmatch.data import checksums, files
from trajmatch.data import tensors as tensor_files
from trajmatch.data.files import is_share, read_header, read_json, replacing, write_json, write_text
from trajmatch.data.tensors import read_tensors, save_tensors
from trajmatch.data.trajectories import save_trajectory

OLD, NEW = {"x": torch.arange(4.0)}, {"x": torch.zeros(4)}


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """The file keeps its bytes, and its folder its contents."""
    before = path.read_bytes(), sorted(p.name for p in path.parent.iterdir())
    yield
    assert (path.read_bytes(), sorted(p.name for p in path.parent.iterdir())) == before


def half_written(error: BaseException) -> Callable[..., None]:
    def write(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half a file")
        raise error

    return write


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (SafetensorError("I/O error: No space left on device (os error 28)"), OSError),
        (SafetensorError("something else"), OSError),
        (OSError(28, "No space left on device"), OSError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["wrapped", "unknown", "system", "interrupt"],
)
def test_a_save_that_fails_half_way(
    error: BaseException, raised: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    save_tensors(path, OLD, {})
    monkeypatch.setattr(tensor_files, "save_file", half_written(error))
    with unchanged(path):
        with pytest.raises(raised):
            save_tensors(path, NEW, {})
        with pytest.raises(raised):
            save_trajectory(path, [NEW["x"], OLD["x"]], {})
    assert torch.equal(read_tensors(path)["x"], OLD["x"])


def test_a_wrapped_system_error_keeps_its_number_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_files, "save_file", half_written(SafetensorError("I/O error: (os error 28)")))
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_tensors(tmp_path / "x", NEW, {})
    assert (caught.value.errno, caught.value.filename) == (28, str(tmp_path / "x"))


def test_an_error_inside_the_block_is_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_text(path, "old")

    def fail_inside() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            assert temporary.parent == path.parent  # a rename across file systems would not be atomic
            raise ZeroDivisionError

    with unchanged(path), pytest.raises(ZeroDivisionError):
        fail_inside()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_cannot_hold_are_refused(value: float, tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_json(path, {"a": 1})
    with unchanged(path), pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": value})
    save_tensors(path, OLD, {})
    with unchanged(path), pytest.raises(ValueError, match="JSON"):
        save_tensors(path, NEW, {"a": value})


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o027])
def test_files_have_the_permissions_of_any_new_file(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        save_tensors(tmp_path / "tensors", OLD, {})
        write_text(tmp_path / "text", "x")
        after = os.umask(mask)  # the only way to read it: saving must have left it alone
    finally:
        os.umask(before)
    assert after == mask
    for name in ("tensors", "text"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~mask


def test_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(files.os, name, lambda *a, name=name, real=real: (order.append(name), real(*a))[1])
    write_text(tmp_path / "x", "new")
    assert order == ["fsync", "replace"]
    assert (tmp_path / "x").read_text() == "new"


def test_a_round_trip_keeps_dtype_shape_and_header(tmp_path: Path) -> None:
    tensors = {
        "strided": torch.arange(12.0).view(3, 4).T,
        "scalar": torch.tensor(0.1, dtype=torch.float64),
        "step": torch.tensor(7),
    }
    header = {"kind": "é", "list": [1, None, True], "nested": {"a": 0.1}}
    save_tensors(tmp_path / "x", tensors, header)
    assert read_header(tmp_path / "x") == header
    found = read_tensors(tmp_path / "x")
    assert found.keys() == tensors.keys()
    for name, wanted in tensors.items():
        assert found[name].dtype == wanted.dtype
        assert torch.equal(found[name], wanted)


@pytest.mark.parametrize("content", [[1, 2], "text", 3])
def test_a_header_that_is_no_record(content: Any, tmp_path: Path) -> None:
    save_file(OLD, tmp_path / "x", metadata={checksums.HEADER: json.dumps(content)})
    with pytest.raises(ValueError, match=r"x: its header is not a record"):
        read_header(tmp_path / "x")


def test_a_header_that_is_no_json(tmp_path: Path) -> None:
    save_file(OLD, tmp_path / "x", metadata={checksums.HEADER: "{"})
    with pytest.raises(ValueError, match=r"x: this is not a file that trajmatch wrote"):
        read_header(tmp_path / "x")


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 0.5', b"[]", b"3", b"null", b"\xff\xfe"])
def test_a_damaged_record_names_its_file_and_the_remedy(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with unchanged(path), pytest.raises(ValueError, match=r"x\.json: this record is damaged .*; delete it$"):
        read_json(path, lambda found: isinstance(found, dict), "delete it")


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "x", {"a": 0.1 + 0.2})
    assert read_json(tmp_path / "x", lambda found: "a" in found, "") == {"a": 0.1 + 0.2}


def test_what_an_accuracy_in_a_file_may_be() -> None:
    assert all(map(is_share, (0, 0.5, 1, 1.0)))
    assert not any(map(is_share, (-0.1, 1.1, float("nan"), True, "0.5", None, [0.5])))
