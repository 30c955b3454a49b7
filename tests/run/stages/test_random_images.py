"""Random real images beside a set: how many are drawn, at which rates, and what is said of them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.small import FLAGS
from trajmatch.measure.evaluate import Score
from trajmatch.pages.tables import score_lines
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages.random_images import RandomImages, at_own_rate, at_set_rate, beside_set, draws
from trajmatch.run.stages.trials import bench
from trajmatch.settings.checks import resolve
from trajmatch.settings.command_line import settings_of
from trajmatch.settings.inputs import Network


@pytest.fixture(scope="module")
def setup() -> Setup:
    return Setup.load(resolve(settings_of("run", "digits-ipc1", FLAGS[1:]).config))


def test_small_networks_meet_four_times_the_draws_and_large_ones_no_more(setup: Setup) -> None:
    assert [draws(setup, least) for least in (0, 1, 5)] == [0, 4, 20]
    long = replace(setup.config, evaluation=replace(setup.config.evaluation, epochs=300))
    assert draws(Setup(long, setup.material), 5) == 20
    assert draws(Setup(long, setup.material), 5, Network("alexnet")) == 5
    longer = replace(setup.config, evaluation=replace(setup.config.evaluation, epochs=1_000_000))
    assert draws(Setup(longer, setup.material), 5) == 5
    halfway = replace(setup.config, evaluation=replace(setup.config.evaluation, epochs=100_000))
    assert 5 < draws(Setup(halfway, setup.material), 5) < 20


def test_the_rate_is_chosen_on_validation_images_alone(setup: Setup, tmp_path: Path) -> None:
    images = beside_set(setup, 0.05)
    assert images.rates == (0.001, 0.003, 0.01, 0.03, 0.05, 0.1)
    assert {one.split for one in images.choice()} == {"validation"}
    assert {one.split for one in images.trials("a", 0.05)} == {"test"}
    found = {f"random at {rate}": [0.3, 0.5 if rate == 0.03 else 0.2] for rate in images.rates}
    assert images.chosen(found)[0] == 0.03
    with bench(setup, tmp_path) as on:
        tuned = at_own_rate(on, images, found, lambda rate: f"at {rate}")
        (of,) = on.accuracies(images.trials("again", 0.03)).values()
    assert (tuned["rate"], tuned["n"], tuned["mean"]) == (0.03, 8, pytest.approx(sum(of) / 8))
    assert "at 0.03; a new draw for each; the rate is the best of 0.001, 0.003" in tuned["how"]
    assert "by 2 of the draws on validation images" in tuned["how"]


def test_each_network_has_a_draw_of_its_own_that_is_the_same_at_every_rate(setup: Setup) -> None:
    images = RandomImages(setup, 4, (0.01, 0.1))
    one, other = images.trials("a", 0.01), images.trials("a", 0.1)
    assert len({trial.X.tobytes() for trial in one}) == len({trial.seed for trial in one}) == 4
    assert [trial.X.tobytes() for trial in one] == [trial.X.tobytes() for trial in other]
    x = setup.material.space.forward(setup.dataset.train.x)
    assert all((torch.from_numpy(trial.X)[0] == x).flatten(1).all(1).any() for trial in one), "real training images"


def test_the_standard_error_is_said() -> None:
    record = at_set_rate([0.5, 0.7, 0.6, 0.6], "so", "the set's learned step size")
    wanted = torch.tensor([0.5, 0.7, 0.6, 0.6], dtype=torch.float64).std() / 2
    assert record["error"] == pytest.approx(float(wanted))
    assert record["how"].endswith(f"the rate is the set's learned step size; standard error of the mean {wanted:.2%}")
    assert Score.of([0.5], "once").error is None
    lines = score_lines({"random": record, "random tuned": at_set_rate([0.5], "so", "other")})
    assert "random real, the set's rate" in lines[0]
    assert f"(n = 4, standard error {wanted:.2%})" in lines[0]
    assert "random real, their best rate" in lines[1]
    assert "standard error" not in lines[1]
