"""The systems by name: what each fills in, what wins, what is refused, and each through the command line."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import tyro

from tests.run.small import FLAGS, command, rows, succeed
from trajmatch.core.sharpness import SAM, FlatGSAM
from trajmatch.data.files import read_header, read_tensors
from trajmatch.data.trajectories import Trajectory
from trajmatch.methods.initial import label_logits
from trajmatch.methods.schedule import Window
from trajmatch.run import assemble, distill_stage, start
from trajmatch.run.cli import main
from trajmatch.run.config import Config, Expert, Matching, MethodName, Outer
from trajmatch.run.methods import METHODS
from trajmatch.run.presets import preset
from trajmatch.run.settings import flatten, resolve

Captured = pytest.CaptureFixture[str]
NAMES: tuple[MethodName, ...] = get_args(MethodName)
LONG = Config(steps=1000, matching=Matching(first_epoch=1, last_epoch=21))

COLUMNS = [
    "matching.sharpness", "matching.smoothing", "matching.estimator", "matching.rate", "matching.differentiated_steps",
    "matching.restart_step", "matching.segments", "matching.window_start", "matching.window_steps", "outer.labels",
    "outer.initial", "outer.ema", "outer.guard", "expert.flat",
]  # fmt: skip
EXACT, THIRD = ("none", 0.0, "adjoint", "exact", 50, 0), ("sam", 0.05, "truncated", "closed-form", 16, 34)
TWO_PASSES = ("none", 0.0, "tesla", "exact", 50, 0)
TABLE: dict[str, tuple[object, ...]] = {
    "mtt": (*EXACT, 1, 21, 100, "hard", "real", 0.0, 0.0, "no"),
    "ftd": (*EXACT, 1, 21, 100, "hard", "real", 0.995, 0.0, "yes"),
    "tesla": (*TWO_PASSES, 1, 21, 100, "teacher", "real", 0.0, 0.0, "no"),
    "datm": (*EXACT, 1, 11, 100, "learned", "correct", 0.995, 1.0, "no"),
    "satm": (*THIRD, 1, 21, 100, "hard", "real", 0.0, 0.0, "no"),
    "satm-fi": (*THIRD, 1, 21, 100, "hard", "real", 0.0, 0.0, "yes"),
    "satm-da": (*THIRD, 1, 11, 100, "learned", "correct", 0.0, 1.0, "no"),
    "contra": (*EXACT, 4, 21, 100, "hard", "real", 0.0, 0.0, "no"),
    "satm-contra": (*THIRD, 4, 21, 100, "hard", "real", 0.0, 0.0, "no"),
}


def row(config: Config) -> dict[str, object]:
    flat = flatten(config)
    return {name: flat[name] for name in COLUMNS}


def parsed(*words: str) -> Config:
    """The resolved configuration of small flags and some more."""
    return resolve(tyro.cli(Config, args=[*FLAGS[1:], *words], default=preset(FLAGS[0])))


def test_the_table_is_of_all_methods() -> None:
    assert set(TABLE) == set(METHODS) == set(NAMES)
    assert all(method.about for method in METHODS.values())


@pytest.mark.parametrize("name", NAMES)
def test_what_a_method_fills_in(name: MethodName) -> None:
    found = row(resolve(replace(LONG, method=name)))
    assert found.pop("outer.ema") == pytest.approx(TABLE[name][11], abs=1e-12)
    wanted = dict(zip(COLUMNS, TABLE[name], strict=True))
    del wanted["outer.ema"]
    assert found == wanted


@pytest.mark.parametrize("name", NAMES)
def test_what_a_method_fills_in_follows_the_sizes_of_a_run(name: MethodName) -> None:
    small = replace(LONG, method=name, steps=7, matching=Matching(inner_steps=2, first_epoch=3, last_epoch=4))
    found = resolve(small)
    m = found.matching
    satm = name.startswith("satm")
    assert (m.differentiated_steps, m.restart_step) == ((1, 1) if satm else (2, 0))
    assert (m.window_start, m.window_steps) == (4, 1)  # a window of one epoch can't grow
    averaged = 1 - 5 / 7 if name in ("ftd", "datm") else 0
    assert found.outer.ema == pytest.approx(averaged, abs=1e-12)
    assert resolve(replace(small, steps=5)).outer.ema == 0  # too short to be averaged


OTHERS: dict[str, tuple[object, ...]] = {
    "unusual": ("gsam", 0.3, "unrolled", "fixed", 50, 7, 3, 5, 17, "learned", "noise", 0.5, 7.0, "yes"),
    "nothing": ("none", 0.0, "adjoint", "exact", 50, 0, 1, 21, 1, "hard", "real", 0.0, 0.0, "no"),
    "truncated": ("vasso", 0.0, "truncated", "closed-form", 20, 0, 2, 2, 1, "teacher", "correct", 0.0, 0.0, "no"),
}


def filled(config: Config, values: tuple[object, ...]) -> Config:
    """The configuration with every column set by its flag."""
    words = [w for key, value in zip(COLUMNS, values, strict=True) for w in (f"--{key}", str(value))]
    return tyro.cli(Config, args=words, default=config)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("others", OTHERS)
def test_flags_win_over_the_method(name: MethodName, others: str) -> None:
    found = resolve(filled(replace(LONG, method=name), OTHERS[others]))
    assert row(found) == dict(zip(COLUMNS, OTHERS[others], strict=True))
    for column in range(len(COLUMNS)):  # and each by itself, where the rest is the method's
        given = list(TABLE[name])
        given[column] = OTHERS["nothing"][column]
        if COLUMNS[column] not in ("matching.differentiated_steps", "matching.estimator"):
            assert row(resolve(filled(replace(LONG, method=name), tuple(given)))) == dict(
                zip(COLUMNS, given, strict=True)
            )


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_nothing_but_its_settings(name: MethodName) -> None:
    whole = resolve(replace(LONG, method=name))
    assert resolve(whole) == whole
    assert resolve(replace(whole, method="mtt")) == replace(whole, method="mtt")
    assert resolve(replace(whole, method="satm-da")) == replace(whole, method="satm-da")
    assert assemble.rule(whole) == assemble.rule(replace(whole, method="mtt"))


OFF = [
    "--matching.sharpness", "none", "--matching.rate", "exact", "--matching.estimator", "adjoint",
    "--matching.differentiated-steps", "6", "--matching.segments", "1", "--matching.window-start", "3",
    "--outer.labels", "hard", "--outer.initial", "real", "--outer.ema", "0", "--outer.guard", "0", "--expert.flat", "no",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_method_without_its_extras_is_mtt(name: str) -> None:
    mtt, bare = parsed("--method", "mtt", "--steps", "100"), parsed("--method", name, "--steps", "100", *OFF)
    assert assemble.rule(bare) == assemble.rule(mtt)
    assert replace(bare, method="mtt") == mtt
    assert assemble.schedule(bare) == assemble.schedule(mtt)
    assert assemble.expert_training(bare) == assemble.expert_training(mtt)


@pytest.mark.parametrize(
    ("name", "but", "value"),
    [
        ("ftd", "--expert.flat", "yes"), ("ftd", "--outer.ema", "0.95"), ("tesla", "--matching.estimator", "tesla"),
        ("tesla", "--outer.labels", "teacher"), ("datm", "--outer.guard", "1"), ("datm", "--outer.labels", "learned"),
        ("datm", "--outer.initial", "correct"), ("datm", "--matching.window-start", "1"),
        ("satm", "--matching.sharpness", "satm"), ("satm", "--matching.rate", "closed-form"),
        ("contra", "--matching.segments", "4"),
    ],
)  # fmt: skip
def test_mtt_with_one_flag_has_that_part_of_the_method(name: str, but: str, value: str) -> None:
    words = list(OFF)
    del words[words.index(but) : words.index(but) + 2]
    without_it = parsed("--method", name, "--steps", "100", *words)
    assert replace(without_it, method="mtt") == parsed("--method", "mtt", "--steps", "100", but, value)


def test_a_rule_says_what_the_settings_say() -> None:
    da = assemble.rule(parsed("--method", "satm-da", "--steps", "100"))
    assert (da.T, da.iota, da.tau, da.gamma, da.sharpness) == (6, 2, 4, 0.05, SAM(0.1))
    assert (da.estimator, da.second_order_rate, da.labels, da.guard, da.ema) == ("sweep", False, "learned", 1.0, None)
    assert (da.label.lr, da.label.mu) == (2.0, 0.9)
    tesla = assemble.rule(parsed("--method", "tesla", "--matching.halved", "--outer.lr-labels", "3"))
    assert (tesla.estimator, tesla.halved, tesla.labels, tesla.label.lr) == ("tesla", True, "teacher", 3.0)
    ftd = parsed("--method", "ftd", "--steps", "100", "--expert.flat-radius", "0.02")
    assert assemble.expert_training(ftd).sharpness == FlatGSAM(0.02, 0.3)
    assert assemble.rule(ftd).ema == pytest.approx(0.95)
    contra = parsed("--method", "contra", "--matching.combine", "adaptive")
    assert assemble.rule(contra).combining == "adaptive"
    datm = parsed("--method", "datm", "--steps", "50")
    assert assemble.schedule(datm) == Window(0, 3, 1, 5)


def test_satm_as_a_rule_of_sharpness_is_sam_with_smoothing_for_any_method() -> None:
    for name in ("mtt", "ftd", "tesla", "datm", "contra"):
        m = parsed("--method", name, "--matching.sharpness", "satm").matching
        assert (m.sharpness, m.smoothing, m.rate, m.differentiated_steps) == ("sam", 0.05, "exact", 6)
        m = parsed("--method", name, "--matching.sharpness", "satm", "--matching.smoothing", "0.2").matching
        assert (m.sharpness, m.smoothing) == ("sam", 0.2)
        m = parsed("--method", name, "--matching.sharpness", "sam").matching
        assert (m.sharpness, m.smoothing) == ("sam", 0.0)
    m = parsed("--method", "satm", "--matching.sharpness", "none").matching
    assert (m.sharpness, m.smoothing) == ("none", 0.0)
    assert parsed("--method", "satm", "--matching.sharpness", "asam").matching.smoothing == 0.05


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--matching.window-start 0", r"--matching\.window-start is 0 and must be above --matching\.first-epoch, 0"),
        ("--matching.window-start 4", r"--matching\.window-start is 4 .* at most --matching\.last-epoch, 3"),
        ("--matching.window-steps 0", r"--matching\.window-steps is 0 and must be at least 1"),
        ("--matching.halved", r"--matching\.halved belongs to --matching\.estimator tesla, which is adjoint here"),
        ("--method satm --matching.halved", r"--matching\.halved belongs to .* which is truncated here"),
        ("--matching.mixed central-difference --precision bf16", "--precision is bf16, .* leave one of them out"),
        ("--matching.mixed central-difference --precision bf16-sweep", "--precision is bf16-sweep"),
        ("--matching.segments 0", r"--matching\.segments is 0 and must be at least 1"),
        ("--outer.guard -1", r"--outer\.guard is -1\.0 and must be at least 0"),
        ("--outer.ema 1", r"--outer\.ema is 1\.0 and must be at least 0 and below 1"),
        ("--outer.lr-labels 0", r"--outer\.lr-labels is 0\.0 and must be a positive number"),
        ("--outer.momentum-labels 1", r"--outer\.momentum-labels is 1\.0"),
        ("--expert.flat-radius 0", r"--expert\.flat-radius is 0\.0 and must be a positive number"),
        ("--expert.flat-alpha -0.1", r"--expert\.flat-alpha is -0\.1"),
        ("--matching.estimator tesla --matching.differentiated-steps 3", "differentiates all 6 inner steps"),
        ("--method satm --matching.estimator random-window", r"--matching\.restart-step is 4 and must be 0"),
        ("--method tesla --matching.mixed central-difference", "has no effect with --matching.estimator tesla"),
    ],
)
def test_what_means_nothing_is_refused(words: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parsed("--method", "mtt", *words.split())


def test_a_combination_without_its_library_leaves_nothing_behind(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    flags = ("--method", "contra", "--matching.combine", "mgda", "--experts", 1, "--out", tmp_path / "r")
    assert main(command("distill", *flags)) == 2
    assert "needs torchjd" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="session")
def flat_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two small experts trained for flatness, by the short flag."""
    folder = tmp_path_factory.mktemp("flat")
    succeed(*command("experts", "--flat", "--experts", 2, "--out", folder))
    return folder


def test_flat_experts_are_others_and_say_so(
    experts: Path, flat_experts: Path, tmp_path: Path, capsys: Captured
) -> None:
    name = "expert_0001.safetensors"
    assert read_header(flat_experts / name)["settings"]["expert.flat"] == "yes"
    assert read_header(experts / name)["settings"]["expert.flat"] == "no"
    plain, flat = (read_tensors(folder / name)["theta"] for folder in (experts, flat_experts))
    assert torch.equal(plain[0], flat[0])
    assert not torch.equal(plain[-1], flat[-1])
    for folder, method, says in ((experts, "ftd", "no there and yes here"), (flat_experts, "mtt", "yes there and no")):
        assert main(command("distill", "--method", method, "--experts", folder, "--out", tmp_path / "r")) == 2
        assert f"--expert.flat is {says}" in capsys.readouterr().err
    # A method that wants them trains the same ones by itself.
    succeed(*command("experts", "--method", "satm-fi", "--experts", 2, "--out", tmp_path / "e"))
    assert torch.equal(read_tensors(tmp_path / "e" / name)["theta"], flat)
