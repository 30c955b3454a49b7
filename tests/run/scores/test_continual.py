"""`trajmatch continual` on the digits: what is trained on and tested, and going on after an interrupt."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.run.test_cli import refusal
from tests.small import FLAGS, succeed
from trajmatch.data import images
from trajmatch.data import synthetic as sets
from trajmatch.run.assembly import setup
from trajmatch.run.cli import main
from trajmatch.run.scores import memory as module

Captured = pytest.CaptureFixture[str]
STREAM = ["--orders", "2", "--class-steps", "2", "--fresh-networks", "2", "--experts", "1", "--steps", "3"]
STREAM += ["--random-networks", "1"]


def words(*more: object) -> list[str]:
    return ["continual", *FLAGS, *STREAM, *map(str, more)]


def test_a_stream_and_that_it_goes_on_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    succeed(*words("--out", tmp_path / "whole"))
    out = capsys.readouterr().out
    assert "10 classes seen" in out
    found = json.loads((tmp_path / "whole" / "continual.json").read_text())
    assert found["classes_seen"] == [5, 10]
    assert found["images"] == images.load("digits").digest
    assert "test images of all classes seen (359 of all 10 classes)" in found["how"]
    assert "networks after each step: 2, orders of classes: 2" in found["how"]
    assert found["how"] in out
    assert str(tmp_path / "whole" / "continual.json") in out
    assert [len(step) for order in found["accuracy"] for step in order] == [2] * 4
    after = [value for order in found["accuracy"] for value in order[1]]
    assert found["mean"][1] == pytest.approx(sum(after) / 4)
    assert (tmp_path / "whole" / "continual.png").read_bytes().startswith(b"\x89PNG")
    first = sets.load(tmp_path / "whole" / "order-0" / "step-0")
    assert len(first.X) == 5
    scores = json.loads((tmp_path / "whole" / "order-0" / "step-1" / "scores.json").read_text())
    assert scores["images"] == 10
    assert scores["classes"] == [label for group in found["orders"][0] for label in group]
    random = found["random"]
    assert [len(step) for order in random["accuracy"] for step in order] == [1] * 4
    assert random["mean"] == pytest.approx([sum(order[j][0] for order in random["accuracy"]) / 2 for j in range(2)])
    assert "random: of 1 more network, each on as many random real images, at the same rate" in out
    assert f"{random['mean'][1]:.2%} +- {random['std'][1]:.2%}" in out
    beside = json.loads((tmp_path / "whole" / "order-1" / "step-1" / "random-scores.json").read_text())
    own = json.loads((tmp_path / "whole" / "order-1" / "step-1" / "scores.json").read_text())
    assert beside["accuracy"] == random["accuracy"][1][1]
    assert (beside["images"], beside["rate"], beside["classes"]) == (10, own["rate"], own["classes"])

    score, calls = module.train_and_test, []

    def interrupted(*arguments: Any) -> float:
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return score(*arguments)

    monkeypatch.setattr(module, "train_and_test", interrupted)
    assert main(words("--out", tmp_path / "cut")) == 130
    X, Y, test_y = calls[3][1], calls[3][2], calls[3][5]
    assert X.shape[0] == Y.shape[0] == 10, "the whole memory"
    assert Y.argmax(1).unique().tolist() == list(range(10))
    assert test_y.unique().tolist() == list(range(10))
    before = (tmp_path / "cut" / "order-0" / "step-0" / "distilled.safetensors").stat().st_mtime_ns
    succeed(*words("--out", tmp_path / "cut"))
    assert (tmp_path / "cut" / "order-0" / "step-0" / "distilled.safetensors").stat().st_mtime_ns == before
    again = json.loads((tmp_path / "cut" / "continual.json").read_text())
    assert again["accuracy"] == found["accuracy"]
    assert again["random"] == random


def test_streams_share_experts(tmp_path: Path) -> None:
    given = words().index("--experts") + 1

    def with_experts(experts: object, *more: object) -> list[str]:
        return [*words()[:given], str(experts), *words()[given + 1 :], *map(str, more)]

    succeed(*with_experts(1, "--out", tmp_path / "a"))
    succeed(*with_experts(tmp_path / "a", "--out", tmp_path / "b"))
    succeed(*with_experts(tmp_path / "a", "--method", "mtt", "--out", tmp_path / "c"))
    assert not list((tmp_path / "b").rglob("expert_*"))
    found = [json.loads((tmp_path / name / "continual.json").read_text()) for name in "abc"]
    assert found[0]["accuracy"] == found[1]["accuracy"]
    assert found[2]["orders"] == found[0]["orders"]
    sides = [sets.load(tmp_path / name / "order-1" / "step-1").X for name in "abc"]
    assert torch.equal(sides[0], sides[1])
    assert not torch.equal(sides[0], sides[2])


def test_baselines_stream_too(tmp_path: Path) -> None:
    succeed(*words("--method", "random", "--out", tmp_path / "r", "--ipc", "2"))
    found = json.loads((tmp_path / "r" / "continual.json").read_text())
    assert found["method"] == "random"
    assert "random" not in found, "its memory is random images"
    assert torch.tensor(found["accuracy"]).shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--class-steps", "3"], "--class-steps is 3 and must divide the 10 classes"),
        (["--class-steps", "10"], "--class-steps is 10, which leaves one class to a step"),
        (["--matching.batch", "6"], "--matching.batch is 6 and must be at most the 5 images that a step condenses"),
        (["--orders", "0"], "--orders is 0 and must be at least 1"),
        (["--experts", "somewhere"], "--experts is 'somewhere' and must be a number, or the folder of another"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    more: list[str], says: str, tmp_path: Path, capsys: Captured
) -> None:
    assert says in refusal(capsys, *words(*more, "--out", tmp_path / "r"))
    assert not (tmp_path / "r").exists()


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where images are loaded."""

    def load(*arguments: object) -> None:
        raise AssertionError("nothing may be loaded")

    monkeypatch.setattr(setup, "load_material", load)


def stream_of_experts(folder: Path, *counts: list[int]) -> Path:
    """A stream's folder with so many experts of each order's steps."""
    for order, row in enumerate(counts):
        for step, count in enumerate(row):
            place = folder / f"order-{order}" / f"step-{step}" / "experts"
            place.mkdir(parents=True)
            for k in range(count):
                (place / f"expert_{k:04}.safetensors").touch()
    return folder


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ([[1, 1]], "in 1 of the 2 of --orders (order-1/step-0 has 0 where 1 must be)"),
        ([[1], [1]], "for all 2 of --class-steps in 0 of the 2 of --orders (order-0/step-1 has 0 where 1 must be)"),
        ([[2, 2], [2, 1]], "in 1 of the 2 of --orders (order-1/step-1 has 1 where 2 must be)"),
        ([[0, 0], [0, 0]], "in 0 of the 2 of --orders (order-0/step-0 has 0 where 1 must be)"),
    ],
)
@pytest.mark.usefixtures("unloaded")
def test_a_stream_without_all_experts_is_refused_before_all_work(
    counts: list[list[int]], says: str, tmp_path: Path, capsys: Captured
) -> None:
    other = stream_of_experts(tmp_path / "other", *counts)
    said = refusal(capsys, *words("--experts", other, "--out", tmp_path / "r"))
    assert f"--experts is '{other}', which has experts" in said
    assert says in said
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ({"config.yaml": "ipc: 1", "summary.json": "{}"}, "which holds a run and no stream: choose another"),
        # As a stream in a run's folder would have left it.
        ({"config.yaml": "ipc: 1", "continual.json": "{}", "order-0/step-0/config.yaml": ""}, "which holds a run"),
        ({"letter.txt": "dear"}, "which is not empty and holds no stream: choose another"),
    ],
)
@pytest.mark.usefixtures("unloaded")
def test_folders_of_something_else_stay_as_they_are(
    held: dict[str, str], says: str, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "r"
    for name, text in held.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    said = refusal(capsys, *words("--out", out))
    assert f"--out is '{out}', {says}" in said
    assert {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()} == held


@pytest.mark.usefixtures("unloaded")
def test_out_may_not_be_a_file(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "r").write_text("text")
    assert "which is a file: choose another" in refusal(capsys, *words("--out", tmp_path / "r"))
    assert (tmp_path / "r").read_text() == "text"


@pytest.mark.parametrize("names", [["order-0/step-0"], ["order-0"], ["continual.json"], [".hidden"]])
def test_streams_and_empty_folders_are_taken(names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(setup, "load_material", load)
    for name in names:
        (tmp_path / "r" / name).mkdir(parents=True)
    assert main(words("--out", tmp_path / "r")) == 130, "it came to load the images"


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "3", '{"accuracy": 0.5}', '{"accuracy": ["0.5"]}'])
@pytest.mark.usefixtures("unloaded")
def test_damaged_scores_are_one_sentence_and_stay(content: str, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "r" / "order-1" / "step-0" / "scores.json"
    path.parent.mkdir(parents=True)
    (tmp_path / "r" / "order-0").mkdir()
    path.write_text(content)
    said = refusal(capsys, *words("--out", tmp_path / "r"))
    assert f"{path}: this record is damaged" in said
    assert said.endswith("delete it, and its networks are trained again")
    assert path.read_text() == content
