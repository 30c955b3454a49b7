"""What all images of a set go through at once: in parts where memory is limited, and with the same values."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.core.test_student import made as smooth_student
from tests.oracles import relative_error
from tests.run.assembly.test_engine import CPU, SHAPE, network
from tests.small import command, succeed
from trajmatch.core.loss import cross_entropy
from trajmatch.core.student import Student, in_parts, micro_batched, plain
from trajmatch.data.networks.convnet import build
from trajmatch.data.trajectories import Trajectory
from trajmatch.pages.tables import set_title
from trajmatch.run.assembly import setup
from trajmatch.run.assembly.budget import held_bytes, image_bytes
from trajmatch.run.assembly.distilled import base_configuration
from trajmatch.run.assembly.engine import at_once, training_engine
from trajmatch.run.stages import start
from trajmatch.run.stages import steps as distill_stage
from trajmatch.run.stages.experts import open_experts
from trajmatch.run.stages.loop import Loop
from trajmatch.run.stages.random_images import chosen_on
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.flat import parsed


def watched(forward: Callable[[Tensor, Tensor], Tensor], sizes: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda theta, z: (sizes.append(len(z)), forward(theta, z))[1]


@pytest.mark.parametrize(("size", "parts"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (100, [7]), (None, [7])])
def test_outputs_in_parts_are_the_outputs(size: int | None, parts: list[int]) -> None:
    forward, (theta, z, *_) = smooth_student()
    sizes: list[int] = []
    found = in_parts(watched(forward, sizes), size)(theta, z)
    assert sizes == parts
    assert relative_error(found, forward(theta, z)) < 1e-12


def test_a_student_in_parts_gives_labels_in_parts() -> None:
    forward, (theta, z, *_) = smooth_student()
    sizes: list[int] = []
    student = plain(cross_entropy(forward))._replace(forward=watched(forward, sizes))
    labels = micro_batched(student, 3).forward
    assert labels is not None
    assert relative_error(labels(theta, z), forward(theta, z)) < 1e-12
    assert sizes == [3, 3, 1]
    assert micro_batched(student._replace(forward=None), 3).forward is None


def limit(config: Config, n: int = 20, net: nn.Module | None = None) -> int | None:
    return at_once(resolve(config), net or network(), CPU, (n, *SHAPE), 1e6)


def test_how_many_images_go_at_once() -> None:
    assert limit(Config()) is None
    assert limit(Config(micro_batch=7)) == 7
    net, config = network(), resolve(Config())
    each = image_bytes(net, SHAPE, training_engine(config, net, CPU).name)
    for n in (20, 5000):
        rest = held_bytes(config, CPU, sum(p.numel() for p in net.parameters()), n * 3 * 16 * 16, 1e6)
        for fits, parts in ((1, 1), (90.5, 84), (max(n, 1000) + 1, None)):
            memory = f"{(rest + fits * each) / 1e3 + 0.1:.1f}KB"
            found = limit(replace(config, memory=memory), n)
            assert found is parts is None or (found is not None and parts is not None and parts <= found <= fits)
    with pytest.raises(ValueError, match="--memory is"):
        limit(replace(config, memory="1MB"))
    batch_norm = build(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(784, 2)), 0)
    assert limit(replace(config, memory="1GB"), net=batch_norm[0]) is None


@pytest.mark.parametrize("initial", ["herding", "correct"])
def test_first_features_and_labels_take_no_more_than_a_micro_batch(
    initial: str, experts: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve(parsed({**base_configuration(whole), "outer.initial": initial, "outer.labels": "learned"}))
    this, sizes = setup.Setup.load(config), []
    trajectories, made = open_experts(this, experts), start.engines.forward
    monkeypatch.setattr(start.engines, "forward", lambda *given: watched(made(*given), sizes))
    free = start.first_state(this, trajectories)
    assert max(sizes) == 1000
    sizes.clear()
    small = start.first_state(replace(this, config=replace(config, micro_batch=7)), trajectories)
    assert max(sizes) == 7
    assert torch.equal(small.X, free.X)
    assert torch.allclose(small.Y, free.Y, atol=1e-4)


@pytest.mark.parametrize("limited", [False, True])
def test_a_teacher_labels_no_more_images_at_once_than_memory_allows(
    limited: bool, experts: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = {**base_configuration(whole), "method": "tesla", "outer.labels": "teacher", "matching.sharpness": "none"}
    flat |= {"matching.restart_step": 0, "matching.estimator": "tesla", "matching.differentiated_steps": 6}
    # Of a mini-batch of 4 every image fits, of all 10 they do not.
    config = resolve(replace(parsed({**flat, "matching.batch": 4}), memory="300GB" if limited else None))
    this = setup.Setup.load(config)
    trajectories: list[Trajectory] = open_experts(this, experts)
    monkeypatch.setattr("trajmatch.run.assembly.engine.micro_batch", lambda limit, held, each, n: None if n == 4 else 6)
    sizes: list[int] = []
    make = distill_stage.engines.student

    def spied(*given: Any) -> Student:
        student = make(*given)
        assert student.forward is not None
        return student._replace(forward=watched(student.forward, sizes))

    monkeypatch.setattr(distill_stage.engines, "student", spied)
    loop = Loop(this, trajectories, tmp_path)
    assert loop.compute.engine.micro_batch is None
    loop.step()
    assert sizes == ([6, 4] if limited else [10])


@pytest.mark.parametrize("held_out", [True, False])
def test_it_is_said_when_the_images_of_a_choice_were_trained_on(held_out: bool, experts: Path, tmp_path: Path) -> None:
    flags = [] if held_out else ["--images.no-hold-out"]
    folder = tmp_path / "r"
    own = ["--experts", experts] if held_out else ["--experts", 1]
    succeed(*command("run", *own, "--steps", 4, *flags, "--out", folder))
    score = json.loads((folder / "summary.json").read_text())["accuracy"]["chosen"]
    assert ("validation images, which are among the training images too" in score["how"]) == (not held_out)
    assert "the step was chosen on validation images" in score["how"]
    assert score.get("held_out", True) == held_out
    assert ("among training images" in set_title("chosen", score)) == (not held_out)
    report = (folder / "report.html").read_text()
    assert ("distilled, chosen on validation (among training images)" in report) == (not held_out)
    material = setup.load_material(resolve(parsed(base_configuration(folder))))
    assert chosen_on(material) in score["how"]
