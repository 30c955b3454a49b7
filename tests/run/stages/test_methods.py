"""The systems by name: what each fills in, what wins, what is refused, and each through the command line."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
import tyro

from tests.oracles import relative_error
from tests.small import FLAGS, command, rows, succeed
from trajmatch.core.estimators import ESTIMATORS
from trajmatch.core.sharpness import SAM, FlatGSAM
from trajmatch.core.vector import functional
from trajmatch.data.files import read_header
from trajmatch.data.networks.convnet import build
from trajmatch.data.tensors import read_tensors
from trajmatch.data.trajectories import Trajectory
from trajmatch.methods.initial import label_logits
from trajmatch.methods.schedule import Window
from trajmatch.methods.state import OuterState
from trajmatch.run.assembly import letters, setup
from trajmatch.run.cli import main
from trajmatch.run.stages import start
from trajmatch.run.stages import steps as distill_stage
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config, Matching, MethodName
from trajmatch.settings.flat import flatten
from trajmatch.settings.methods import METHODS, OPEN
from trajmatch.settings.presets import preset

Captured = pytest.CaptureFixture[str]
CPU = torch.device("cpu")
NAMES: tuple[MethodName, ...] = tuple(name for name in get_args(MethodName) if METHODS[name].steps == "matching")
LONG = Config(steps=1000, matching=Matching(first_epoch=1, last_epoch=21))


def own(name: str, key: str) -> object:
    """What a method fills into a setting, or what MTT does where it fills in nothing."""
    return METHODS[name].fills.get(key, OPEN[key])


COLUMNS = [
    "matching.sharpness", "matching.smoothing", "matching.estimator", "matching.rate", "matching.differentiated_steps",
    "matching.restart_step", "matching.segments", "matching.window_start", "matching.window_steps", "outer.labels",
    "outer.initial", "outer.ema", "outer.guard", "expert.flat", "matching.ascent", "matching.concurrent_from",
]  # fmt: skip
EXACT, THIRD = ("none", 0.0, "adjoint", "exact", 50, 0), ("sam", 0.05, "truncated", "closed-form", 16, 34)
STALE = ("sam", 0.05, "truncated", "closed-form", 16, 0)
TWO_PASSES = ("none", 0.0, "tesla", "exact", 50, 0)
TABLE: dict[str, tuple[object, ...]] = {
    "mtt": (*EXACT, 1, 21, 100, "hard", "real", 0.0, 0.0, "no", "fresh", 0),
    "ftd": (*EXACT, 1, 21, 100, "hard", "real", 0.995, 0.0, "yes", "fresh", 0),
    "tesla": (*TWO_PASSES, 1, 21, 100, "teacher", "real", 0.0, 0.0, "no", "fresh", 0),
    "datm": (*EXACT, 1, 11, 100, "learned", "correct", 0.0, 1.0, "yes", "fresh", 0),
    "satm": (*THIRD, 1, 21, 100, "hard", "real", 0.0, 0.0, "no", "fresh", 0),
    "satm-fi": (*THIRD, 1, 21, 100, "hard", "real", 0.0, 0.0, "yes", "fresh", 0),
    "satm-da": (*THIRD, 1, 11, 100, "learned", "correct", 0.0, 1.0, "no", "fresh", 0),
    "contra": (*EXACT, 4, 21, 100, "hard", "real", 0.0, 0.0, "no", "fresh", 0),
    "satm-contra": (*STALE, 2, 21, 100, "learned", "real", 0.0, 0.0, "no", "previous", 666),
}


def test_our_method_is_concurrent_in_the_last_third() -> None:
    found = resolve(replace(LONG, method="satm-contra")).matching
    assert (found.ascent, found.concurrent_from) == ("previous", 666)
    chosen = resolve(replace(LONG, method="satm-contra", matching=Matching(concurrent_from=0, ascent="fresh"))).matching
    assert (chosen.ascent, chosen.concurrent_from, chosen.restart_step) == ("fresh", 0, 34)
    assert {resolve(replace(LONG, method=n)).matching.concurrent_from for n in NAMES if n != "satm-contra"} == {0}
    assert {resolve(replace(LONG, method=n)).matching.ascent for n in NAMES if n != "satm-contra"} == {"fresh"}


def test_a_second_trajectory_that_there_is_not_can_not_start_anywhere() -> None:
    with pytest.raises(ValueError, match=r"^--matching.restart-step is 3 and must be 0 or left out"):
        resolve(Config(method="satm-contra", matching=Matching(restart_step=3)))


def row(config: Config) -> dict[str, object]:
    flat = flatten(config)
    return {name: round(flat[name], 9) if isinstance(flat[name], float) else flat[name] for name in COLUMNS}


def parsed(*words: str) -> Config:
    """The resolved configuration of small flags and some more."""
    return resolve(tyro.cli(Config, args=[*FLAGS[1:], *words], default=preset(FLAGS[0])))


def test_the_table_is_of_all_methods() -> None:
    assert set(TABLE) == set(NAMES)
    assert set(METHODS) == set(get_args(MethodName))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_method_fills_in(name: MethodName) -> None:
    assert row(resolve(replace(LONG, method=name))) == dict(zip(COLUMNS, TABLE[name], strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_method_fills_in_follows_the_sizes_of_a_run(name: MethodName) -> None:
    small = replace(LONG, method=name, steps=7, matching=Matching(inner_steps=2, first_epoch=3, last_epoch=4))
    m = resolve(small).matching
    reuse = 1 if own(name, "matching.ascent") == "fresh" else 0
    assert (m.differentiated_steps, m.restart_step) == ((1, reuse) if name.startswith("satm") else (2, 0))
    assert (m.window_start, m.window_steps) == (4, 1)  # a window of one epoch can't grow
    assert resolve(small).outer.ema == pytest.approx(1 - 5 / 7 if name == "ftd" else 0, abs=1e-12)
    assert resolve(replace(small, steps=5)).outer.ema == 0  # too short to be averaged


OTHERS: dict[str, tuple[object, ...]] = {
    "unusual": ("gsam", 0.3, "unrolled", "fixed", 50, 7, 3, 5, 17, "learned", "noise", 0.5, 7.0, "yes", "fresh", 5),
    "nothing": ("none", 0.0, "adjoint", "exact", 50, 0, 1, 21, 1, "hard", "real", 0.0, 0.0, "no", "fresh", 0),
    "truncated": (
        "vasso",
        0.0,
        "truncated",
        "closed-form",
        20,
        0,
        2,
        2,
        1,
        "teacher",
        "correct",
        0.0,
        0.0,
        "no",
        "previous",
        3,
    ),
}
# What the method derives from a setting, and so need not be as in its table.
DERIVED = {"matching.sharpness": {"matching.smoothing"}}
DERIVED["matching.ascent"] = {"matching.restart_step"}
DERIVED["matching.differentiated_steps"] = {"matching.restart_step", "matching.estimator"}


def changed(config: Config, values: dict[str, object]) -> Config:
    for key, value in values.items():
        group, name = key.split(".")
        config = replace(config, **{group: replace(getattr(config, group), **{name: value})})  # type: ignore[arg-type]
    return config


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("others", OTHERS)
def test_settings_win_over_the_method_all_at_once_and_each_by_itself(name: MethodName, others: str) -> None:
    base, given = replace(LONG, method=name), dict(zip(COLUMNS, OTHERS[others], strict=True))
    assert row(resolve(changed(base, given))) == given
    wanted = row(resolve(base))
    for column, value in given.items():
        alone = {"matching.estimator"}  # which must fit the steps that are differentiated
        if own(name, "matching.ascent") == "previous":
            alone.add("matching.restart_step")  # which needs something to start from
        if column not in alone:
            found = row(resolve(changed(base, {column: value})))
            left = {key for key in COLUMNS if found[key] != wanted[key]} - DERIVED.get(column, set())
            assert left <= {column}
            assert found[column] == value


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_nothing_but_its_settings(name: MethodName) -> None:
    whole = resolve(replace(LONG, method=name))
    for other in NAMES:
        assert resolve(replace(whole, method=other)) == replace(whole, method=other)


def test_ours_clips_by_the_running_mean_and_the_published_ones_do_not() -> None:
    clips = {name: letters.rule(resolve(replace(LONG, method=name))).relative_clip for name in NAMES}
    assert clips.pop("satm-contra") == 2
    assert set(clips.values()) == {None}


OFF = [
    "--matching.sharpness", "none", "--matching.rate", "exact", "--matching.estimator", "adjoint",
    "--matching.differentiated-steps", "6", "--matching.segments", "1", "--matching.window-start", "3",
    "--outer.labels", "hard", "--outer.initial", "real", "--outer.ema", "0", "--outer.guard", "0",
    "--expert.flat", "no", "--matching.ascent", "fresh", "--matching.concurrent-from", "0",
    "--outer.relative-clip", "0",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_method_without_its_extras_is_mtt(name: str) -> None:
    mtt, bare = parsed("--method", "mtt", "--steps", "100"), parsed("--method", name, "--steps", "100", *OFF)
    assert letters.rule(bare) == letters.rule(mtt)
    assert replace(bare, method="mtt") == mtt


@pytest.mark.parametrize(
    ("name", "but", "value"),
    [
        ("ftd", "--expert.flat", "yes"), ("ftd", "--outer.ema", "0.95"), ("tesla", "--matching.estimator", "tesla"),
        ("tesla", "--outer.labels", "teacher"), ("datm", "--expert.flat", "yes"), ("datm", "--outer.guard", "1"),
        ("datm", "--outer.labels", "learned"),
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


def test_a_setting_has_every_estimator_but_the_one_that_halved_asks_for() -> None:
    assert {*get_args(get_type_hints(Matching)["estimator"])} == {"auto", *ESTIMATORS} - {"tesla-halved"}


def test_a_rule_says_what_the_settings_say() -> None:
    da = letters.rule(parsed("--method", "satm-da", "--steps", "100"))
    assert (da.T, da.iota, da.tau, da.gamma, da.sharpness) == (6, 2, 4, 0.05, SAM(0.1))
    assert (da.estimator, da.second_order_rate, da.labels, da.guard, da.ema) == (
        "truncated",
        False,
        "learned",
        1.0,
        None,
    )
    assert (da.label.lr, da.label.mu) == (2.0, 0.9)
    tesla = letters.rule(parsed("--method", "tesla", "--matching.halved", "--outer.lr-labels", "3"))
    assert (tesla.estimator, tesla.labels, tesla.label.lr) == ("tesla-halved", "teacher", 3.0)
    ftd = parsed("--method", "ftd", "--steps", "100", "--expert.flat-radius", "0.02")
    assert letters.expert_training(ftd).sharpness == FlatGSAM(0.02, 0.3)
    assert letters.rule(ftd).ema == pytest.approx(0.95)
    contra = parsed("--method", "contra", "--matching.combine", "adaptive")
    assert letters.rule(contra).combining == "adaptive"
    datm = parsed("--method", "datm", "--steps", "50")
    assert letters.schedule(datm) == Window(0, 3, 1, 5)


def test_satm_as_a_rule_of_sharpness_is_sam_with_smoothing_for_any_method() -> None:
    for name in ("mtt", "ftd", "tesla", "datm", "contra"):
        m = parsed("--method", name, "--matching.sharpness", "satm").matching
        assert (m.sharpness, m.smoothing, m.rate, m.differentiated_steps) == ("sam", 0.05, "exact", 6)
        m = parsed("--method", name, "--matching.sharpness", "satm", "--matching.smoothing", "0").matching
        assert (m.sharpness, m.smoothing) == ("sam", 0.0)
        assert parsed("--method", name, "--matching.sharpness", "sam").matching.smoothing == 0
    assert parsed("--method", "satm", "--matching.sharpness", "none").matching.smoothing == 0
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
        ("--matching.segments 0", r"--matching\.segments is 0 and must be at least 1"),
        ("--outer.guard -1", r"--outer\.guard is -1\.0 and must be at least 0"),
        ("--outer.ema 1", r"--outer\.ema is 1\.0 and must be at least 0 and below 1"),
        ("--outer.lr-labels 0", r"--outer\.lr-labels is 0\.0 and must be a positive number"),
        ("--expert.flat-radius 0", r"--expert\.flat-radius is 0\.0 and must be a positive number"),
        ("--matching.estimator tesla --matching.differentiated-steps 3", "differentiates all 6 inner steps"),
        ("--method satm --matching.estimator random-window", r"--matching\.restart-step is 4 and must be 0"),
        (
            "--matching.early-stop --matching.estimator random-window",
            r"--matching\.early-stop .* --matching\.estimator random-window, which draws one end of its own",
        ),
        ("--matching.early-stop --matching.together yes --matching.segments 2", r"--matching\.together yes, .* one of"),
        ("--matching.masked-share 1", r"--matching\.masked-share is 1\.0 and must be at least 0 and below 1"),
        ("--matching.waypoints -1", r"--matching\.waypoints is -1 and must be at least 0"),
        ("--outer.image-norm -1", r"--outer\.image-norm is -1\.0 and must be at least 0"),
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
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two small experts trained for flatness, by the short flag."""
    folder = tmp_path_factory.mktemp("flat")
    succeed(*command("experts", "--flat", "--experts", 2, "--out", folder))
    return folder


def test_flat_experts_are_others_and_say_so(experts: Path, flat: Path, tmp_path: Path, capsys: Captured) -> None:
    name, said = "expert_0001.safetensors", []
    ours, theirs = (read_tensors(folder / name)["theta"] for folder in (flat, experts))
    assert torch.equal(ours[0], theirs[0])
    assert not torch.equal(ours[-1], theirs[-1])
    for folder, method in ((experts, "ftd"), (flat, "mtt")):
        assert main(command("distill", "--method", method, "--experts", folder, "--out", tmp_path / method)) == 2
        said.append(capsys.readouterr().err)
    assert "--expert.flat is no there and yes here" in said[0]
    assert "--expert.flat is yes there and no here" in said[1]
    # A method that wants them trains the same ones by itself.
    succeed(*command("experts", "--method", "satm-fi", "--experts", 2, "--out", tmp_path / "e"))
    assert torch.equal(read_tensors(tmp_path / "e" / name)["theta"], ours)


def distill(name: str, experts: Path, flat: Path, steps: int, *flags: object) -> list[str]:
    """The words of a small distillation by a method, on the experts that it wants."""
    folder = flat if own(name, "expert.flat") == "yes" else experts
    return command("distill", "--method", name, "--experts", folder, "--steps", steps, *flags)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_distils(name: str, experts: Path, flat: Path, tmp_path: Path) -> None:
    succeed(*distill(name, experts, flat, 3, "--out", tmp_path / "r"))
    tensors, log = read_tensors(tmp_path / "r" / "distilled.safetensors"), rows(tmp_path / "r")
    Y, config = tensors["labels"], parsed("--method", name, "--steps", "3")
    m, hard = config.matching, config.outer.labels == "hard"
    assert tensors["images"].isfinite().all()
    assert torch.allclose(Y.sum(1), torch.ones(10), rtol=0, atol=1e-6)
    assert bool(((Y == 0) | (Y == 1)).all()) == hard
    assert not hard or torch.equal(Y, torch.eye(10))
    assert [one["step"] for one in log] == [1, 2, 3]
    for one in log:
        K = 1 if one["step"] <= (m.concurrent_from or 0) else m.segments
        assert len(one["experts"]) == len(one["start_epochs"]) == K
        assert set(one["experts"]) <= {0, 1}
        assert set(one["start_epochs"]) <= {0, 1, 2}
        assert (one["conflict"] is None) == (K == 1)
        assert (one["loss_perturbed"] is None) == (m.sharpness == "none" or m.ascent == "previous")
    assert m.segments == 1 or {0, 1} == set(log[-1]["experts"])
    assert m.window_start == m.last_epoch or log[0]["start_epochs"] == [0]  # of the window [0, 1), growing to [0, 3)
    assert read_header(tmp_path / "r" / "distilled.safetensors")["info"]["method"] == name


PARTS = [
    *("--matching.early-stop", "--matching.masked-share", "0.25", "--matching.path", "straight"),
    *(
        "--matching.last-epoch",
        "2",
        "--matching.waypoints",
        "1",
        "--outer.optimiser",
        "adam",
        "--outer.lr-images",
        "0.05",
        "--outer.image-norm",
        "5",
    ),
]


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS[name].experts and not METHODS[name].still])
def test_every_method_takes_every_part(name: str, experts: Path, flat: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for folder in (experts, flat) for path in folder.glob("*.safetensors")}
    succeed(*distill(name, experts, flat, 4, *PARTS, "--out", tmp_path / "r"))
    X, log = read_tensors(tmp_path / "r" / "distilled.safetensors")["images"], rows(tmp_path / "r")
    assert [len(one["end"]) for one in log] == [len(one["experts"]) for one in log]
    assert all(1 <= end <= 6 for one in log for end in one["end"])
    assert all(0 <= t < 2 for one in log for t in one["start_epochs"])
    assert any(t != int(t) for one in log for t in one["start_epochs"])
    if letters.rule(parsed("--method", name, "--steps", "4")).ema is None:
        assert torch.allclose(X.flatten(1).norm(dim=1), torch.tensor(5.0), rtol=1e-5)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("name", "parts"),
    [*((name, []) for name in ("datm", "satm-da", "tesla", "satm-contra")), ("satm", PARTS)],
)
def test_an_interrupted_run_goes_on_to_the_identical_set(
    name: str, parts: list[str], experts: Path, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = distill(name, experts, flat, 10, "--matching.window-steps", 8, *parts, "--out")
    succeed(*words, tmp_path / "whole")
    step, came = distill_stage.outer_step, []

    def interrupted(rule: Any, student: Any, state: OuterState, *rest: Any) -> Any:
        if int(state.steps) == 6 and not came:
            came.append(6)
            raise KeyboardInterrupt
        return step(rule, student, state, *rest)

    monkeypatch.setattr(distill_stage, "outer_step", interrupted)
    assert main([*words, str(tmp_path / "r")]) == 130
    assert len(rows(tmp_path / "r")) == 6
    assert not (tmp_path / "r" / "distilled.safetensors").exists()
    succeed(*words, tmp_path / "r", "--resume")
    found, wanted = (read_tensors(tmp_path / folder / "distilled.safetensors") for folder in ("r", "whole"))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert rows(tmp_path / "r") == rows(tmp_path / "whole")


def test_datm_starts_from_what_experts_get_right_and_from_their_logits(experts: Path) -> None:
    config = parsed("--method", "datm", "--ipc", "3")
    this = setup.Setup.load(config)
    trajectories = [Trajectory.open(path) for path in sorted(experts.glob("expert_*"))]
    before = start.first_state(this, trajectories)
    labels = torch.arange(10).repeat_interleave(3)
    network, _ = build(this.make(), 0)
    ends = [functional(network)(one.row(one.num_rows - 1), before.X).detach() for one in trajectories]
    assert bool((ends[0].argmax(1) == labels).all())  # the first one gets enough of every class right
    assert relative_error(before.Y, label_logits(torch.stack(ends), labels)) < 1e-5
    others = start.first_state(setup.Setup(parsed("--ipc", "3"), this.material), trajectories)
    assert relative_error(before.X, others.X) > 0.1
