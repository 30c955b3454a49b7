"""`trajmatch continual --replay`: who sees the memory, going on to the same result, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from tests.run.scores.test_continual import words
from tests.run.test_cli import refusal
from tests.small import succeed
from trajmatch.data import synthetic as sets
from trajmatch.data.trajectories import Trajectory
from trajmatch.run.cli import main
from trajmatch.run.stages.loop import Loop

Captured = pytest.CaptureFixture[str]
PLACES = "order-{}/step-{}"


def outputs(stream: Path, step: int) -> int:
    """The classes that the experts of a step tell apart: the length of the last bias."""
    path = stream / PLACES.format(0, step) / "experts" / "expert_0000.safetensors"
    return int(Trajectory.open(path).header["shapes"][-1][0])


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A stream of one order with each replay."""
    root = tmp_path_factory.mktemp("streams")
    for replay in ("none", "experts", "students", "both"):
        words_of = words("--orders", 1, "--fresh-networks", 1, "--steps", 2, "--replay", replay, "--out", root / replay)
        succeed(*words_of)
    return {path.name: path for path in root.iterdir()}


def test_each_replay_is_another_set_from_the_second_step_on(streams: dict[str, Path]) -> None:
    first, second = ({k: sets.load(s / PLACES.format(0, j)) for k, s in streams.items()} for j in range(2))
    for replay in ("experts", "students", "both"):
        assert torch.equal(first[replay].X, first["none"].X), "there is no memory yet"
        assert outputs(streams[replay], 0) == 5
        assert outputs(streams[replay], 1) == 10
        assert len(second[replay].X) == 5
        assert second[replay].Y.argmax(1).tolist() == [0, 1, 2, 3, 4], "the new classes come first"
        assert second[replay].Y.shape == (5, 10)
        assert second[replay].classes[:5] == second["none"].classes
        assert second[replay].classes[5:] == first["none"].classes
    assert outputs(streams["none"], 1) == 5
    images = [one.X for one in second.values()]
    assert not any(torch.equal(images[i], images[j]) for i in range(4) for j in range(i))


def test_the_result_says_which_and_lays_labels_where_they_belong(streams: dict[str, Path]) -> None:
    found = {k: json.loads((s / "continual.json").read_text()) for k, s in streams.items()}
    assert "replay" not in found["none"]
    assert [found[k]["replay"] for k in ("experts", "students", "both")] == ["experts", "students", "both"]
    assert found["both"]["replay_weight"] == 1.0
    assert found["both"]["orders"] == found["none"]["orders"]


def test_a_replay_goes_on_to_the_same_result(
    streams: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same, step, taken = words("--orders", 1, "--fresh-networks", 1, "--steps", 2, "--replay", "both"), Loop.step, []

    def interrupted(loop: Loop) -> str:
        taken.append(loop.checkpoint.step)
        if len(taken) == 4:  # in the second step of the stream
            raise KeyboardInterrupt
        return step(loop)

    monkeypatch.setattr(Loop, "step", interrupted)
    assert main([*same, "--out", str(tmp_path / "cut")]) == 130
    assert not (tmp_path / "cut" / PLACES.format(0, 1) / "distilled.safetensors").exists()
    succeed(*same, "--out", tmp_path / "cut")
    assert taken == [0, 1, 0, 1, 1]
    again, whole = (sets.load(s / PLACES.format(0, 1)) for s in (tmp_path / "cut", streams["both"]))
    assert torch.equal(again.X, whole.X)
    accuracy = [json.loads((s / "continual.json").read_text())["accuracy"] for s in (tmp_path / "cut", streams["both"])]
    assert accuracy[0] == accuracy[1]


@pytest.mark.parametrize("other", ["none", "students"])
def test_a_stream_of_another_replay_is_not_gone_on_with(other: str, streams: dict[str, Path], capsys: Captured) -> None:
    before = {path: path.read_bytes() for path in streams["both"].rglob("*.safetensors")}
    more = ("--orders", 1, "--fresh-networks", 1, "--steps", 2, "--replay", other, "--out", streams["both"])
    said = refusal(capsys, *words(*more))
    assert "other settings: the images are others; choose another" in said
    assert {path: path.read_bytes() for path in streams["both"].rglob("*.safetensors")} == before


def test_labels_that_are_learned_are_among_all_classes_seen(tmp_path: Path) -> None:
    more = ("--method", "satm-contra", "--ipc", 4, "--factor", 2, "--matching.batch", 6, "--matching.segments", 2)
    stream = ("--orders", 1, "--fresh-networks", 1, "--steps", 2, "--replay", "both", "--out", tmp_path / "r")
    succeed(*words(*more, *stream))
    second = sets.load(tmp_path / "r" / PLACES.format(0, 1))
    assert second.Y.shape == (20, 10)
    assert float(second.Y[:, 5:].max()) > 0
    assert json.loads((tmp_path / "r" / PLACES.format(0, 1) / "scores.json").read_text())["images"] == 160


@pytest.mark.parametrize(
    "method",
    [
        ("satm-bptt", "--baseline.since", 1),
        ("satm-bptt", "--baseline.since", 1, "--baseline.students", 2, "--outer.labels", "learned", "--micro-batch", 7),
        ("rat-bptt",),
        ("at-bptt", "--memory", "4GB"),
    ],
)
def test_the_loss_on_real_images_sees_the_memory_too(method: tuple[object, ...], tmp_path: Path) -> None:
    common = ("--orders", 1, "--fresh-networks", 1, "--steps", 3, "--ipc", 2, "--method", *method)
    for replay in ("none", "students"):
        succeed(*words(*common, "--replay", replay, "--out", tmp_path / replay))
    first, second = ([sets.load(tmp_path / k / PLACES.format(0, j)) for k in ("none", "students")] for j in range(2))
    assert torch.equal(first[0].X, first[1].X), "there is no memory yet"
    assert second[1].Y.shape == (10, 10)
    assert not torch.equal(second[0].X, second[1].X)
    found = json.loads((tmp_path / "students" / "continual.json").read_text())
    assert found["replay"] == "students"


def test_steps_that_match_leave_a_memory_to_those_after_them_that_no_expert_has_seen(
    streams: dict[str, Path], tmp_path: Path
) -> None:
    common = ("--orders", 1, "--fresh-networks", 1, "--steps", 2, "--method", "satm-bptt", "--baseline.since", 2)
    found = {}
    for replay in ("experts", "students", "both"):
        succeed(*words(*common, "--replay", replay, "--out", tmp_path / replay))
        found[replay] = sets.load(tmp_path / replay / PLACES.format(0, 1)).X
    of_satm = {replay: sets.load(streams[replay] / PLACES.format(0, 1)).X for replay in found}
    same = {replay: torch.allclose(found[replay], of_satm[replay], atol=1e-6) for replay in found}
    assert not same["students"], "satm's students see it"
    assert same["experts"]
    assert same["both"], "as satm's do where experts have seen it"
    assert not torch.equal(found["both"], found["experts"])


def test_experts_of_another_stream_are_refused(streams: dict[str, Path], tmp_path: Path, capsys: Captured) -> None:
    said = refusal(capsys, *words("--experts", streams["none"], "--replay", "experts", "--out", tmp_path / "r"))
    assert f"--experts is '{streams['none']}' and must be a number with --replay experts" in said
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--method", "random", "--replay", "both"], "--replay both has no effect with --method random, which matches"),
        (
            ["--method", "rat-bptt", "--steps", "2", "--replay", "experts"],
            "no expert sees the memory, for --method rat-bptt",
        ),
        (
            ["--method", "rat-bptt", "--steps", "2", "--replay", "experts", "--replay-weight", "0.5"],
            "--replay-weight has no effect with --replay none",
        ),
        (["--method", "random", "--replay-weight", "0.5"], "--replay-weight has no effect with --replay none"),
    ],
)
def test_what_has_no_effect_is_said(more: list[str], says: str, tmp_path: Path, capsys: Captured) -> None:
    succeed(*words(*more, "--orders", 1, "--fresh-networks", 1, "--out", tmp_path / "r"))
    told = capsys.readouterr()
    assert says in told.out + told.err
    assert "replay" not in json.loads((tmp_path / "r" / "continual.json").read_text())
