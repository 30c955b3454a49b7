"""Layouts of published data sets that nearly look like another one, special files, and damaged archives."""

import json
import os
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.sample_images import Listed
from tests.data.user_images import counts, noise, put, read, split_tree, tree
from trajmatch.data.reading.source import Source
from trajmatch.data.reading.sources import read as read_source


def test_a_copy_of_all_classes_among_them_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "cells", "ill", "well", "cells/ill", "cells/well")
    with pytest.raises(ValueError, match="cells holds the folders ill, well, as those beside it are called"):
        read(root)
    assert counts(read(root, train_split="cells", test_split="none")) == (6, 2)


def test_splits_deep_inside_of_a_class_are_refused(tmp_path: Path) -> None:
    """Two versions of one set, of which one has splits: they are no classes."""
    root = split_tree(tmp_path / "a" / "small" / "small", "train", "test").parents[1]
    tree(root, "large/large/cat", "large/large/dog")
    with pytest.raises(ValueError, match="small/small holds the folders 'train' and 'test'"):
        read(root)


def test_masks_in_folders_of_the_same_classes_are_no_class(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "birds/images/jay", "birds/images/owl", "segmentations/jay", "segmentations/owl")
    with pytest.raises(ValueError, match="which all hold the folders jay, owl"):
        read(root)
    data = read(root, train_split="birds/images")
    assert (data.classes, counts(data)) == (("jay", "owl"), (6, 2))


def test_names_are_the_same_however_their_accents_are_written(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "train/caf\u00e9", "train/zoo", "test/cafe\u0301", "test/zoo")
    data = read(root)
    assert (data.classes, counts(data)) == (("caf\u00e9", "zoo"), (8, 8))


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "cat", "dog")
    os.mkfifo(root / "cat" / "pipe.png")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(read(root).read), daemon=True)
    reader.start()
    reader.join(20)
    assert found
    assert "left out: 1 pipe or device with an image's name" in found[0]


def test_links_that_lead_in_a_circle(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "cat", "dog")
    os.symlink("one", root / "two")
    os.symlink("two", root / "one")
    os.symlink("nowhere", root / "owl")
    data = read(root)
    assert data.classes == ("cat", "dog")
    assert "left out: 3 links to nothing" in data.read
    os.symlink("self.png", root / "cat" / "self.png")
    with pytest.raises(ValueError, match=r"the image .*self\.png cannot be read"):
        read(root)


def test_what_lies_in_a_folder_without_classes_is_told(tmp_path: Path) -> None:
    (tmp_path / "archive.zip").write_bytes(b"PK")
    np.save(tmp_path / "a.npy", np.zeros(1))
    with pytest.raises(
        ValueError, match=r"no class folders \(1 image in formats .*\(\.npy 1\); 1 other file \(\.zip 1\)"
    ):
        read(tmp_path)


def test_digits_of_other_scripts_in_names(tmp_path: Path) -> None:
    names = ("10", "2", "\u00b2", "\u0663", "m\u00b2", "m10", "m9", "\u2460", "\u4e09")
    data = read(tree(tmp_path / "a", *names))
    assert sorted(data.classes) == sorted(names)
    assert data.classes[:2] == ("2", "10")
    assert data.classes.index("m9") < data.classes.index("m10")


# Parquet


def _parquet(file: Path, seed: int, metadata: bytes | None = None) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [put(file.parent / "x.bin", noise(100 * seed + i), format="PNG").read_bytes() for i in range(8)]
    (file.parent / "x.bin").unlink()
    table = pyarrow.table({"image": images, "mask": images, "label": [0, 1] * 4})
    parquet.write_table(table if metadata is None else table.replace_schema_metadata({"huggingface": metadata}), file)
    return file


def test_missing_pieces_of_a_table_are_told(tmp_path: Path) -> None:
    for i, name in enumerate(("train-00000-of-00003", "train-00002-of-00003", "test-00000-of-00001")):
        _parquet(tmp_path / "a" / f"{name}.parquet", i)
    data = read(tmp_path / "a")
    assert "only 2 of the 3 files train-* are there" in data.read
    assert "test-*" not in data.read


def test_pieces_of_two_versions_are_not_joined(tmp_path: Path) -> None:
    for i, name in enumerate(("train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002")):
        _parquet(tmp_path / "a" / f"{name}.parquet", i)
    with pytest.raises(ValueError, match=r"has files train-\* of tables of 1 and of 2 files"):
        read(tmp_path / "a")


def test_other_images_of_a_table_are_told(tmp_path: Path) -> None:
    about = {name: {"_type": "Image"} for name in ("image", "mask")}
    described = json.dumps({"info": {"features": about}}).encode()
    _parquet(tree(tmp_path / "a", "train/cat") / "a.parquet", 0, described)
    data = read(tmp_path / "a")
    assert "left out: the images of the column 'mask'" in data.read
    assert "left out: the image files beside the Parquet files" in data.read


@pytest.mark.parametrize("metadata", [b"{", b"\xff"])
def test_a_damaged_description_is_refused(tmp_path: Path, metadata: bytes) -> None:
    """Class names are in it: without them labels would be read under other names."""
    with pytest.raises(ValueError, match=r"a\.parquet has a damaged description of its columns"):
        read(_parquet(_folder(tmp_path) / "a.parquet", 0, metadata))


@pytest.mark.parametrize("metadata", [b"[]", b"null", b'{"info": null}', b'{"info": {"features": {"label": 3}}}'])
def test_another_description_tells_nothing(tmp_path: Path, metadata: bytes) -> None:
    assert read(_parquet(_folder(tmp_path) / "a.parquet", 0, metadata)).classes == ("0", "1")


def _folder(path: Path) -> Path:
    (path / "a").mkdir()
    return path / "a"


# Archives


def test_arrays_without_pixels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((8, 0, 6, 3), np.uint8), y=np.arange(8) % 2)
    with pytest.raises(ValueError, match=r"row 0 of 'x' of .* holds no pixel"):
        read(tmp_path / "a.npz")


def test_tensors_that_numpy_does_not_know() -> None:
    pixels = torch.stack([torch.from_numpy(noise(i)).movedim(-1, 0) for i in range(8)]) / 255
    labels = [i % 2 for i in range(8)]
    dense = read(Listed(list(pixels), labels))
    assert torch.equal(read(Listed([x.to_sparse() for x in pixels], labels)).train.x, dense.train.x)
    assert read(Listed(list(pixels.bfloat16()), labels)).train.x.dtype == torch.uint8


def test_labels_beyond_int64(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 0 of .* has the label 9223372036854775813: labels must be less than"):
        read(Listed([noise(0), noise(1)], [np.uint64(2**63 + 5), np.uint64(0)]))
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 6, 6), np.uint8), y=np.array([0, 2**64 - 1], np.uint64))
    with pytest.raises(ValueError, match=r"'y' of .* has the label 18446744073709551615: labels must be less than"):
        read(tmp_path / "a.npz")


def test_every_damage_of_an_archive_is_one_sentence(tmp_path: Path) -> None:
    """Bytes that were changed, in every place of a compressed .npz: it is refused by name, or reads as it was."""
    x, y = np.stack([noise(i) // 64 for i in range(4)]), np.arange(4) % 2
    np.savez_compressed(tmp_path / "a.npz", x=x, y=y)
    whole = (tmp_path / "a.npz").read_bytes()
    file, refused = tmp_path / "b.npz", 0
    for place in range(0, len(whole), 3):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        found, message = _outcome(file)
        if found is None:
            assert str(file) in message
            refused += 1
        else:
            assert np.array_equal(np.asarray(found.train.items), x)
            assert np.array_equal(found.train.labels, y)
    assert refused > 100


def _outcome(file: Path) -> tuple[Source | None, str]:
    try:
        return read_source(str(file)), ""
    except ValueError as error:
        return None, str(error)


def test_a_damaged_compressed_tar(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(np.random.default_rng(0).bytes(5000))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "data", "cifar-10-batches-py/data_batch_1")
    whole = bytearray((tmp_path / "a.tar.gz").read_bytes())
    for place in range(20, len(whole), 97):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / "b.tar.gz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"b\.tar\.gz"):
            read(tmp_path / "b.tar.gz")
