"""What is kept for later commands: found again bit for bit, never trusted, bounded, and turned off."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trajmatch.data import cache, decoded, fitted, images
from trajmatch.data.cache import Kept
from trajmatch.data.images import Dataset
from trajmatch.data.reading import fingerprint
from trajmatch.data.tensors import save_tensors
from trajmatch.data.whitening import InputSpace
from trajmatch.machine import caches

OLD = 1_600_000_000  # long before any test


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, which keeps however little; the time of files' entries does not hold it up."""
    monkeypatch.setenv("TRAJMATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRAJMATCH_CACHE_GB", "1")
    monkeypatch.setattr(decoded, "WORTH", 0)
    monkeypatch.setattr(fitted, "WORTH", 0)
    monkeypatch.setattr(fingerprint, "_SECONDS", -1e9)
    return tmp_path / "cache" / "data"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two classes, with things that are left out."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (3, 6, 6)).astype(np.uint8)
                decoded_save(pixels, folder / f"{i}.png")
    (tmp_path / "photos" / "train" / "cat" / "x.heic").write_bytes(b"?")
    return tmp_path / "photos"


def decoded_save(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", path: Path) -> None:
    images.save_png(pixels, path)
    os.utime(path, (OLD, OLD))


def kept(place: Path, kind: str) -> list[Path]:
    return sorted(place.glob(f"{kind}-*.safetensors"))


def assert_same(found: Dataset, wanted: Dataset) -> None:
    """All but the words on where they come from."""
    assert (found.name, found.classes, found.digest, found.held_out) == (
        wanted.name, wanted.classes, wanted.digest, wanted.held_out,
    )  # fmt: skip
    for name in ("train", "validation", "test"):
        ours, theirs = getattr(found, name), getattr(wanted, name)
        assert torch.equal(ours.x, theirs.x)
        assert torch.equal(ours.y, theirs.y)


@pytest.mark.parametrize("how", [{}, {"size": 4, "seed": 3}, {"hold_out": False}, {"test_split": "none"}])
def test_images_are_decoded_once(
    how: dict[str, object], photos: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = images.load(photos, **how)
    (file,) = kept(place, "pixels")
    monkeypatch.setattr(decoded.sources, "read", lambda *_: pytest.fail("read again"))
    again = images.load(photos, **how)
    assert_same(again, first)
    assert "left out: 1 image in formats that are not read (.heic 1)" in first.read
    assert again.read == f"{first.read}; from the cache of {file}"


def test_another_seed_draws_from_the_same_file(photos: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images.load(photos)
    monkeypatch.setattr(decoded.sources, "read", lambda *_: pytest.fail("read again"))
    found = images.load(photos, seed=5)
    monkeypatch.undo()
    monkeypatch.setenv("TRAJMATCH_CACHE_GB", "0")
    assert_same(found, images.load(photos, seed=5))


@pytest.mark.parametrize("how", [{"size": 4}, {"colour": "grey"}, {"background": "black"}, {"test_split": "none"}])
def test_other_settings_are_another_file(how: dict[str, object], photos: Path, place: Path) -> None:
    images.load(photos)
    found = images.load(photos, **how)
    assert len(kept(place, "pixels")) == 2
    assert "from the cache" not in found.read


def _added(photos: Path) -> None:
    decoded_save(np.zeros((3, 6, 6), np.uint8), photos / "train" / "cat" / "new.png")


def _changed(photos: Path) -> None:
    decoded_save(np.zeros((3, 6, 6), np.uint8), photos / "train" / "cat" / "0.png")


def _removed(photos: Path) -> None:
    (photos / "train" / "dog" / "3.png").unlink()


def _renamed(photos: Path) -> None:
    (photos / "train" / "dog").rename(photos / "train" / "cow")
    (photos / "test" / "dog").rename(photos / "test" / "cow")


@pytest.mark.parametrize("change", [_added, _changed, _removed, _renamed])
@pytest.mark.parametrize("few", [0, 1000])
def test_changed_files_are_read_again(change: object, few: int, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_FEW", few)  # by size and times alone, or by content too
    before = images.load(photos)
    assert callable(change)
    change(photos)
    after = images.load(photos)
    assert "from the cache" not in after.read
    assert after.digest != before.digest
    monkeypatch.setenv("TRAJMATCH_CACHE_GB", "0")
    assert_same(after, images.load(photos))


def test_files_that_were_just_written_are_not_kept(photos: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_SECONDS", 1e9)
    images.load(photos)
    assert kept(place, "pixels") == []


def test_data_sets_in_python_and_digits_are_not_kept(place: Path) -> None:
    images.load([(torch.full((1, 2, 2), i / 40), i % 2) for i in range(40)], test_fraction=0.5)
    images.load("digits")
    assert not place.exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flipped(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-20] ^= 1
    path.write_bytes(whole)


def _header(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"cat", b"cot", 1))


def _foreign(path: Path) -> None:
    save_tensors(path, {"0.x": torch.zeros(3)}, {"kind": "cached pixels", "key": {}, "about": {}})


def _unchecked(path: Path) -> None:
    header, _ = cache.read_checked(path)
    save_tensors(path, cache.read_tensors(path), header, unchecked=True)


def _other_tensors(path: Path) -> None:
    header, _ = cache.read_checked(path)
    save_tensors(path, {"0.x": torch.zeros(3)}, header)


DAMAGES = [_cut, _flipped, _header, _foreign, _unchecked, _other_tensors]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_said_and_made_again(
    damage: object, photos: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = images.load(photos)
    (file,) = kept(place, "pixels")
    whole = file.read_bytes()
    assert callable(damage)
    damage(file)
    assert file.read_bytes() != whole
    again = images.load(photos)
    assert_same(again, first)
    assert again.read == first.read
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == [f"{file}: this file of the cache is damaged, or another program's; it is made again"]
    assert images.load(photos).read == f"{first.read}; from the cache of {file}"


@pytest.mark.parametrize("damage", [_cut, _flipped, _foreign, _unchecked, _other_tensors])
def test_a_damaged_input_space_is_fitted_again(
    damage: object, photos: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x = images.load(photos).train.x
    first = fitted.fit_once("zca", x, "content")
    (file,) = kept(place, "whitening")
    assert callable(damage)
    damage(file)
    assert fitted.fit_once("zca", x, "content").digest() == first.digest()
    assert f"{file}: this file of the cache is damaged" in caplog.text


def test_an_input_space_is_fitted_once(
    photos: Path, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x = images.load(photos).train.x
    first = fitted.fit_once("zca", x, "content")
    (file,) = kept(place, "whitening")
    real = fitted.fitted
    monkeypatch.setattr(fitted, "fitted", lambda *_: pytest.fail("fitted again"))
    with caplog.at_level("INFO", logger="trajmatch"):
        again = fitted.fit_once("zca", x, "content")
    assert again.digest() == first.digest() == real("zca", x)[0].digest()
    assert [record.getMessage() for record in caplog.records] == [f"ZCA from the cache of {file}"]
    monkeypatch.setattr(fitted, "fitted", real)
    fitted.fit_once("zca", x, "other content")
    monkeypatch.setattr(fitted.torch, "__version__", "0.0.1")
    fitted.fit_once("zca", x, "content")
    assert len(kept(place, "whitening")) == 3
    fitted.fit_once("channel", x, "content")
    assert len(kept(place, "whitening")) == 3


def test_what_is_said_of_a_low_rank_is_said_again(
    photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x = images.load(photos).train.x
    monkeypatch.setattr(fitted, "fitted", lambda kind, x: (InputSpace.from_tensors(*space_of(x)), "of low rank"))
    with caplog.at_level("INFO", logger="trajmatch"):
        fitted.fit_once("zca", x, "content")
        fitted.fit_once("zca", x, "content")
    assert [record.getMessage() for record in caplog.records].count("of low rank") == 2


def space_of(x: torch.Tensor) -> tuple[str, tuple[int, int, int], dict[str, torch.Tensor]]:
    d = x[0].numel()
    return "zca", (3, 6, 6), {"mean": torch.zeros(d), "scale": torch.ones(d), "basis": torch.eye(d)}


def test_nothing_is_kept_where_the_cache_is_off(photos: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images.load(photos)
    monkeypatch.setenv("TRAJMATCH_CACHE_GB", "0")
    assert "from the cache" not in images.load(photos).read
    fitted.fit_once("zca", images.load(photos).train.x, "content")
    assert kept(place, "whitening") == []


@pytest.mark.parametrize("text", ["much", "-1", "nan"])
def test_a_bound_that_is_no_number_is_refused(text: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAJMATCH_CACHE_GB", text)
    with pytest.raises(ValueError, match=f"TRAJMATCH_CACHE_GB is '{text}' and must be the most GB"):
        images.load(photos)


def test_the_file_that_was_not_used_for_longest_makes_room(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = {"x": torch.zeros(1000, dtype=torch.uint8)}
    for i in range(3):
        cache.keep("pixels", {"number": i}, tensors, {})
        os.utime(cache._path("pixels", {"number": i, "format": cache.FORMAT}), (OLD + i, OLD + i))
    (place / "mine.txt").write_text("x" * 5000)
    assert cache.find("pixels", {"number": 0}, path_of) is not None  # and so it is the last to go
    size = kept(place, "pixels")[0].stat().st_size
    monkeypatch.setenv("TRAJMATCH_CACHE_GB", f"{1e-9 * (2 * size + 1001)}")
    with caplog.at_level("INFO", logger="trajmatch"):
        cache.keep("pixels", {"number": 3}, tensors, {})
    there = [cache.find("pixels", {"number": i}, path_of) is not None for i in range(4)]
    assert there == [True, False, True, True]
    assert "removed from the cache, which TRAJMATCH_CACHE_GB bounds" in caplog.text
    assert (place / "mine.txt").exists()
    cache.keep("pixels", {"number": 4}, {"x": torch.zeros(9000, dtype=torch.uint8)}, {})
    assert cache.find("pixels", {"number": 4}, path_of) is None


def path_of(found: Kept) -> Path:
    return found.path


def test_a_cache_that_cannot_be_written_is_said_and_is_not_the_end(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TRAJMATCH_CACHE", str(tmp_path / "file"))
    assert len(images.load(photos).train)
    assert "nothing is kept for later commands" in caplog.text


def test_another_user_s_folder_is_not_used(
    photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images.load(photos)
    monkeypatch.setattr(cache, "user", lambda: caches.user() + 1)
    assert "from the cache" not in images.load(photos).read
    assert "belongs to another user" in caplog.text


SCRIPT = """
import sys
from trajmatch.data import decoded, fitted, images
from trajmatch.data.reading import fingerprint
decoded.WORTH = fitted.WORTH = 0
fingerprint._SECONDS = -1e9
sys.stdin.readline()
found = images.load(sys.argv[1])
print(found.digest, fitted.fit_once("zca", found.train.x, found.digest).digest())
"""


def test_two_processes_at_once(photos: Path, place: Path) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(photos)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0] for process in both]
    assert said[0] == said[1] != ""
    assert [process.returncode for process in both] == [0, 0]
    assert len(list(place.iterdir())) == 2  # one file of each kind, and nothing half written
    assert images.load(photos).digest == said[0].split()[0]
