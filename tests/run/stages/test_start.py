"""The methods that choose real images: what they deliver, on what experts, and that nothing moves."""

from pathlib import Path

import pytest
import torch

from tests.run.test_cli import refusal
from tests.small import command, succeed
from trajmatch.core.vector import functional
from trajmatch.data import synthetic as sets
from trajmatch.data.networks.convnet import build, convnet, embedding
from trajmatch.data.trajectories import Trajectory
from trajmatch.methods.selection import by_class
from trajmatch.run.assembly import setup
from trajmatch.run.assembly.distilled import base_configuration
from trajmatch.settings.checks import resolve
from trajmatch.settings.flat import parsed

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize("method", ["random", "herding", "k-center"])
def test_real_images_are_delivered_as_they_are(method: str, experts: Path, tmp_path: Path) -> None:
    words = command("run", "--method", method, "--ipc", 3, "--experts", experts, "--out", tmp_path / "r")
    succeed(*words)
    succeed(*words)  # and found done
    found = sets.load(tmp_path / "r")
    config = resolve(parsed(base_configuration(tmp_path / "r")))
    material = setup.load_material(config)
    train = material.dataset.train
    real = material.space.forward(train.x)
    exact = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(found.X.flatten(1), real.flatten(1), compute_mode=exact)
    index = distance.argmin(1)
    assert distance.min(1).values.max() < 1e-3
    assert train.y[index].tolist() == [label for label in range(10) for _ in range(3)]
    assert len(set(index.tolist())) == 30
    assert found.eta == pytest.approx(config.outer.step_size)
    if method != "random":
        trajectory = Trajectory.open(sorted(experts.glob("expert_*"))[0])
        network, _ = build(setup.factory(config.network, material.dataset.shape, 10), 0)
        features = functional(embedding(network))(trajectory.row(trajectory.num_rows - 1), real)
        wanted = by_class(method, features.detach(), train.y, 10, 3)
        assert len(set(index.tolist()) & set(wanted.tolist())) >= 28  # rounding may swap equals
    assert not (tmp_path / "r" / "metrics.jsonl").exists() or not (tmp_path / "r" / "metrics.jsonl").read_text()


def test_any_method_may_start_from_a_coreset(experts: Path, tmp_path: Path) -> None:
    words = ["--experts", experts, "--steps", 1, "--outer.lr-images", "1e-9", "--ipc", 2]
    succeed(*command("distill", *words, "--outer.initial", "herding", "--out", tmp_path / "a"))
    succeed(*command("distill", "--method", "herding", "--experts", experts, "--ipc", 2, "--out", tmp_path / "b"))
    one, two = sets.load(tmp_path / "a"), sets.load(tmp_path / "b")
    assert torch.allclose(one.X, two.X, atol=1e-5)


def test_steps_of_none_are_for_real_images_alone(capsys: Captured, tmp_path: Path) -> None:
    assert "--steps is 0 and must be at least 1" in refusal(
        capsys, *command("distill", "--steps", 0, "--out", tmp_path)
    )


def test_an_embedding_is_what_goes_into_the_last_layer_and_shares_parameters() -> None:
    network, theta = build(lambda: convnet((3, 8, 8), 5, depth=2, width=4), 0)
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    features = functional(embedding(network))(theta, images)
    assert features.shape == (6, 4 * 2 * 2)
    weight, bias = theta[-85:-5].view(5, 16), theta[-5:]
    assert torch.allclose(features @ weight.T + bias, functional(network)(theta, images), atol=1e-6)
    with pytest.raises(ValueError, match="no linear layer"):
        embedding(torch.nn.Sequential(torch.nn.Flatten()))
