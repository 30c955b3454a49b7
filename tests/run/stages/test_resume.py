"""Real processes are interrupted and killed, and must end where an uninterrupted one ends, to the last bit."""

from pathlib import Path

import pytest
import torch

from tests import small
from trajmatch.data.tensors import read_tensors
from trajmatch.run.cli import main


def assert_same_result(folder: Path, whole: Path) -> None:
    for name in ("distilled.safetensors", "snapshots/step_000012.safetensors", "snapshots/step_000024.safetensors"):
        found, wanted = read_tensors(folder / name), read_tensors(whole / name)
        assert found.keys() == wanted.keys()
        for key, tensor in wanted.items():
            assert torch.equal(found[key], tensor), (name, key)
    assert small.rows(folder) == small.rows(whole)
    assert len(small.rows(whole)) == 24


def leftovers(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if ".tmp" in p.name]


def test_the_reference_moved_its_images(whole: Path) -> None:
    first = read_tensors(whole / "snapshots/step_000012.safetensors")["images"]
    last = read_tensors(whole / "distilled.safetensors")["images"]
    assert (first - last).norm() > 1e-3


@pytest.mark.parametrize("number", [small.INTERRUPT, small.TERMINATE])
def test_interrupt_saves_says_how_to_go_on_and_resumes_bitwise(
    number: int, experts: Path, whole: Path, tmp_path: Path
) -> None:
    words = small.command("distill", "--experts", experts, "--steps", 24, "--out", tmp_path / "r")
    process = small.start(*words)
    small.wait_for_rows(process, tmp_path / "r", 5)
    code, errors = small.end(process, number)
    assert code == 130, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    done = len(small.rows(tmp_path / "r"))
    assert 5 <= done < 24
    assert int(read_tensors(tmp_path / "r/checkpoint.safetensors")["state.steps"]) >= done - 1
    small.succeed(*words, "--resume")
    assert_same_result(tmp_path / "r", whole)
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("after", [3, 11, 13])
def test_kill_loses_at_most_the_steps_since_the_checkpoint(
    after: int, experts: Path, whole: Path, tmp_path: Path
) -> None:
    flags = ("--experts", experts, "--steps", 24, "--out", tmp_path / "r", "--outer.checkpoint-seconds", 0)
    process = small.start(*small.command("distill", *flags))
    small.wait_for_rows(process, tmp_path / "r", after)
    small.end(process, small.KILL)
    saved = int(read_tensors(tmp_path / "r/checkpoint.safetensors")["state.steps"])
    assert saved >= after - 1  # a checkpoint after every step: at most the one that was being written is lost
    small.succeed(*small.command("distill", *flags, "--resume"))
    assert_same_result(tmp_path / "r", whole)


def test_kill_before_the_first_checkpoint_starts_anew(experts: Path, whole: Path, tmp_path: Path) -> None:
    flags = ("--experts", experts, "--steps", 24, "--out", tmp_path / "r", "--outer.checkpoint-seconds", 1000)
    process = small.start(*small.command("distill", *flags))
    small.wait_for_rows(process, tmp_path / "r", 3)
    small.end(process, small.KILL)
    assert not (tmp_path / "r/checkpoint.safetensors").exists()
    small.succeed(*small.command("distill", *flags, "--resume"))
    assert_same_result(tmp_path / "r", whole)


def test_an_interrupted_run_is_not_continued_without_being_asked(
    experts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = small.command("distill", "--experts", experts, "--steps", 24, "--out", tmp_path / "r")
    process = small.start(*words)
    small.wait_for_rows(process, tmp_path / "r", 2)
    small.end(process, small.INTERRUPT)
    before = (tmp_path / "r/checkpoint.safetensors").read_bytes()
    assert main(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / "r/checkpoint.safetensors").read_bytes() == before


def test_killed_experts_go_on_and_are_the_same(experts: Path, tmp_path: Path) -> None:
    words = small.command("experts", "--experts", 2, "--out", tmp_path / "e")
    process = small.start(*words)
    while not (tmp_path / "e/expert_0000.safetensors").exists():
        assert process.poll() is None, process.communicate()[1]
    small.end(process, small.KILL)
    first = (tmp_path / "e/expert_0000.safetensors").stat().st_mtime_ns
    small.succeed(*words)
    assert (tmp_path / "e/expert_0000.safetensors").stat().st_mtime_ns == first
    assert not list((tmp_path / "e").glob(".material*"))
    for name in ("expert_0000.safetensors", "expert_0001.safetensors"):
        found, wanted = read_tensors(tmp_path / "e" / name), read_tensors(experts / name)
        assert torch.equal(found["theta"], wanted["theta"])
