"""Every verb that loads images says what it read, before anything is computed."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.user_images import split_tree
from tests.small import FLAGS
from trajmatch.data.files import write_text
from trajmatch.run.cli import main

Captured = pytest.CaptureFixture[str]
DIGITS = (
    "read digits: 10 classes (0, 1, 2, 3, 4 and 5 more); 1293 images for training, 145 for validation and 359 for test"
)


@pytest.mark.parametrize("verb", ["run", "experts", "distill", "plan", "continual"])
def test_verbs_say_what_was_read(verb: str, tmp_path: Path, capsys: Captured) -> None:
    # Refused because of what was read, so right after it.
    assert main([verb, *FLAGS, "--ipc", "1000", "--out", str(tmp_path / "r")]) == 2
    *_, first, last = capsys.readouterr().err.splitlines()  # before them, what has no effect with the verb
    assert first.startswith(DIGITS)
    assert last.startswith("trajmatch: --ipc is 1000")
    assert list(tmp_path.iterdir()) == []


def test_verbs_of_sets_say_what_was_read(whole: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["evaluate", str(whole)]) == 0
    assert capsys.readouterr().err.splitlines()[0].startswith(DIGITS)
    assert main(["search", str(whole), "--ipc", "7"]) == 2
    assert capsys.readouterr().err.startswith(DIGITS)
    assert main(["diagnose", "nearest", "--run", str(whole), "--out", str(tmp_path)]) == 0
    assert DIGITS in capsys.readouterr().err


def test_a_folder_of_a_user(tmp_path: Path, capsys: Captured) -> None:
    root = split_tree(tmp_path / "a", "Training", "Testing")
    (root / "Training" / "cat" / ".ipynb_checkpoints").mkdir()
    words = ["run", "--data", str(root), "--ipc", "99", "--network.depth", "1"]
    assert main(words) == 2
    first, _ = capsys.readouterr().err.splitlines()
    assert first == (
        f"read {root}: 2 classes (cat, dog); 6 images for training, 2 for validation and 4 for test (the folder "
        "'Testing'); 4 x 4 pixels in colour; left out: 1 hidden or system folder (.ipynb_checkpoints); "
        "resized from 6 x 6"
    )


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--images.background", "paisley", "--images.background is 'paisley': it must be a colour such as white"),
        ("--images.train-split", "train", "--images.train-split is 'train' and has no effect on the digits"),
        ("--images.test-split", "", "--images.test-split is empty and must have a value"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    flag: str, value: str, says: str, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["run", flag, value, "--out", str(tmp_path / "r")]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_settings_travel_through_a_file(tmp_path: Path, capsys: Captured) -> None:
    x, y = np.random.default_rng(0).integers(0, 256, (20, 6, 6), dtype=np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "a.npz", x_one=x[:12], y_one=y[:12], x_two=x[12:], y_two=y[12:])
    lines = [
        f"data: {tmp_path / 'a.npz'}",
        "ipc: 99",
        "images: {train_split: one, test_split: two}",
        "network: {depth: 1}",
    ]
    write_text(tmp_path / "a.yaml", "\n".join(lines))
    assert main(["run", "--config", str(tmp_path / "a.yaml")]) == 2
    assert "8 for test ('x_two')" in capsys.readouterr().err
