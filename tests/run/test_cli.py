"""The command line as a user meets it: results, refusals and exit codes."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trajmatch
from tests.small import command, rows, start, succeed
from trajmatch.data import images
from trajmatch.data.material import shared
from trajmatch.data.tensors import read_tensors
from trajmatch.machine import processes as pool
from trajmatch.run.assembly import setup
from trajmatch.run.cli import main
from trajmatch.run.stages import loop as distill_stage
from trajmatch.run.stages import steps as outer_steps
from trajmatch.run.verbs import VERBS
from trajmatch.settings.presets import preset

Captured = pytest.CaptureFixture[str]


def refusal(capsys: Captured, *words: object, code: int = 2) -> str:
    """What a command that must fail says: one line, no traceback."""
    assert main(list(map(str, words))) == code
    said = capsys.readouterr().err
    last = said.strip().splitlines()[-1]
    assert last.startswith("trajmatch: ")
    assert "Traceback" not in said
    return last


def test_a_whole_run_and_that_it_is_not_done_twice(experts: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "r"
    words = command("run", "--experts", experts, "--steps", 24, "--out", folder)
    succeed(*words)
    summary = json.loads((folder / "summary.json").read_text())
    wanted = {"dataset", "method", "ipc", "device", "torch", "commit", "seed", "accuracy", "seconds", "peak_memory_mb"}
    assert wanted | {"compression"} <= summary.keys()
    assert {"read", "experts", "distill", "evaluate"} == summary["seconds"].keys()
    for name in ("distilled", "random", "whole", "chosen"):
        assert {"mean", "std", "n", "how"} <= summary["accuracy"][name].keys()
    assert summary["accuracy"]["distilled"]["n"] == 2
    train = len(rows_of_digits())  # without the validation images, as in the report's first sentence
    assert (summary["compression"], summary["whole_images"]) == (pytest.approx(train / 10), train)
    size = (folder / "distilled.safetensors").stat().st_size
    assert "compression in bytes" in (folder / "report.html").read_text(encoding="utf-8")
    assert summary["compression_bytes"] == pytest.approx(train * 64 / size), "a byte for each pixel of 8 x 8"
    assert summary["images"] == images.load("digits").digest
    for name in ("config.yaml", "images.png", "initial.png", "report.html", "metrics.jsonl", "evaluation.json"):
        assert (folder / name).stat().st_size > 0, name
    times = {p: p.stat().st_mtime_ns for p in [folder / "distilled.safetensors", folder / "evaluation.json"]}
    capsys.readouterr()
    succeed(*words)
    assert "is there" in capsys.readouterr().err
    assert times == {p: p.stat().st_mtime_ns for p in times}
    again = json.loads((folder / "summary.json").read_text())
    assert again["accuracy"] == summary["accuracy"]


def rows_of_digits() -> torch.Tensor:
    return images.load("digits").train.y


def test_evaluate_gives_the_runs_own_numbers(whole: Path, capsys: Captured) -> None:
    succeed("evaluate", whole)
    first = capsys.readouterr().out
    succeed("evaluate", whole / "distilled.safetensors", "--evaluation.workers", 2)
    second = capsys.readouterr().out
    line = next(line for line in first.splitlines() if "last iterate" in line)
    assert line in second  # in processes as here, from the folder as from the file


def test_a_folder_of_pngs_gives_the_same_numbers_as_its_source(experts: Path, whole: Path, tmp_path: Path) -> None:
    digits = images.load("digits")
    images.export_folder(digits, tmp_path / "png")
    archive = tmp_path / "digits.npz"
    splits = {"train": [digits.train, digits.validation], "test": [digits.test]}
    arrays: dict[str, Any] = {}
    for name, parts in splits.items():
        arrays[f"x_{name}"] = np.concatenate([p.x.permute(0, 2, 3, 1).numpy() for p in parts])
        arrays[f"y_{name}"] = np.concatenate([p.y.numpy() for p in parts])
    np.savez(archive, **arrays)
    folders = []
    for name, source in (("a", tmp_path / "png"), ("b", archive), ("c", "digits")):
        folders.append(tmp_path / name)
        # Not resized: the preset for digits keeps images as they are.
        succeed(*command("distill", "--data", source, "--experts", 1, "--steps", 3, "--out", folders[-1]))
    wanted = read_tensors(folders[0] / "distilled.safetensors")
    for folder in folders[1:]:
        found = read_tensors(folder / "distilled.safetensors")
        for key in ("images", "labels", "step_size"):
            assert torch.equal(found[key], wanted[key]), (folder, key)
        assert rows(folder) == rows(folders[0])


def test_workers_and_shards_make_the_same_experts(experts: Path, tmp_path: Path) -> None:
    succeed(*command("experts", "--experts", 2, "--out", tmp_path / "p", "--expert.workers", 2))
    for shard in ("0/2", "1/2"):
        succeed(*command("experts", "--experts", 2, "--out", tmp_path / "s", "--expert.shard", shard))
    for name in ("expert_0000.safetensors", "expert_0001.safetensors"):
        wanted = read_tensors(experts / name)["theta"]
        assert torch.equal(read_tensors(tmp_path / "p" / name)["theta"], wanted)
        assert torch.equal(read_tensors(tmp_path / "s" / name)["theta"], wanted)


def test_python_does_what_the_command_does(experts: Path, whole: Path) -> None:
    import tyro

    config = tyro.cli(trajmatch.Config, args=command("run")[2:], default=preset("digits-ipc1"))
    found = trajmatch.distill("digits", steps=24, experts=str(experts), config=config, quiet=True)
    wanted = trajmatch.load(whole)
    assert torch.equal(found.images, wanted.images)
    assert found.step_size == wanted.step_size


def test_a_torch_dataset_in_python(tmp_path: Path) -> None:
    import tyro

    source = torch.Generator().manual_seed(0)
    pictures = torch.rand(60, 3, 8, 8, generator=source)
    dataset = torch.utils.data.TensorDataset(pictures, torch.arange(60) % 3)
    config = tyro.cli(trajmatch.Config, args=command("run")[2:], default=preset("digits-ipc1"))
    found = trajmatch.distill(dataset, ipc=2, steps=2, experts=1, config=config, quiet=True, out=tmp_path / "r")
    assert found.images.shape == (6, 3, 8, 8)
    assert trajmatch.load(tmp_path / "r").step_size == found.step_size


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("runn",), "did you mean run"),
        (("run", "digits-ipc2"), "did you mean digits-ipc1"),
        (("run", "--data", "digitz"), "digits"),
        (("run", "--config", "none.yaml"), "there is no file none.yaml"),
        (("run", "--config"), "needs the name of a YAML file"),
        (("run", "--device", "cuda:99"), "--device is 'cuda:99'"),
        (("run", "--device", "tpu!"), "--device is 'tpu!' and must be"),
        (("run", "--experts", "0"), "--experts is 0"),
        (("run", "--experts", "nowhere"), "neither a number nor a folder"),
        (("run", "--ipc", "1000"), "--ipc"),
        (("run", "--matching.augment", "crop_zoom"), "--matching.augment is 'crop_zoom', and 'zoom' is not a family"),
        (("run", "--expert.augment", "zoom"), "--expert.augment is 'zoom'"),
        (("run", "--method", "rat-bptt", "--baseline.augment", "zoom"), "--baseline.augment is 'zoom'"),
        (("run", "--evaluation.augment", "none_flip"), "--evaluation.augment is 'none_flip', and 'none' is not"),
        (("run", "--network.depth", "5"), "--network.depth is 5, whose poolings need sides that 32 divides"),
        (("run", "."), "'.' is no preset but a path; --data . names images"),
        (("run", "nothing-like-it"), "'nothing-like-it' is not a preset; trajmatch presets lists them"),
        (("evaluate", "nowhere"), "no distilled set"),
        (("report", "nowhere"), "no such file"),
        (("presets", "digits"), "is not a preset"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    words: tuple[str, ...], says: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in refusal(capsys, *words)
    assert list(tmp_path.iterdir()) == []


def test_wrong_flags_are_suggested(capsys: Captured) -> None:
    assert main(["run", "--images.sise", "8"]) == 2
    assert "did you mean --images.size?" in capsys.readouterr().err


def test_experts_close_to_chance_are_remarked_on(tmp_path: Path, capsys: Captured) -> None:
    # Nothing is learned, so the images must hardly move: the segment's length divides the loss.
    still = ("--expert.lr", "1e-6", "--matching.rate", "fixed", "--outer.lr-images", "1e-20")
    succeed(*command("distill", "--experts", 1, *still, "--steps", 1, "--out", tmp_path / "r"))
    assert "close to chance (10.00%)" in capsys.readouterr().err


def test_a_folder_of_another_run_is_refused(whole: Path, experts: Path, capsys: Captured) -> None:
    before = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    words = command("distill", "--experts", experts, "--steps", 25, "--out", whole)
    assert "--steps is 24 there and 25 here; choose another --out" in refusal(capsys, *words)
    assert before == {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}


def test_experts_of_other_settings_are_refused(experts: Path, tmp_path: Path, capsys: Captured) -> None:
    words = command("distill", "--experts", experts, "--out", tmp_path / "r", "--expert.lr", "0.5")
    assert "--expert.lr is 0.03 there and 0.5 here" in refusal(capsys, *words)
    words = command("distill", "--experts", experts, "--out", tmp_path / "q", "--images.classes", "1", "2")
    assert "the images are others" in refusal(capsys, *words)
    assert list(tmp_path.iterdir()) == []  # nothing claims a folder before its experts are known to fit


def test_a_bare_yes_in_yaml_is_understood(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "c.yaml").write_text("expert: {flat: yes}\nmatching: {together: no}\n")
    assert main(["presets", "digits-ipc1", "--config", str(tmp_path / "c.yaml")]) == 0
    out = capsys.readouterr().out
    assert "flat: 'yes'" in out
    assert "together: 'no'" in out


def test_a_damaged_expert_is_named(experts: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "expert_0000.safetensors").write_bytes(b"not a file")
    words = command("distill", "--experts", tmp_path / "e", "--out", tmp_path / "r")
    assert "expert_0000.safetensors" in refusal(capsys, *words)


def test_an_unwritable_place_and_a_full_disk(experts: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").write_text("")
    words = command("distill", "--experts", experts, "--out", tmp_path / "file" / "r")
    assert "file" in refusal(capsys, *words)
    # A real failing write: no file of this process may grow past 3,000 bytes.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); "
    code = limit + "import sys; from trajmatch.run.cli import main; sys.exit(main(sys.argv[1:]))"
    words = command("distill", "--experts", experts, "--out", tmp_path / "r", "--steps", 4)
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "too large" in done.stderr
    assert not [p for p in (tmp_path / "r").rglob("*") if ".tmp" in p.name]


def test_a_loss_that_is_not_finite_halves_the_rate_once_and_then_stops(
    experts: Path, tmp_path: Path, capsys: Captured
) -> None:
    flags = ("--experts", experts, "--steps", 30, "--outer.lr-images", "1e30")
    said = refusal(capsys, *command("distill", *flags, "--out", tmp_path / "r"), code=1)
    assert "--outer.lr-images" in said
    state = read_tensors(tmp_path / "r" / "checkpoint.safetensors") if rows(tmp_path / "r") else None
    assert state is None or bool(state["state.X"].isfinite().all())


def test_roll_back_returns_to_the_anchor(experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill_stage, "ANCHOR_STEPS", 4)
    step, failed = outer_steps.outer_step, []

    def sometimes(*arguments: Any) -> Any:
        state, record = step(*arguments)
        if int(state.steps) == 7 and not failed:
            failed.append(7)
            record = record._replace(healthy=torch.tensor(False))
        return state, record

    monkeypatch.setattr(outer_steps, "outer_step", sometimes)
    succeed(*command("distill", "--experts", experts, "--steps", 10, "--out", tmp_path / "r"))
    assert failed
    assert [row["step"] for row in rows(tmp_path / "r")] == list(range(1, 11))
    assert float(read_tensors(tmp_path / "r" / "checkpoint.safetensors")["state.scale"]) == 0.5


def test_a_killed_worker_is_reported() -> None:
    with pytest.raises(pool.WorkerLostError, match="worker process was killed"):
        list(pool.run_tasks(_die, [(), ()], workers=2, threads=1))


def _die(report: pool.Report) -> None:
    import os

    os._exit(9)


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_report_in_processes_as_here(workers: int) -> None:
    said: list[tuple[int, int]] = []
    results = dict(pool.run_tasks(_square, [(2,), (3,)], workers, 1, lambda *heard: said.append(heard)))
    assert results == {0: 4, 1: 9}
    assert sorted(said) == [(0, -2), (1, -3)]


def test_only_dead_processes_material_is_swept(tmp_path: Path) -> None:
    process = start("--version")
    process.communicate(timeout=60)
    host = socket.gethostname()
    dead, alive = (tmp_path / f".material-{host}-{pid}-x" for pid in (process.pid, os.getpid()))
    other = tmp_path / ".material-elsewhere.example-1-x"
    for place in (dead, alive, other):
        place.mkdir()
    material = setup.load_material(preset("digits-ipc1"))
    with shared(material, tmp_path) as path:
        assert path.exists()
    assert sorted(tmp_path.iterdir()) == sorted([alive, other])


def _square(x: int, report: pool.Report) -> int:
    report(-x)
    return x * x


def test_help_is_quick_and_complete() -> None:
    began = time.monotonic()
    process = start("run", "--help")
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "--matching.differentiated-steps" in out
    # Not a timing test: a tenth of this is usual, and an import of torch alone would take more.
    assert time.monotonic() - began < 10
    assert main(["--help"]) == 0
    assert main(["--version"]) == 0
    assert main(["presets"]) == 0
    assert main(["presets", "digits-ipc1"]) == 0


def test_memory_that_torch_can_not_have_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def greedy(call: Any) -> int:
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes\nC++"
        )

    monkeypatch.setitem(VERBS, "presets", VERBS["presets"]._replace(run=greedy))
    assert main(["presets"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("trajmatch: out of memory: ")
    assert len(said.splitlines()) == 1


def test_other_errors_of_torch_are_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(call: Any) -> int:
        raise RuntimeError("shapes differ")

    monkeypatch.setitem(VERBS, "presets", VERBS["presets"]._replace(run=wrong))
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["presets"])
