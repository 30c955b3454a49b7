"""The comparison of methods: its jobs, what it refuses, what it says of its runs; and the scripts that call it."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks import compare_methods, measure, summary
from benchmarks import comparison as compared
from benchmarks.comparison import Comparison, Job
from trajmatch.run.folder import claim

ROOT = Path(__file__).parents[1]


def comparison(out: Path) -> Comparison:
    return Comparison(
        data="digits",
        experts=out / "e",
        out=out,
        preset="digits-ipc1",
        flat_experts=out / "f",
        budget=60.0,
        networks=2,
        validate=True,
        workers=1,
        set=("--expert.epochs", "30"),
    )


def test_a_job_s_settings_are_the_method_s_with_its_flags(tmp_path: Path) -> None:
    about = comparison(tmp_path)
    config = compare_methods.configuration(about, Job("satm-fi --matching.radius 0.3", 10, 2, 40, 30))
    assert (config.method, config.ipc, config.steps, config.expert.epochs) == ("satm-fi", 10, 40, 30)
    assert (config.matching.radius, config.expert.flat, config.experts) == (0.3, "yes", str(tmp_path / "f"))
    assert (config.outer.seed, config.seed, config.outer.threads, config.outer.snapshot_at) == (2, 0, 1, (30,))
    plain = compare_methods.configuration(about, Job("mtt", 1, 0, 9, 9))
    assert (plain.expert.flat, plain.experts) == ("no", str(tmp_path / "e"))


def test_steps_follow_from_the_budget_and_equal_steps_from_the_slowest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "expert_0000.safetensors").touch()
    seconds = {"mtt": 0.5, "contra": 2.0}
    monkeypatch.setattr(compare_methods, "seconds_per_step", lambda about, name, ipc: seconds[name] * ipc)
    about = replace(comparison(tmp_path), methods=("random", "mtt", "contra"), ipc=(1, 2), seeds=2)
    jobs = compare_methods.plan(about)
    assert jobs[:3] == [Job("random", 1, 0), Job("mtt", 1, 0, 120, 30), Job("contra", 1, 0, 30, 30)]
    assert jobs[4] == Job("mtt", 2, 0, 60, 15)
    assert [job.seed for job in jobs] == [0] * 6 + [1] * 6
    kept = json.loads((tmp_path / "seconds_per_step.json").read_text())
    assert kept["contra, 2 per class"] == 4.0
    monkeypatch.setattr(compare_methods, "seconds_per_step", lambda *_: pytest.fail("measured again"))
    assert compare_methods.plan(about) == jobs


def test_more_networks_score_what_is_there_and_keep_what_they_found(tmp_path: Path) -> None:
    flags = ("--evaluation.epochs", "3", "--network.width", "4")
    few = replace(comparison(tmp_path / "a"), networks=1, set=flags)
    more, at_once = replace(few, networks=3), replace(few, networks=3, out=tmp_path / "b")
    job = Job("random", 1, 0)
    first, found = compare_methods.run(few, job), compare_methods.run(more, job)
    assert found["accuracy"][:1] == first["accuracy"]
    assert found["accuracy"] == compare_methods.run(at_once, job)["accuracy"]
    assert len(set(found["accuracy"])) > 1
    assert compare_methods.run(few, job) == found, "fewer are there already"


WORDS = "--preset digits-ipc1 --data digits --seeds 1 --networks 1 --workers 1 --evaluation.epochs 3 --network.width 4"
Call = Callable[..., int]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """The command on one folder; a step takes 10 s."""
    monkeypatch.setattr(compare_methods, "seconds_per_step", lambda *_: 10.0)
    where = ["--out", str(tmp_path / "out"), "--experts", str(tmp_path / "experts")]
    return lambda *words: compare_methods.main([*WORDS.split(), *where, *words])


def record(folder: Path, name: str = "dm-ipc1-seed0/test.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / name).read_text())
    return found


def change(folder: Path, name: str, function: Callable[[dict[str, Any]], object]) -> None:
    found = record(folder, name)
    function(found)
    (folder / "out" / name).write_text(json.dumps(found))


DM = "--methods", "dm", "--budget", "20"


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        ("--budget 30", "--budget is 20 there and 30 here"),
        ("--evaluation.epochs 5", "--evaluation.epochs is 3 there and 5 here"),
        ("--baseline.lr-images 50", "--baseline.lr-images is None there and 50.0 here"),
        ("--budget 30 --evaluation.epochs 5", "--budget is 20 there and 30 here"),
        ("--networks 2 --network.width 8", "--network.width is 4 there and 8 here"),
        ("--methods random dm dsa --outer.step-size 0.5", "--outer.step-size is 0.03 there and 0.5 here"),
    ],
)
def test_a_finished_run_is_not_given_for_another(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, difference: str
) -> None:
    assert call(*DM) == 0
    before = contents(tmp_path)
    capsys.readouterr()
    assert call(*DM, *words.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert difference in said.err
    assert contents(tmp_path) == before


def test_another_budget_is_seen_in_folders_that_did_not_record_it(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*DM) == 0
    change(tmp_path, "seconds_per_step.json", lambda found: found.pop("budget"))
    assert call(*DM) == 0, "an old record is no obstacle"
    assert call(*DM, "--budget", "30") == 2
    assert "comparison.json: --budget is 20 there and 30 here" in capsys.readouterr().err
    (tmp_path / "out" / "comparison.json").unlink()
    assert call(*DM, "--budget", "30") == 2
    assert "--steps is 2 there and 3 here, which follow from --budget, --most-steps and" in capsys.readouterr().err


def test_a_method_more_is_refused_where_it_moves_the_equal_steps(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*DM) == 0
    monkeypatch.setattr(compare_methods, "seconds_per_step", lambda *_: 20.0)
    assert call(*DM, "--methods", "dm", "dsa") == 2
    assert "--outer.snapshot-at is [2] there and [1] here, the last step of the slowest" in capsys.readouterr().err


def test_what_is_finished_says_itself_when_and_by_which_commit(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(commit: str) -> None:
        monkeypatch.setattr(measure, "machine", lambda *_: {"commit": commit, "date": f"date of {commit}"})

    at("one")
    assert call(*DM) == 0
    first = record(tmp_path)
    at("two")
    assert call(*DM) == 0
    assert record(tmp_path) == first
    about = record(tmp_path, "comparison.json")["about"]
    assert (about["commit"], about["date"], about["budget"]) == ("one", "date of one", 20.0)
    assert call(*DM, "--networks", "2") == 0, "more networks for what is there"
    assert record(tmp_path, "comparison.json")["about"]["commit"] == ["one", "two"]
    more = record(tmp_path)
    assert [(made["commit"], made["networks"], made["distilled"]) for made in more["made"]] == [
        ("one", 1, True),
        ("two", 1, False),
    ]
    for key in ("steps", "seconds", "peak_memory_mb", "curve"):
        assert more[key] == first[key]


def test_results_without_a_record_have_that_of_their_table(call: Call, tmp_path: Path) -> None:
    assert call(*DM) == 0
    change(tmp_path, "dm-ipc1-seed0/test.json", lambda found: found.pop("made"))
    change(tmp_path, "comparison.json", lambda found: found["about"].update(commit="old"))
    assert call(*DM) == 0
    assert record(tmp_path, "comparison.json")["about"]["commit"] == "old"
    (tmp_path / "out" / "comparison.json").unlink()
    assert call(*DM) == 0
    assert record(tmp_path, "comparison.json")["about"]["commit"] is None, "nobody knows"


def test_origins_by_hand() -> None:
    results = [{"made": [{"commit": "b"}]}, {}, {"made": [{"networks": 3}, {"commit": "c"}]}]
    found = summary.made(results, {"commit": ["a", "b"], "workers": 2})
    assert (found["commit"], found["workers"]) == (["b", "a", "c"], 2)


@pytest.mark.parametrize("value", ["absent", "null"])
def test_settings_that_a_run_could_not_record_yet(tmp_path: Path, value: str) -> None:
    about = comparison(tmp_path)
    for name in ("satm", "satm-contra"):
        job = Job(name, 1, 0, 9, 9)
        folder = tmp_path / job.folder
        claim(folder, compared.configuration(about, job))
        held = yaml.safe_load((folder / "config.yaml").read_text())
        held["outer"]["relative_clip"] = None
        if value == "absent":
            del held["outer"]["relative_clip"], held["baseline"], held["network"]["name"]
        (folder / "config.yaml").write_text(yaml.safe_dump(held))
    compared.refuse_others(about, [Job("satm", 1, 0, 9, 9)])
    # It clips by its method now, and did not when there was no clipping.
    with pytest.raises(ValueError, match=r"--outer\.relative-clip is 0\.0 there and 2\.0 here"):
        compared.refuse_others(about, [Job("satm-contra", 1, 0, 9, 9)])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--seeds 0", "--seeds is 0 and must be at least 1"),
        ("--networks 0", "--networks is 0 and must be at least 1"),
        ("--workers 0", "--workers is 0 and must be at least 1"),
        ("--ipc 1 -2", "--ipc has -2 and must be at least 1"),
        ("--ipc 1 2 1", "--ipc has '1' twice"),
        ("--budget 0", "--budget is 0.0 and must be a positive number of seconds"),
        ("--budget nan", "--budget is nan and must be a positive number of seconds"),
        ("--methods dm nope", "--methods has 'nope', which does not begin with one of mtt, "),
        ("--methods dm dm", "--methods has 'dm' twice"),
        ("--methods mtt", "which holds no experts, and must be a folder of trained ones for 'mtt'"),
        ("--methods dm --matching.last-epoch 0", "--matching.last-epoch is 0 and must be above"),
        ("--preset nope", "--preset: 'nope' is not a preset"),
        ("--methods random --data nowhere", "nowhere"),
    ],
)
def test_bad_input_is_refused_before_anything_is_touched(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, sentence: str
) -> None:
    assert call(*DM, *words.split()) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert contents(tmp_path) == {}


def test_a_damaged_result_is_named(call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*DM) == 0
    path = tmp_path / "out" / "dm-ipc1-seed0" / "test.json"
    path.write_text(path.read_text()[:50])
    capsys.readouterr()
    assert call(*DM) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{path}: this record is damaged" in said


def script(name: str, folder: Path, program: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A script with a stand-in for Python, on a folder that is not there."""
    stand_in = folder / "python"
    stand_in.write_text(f"#!/bin/sh\n{program}\n")
    stand_in.chmod(0o755)
    given = {**os.environ, "PYTHON": str(stand_in), **settings}
    words = ["bash", str(ROOT / "runs" / name), "data", *([str(folder / "new")] * (2 if name == "diagnose.sh" else 1))]
    return subprocess.run(words, env=given, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "part"), [("compare_methods.sh", "16px-ipc1"), ("trust.sh", "baselines-ipc1"), ("diagnose.sh", "16px")]
)
def test_scripts_refuse_a_misspelt_part_before_the_first_is_run(tmp_path: Path, name: str, part: str) -> None:
    done = script(name, tmp_path, f"touch {tmp_path}/ran", PARTS=f"{part} nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"PARTS: 'nope' is none of {part}, ")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("name", "part"), [("compare_methods.sh", "16px-ipc1"), ("trust.sh", "baselines-ipc1")])
def test_scripts_work_in_a_new_folder_and_keep_a_table_when_refused(tmp_path: Path, name: str, part: str) -> None:
    text = tmp_path / "new" / ("16px-ipc1.txt" if name == "compare_methods.sh" else "16px-ipc1-baselines.txt")
    assert script(name, tmp_path, "echo a table", PARTS=part).returncode == 0
    assert text.read_text() == "a table\n"
    refusing = 'case "$*" in *compare_methods*) exit 2;; esac'
    assert script(name, tmp_path, refusing, PARTS=part).returncode == 2
    assert text.read_text() == "a table\n"


def test_settings_are_chosen_by_images_that_no_method_sees_where_there_are_some(tmp_path: Path) -> None:
    about = comparison(tmp_path)
    dataset = compare_methods.material(about).dataset
    assert torch.equal(compare_methods.splits(about)["choice"][1], dataset.validation.y)
    assert compare_methods.chosen_by(about) == "held-out validation"
    inside = replace(about, set=(*about.set, "--images.no-hold-out"))
    train = compare_methods.material(inside).dataset.train
    assert sorted(compare_methods.splits(inside)["choice"][1].tolist()) == sorted(train.y.tolist())
    assert compare_methods.chosen_by(inside) == "10000 training"
