"""Where a run returns to when a step is not finite, wherever that happens; and what is on disk meanwhile."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.run.stages.test_resume import assert_same_result
from tests.small import command, rows, succeed
from trajmatch.data.file_names import CHECKPOINT, METRICS
from trajmatch.data.files import read_header
from trajmatch.data.tensors import read_tensors, save_tensors
from trajmatch.methods.schedule import Choice
from trajmatch.methods.state import OuterState, Record
from trajmatch.run.assembly import setup
from trajmatch.run.cli import main
from trajmatch.run.stages.loop import ANCHOR_STEPS, DivergedError, Loop, guarded, lost_step_size
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config, Outer
from trajmatch.settings.flat import parsed

ONE = torch.tensor(1.0)


@pytest.fixture(scope="module")
def config() -> Config:
    """Settings of which a loop is made in a moment; what it steps by is planted by the tests."""
    words = {"data": "digits", "method": "dm", "ipc": 1, "steps": 1000, "network.width": 8, "images.normalise": "none"}
    return resolve(replace(parsed({**words, "network.depth": 2}), outer=Outer(seed=0, threads=1, labels="hard")))


class Planted:
    """Steps that add 1 to the images; those numbered in `ruined` make them huge, and those in `failing` are not finite.

    After a roll-back, which halves the rate, nothing goes wrong any more.
    """

    def __init__(self, failing: int, ruined: int | None = None) -> None:
        self.failing, self.ruined, self.went_on = failing, ruined, 0

    def __call__(self, state: OuterState) -> tuple[OuterState, Record, list[Any]]:
        number, fine = int(state.steps) + 1, float(state.scale) < 1
        self.went_on += fine
        # Of ruined images the loss is never finite again, whatever the rate.
        bad = (number == self.failing and not fine) or bool(state.X.abs().max() > 1e20 and number >= self.failing)
        X = state.X + (1e30 if number == self.ruined and not fine else 1.0)
        record = Record(ONE, None, ONE, state.eta, None, torch.tensor(not bad))
        return state._replace(X=X, average=X, steps=state.steps + 1), record, []


def loop(config: Config, folder: Path) -> Loop:
    folder.mkdir(exist_ok=True)
    return Loop(setup.Setup(config, material(config)), [], folder)


def material(config: Config, held: dict[str, Any] = {}) -> Any:  # noqa: B006 - read once for all tests
    if not held:
        held["material"] = setup.load_material(config)
    return held["material"]


@pytest.mark.parametrize("failing", range(1, 3 * ANCHOR_STEPS + 2))
def test_the_state_that_is_returned_to_is_old_enough(failing: int, config: Config, tmp_path: Path) -> None:
    this = loop(config, tmp_path / "r")
    this.take = Planted(failing)
    while float(this.checkpoint.state.scale) == 1:
        this.step()
    done, back = failing - 1, this.checkpoint.step
    assert back % ANCHOR_STEPS == 0
    if done < ANCHOR_STEPS:
        assert back == 0
    else:
        assert ANCHOR_STEPS <= done - back < 2 * ANCHOR_STEPS
    assert torch.allclose(this.checkpoint.state.X, this.first.X + back)
    assert [row["step"] for row in rows(tmp_path / "r")] == list(range(1, back + 1))
    assert int(read_tensors(tmp_path / "r" / CHECKPOINT)["state.steps"]) == back  # before a kill can come


@pytest.mark.parametrize("failing", [19, 20, 21, 22, 39, 40, 41, 42, 45, 59, 60, 61, 65])
@pytest.mark.parametrize("before", [1, 5, 19, 20])
def test_images_ruined_some_steps_before_are_never_what_is_returned_to(
    failing: int, before: int, config: Config, tmp_path: Path
) -> None:
    this = loop(replace(config, steps=failing + 30), tmp_path / "r")
    this.take = Planted(failing, ruined=failing - before)
    this.run()
    assert this.checkpoint.step == failing + 30
    assert [row["step"] for row in rows(tmp_path / "r")] == list(range(1, failing + 31))
    assert torch.allclose(this.checkpoint.state.X, this.first.X + failing + 30)


def test_the_second_time_it_stops(config: Config, tmp_path: Path) -> None:
    this = loop(replace(config, steps=60), tmp_path / "r")
    this.take = Planted(45, ruined=1)  # older than anything that is kept
    with pytest.raises(DivergedError, match=r"step 45: the loss is .* did not help"):
        this.run()
    assert this.checkpoint.step == 44


@pytest.mark.parametrize("stopped", [3, 25, 44, 47])
def test_a_run_stopped_around_a_roll_back_goes_on_to_the_same_state(
    stopped: int, config: Config, tmp_path: Path
) -> None:
    config = replace(config, steps=70)
    whole = loop(config, tmp_path / "whole")
    whole.take = Planted(46)
    whole.run()
    first, planted = loop(config, tmp_path / "r"), Planted(46)

    def interrupted(state: OuterState) -> Any:
        after = planted(state)
        if (int(state.steps) + 1 == stopped and planted.went_on == 0) or planted.went_on == stopped:
            raise KeyboardInterrupt
        return after

    first.take = interrupted
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = loop(config, tmp_path / "r")
    second.take = Planted(46)
    second.run()
    for name in ("state", "anchor", "older"):
        found, wanted = getattr(second.checkpoint, name), getattr(whole.checkpoint, name)
        assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True)), name
    assert rows(tmp_path / "r") == rows(tmp_path / "whole")


def test_an_interrupt_after_a_roll_back_to_before_the_resumed_step_loses_nothing(
    config: Config, tmp_path: Path
) -> None:
    first = loop(config, tmp_path / "r")
    first.take = Planted(0)
    while first.checkpoint.step < 45:
        first.step()
    first.save()
    second, planted = loop(config, tmp_path / "r"), Planted(47)

    def interrupted(state: OuterState) -> Any:
        if planted.went_on == 10:
            raise KeyboardInterrupt
        return planted(state)

    second.take = interrupted
    with pytest.raises(KeyboardInterrupt):
        second.run()
    third = loop(config, tmp_path / "r")
    assert (third.checkpoint.step, float(third.checkpoint.state.scale)) == (30, 0.5)  # back at 20, and ten steps
    assert [row["step"] for row in rows(tmp_path / "r")] == list(range(1, 31))


def test_a_checkpoint_with_one_anchor_goes_on_to_the_same_images(experts: Path, whole: Path, tmp_path: Path) -> None:
    words = command("distill", "--experts", experts, "--steps", 24, "--out", tmp_path / "r")
    step, count = Loop.step, []

    def interrupted(self: Loop) -> str:
        count.append(1)
        if len(count) == 22:
            raise KeyboardInterrupt
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "step", interrupted)
        assert main([str(word) for word in words]) == 130
    path = tmp_path / "r" / CHECKPOINT
    tensors, header = read_tensors(path), read_header(path)
    older = {name for name in tensors if name.startswith("older.")}
    assert int(tensors["older.steps"]) == 0
    assert int(tensors["anchor.steps"]) == 20
    left_out = {*older, "state.taken", "anchor.taken"}  # which older releases did not keep
    save_tensors(path, {name: t.clone() for name, t in tensors.items() if name not in left_out}, header)
    succeed(*words, "--resume")
    assert_same_result(tmp_path / "r", whole)


def test_a_step_that_a_guard_leaves_out_for_a_loss_that_is_not_finite_is_a_row_without_one(
    config: Config, tmp_path: Path
) -> None:
    this = loop(replace(config, steps=3), tmp_path / "r")
    nan = torch.tensor(float("nan"))

    def left_out(state: OuterState) -> Any:
        record = Record(nan, None, nan, state.eta, nan, torch.tensor(True))
        return state._replace(steps=state.steps + 1), record, [Choice(0, 0)]

    this.take = left_out
    assert "not finite" in this.step()
    this.run()
    log = [json.loads(line) for line in (tmp_path / "r" / METRICS).read_text().splitlines()]
    assert [(row["step"], row["loss"], row["hypergradient_norm"], row["conflict"]) for row in log] == [
        (k, None, None, None) for k in (1, 2, 3)
    ]
    assert float(this.checkpoint.state.scale) == 1
    assert guarded(tmp_path / "r", 1.0) == 3


def test_a_run_says_how_many_of_its_steps_a_guard_left_out(
    experts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command("distill", "--experts", experts, "--steps", 5, "--out")
    succeed(*words, tmp_path / "all", "--outer.guard", "1e-6")
    assert "5 of 5 steps changed nothing: their loss was above --outer.guard" in capsys.readouterr().err
    losses = sorted(row["loss"] for row in rows(tmp_path / "all"))
    succeed(*words, tmp_path / "none", "--outer.guard", "1e6")
    assert "changed nothing" not in capsys.readouterr().err
    assert len(losses) == 5


@pytest.mark.parametrize(("eta", "says"), [(0.02, None), (5.0, None), (2e-5, None), (8e-25, "below"), (11.0, "above")])
def test_a_step_size_that_ran_away_is_said(eta: float, says: str | None) -> None:
    said = lost_step_size(eta, 0.01)
    assert (said is None) == (says is None)
    assert says is None or f"times {says} the first, 0.01" in str(said)
