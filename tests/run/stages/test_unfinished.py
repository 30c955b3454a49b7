"""Experts whose training is cut off: what is saved of it, what is said, and that they end as if it had not been."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import small
from trajmatch.data.tensors import read_tensors
from trajmatch.machine.processes import Report, run_tasks, saving
from trajmatch.machine.progress import Meter
from trajmatch.run.cli import main
from trajmatch.run.folder import saved

UNFINISHED = ".expert_0001.unfinished.safetensors"


def interrupted_after(epochs: int, monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of a command that a Ctrl-C ends after so many epochs of all experts."""
    advance, count = Meter.advance, [0]

    def stop(meter: Meter, details: str = "", many: int = 1) -> None:
        count[0] += many if meter.title == "experts" else 0
        advance(meter, details, many)
        if count[0] == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Meter, "advance", stop)
        return main(list(map(str, words)))


def same(folder: Path, wanted: Path) -> bool:
    names = ("expert_0000.safetensors", "expert_0001.safetensors")
    return all(torch.equal(*(read_tensors(place / name)["theta"] for place in (folder, wanted))) for name in names)


def test_an_expert_goes_on_where_it_was_interrupted(
    experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "e"
    words = small.command("experts", "--experts", 2, "--out", folder)
    assert interrupted_after(5, monkeypatch, *words) == 130
    said = capsys.readouterr().err
    assert f"interrupted; saved in {folder}: 1 expert, 2 epochs of an unfinished expert; what was begun after" in said
    before = (folder / "expert_0000.safetensors").read_bytes()
    small.succeed(*words)
    assert "expert 1 goes on after epoch 2, where it was saved" in capsys.readouterr().err
    assert (folder / "expert_0000.safetensors").read_bytes() == before
    assert same(folder, experts)
    assert not (folder / UNFINISHED).exists()
    assert saved(folder).startswith(f"saved in {folder}: 2 experts;")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flipped])
def test_a_damaged_one_is_said_and_the_expert_begins_anew(
    damage: Callable[[Path], None],
    experts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = small.command("experts", "--experts", 2, "--out", tmp_path)
    assert interrupted_after(5, monkeypatch, *words) == 130
    damage(tmp_path / UNFINISHED)
    capsys.readouterr()
    small.succeed(*words)
    said = capsys.readouterr().err
    assert f"{tmp_path / UNFINISHED}: this" in said
    assert "expert 1 is trained from its beginning" in said
    assert "goes on" not in said
    assert same(tmp_path, experts)


def test_one_of_other_settings_is_not_gone_on_from(
    experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = small.command("experts", "--experts", 2, "--out", tmp_path)
    assert interrupted_after(2, monkeypatch, *words, "--expert.lr", 0.02) == 130
    assert (tmp_path / UNFINISHED.replace("1", "0")).exists()
    capsys.readouterr()
    small.succeed(*words)
    assert "goes on" not in capsys.readouterr().err
    assert same(tmp_path, experts)


def test_nothing_is_promised_where_nothing_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trajmatch.run.stages.experts.expert", interrupted)
    assert main(small.command("experts", "--out", tmp_path)) == 130
    assert (
        f"interrupted; nothing is saved in {tmp_path}, for nothing was complete. To go on: " in capsys.readouterr().err
    )


def works_until_it_is_ended(path: Path, report: Report) -> None:
    with saving(lambda: path.write_text("saved")):
        report("begun")
        time.sleep(60)


def test_workers_save_before_an_interrupt_ends_them(tmp_path: Path) -> None:
    paths, begun = [tmp_path / name for name in "ab"], list[int]()

    def listen(index: int, said: str) -> None:
        begun.append(index)
        if len(begun) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_tasks(works_until_it_is_ended, [(path,) for path in paths], 2, 1, listen))
    assert [path.read_text() for path in paths] == ["saved", "saved"]
