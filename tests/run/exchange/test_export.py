"""`trajmatch export`: whole folders or none, and a README with which a stranger gets the accuracy that it promises."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.run.test_cli import refusal
from tests.small import succeed
from trajmatch.data import images, synthetic
from trajmatch.data.checksums import identity
from trajmatch.data.files import write_record
from trajmatch.run.exchange.export import FORMATS

Captured = pytest.CaptureFixture[str]
HOW = "networks trained from scratch on the last iterate"


def scored(folder: Path, belongs: str) -> None:
    """Give a run folder scores of its set, or of another."""
    accuracy = {
        "distilled": {"mean": 0.7654, "std": 0.0123, "n": 7, "how": HOW},
        "random": {"mean": 0.4321, "std": 0.05, "n": 3},
    }
    record = {"accuracy": accuracy, "settings": {}, "seconds": 1.0, "belongs_to": {"set": belongs}}
    write_record(folder / "evaluation.json", record)


@pytest.mark.parametrize("name", FORMATS)
def test_a_run_in_every_format(name: str, whole: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    scored(folder, identity(folder / "distilled.safetensors"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    succeed("export", folder, "--format", name)
    place = folder / f"export-{name}"
    assert str(place) in capsys.readouterr().out
    text = (place / "README.md").read_text(encoding="utf-8")
    assert "76.54% ± 1.23% | 7 |" in text
    assert "43.21%" in text
    assert HOW in text
    assert f"trajmatch evaluate {folder}" in text
    assert {path: path.read_bytes() for path in before} == before
    succeed("export", folder / "distilled.safetensors", "--format", name, "--out", tmp_path / "again")
    first, again = (sorted(p.relative_to(at).as_posix() for p in at.rglob("*")) for at in (place, tmp_path / "again"))
    assert first == again
    assert not [p for p in [*folder.iterdir(), *tmp_path.iterdir()] if p.name.startswith(".trajmatch")]


def test_the_code_of_the_readme_trains_a_network(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed("export", whole, "--format", "npz", "--out", tmp_path / "e")
    monkeypatch.chdir(tmp_path / "e")
    text = Path("README.md").read_text(encoding="utf-8")
    assert "has not been scored yet" in text
    assert "in range(4)" in text
    text = text.replace("in range(4)", "in range(100)").replace("epoch == 2", "epoch == 50")  # four are too few
    found: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
            exec(code, found)
    test = images.load("digits").test
    with torch.no_grad():
        guess = found["network"](found["normalise"](test.x.float() / 255)).argmax(1)
    assert (guess == test.y).double().mean() > 0.4, "chance is 0.1"


def test_a_target_that_is_there_is_left_as_it_is(whole: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "full", "link"):
        said = refusal(capsys, "export", whole, "--format", "npz", "--out", tmp_path / name)
        assert "is there already" in said
        assert name in said
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "mine").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    succeed("export", whole, "--format", "npz", "--out", tmp_path / "empty")
    assert (tmp_path / "empty" / "set.npz").is_file()


def test_what_can_not_be_exported_is_said_in_a_sentence(whole: Path, tmp_path: Path, capsys: Captured) -> None:
    assert "folder, parquet, npz, mtt, ddranking" in refusal(capsys, "export", whole)
    assert "no distilled set" in refusal(capsys, "export", tmp_path, "--format", "npz")
    file = tmp_path / "mine.safetensors"
    wide = synthetic.load(whole)
    space = type(wide.space)("none", *[torch.empty(0)] * 3, (2, 8, 8))
    two = synthetic.SyntheticSet(wide.X.repeat(1, 2, 1, 1), wide.Y, 0.1, wide.classes, space)
    synthetic.save(two, file)
    assert "1 or 3 channels" in refusal(capsys, "export", file, "--format", "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]
    succeed("export", file, "--format", "mtt", "--out", tmp_path / "two")


def test_scores_of_another_set_are_not_promised(whole: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    scored(folder, "another")
    succeed("export", folder, "--format", "npz")
    assert "another set" in capsys.readouterr().err
    assert "76.54" not in (folder / "export-npz" / "README.md").read_text(encoding="utf-8")
