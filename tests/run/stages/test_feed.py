"""The logs of --log, against the real libraries: read back, gone on with, and without any effect on a run's results."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.small import command, rows, succeed
from trajmatch.data.synthetic import load
from trajmatch.run.cli import main
from trajmatch.run.stages import feed as feeds
from trajmatch.run.stages.feed import Feed, Told
from trajmatch.run.stages.sinks import SINKS, Opening

# What the libraries themselves warn of when they are imported or end.
LIBRARIES = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning")
PICTURE = Image.new("RGB", (6, 4), (255, 0, 0))


class Notes:
    """A log that keeps what it is told in a list."""

    where = "a list"

    def __init__(self, takes_back: bool = True) -> None:
        self.told: list[Any] = []
        self.takes_back = takes_back

    def scalars(self, values: Any, step: int) -> None:
        self.told.append((step, dict(values)))

    def picture(self, image: Image.Image, step: int) -> None:
        self.told.append((step, "picture"))

    def scores(self, values: Any, step: int) -> None:
        self.told.append((step, dict(values)))

    def back(self, step: int) -> bool:
        if self.takes_back:
            self.told = [one for one in self.told if one[0] <= step]
        return self.takes_back

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.told.append("closed")


def feed(folder: Path, *sinks: Notes, steps: int = 6, kept: Sequence[int] = ()) -> Feed:
    logs = [Told(f"notes{i}", sink, folder / f"{i}.json", "id") for i, sink in enumerate(sinks)]
    return Feed(logs, steps, frozenset(kept), lambda step: PICTURE)


def row(step: int) -> dict[str, Any]:
    return {"step": step, "loss": step / 10, "gap": None, "experts": [1], "seconds": 0.5}


def test_a_step_is_told_when_a_checkpoint_holds_it_and_once(tmp_path: Path) -> None:
    notes = Notes()
    told = feed(tmp_path, notes, kept=[2])
    for step in (1, 2, 3):
        told.add(row(step))
    assert notes.told == []
    told.settle(2)
    first = [(1, {"loss": 0.1, "seconds": 0.5}), (2, {"loss": 0.2, "seconds": 0.5}), (2, "picture")]
    assert notes.told == first
    told.settle(2)
    assert notes.told == first
    told.settle(3)
    assert [step for step, _ in notes.told] == [1, 2, 2, 3]


def test_a_roll_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two = Notes(), Notes(takes_back=False)
    told = feed(tmp_path, one, two)
    for step in (1, 2, 3, 4):
        told.add(row(step))
    told.settle(3)
    told.back(1)
    for step in (2, 3, 4):
        told.add({**row(step), "loss": 9.0})
    told.settle(4)
    assert [(step, values["loss"]) for step, values in one.told] == [(1, 0.1), (2, 9.0), (3, 9.0), (4, 9.0)]
    assert [(step, values["loss"]) for step, values in two.told] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 9.0)]
    assert [r.getMessage() for r in caplog.records] == [
        "steps 2 to 3 are taken again, and notes1, which takes nothing back, keeps what it was told of them; "
        "metrics.jsonl has what counts"
    ]


def test_of_many_steps_a_part_is_told(tmp_path: Path) -> None:
    notes = Notes()
    told = feed(tmp_path, notes, steps=10_001, kept=[7])
    for step in range(1, 10_002):
        told.add(row(step))
    told.settle(10_001)
    steps = [step for step, what in notes.told if what != "picture"]
    assert steps == sorted({1, 7, 10_001, *range(6, 10_001, 6)})
    assert [one for one in notes.told if one[1] == "picture"] == [(7, "picture")]


def test_scores_are_told_again_only_where_they_are_others(tmp_path: Path) -> None:
    notes = Notes()
    told = feed(tmp_path, notes)
    for mean in (0.5, 0.5, 0.25):
        told.score({"distilled": {"mean": mean, "std": 0.1, "n": 2}, "whole": {"mean": 0.9}})
    assert notes.told == [
        (6, {"accuracy/distilled": mean, "accuracy/whole": 0.9, "accuracy/distilled std": 0.1}) for mean in (0.5, 0.25)
    ]


def test_logs_that_end_what_failed_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from trajmatch.settings.config import Config

    notes = Notes()

    def refuse(opening: Opening) -> Any:
        raise ValueError("no")

    monkeypatch.setattr(feeds, "SINKS", {**SINKS, "tensorboard": lambda opening: notes, "wandb": refuse})
    with pytest.raises(ValueError, match="no"):
        feeds.opened(replace(Config(), log=("tensorboard", "wandb")), tmp_path, frozenset(), lambda step: PICTURE)
    assert notes.told == ["closed"]


def test_a_log_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(command("run", "--steps", 1, "--out", tmp_path / "run", "--log", "trackio")) == 2
    assert capsys.readouterr().err.endswith(
        "trajmatch: --log trackio needs the package trackio: install it with: pip install 'trajmatch[trackio]'\n"
    )
    assert not (tmp_path / "run").exists()


def small(experts: Path, folder: Path, *flags: object) -> None:
    succeed(*command("run", "--experts", experts, "--steps", 6, "--out", folder, *flags))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard's own reader finds in event files, by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    found.Reload()
    one = {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}
    return one | {name: [(e.step, e.width) for e in found.Images(name)] for name in found.Tags()["images"]}


@LIBRARIES
def test_tensorboard_and_a_run_that_goes_on(experts: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    plain, logged = tmp_path / "plain", tmp_path / "logged"
    succeed(*command("distill", "--experts", experts, "--steps", 6, "--out", plain))
    small(experts, logged, "--log", "tensorboard")
    one, two = load(plain), load(logged)
    assert torch.equal(one.X, two.X)
    assert one.eta == two.eta
    assert rows(plain) == rows(logged)
    accuracy = json.loads((logged / "summary.json").read_text())["accuracy"]

    found = scalars(logged / "tensorboard")
    losses = [(r["step"], pytest.approx(r["loss"])) for r in rows(logged)]
    assert found["loss"] == losses
    assert [step for step, _ in found["images"]] == [3, 6]
    assert found["accuracy/distilled"] == [(6, pytest.approx(accuracy["distilled"]["mean"]))]
    small(experts, logged, "--log", "tensorboard", "--resume")  # all is there: nothing is told twice
    assert scalars(logged / "tensorboard") == found

    # A log that comes late is told everything.
    succeed(*command("distill", "--experts", experts, "--steps", 6, "--out", plain, "--log", "tensorboard"))
    assert scalars(plain / "tensorboard")["loss"] == losses


@LIBRARIES
def test_tensorboard_leaves_out_what_a_killed_command_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    first = SINKS["tensorboard"](Opening(tmp_path, "id", False, 0, {"ipc": 1}))
    for step in (1, 2, 3):
        first.scalars({"loss": float(step)}, step)
    first.close()
    second = SINKS["tensorboard"](Opening(tmp_path, "id", True, 1, {"ipc": 1}))
    second.scalars({"loss": 20.0}, 2)
    second.scalars({"loss": 30.0}, 3)
    assert second.back(2)
    second.scalars({"loss": 300.0}, 3)
    second.close()
    assert scalars(tmp_path / "tensorboard")["loss"] == [(1, 1.0), (2, 20.0), (3, 300.0)]


def wandb_records(folder: Path) -> list[Any]:
    """The records of an offline run of wandb: a log in LevelDB's format of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    found, whole = [], b""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data, place = file.read_bytes(), 7  # behind the file's own header
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # the end of a block, which is filled up
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(whole))
            whole = b""
    return found


@LIBRARIES
def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    sink = SINKS["wandb"](Opening(tmp_path, "abcd1234", False, 0, {"images.size": 8}))
    sink.scalars({"loss": 0.5}, 1)
    sink.scalars({"loss": 0.25}, 2)
    sink.picture(PICTURE, 2)
    sink.scores({"accuracy/distilled": 0.75}, 2)
    assert not sink.back(1)
    sink.close()
    deadline = time.monotonic() + 60
    # Another process writes the file, and a little longer than the run lasts.
    while not (records := wandb_records(tmp_path)) or records[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < deadline, "no end of the run was written in 60 s"
        time.sleep(0.1)
    history = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(one["_step"], one["loss"]) for one in history] == [(1, 0.5), (2, 0.25)]
    assert (history[1]["images.width"], history[1]["images.height"]) == (6, 4)
    (begun,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
    assert begun.run_id == "abcd1234"
    assert {u.key: json.loads(u.value_json) for u in begun.config.update}["images.size"] == 8
    summary = {u.key: u.value_json for r in records for u in r.summary.update}
    assert summary["accuracy/distilled"] == "0.75"


@LIBRARIES
def test_trackio_and_a_run_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "trackio" not in sys.modules:
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="needs the extra trackio")
    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    assert str(utils.TRACKIO_DIR) == str(tmp_path / "trackio")
    for begun, steps in ((False, (1, 2)), (True, (3,))):
        sink = SINKS["trackio"](Opening(tmp_path / "run", "abcd", begun, 0, {"images.size": 8}))
        for step in steps:
            sink.scalars({"loss": step / 4}, step)
        sink.close()
    found = SQLiteStorage.get_logs("trajmatch", "run-abcd")
    assert [(one["step"], one["loss"]) for one in found] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert SQLiteStorage.get_run_config("trajmatch", "run-abcd")["images.size"] == 8
