"""A large whitening lies apart from the sets in it: they are small, and are loaded from a folder, or by the cache."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from trajmatch.data import fitted, space_file, synthetic
from trajmatch.data.checksums import CHECKSUMS, DIGEST, HEADER, header_digest, identity
from trajmatch.data.synthetic import SyntheticSet, class_labels, one_hot
from trajmatch.data.tensors import read_tensors
from trajmatch.data.whitening import fit

Captured = pytest.CaptureFixture[str]
REAL = torch.randint(0, 256, (60, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture(scope="module")
def made() -> SyntheticSet:
    """Six images of 3 x 16 x 16; their whitening has 2.4 MB."""
    X = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return SyntheticSet(X, one_hot(class_labels(3, 2), 3), 0.0123, ("a", "b", "c"), fit("zca", REAL))


def assert_same(found: SyntheticSet, wanted: SyntheticSet) -> None:
    assert torch.equal(found.X, wanted.X)
    assert found.space.digest() == wanted.space.digest()


def beside(folder: Path) -> Path:
    (path,) = folder.glob("whitening-*.safetensors")
    return path


def test_the_sets_file_is_small_and_the_folder_is_whole(made: SyntheticSet, tmp_path: Path) -> None:
    first, second = tmp_path / "one" / "distilled.safetensors", tmp_path / "one" / "other.safetensors"
    first.parent.mkdir()
    synthetic.save(made, first)
    written = beside(first.parent).stat().st_mtime_ns
    synthetic.save(replace(made, eta=0.5), second)
    assert beside(first.parent).stat().st_mtime_ns == written, "both sets share one file, written once"
    assert first.stat().st_size < 30_000 < 2_000_000 < beside(first.parent).stat().st_size
    shutil.copytree(first.parent, tmp_path / "copied")
    shutil.rmtree(first.parent)
    assert_same(synthetic.load(tmp_path / "copied"), made)
    assert_same(synthetic.load(tmp_path / "copied" / "other.safetensors"), made)


def test_a_set_is_the_same_set_however_its_whitening_is_kept(
    made: SyntheticSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an older version wrote it, with the statistics in its own file, it loads and has the same identity."""
    synthetic.save(made, tmp_path / "new.safetensors")
    (tmp_path / "old").mkdir()
    monkeypatch.setattr(space_file, "LARGE", 1e12)
    synthetic.save(made, tmp_path / "old" / "old.safetensors")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["old.safetensors"]
    assert (tmp_path / "old" / "old.safetensors").stat().st_size > 2_000_000
    assert_same(synthetic.load(tmp_path / "old" / "old.safetensors"), made)
    assert identity(tmp_path / "new.safetensors") == identity(tmp_path / "old" / "old.safetensors")
    monkeypatch.undo()
    synthetic.save(replace(made, space=fit("zca", REAL[:50])), tmp_path / "other.safetensors")
    assert identity(tmp_path / "other.safetensors") != identity(tmp_path / "new.safetensors")


def test_the_file_alone_names_the_other(made: SyntheticSet, tmp_path: Path) -> None:
    synthetic.save(made, tmp_path / "set.safetensors")
    name = beside(tmp_path).name
    beside(tmp_path).unlink()
    with pytest.raises(ValueError, match=rf"set.safetensors: this set needs .* {name}, which lies beside the set"):
        synthetic.load(tmp_path / "set.safetensors")
    space_file.restore(tmp_path / "set.safetensors", fit("zca", REAL[:50]))
    assert not list(tmp_path.glob("whitening-*")), "that of other images is of no use"
    space_file.restore(tmp_path / "set.safetensors", made.space)
    assert_same(synthetic.load(tmp_path / "set.safetensors"), made)


def test_the_cache_has_it_too(
    made: SyntheticSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRAJMATCH_CACHE_GB", "1")
    monkeypatch.setenv("TRAJMATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fitted, "WORTH", 100)
    assert fitted.fit_once("zca", REAL, "these").digest() == made.space.digest()
    fitted.fit_once("zca", REAL[:50], "others")
    synthetic.save(made, tmp_path / "set.safetensors")
    beside(tmp_path).unlink()
    with caplog.at_level("INFO", logger="trajmatch"):
        assert_same(synthetic.load(tmp_path / "set.safetensors"), made)
    assert "taken from the cache" in caplog.text


def test_damage_is_found_and_a_new_save_repairs_it(made: SyntheticSet, tmp_path: Path) -> None:
    synthetic.save(made, tmp_path / "set.safetensors")
    path = beside(tmp_path)
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.name}: this file is damaged .* put a copy of it back"):
        synthetic.load(tmp_path / "set.safetensors")
    synthetic.save(made, tmp_path / "again.safetensors")
    assert_same(synthetic.load(tmp_path / "set.safetensors"), made)


def test_another_whitening_under_its_name_is_refused(made: SyntheticSet, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    synthetic.save(made, tmp_path / "set.safetensors")
    synthetic.save(replace(made, space=fit("zca", REAL[:50])), tmp_path / "b" / "set.safetensors")
    shutil.copy(beside(tmp_path / "b"), beside(tmp_path))
    with pytest.raises(ValueError, match="another whitening than its name says"):
        synthetic.load(tmp_path / "set.safetensors")


@pytest.mark.parametrize("apart", [{"file": "../whitening-0.safetensors", "tensors": {}}, {"tensors": {}}, 3, {}])
def test_a_header_names_no_other_file(made: SyntheticSet, apart: object, tmp_path: Path) -> None:
    path = tmp_path / "set.safetensors"
    synthetic.save(made, path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    header = json.loads(metadata[HEADER])
    header["space"]["apart"] = apart
    metadata[HEADER] = json.dumps(header)
    tensors = {name: tensor.clone() for name, tensor in read_tensors(path).items()}
    kinds = {torch.float32: "F32", torch.float64: "F64"}
    raw = {name: {"dtype": kinds[t.dtype], "shape": list(t.shape)} for name, t in tensors.items()}
    metadata[DIGEST] = header_digest({"__metadata__": metadata, **raw})
    assert CHECKSUMS in metadata
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match=r"space.apart must name the file of a whitening"):
        synthetic.load(path)
