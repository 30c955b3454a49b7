"""Files of a run folder that are of another run: whole in themselves, and no part of this one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.small import FLAGS, succeed
from trajmatch.run.cli import main

TINY = [*FLAGS, "--network.depth", "1", "--evaluation.epochs", "1", "--experts", "1", "--steps", "4", "--ipc", "1"]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run and others."""
    root = tmp_path_factory.mktemp("runs")
    others = {"run": [], "mtt": ["--method", "mtt"], "seed": ["--seed", "5"], "more": ["--ipc", "2"]}
    for name, words in others.items():
        succeed("run", *TINY, *words, "--out", root / name)
    return {name: root / name for name in others}


@pytest.fixture
def folder(made: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(made["run"], tmp_path / "run")
    return tmp_path / "run"


def verb(name: str, folder: Path) -> list[Any]:
    """A verb that reads a run folder."""
    return {
        "run": ["run", *TINY, "--out", folder],
        "resume": ["run", *TINY, "--out", folder, "--resume"],
        "report": ["report", folder],
        "compare": ["compare", folder, "--out", folder.parent / "compared"],
        "evaluate": ["evaluate", folder],
        "nearest": ["diagnose", "nearest", "--run", folder],
    }[name]


def refused(capsys: Captured, words: list[Any], *says: str) -> None:
    """Exit code 2 and one sentence with all of these words."""
    capsys.readouterr()
    assert main(list(map(str, words))) == 2, words
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trajmatch: ")]
    assert len(said) == 1
    assert all(part in said[0] for part in says), said


@pytest.mark.parametrize("other", ["mtt", "seed", "more"])
def test_a_set_of_another_run_is_not_taken_for_this_one_s(
    other: str, made: dict[str, Path], folder: Path, capsys: Captured
) -> None:
    shutil.copy(made[other] / "distilled.safetensors", folder)
    says = ("distilled.safetensors is not the set that this run's checkpoint.safetensors ends with",)
    before = (folder / "summary.json").read_bytes()
    for name in ("run", "resume"):
        refused(capsys, verb(name, folder), *says)
    assert (folder / "summary.json").read_bytes() == before
    for name in ("report", "compare", "nearest"):
        refused(capsys, verb(name, folder), "distilled.safetensors is of another run than", "config.yaml: --")


@pytest.mark.parametrize("other", ["mtt", "seed", "more"])
def test_a_snapshot_of_another_run_is_not_chosen(
    other: str, made: dict[str, Path], folder: Path, capsys: Captured
) -> None:
    name = "snapshots/step_000002.safetensors"
    shutil.copy(made[other] / name, folder / name)
    (folder / "evaluation.json").unlink()
    for reader in ("run", "evaluate", "nearest"):
        refused(capsys, verb(reader, folder), "step_000002.safetensors is of another run than", "there and")


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "seed": lambda flat: flat.update(seed=1),
    "inner_steps": lambda flat: flat["matching"].update(inner_steps=7),
    "epochs": lambda flat: flat["evaluation"].update(epochs=2),
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_digit_of_the_configuration_reaches_nothing(key: str, folder: Path, capsys: Captured) -> None:
    path = folder / "config.yaml"
    flat = yaml.safe_load(path.read_text())
    CHANGES[key](flat)
    path.write_text(yaml.safe_dump(flat))
    for name in ("report", "compare", "nearest"):
        refused(capsys, verb(name, folder), "is of another run than", "config.yaml", key.replace("_", "-"))


def test_records_beside_a_summary_are_those_that_it_was_made_of(
    made: dict[str, Path], folder: Path, capsys: Captured
) -> None:
    page, log = folder / "report.html", folder / "metrics.jsonl"
    whole = log.read_bytes()
    succeed(*verb("report", folder))
    assert "left out" not in page.read_text()
    for name, says in {
        "metrics.jsonl": "metrics.jsonl is not the log of this run, or rows of it are missing",
        "experts.json": "experts.json is not the record of this run&#39;s experts",
    }.items():
        kept = (folder / name).read_bytes()
        shutil.copy(made["seed"] / name, folder)
        succeed(*verb("report", folder))
        assert says in page.read_text()
        (folder / name).write_bytes(kept)
    first, *rest = whole.splitlines(keepends=True)
    for damaged in (b"".join(rest), whole + whole, b"".join(rest) + first):
        log.write_bytes(damaged)
        succeed(*verb("report", folder))
        assert "metrics.jsonl is not the log of this run, or rows of it are missing" in page.read_text()
    # Also after the run has been asked for again, which writes the summary anew.
    succeed(*verb("run", folder))
    assert "metrics.jsonl is not the log of this run, or rows of it are missing" in page.read_text()
    log.write_bytes(whole)
    succeed(*verb("run", folder))
    assert "left out" not in page.read_text()


def test_a_set_that_is_missing_is_said(folder: Path) -> None:
    (folder / "distilled.safetensors").unlink()
    succeed(*verb("report", folder))
    assert "distilled.safetensors is not in the run folder" in (folder / "report.html").read_text()
