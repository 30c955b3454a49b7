"""Names of classes for people: files beside the images, and that they change nothing but what is shown."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trajmatch.data import images
from trajmatch.data.reading.names import shown_names

SYNSETS = ("n01440764", "n02012849", "n03126707")
WORDS = "n00001740\tentity\nn01440764\ttench, Tinca tinca\nn02012849\tcrane\nn03126707\tcrane\n"


def made(root: Path, classes: tuple[str, ...] = SYNSETS, test: bool = True) -> Path:
    """Small images in train/CLASS and test/CLASS."""
    source = np.random.default_rng(0)
    for split in ("train", "test") if test else ("train",):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for k in range(3):
                pixels = source.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{k}.png")
    return root


def test_synsets_have_the_names_of_words_txt_and_results_do_not_depend_on_it(tmp_path: Path) -> None:
    root = made(tmp_path / "tiny")
    before = images.load(root)
    assert (before.shown, before.names) == ((), SYNSETS)
    (root / "words.txt").write_text(WORDS)
    found = images.load(root)
    assert found.classes == before.classes == SYNSETS
    assert found.digest == before.digest
    assert found.names == ("tench", "crane (n02012849)", "crane (n03126707)")
    assert "3 classes (tench, crane (n02012849), crane (n03126707))" in found.read
    assert "names of the classes from words.txt" in found.read


def test_some_classes_and_another_order_keep_their_names(tmp_path: Path) -> None:
    root = made(tmp_path / "tiny")
    (root / "words.txt").write_text(WORDS)
    found = images.load(root, classes=["n03126707", "n01440764"])
    assert dict(zip(found.classes, found.names, strict=True)) == {"n01440764": "tench", "n03126707": "crane"}


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ({"n01440764": "fish", "other": "x"}, ("fish", *SYNSETS[1:])),
        (["fish", "bird", "machine"], ("fish", "bird", "machine")),
    ],
)
def test_class_names_json_goes_before_words_txt(tmp_path: Path, names: object, wanted: tuple[str, ...]) -> None:
    (tmp_path / "words.txt").write_text(WORDS)
    (tmp_path / "class_names.json").write_text(json.dumps(names))
    assert shown_names(tmp_path, SYNSETS) == (wanted, "class_names.json")


@pytest.mark.parametrize("content", ["{", "3", '["a"]', '{"n01440764": 3}', "[1, 2, 3]"])
def test_class_names_that_are_none_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "class_names.json").write_text(content)
    with pytest.raises(ValueError, match=r"class_names\.json .*correct it, or remove it\.$"):
        shown_names(tmp_path, SYNSETS)


def test_files_are_found_where_archives_and_splits_put_them(tmp_path: Path) -> None:
    root = made(tmp_path / "archive" / "tiny", test=False)
    (root / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\nn02012849 crane\n")
    wanted = ("tench", "crane", "n03126707"), "LOC_synset_mapping.txt"
    assert shown_names(tmp_path / "archive", SYNSETS) == wanted
    assert shown_names(root / "train", SYNSETS) == wanted  # a split's file lies beside it
    assert shown_names(str(root), SYNSETS) == wanted


def test_what_names_none_of_the_classes_is_passed(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("some\nwords of a user's own\n")
    assert shown_names(tmp_path, ("cat", "dog")) == ((), "")
    for source in ("digits", "owner/name", [(np.zeros((8, 8)), 0)]):
        assert shown_names(source, ("cat", "dog")) == ((), "")
