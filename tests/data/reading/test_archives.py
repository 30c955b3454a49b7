"""CIFAR archives: what the authors' files contain is read, and every other pickle is refused without being run."""

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.sample_images import cifar10_files, cifar_batch, images, write_files, write_tar
from trajmatch.data.images import load
from trajmatch.data.reading import archives


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
    with pytest.raises(
        ValueError, match=r"d\.tar\.gz cannot be read as a tar archive: .* damaged, or no tar archive\.$"
    ):
        load(tmp_path / "d.tar.gz")
    whole = write_tar(tmp_path / "e", cifar10_files()).read_bytes()
    (tmp_path / "f.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=r"f\.tar\.gz cannot be read as a tar archive: .* damaged, or no tar archive\.$"
    ):
        load(tmp_path / "f.tar.gz")
