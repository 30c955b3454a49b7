"""dc, dsa and dm as methods of the same commands: they need no experts, go on identically, and lower their loss."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.oracles import relative_error
from tests.run.test_cli import refusal
from tests.small import command, rows, succeed
from trajmatch.core.augment import families
from trajmatch.core.descent import Adam
from trajmatch.core.draws import generator
from trajmatch.core.vector import Layout
from trajmatch.data import synthetic as sets
from trajmatch.data.tensors import read_tensors
from trajmatch.methods.condensation import GRADIENTS, MEAN_FEATURES
from trajmatch.methods.kept_students import Kept
from trajmatch.methods.multisize import Parts
from trajmatch.methods.real_loss import Adaptive, RealLoss
from trajmatch.run.assembly import setup
from trajmatch.run.assembly.budget import held_bytes, step_bytes
from trajmatch.run.assembly.distilled import base_configuration
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.cli import main
from trajmatch.run.stages.loop import Loop
from trajmatch.run.stages.steps import (
    condensation,
    condensation_steps,
    condensing_seed,
    real_batches,
    real_loss,
    through_training,
)
from trajmatch.settings.baseline import Baseline
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config, Matching, MethodName
from trajmatch.settings.flat import parsed

FEW = ["--baseline.batch", "20", "--ipc", "2", "--baseline.updates", "3", "--baseline.epochs", "2"]


@pytest.mark.parametrize("method", ["dc", "dsa", "mdc", "dm", "rat-bptt", "at-bptt"])
def test_a_run_without_experts(method: str, tmp_path: Path) -> None:
    words = command("run", "--method", method, "--steps", 12, *FEW, "--out", tmp_path / "r")
    succeed(*words)
    succeed(*words)  # and found done
    assert not (tmp_path / "r" / "experts").exists()
    found, log = sets.load(tmp_path / "r"), rows(tmp_path / "r")
    assert torch.equal(found.Y, torch.eye(10).repeat_interleave(2, 0))
    assert [row["step"] for row in log] == list(range(1, 13))
    assert all(row["experts"] == [] and row["loss"] > 0 for row in log)
    assert (tmp_path / "r" / "report.html").exists()


@pytest.mark.parametrize(("method", "steps"), [("dsa", 8), ("mdc", 24), ("dm", 8), ("rat-bptt", 8), ("at-bptt", 8)])
def test_an_interrupted_run_goes_on_to_the_identical_set(
    method: str, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of mdc several networks with several parts, so that what it knows of them counts.
    images = ["--ipc", "4"] if method == "mdc" else []
    words = command("distill", "--method", method, "--steps", steps, *FEW, *images, "--out")
    succeed(*words, tmp_path / "whole")
    step, came, sizes = Loop.step, [], set()

    def interrupted(self: Loop) -> str:
        state = self.checkpoint.state
        if int(state.steps) == steps // 2 + steps // 8 and not came:  # in the middle of a network of dsa and mdc
            came.append(int(state.steps))
            raise KeyboardInterrupt
        if method == "mdc":
            sizes.add(Parts.of(state.parts, 4).size)
        return step(self)

    monkeypatch.setattr(Loop, "step", interrupted)
    assert main([*map(str, words), str(tmp_path / "r")]) == 130
    assert [len(rows(tmp_path / "r"))] == came
    succeed(*words, tmp_path / "r", "--resume")
    found, wanted = (read_tensors(tmp_path / name / "distilled.safetensors") for name in ("r", "whole"))
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert rows(tmp_path / "r") == rows(tmp_path / "whole")
    assert method != "mdc" or len(sizes) > 2, "no part but the first was ever chosen: the test says nothing"


def test_satm_bptt_is_satm_and_then_the_loss_on_real_images(tmp_path: Path) -> None:
    """Each of its steps, found by the two kinds of steps that it is made of, from the states of its own checkpoints."""
    words = command("distill", "--steps", 6, *FEW[:4], "--outer.relative-clip", 2.0, "--matching.batch", 10)
    real = ["--method", "satm-bptt", "--baseline.since", 2, "--baseline.lr-images", 0.02]
    succeed(*words, *real, "--out", tmp_path / "r")
    succeed(*words, "--method", "satm", "--steps", 2, "--out", tmp_path / "satm")
    found, first = rows(tmp_path / "r"), rows(tmp_path / "satm")
    assert found[:2] == first
    assert [row["experts"] == [] for row in found] == [False, False, True, True, True, True]
    # The loss on ten classes of real images, of networks that have learned little: about log 10.
    assert all(1.0 < row["loss"] < 4.0 for row in found[2:])
    chosen = resolve(
        Config(
            method="satm-bptt", steps=6, matching=Matching(inner_steps=6), baseline=Baseline(since=2, lr_images=0.02)
        )
    )
    b = chosen.baseline
    assert (b.since, b.inner_steps, b.differentiated_steps, b.batch) == (2, 12, 6, 50)
    about, how = real_loss(chosen, 10), through_training(chosen, 1)
    assert (about.T, about.iota, about.since, about.images, about.sharpness) == (12, 6, 2, Adam(0.02), None)
    assert how == RealLoss(momentum=0.9)


def test_the_step_size_grows_at_once_where_the_loss_on_real_images_takes_over(tmp_path: Path) -> None:
    words = command("distill", "--method", "satm-bptt", "--steps", 3, "--baseline.since", 2, *FEW[:4])
    for factor in (1, 4):
        succeed(*words, "--baseline.rate-factor", factor, "--out", tmp_path / str(factor))
    one, four = (rows(tmp_path / name) for name in ("1", "4"))
    assert one[:2] == four[:2]
    assert four[2]["step_size"] == 4 * one[2]["step_size"]
    assert four[2]["loss"] != one[2]["loss"], "networks are trained by it"
    held = [read_tensors(tmp_path / name / "checkpoint.safetensors")["state.eta"] for name in ("1", "4")]
    assert float(held[1] / held[0]) == pytest.approx(4, rel=0.05), "and so is whoever takes the set"


@pytest.mark.parametrize("method", ["satm-bptt", "rat-bptt"])
def test_the_step_size_can_be_held_where_the_loss_on_real_images_is_differentiated(method: str, tmp_path: Path) -> None:
    words = command("distill", "--method", method, "--steps", 5, *FEW[:4], "--baseline.rate")
    since = ["--baseline.since", 2] if method == "satm-bptt" else []
    for how in ("learned", "fixed"):
        succeed(*words, how, *since, "--out", tmp_path / how)
    learned, fixed = ([row["step_size"] for row in rows(tmp_path / how)] for how in ("learned", "fixed"))
    first = 2 if since else 0
    assert learned[: first + 1] == fixed[: first + 1]
    assert len(set(fixed[first:])) == 1
    assert len(set(learned)) == 5


def test_adam_inside_leaves_the_step_size_to_scores(tmp_path: Path) -> None:
    words = command("distill", "--method", "satm-bptt", "--steps", 3, "--baseline.since", 2, *FEW[:4])
    given = (*words, "--baseline.inner", "adam", "--baseline.rate-factor")
    succeed(*given, 1, "--out", tmp_path / "1")
    succeed(*given, 4, "--out", tmp_path / "4")
    assert rows(tmp_path / "1") == rows(tmp_path / "4")


@pytest.mark.parametrize(
    ("ipc", "steps", "since"),
    [(1, 6, 6), (1, 80, 80), (1, 90, 80), (1, 240, 80), (1, 250, 83), (5, 90, 80), (5, 150, 100), (1, 10_000, 3333)],
)
def test_short_runs_of_satm_bptt_match_segments(ipc: int, steps: int, since: int) -> None:
    assert resolve(Config(method="satm-bptt", ipc=ipc, steps=steps)).baseline.since == since


def test_with_many_images_satm_bptt_learns_labels_and_keeps_its_students() -> None:
    few, many = (
        resolve(Config(method="satm-bptt", ipc=ipc, steps=150, matching=Matching(inner_steps=8))) for ipc in (1, 5)
    )
    m, b = many.matching, many.baseline
    assert (b.since, b.students, b.inner_steps, b.differentiated_steps, b.lr_images) == (100, 10, 8, 8, 0.03)
    assert (m.ascent, m.segments, m.concurrent_from, many.outer.labels) == ("previous", 2, 66, "learned")
    assert through_training(many, 1) == RealLoss(momentum=0.9, kept=Kept(10, 1000))
    assert [real_loss(many, n).batch for n in (50, 1000)] == [50, 256], "as a network of a score has them"
    assert few.baseline.students == 0
    assert (few.matching.ascent, few.matching.segments, few.outer.labels) == ("fresh", 1, "hard")


@pytest.mark.parametrize("stop", [3, 5])
@pytest.mark.parametrize("method", ["satm-bptt", "rat-bptt"])
def test_students_that_go_on_are_found_again(
    method: str, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = ["--baseline.since", 2] if method == "satm-bptt" else []
    words = ["--method", method, *since, "--baseline.students", 2, "--baseline.oldest", 12, *FEW[:4]]
    goes_on(words, stop, tmp_path, monkeypatch)
    held = read_tensors(tmp_path / "r" / "checkpoint.safetensors")["state.network"]
    assert len(held) == 2
    assert (held != 0).any(-1).all(), "both have had their turn"


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_satm_bptt_goes_on_to_the_identical_set_from_either_side_of_the_change(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = ["--baseline.since", 2, "--baseline.rate-factor", 3]
    goes_on(
        ["--method", "satm-bptt", *change, *FEW[:4], "--outer.labels", "learned"],
        stop,
        tmp_path,
        monkeypatch,
    )


def goes_on(flags: list[object], stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of six steps that is interrupted ends as one that is not."""
    words = command("distill", *flags, "--steps", 6, "--out")
    succeed(*words, tmp_path / "whole")
    step, came = Loop.step, []

    def interrupted(self: Loop) -> str:
        if int(self.checkpoint.state.steps) == stop and not came:
            came.append(stop)
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Loop, "step", interrupted)
    assert main([*map(str, words), str(tmp_path / "r")]) == 130
    succeed(*words, tmp_path / "r", "--resume")
    found, wanted = (read_tensors(tmp_path / name / "distilled.safetensors") for name in ("r", "whole"))
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert rows(tmp_path / "r") == rows(tmp_path / "whole")


def test_dm_lowers_the_distance_of_mean_features(tmp_path: Path) -> None:
    succeed(*command("distill", "--method", "dm", "--steps", 60, *FEW, "--out", tmp_path / "r"))
    losses = [row["loss"] for row in rows(tmp_path / "r")]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def config(method: MethodName, ipc: int, **changes: Any) -> Config:
    return resolve(replace(Config(method=method, ipc=ipc), **changes))


def test_the_published_loops_and_rates() -> None:
    loops = (
        (1, 1, 1),
        (2, 10, 50),
        (10, 10, 50),
        (20, 20, 25),
        (30, 30, 20),
        (49, 40, 15),
        (50, 50, 10),
        (100, 50, 10),
    )
    for ipc, updates, epochs in loops:
        found = condensation(config("dsa", ipc))
        assert found.network is not None
        assert (found.updates, found.network.epochs) == (updates, epochs)
        assert (found.matched, found.images.lr, found.images.mu) == (GRADIENTS, 0.1, 0.5)
        assert (found.network.lr, found.network.batch, found.network.momentum) == (0.01, 256, 0.0)
        assert found.families == found.network.families == families("color_crop_cutout_flip_scale_rotate")
    dm = condensation(config("dm", 10))
    assert (dm.matched, dm.images.lr, dm.updates, dm.network) == (MEAN_FEATURES, 1.0, 1, None)
    assert condensation(config("dc", 1)).families == ()
    rat = real_loss(config("rat-bptt", 10), 10)
    assert (rat.images, rat.relative_clip, rat.sharpness, rat.second_order_rate) == (Adam(0.001), 2.0, None, True)
    assert (rat.iota, rat.T) == (16, 50)
    assert through_training(config("rat-bptt", 10), 18) == RealLoss()
    since = config("rat-bptt", 10, baseline=Baseline(since=7))
    assert real_loss(since, 10).since == 0, "no step of rat-bptt matches segments"
    at = config("at-bptt", 10)
    assert replace(real_loss(at, 10), images=rat.images, second_order_rate=True, rate=rat.rate) == rat
    assert real_loss(at, 10).images == Adam(0.02)
    assert through_training(at, 18, 7) == RealLoss(Adam(0.001), Adaptive(4, 300, 18), 7)
    thirds = replace(at, baseline=replace(at.baseline, window_stages="thirds", window_radius=3, inner_lr=0.01))
    assert through_training(thirds, 18) == RealLoss(Adam(0.01), Adaptive(3, 300))
    assert condensation(config("dc", 1, baseline=Baseline(lr_images=3.0))).images.lr == 3.0


def test_real_images_are_of_their_class_and_drawn_anew_at_every_step(tmp_path: Path) -> None:
    succeed(*command("distill", "--method", "dm", "--steps", 1, *FEW, "--out", tmp_path / "r"))
    made = resolve(parsed(base_configuration(tmp_path / "r")))
    this = setup.Setup.load(made)
    material, batches, seed = this.material, real_batches(this), condensing_seed(this)
    train = material.space.forward(material.dataset.train.x)
    first, second = (batches.draw(generator(seed, "real", step)) for step in (0, 1))
    for label, images in enumerate(first):
        assert images.shape[0] == 20
        index = torch.cdist(images.flatten(1), train.flatten(1)).argmin(1)
        assert (material.dataset.train.y[index] == label).all()
        assert len(set(index.tolist())) == 20
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[0], batches.draw(generator(seed, "real", 0))[0])


def test_it_can_be_planned(capsys: pytest.CaptureFixture[str]) -> None:
    succeed(*command("plan", "--method", "dm", "--steps", 8, *FEW))
    out = capsys.readouterr().out
    assert "distill" in out
    assert not any(line.startswith("experts") for line in out.splitlines())


def test_steps_through_adam_in_parts_and_with_few_iterates_give_the_same_set(tmp_path: Path) -> None:
    words = command("distill", "--method", "at-bptt", "--steps", 6, *FEW, "--out")
    for name, flags in (("whole", []), ("parts", ["--micro-batch", 7]), ("few", ["--matching.keep-every", 2])):
        succeed(*words, tmp_path / name, *flags)
    whole, parts, few = (sets.load(tmp_path / name) for name in ("whole", "parts", "few"))
    assert torch.equal(few.X, whole.X)
    assert relative_error(parts.X, whole.X) < 1e-3
    assert whole.eta == parts.eta == float(torch.tensor(0.03))  # of the preset: it stands still


@pytest.mark.parametrize("method", ["rat-bptt", "at-bptt"])
def test_memory_is_kept_by_taking_images_in_parts(method: MethodName, capsys: pytest.CaptureFixture[str]) -> None:
    config = resolve(parsed({"method": method, "data": "digits", "ipc": 2}))
    this = setup.Setup.load(config)
    batches = real_batches(this)
    real = (batches.size, batches.nbytes)
    P, shape = Layout.of(this.network).size, (20, *this.dataset.shape)
    held = held_bytes(config, this.device, P, math.prod(shape), this.material.nbytes) + batches.nbytes
    step = step_bytes(this.network, this.dataset.shape, this.engine)
    assert this.real_loss_engine(real).micro_batch is None
    for images in (7, 100, 10**6):
        limit = held + step(images) + 1e3
        with_limit = Setup(replace(config, memory=f"{limit / 1e6:.6f}MB"), this.material)
        found = with_limit.real_loss_engine(real).micro_batch or batches.size
        assert found >= min(images, batches.size) // 2
        assert held + step(found) <= limit
        parts = math.ceil(batches.size / found)
        assert parts == 1 or held + step(math.ceil(batches.size / (parts - 1))) > limit  # fewer do not fit
    succeed(*command("plan", "--method", method, "--steps", 8, *FEW, "--memory", "900MB"))
    assert "in all" in capsys.readouterr().out


def test_the_adaptive_window_is_an_option_of_rat_bptt(tmp_path: Path) -> None:
    words = command("distill", "--method", "rat-bptt", "--steps", 6, *FEW, "--out")
    succeed(*words, tmp_path / "random")
    succeed(*words, tmp_path / "adaptive", "--baseline.window", "adaptive", "--baseline.window-radius", 1)
    one, two = (sets.load(tmp_path / name).X for name in ("random", "adaptive"))
    assert one.shape == two.shape
    assert not torch.equal(one, two)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--method", "dsa", "--outer.labels", "learned"],
            "--outer.labels is learned and must be hard with --method dsa",
        ),
        (["--method", "dm", "--outer.initial", "k-center"], "--outer.initial is k-center, which needs experts"),
        (["--method", "dsa", "--memory", "1GB"], "--memory is 1GB and has no effect with --method dsa"),
        (["--method", "at-bptt", "--precision", "bf16"], "--precision is bf16 and has no effect with --method at-bptt"),
        (["--method", "at-bptt", "--memory", "1MB"], "--memory is 1 MB, and the smallest step needs"),
        (
            ["--method", "mtt", "--baseline.inner", "adam"],
            "--baseline.inner is adam, which is for rat-bptt, at-bptt and satm-bptt",
        ),
        (
            ["--method", "dm", "--baseline.inner", "adam"],
            "the steps of --method dm have plain SGD inside; leave it out",
        ),
        (
            ["--method", "at-bptt", "--baseline.students", "3"],
            "--baseline.students is 3 and must be 0 with --baseline.inner adam, which needs new networks",
        ),
        (
            ["--method", "rat-bptt", "--baseline.students", "3", "--baseline.window", "adaptive"],
            "--baseline.students is 3 and must be 0 with --baseline.window adaptive, which needs new networks",
        ),
        (["--method", "dc", "--precision", "bf16"], "--precision is bf16 and has no effect with --method dc"),
        (
            ["--method", "dsa", "--outer.lr-images", "3"],
            "--outer.lr-images is 3.0 and has no effect with --method dsa: give --baseline.lr-images",
        ),
        (
            ["--method", "dm", "--outer.ema", "0.9"],
            "--outer.ema is 0.9 and has no effect with --method dm: leave it out",
        ),
    ],
)
def test_what_needs_experts_or_is_not_heeded_is_refused(
    flags: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refusal(capsys, *command("distill", *flags, "--out", tmp_path / "r"))
    assert not (tmp_path / "r").exists()


def test_without_augmentation_it_is_said_that_dsa_is_dc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for augment, said in (("none", True), ("flip", False)):
        words = command("distill", "--method", "dsa", "--steps", 1, *FEW, "--matching.augment", augment, "--out")
        succeed(*words, tmp_path / augment)
        assert ("dsa is dc" in capsys.readouterr().err) == said


def test_small_condensers_take_one_thread(tmp_path: Path) -> None:
    words = command("distill", "--method", "dm", "--steps", 1, *FEW, "--out", tmp_path / "r")
    succeed(*words)
    config = resolve(parsed(base_configuration(tmp_path / "r")))
    config = replace(config, outer=replace(config.outer, threads=None))
    found = condensation_steps(setup.Setup.load(config), []).compute
    assert found.threads == 1
