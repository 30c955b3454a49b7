"""Data sets of the package `datasets`, and names on the Hub, with the real package; columns that a user names."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.sample_images import NAMES, TEST, TRAIN, images, write_folder, write_table
from trajmatch.data.images import load
from trajmatch.data.reading.hub import HubName, parsed


def test_names_on_the_hub() -> None:
    assert parsed("hf:owner/name") == parsed("owner/name") == HubName("owner/name")
    assert parsed("hf:mnist") == HubName("mnist")
    assert parsed("hf:owner/a.b-c:small@v1.0") == HubName("owner/a.b-c", "small", "v1.0")
    assert parsed("hf:owner/name@refs/convert/parquet") == HubName("owner/name", None, "refs/convert/parquet")
    for wrong in ("hf:", "hf:a/b/c", "hf:a b", "hf:a:", "hf:a@", "hf:a@b:c"):
        with pytest.raises(ValueError, match=r"no name on the Hugging Face Hub: give hf:NAME\[:CONFIG\]\[@REVISION\]"):
            load(wrong)


def test_columns_that_are_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    x, y = images(TRAIN, 0)
    table = write_table(tmp_path / "a.parquet", x, y, ("left", "kind"), described=False)
    with pytest.raises(ValueError, match=r"one image column named image or img, or --images\.image-column says which"):
        load(table)
    found = load(table, image_column="left", label_column="kind")
    assert found.digest == load(write_table(tmp_path / "b.parquet", x, y, described=False)).digest
    with pytest.raises(
        ValueError, match=r"--images\.label-column is 'sort' and .*a\.parquet has the columns left, kind"
    ):
        load(table, image_column="left", label_column="sort")
    for source in ("digits", str(write_folder(tmp_path / "folder"))):
        with pytest.raises(ValueError, match=r"--images\.image-column is 'left' and has no effect on .*, which is no "):
            load(source, image_column="left")


# In a process of its own: the package draws from global generators, and takes seconds to import.
SCRIPT = """
import sys, datasets
from trajmatch.data.images import load
datasets.disable_progress_bars()
folder, cache, saved = sys.argv[1:]
both = datasets.load_dataset("imagefolder", data_dir=folder, cache_dir=cache)
both.save_to_disk(saved)
for source in (both, (both["train"], both["test"]), saved, folder):
    found = load(source)
    print(found.digest, *found.classes, len(found.test))
print(load(both["train"].shuffle(seed=1).select(range(len(both["train"]) - 1))).read)
try:
    load(both["train"].to_iterable_dataset())
except ValueError as error:
    print(error)
"""


def test_datasets_in_python_and_saved(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="needs the extra hf")
    words = [SCRIPT, write_folder(tmp_path / "folder"), tmp_path / "cache", tmp_path / "saved"]
    done = subprocess.run([sys.executable, "-c", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *found, part, refused = done.stdout.splitlines()
    assert len(set(found)) == 1
    assert found[0].split()[1:] == [*NAMES, str(TEST)]
    assert f"read imagefolder: {len(NAMES)} classes" in part
    assert refused.startswith("the type IterableDataset is no source of images: give a Dataset")
