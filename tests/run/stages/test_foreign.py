"""One network that a set was not made for, and answers by class: trained as told, kept, told in the plan."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.small import FLAGS, command, succeed
from trajmatch.core.draws import derive
from trajmatch.core.vector import Layout
from trajmatch.data import synthetic as sets
from trajmatch.data.networks.architectures import lenet
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.measure.evaluate import train_and_test
from trajmatch.run.assembly import letters, setup
from trajmatch.run.assembly.distilled import base_configuration
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages import foreign
from trajmatch.run.stages.evaluation import by_class
from trajmatch.run.stages.plan import _foreign
from trajmatch.run.stages.trials import Bench, bench, set_trials
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.flat import parsed
from trajmatch.settings.inputs import Network

ON = ("--evaluation.foreign", "lenet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("foreign") / "run"
    succeed(*command("run", "--method", "random", "--ipc", 3, *ON, "--evaluation.epochs", 20, "--out", made))
    return made


def opened(folder: Path) -> tuple[Setup, sets.SyntheticSet]:
    config = resolve(parsed(base_configuration(folder)))
    return Setup(config, setup.load_material(config)), sets.load(folder)


def scores_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())["accuracy"]
    return found


def test_the_foreign_network_is_trained_at_the_best_rate_of_three(folder: Path) -> None:
    of, synthetic = opened(folder)
    score = scores_of(folder)["foreign"]
    data, space = of.dataset, of.material.space
    seeds = [derive(of.config.seed, "evaluation", i) for i in range(2)]

    def trained(rate: float, seed: int, x: torch.Tensor, y: torch.Tensor) -> float:
        recipe = letters.evaluation_training(of.config, rate)
        return train_and_test(lambda: lenet((1, 8, 8), 10), *synthetic.seen, recipe, space.forward(x), y, seed)

    validation = {rate: trained(rate, seeds[0], data.validation.x, data.validation.y) for rate in (0.003, 0.01, 0.03)}
    assert score["rate"] == max(validation, key=validation.__getitem__)
    wanted = [trained(score["rate"], seed, data.test.x, data.test.y) for seed in seeds]
    assert score["mean"] == pytest.approx(sum(wanted) / 2, abs=0.01)
    assert (score["n"], score["network"]) == (2, "lenet")
    assert f"at {score['rate']:.4g} " in score["how"]
    assert "the rate is the best of 0.003, 0.01, 0.03 by one network on validation images" in score["how"]


def test_random_images_stand_beside_it_a_new_draw_for_each(folder: Path) -> None:
    score = scores_of(folder)["foreign random"]
    assert (score["n"], score["network"]) == (2, "lenet")
    assert "random real images, a new draw for each" in score["how"]
    assert score["std"] > 0


def test_what_a_reader_is_told(folder: Path, capsys: pytest.CaptureFixture[str], caplog: Any) -> None:
    succeed("evaluate", folder)  # every network is kept, so that this is quick
    out = capsys.readouterr().out
    assert "distilled, on lenet" in out
    assert "random real images, on lenet" in out
    assert "carry over" in caplog.text or "carries over" in caplog.text
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["network"] == "ConvNet of 2 blocks with 8 channels, instance norm, avg pooling"
    assert summary["shape"] == [1, 8, 8]
    assert (summary["seed"], summary["distillation_seed"]) == (0, 0)
    assert summary["seconds"]["read"] > 0
    assert "class_names" not in summary
    page = (folder / "report.html").read_text()
    assert "<h2>Classes</h2>" in page


def test_accuracies_by_class_are_means_of_what_networks_answer(folder: Path) -> None:
    of, synthetic = opened(folder)
    data, config = of.dataset, of.config
    recipe = letters.evaluation_training(config, synthetic.eta)
    x, y = of.material.space.forward(data.test.x), data.test.y
    network = config.network
    make = lambda: convnet((1, 8, 8), 10, network.depth, network.width, network.norm, network.pooling)  # noqa: E731
    given: list[torch.Tensor] = []
    for i in range(2):
        train_and_test(make, *synthetic.seen, recipe, x, y, derive(config.seed, "evaluation", i), tell=given.append)
    wanted = [sum(float((one[y == k] == k).float().mean()) for one in given) / 2 for k in range(10)]
    score = scores_of(folder)["distilled"]
    assert score["by_class"] == pytest.approx(wanted, abs=0.03)
    shares = F.one_hot(y, 10).sum(0) / len(y)
    assert sum(s * float(n) for s, n in zip(score["by_class"], shares, strict=True)) == pytest.approx(score["mean"])
    assert len(scores_of(folder)["random"]["by_class"]) == 10


def test_answers_by_class_are_kept_and_found_again(folder: Path, tmp_path: Path) -> None:
    of, synthetic = opened(folder)
    wanted = set_trials("a", of.config, *synthetic.seen, synthetic.eta, 2)
    (tmp_path / "networks.json").write_bytes((folder / "networks.json").read_bytes())
    with bench(of, tmp_path) as on:
        found = on.tested(wanted)["a"]
    assert all(len(one.right) == 10 for one in found)
    counts = torch.bincount(of.dataset.test.y).tolist()
    assert by_class([one.right for one in found], counts)["by_class"] == scores_of(folder)["distilled"]["by_class"]
    assert [sum(one.right) / len(of.dataset.test) for one in found] == [one.accuracy for one in found]


def test_a_file_without_answers_is_read_and_a_changed_one_is_refused(folder: Path, tmp_path: Path) -> None:
    of, synthetic = opened(folder)
    wanted = set_trials("a", of.config, *synthetic.seen, synthetic.eta, 2)
    record = json.loads((folder / "networks.json").read_text())
    kept = tmp_path / "networks.json"
    kept.write_text(json.dumps({key: value for key, value in record.items() if "right" not in key}))
    with bench(of, tmp_path) as on:
        assert [one.right for one in on.tested(wanted)["a"]] == [(), ()]
    assert by_class([(), ()], [1, 2]) == {}
    key = next(key for key in record if "right" in key)
    for changed in (record[key].replace(record[key][0], "9", 1) + "1", "x", [1, 2]):
        kept.write_text(json.dumps({**record, key: changed}))
        with bench(of, tmp_path) as on, pytest.raises(ValueError, match=r"networks\.json: this record is damaged"):
            on.tested(wanted)


@pytest.mark.parametrize(
    ("network", "name", "says"),
    [
        (Network(depth=2, width=8), "none", "--evaluation.foreign is none"),
        (Network("lenet"), "lenet", "which is the set's own network"),
        (Network(depth=2, width=8), "lenet", None),
        (Network("lenet"), "mlp", None),
    ],
)
def test_when_no_foreign_network_is_trained(folder: Path, network: Network, name: Any, says: str | None) -> None:
    of, _ = opened(folder)
    config = replace(of.config, network=network, evaluation=replace(of.config.evaluation, foreign=name))
    found = foreign.left_out(Setup(config, of.material))
    assert found is None if says is None else says in (found or "")


def test_images_that_it_does_not_fit_are_told(folder: Path, caplog: Any) -> None:
    of, synthetic = opened(folder)
    small = replace(of.dataset, train=replace(of.dataset.train, x=of.dataset.train.x[:, :, :6, :6]))
    other = Setup(of.config, replace(of.material, dataset=small))
    on = Bench(other, folder / "none", folder / "none", None)  # type: ignore[arg-type]
    caplog.set_level(logging.INFO)
    found = foreign.scores(on, synthetic, lambda rate, what: what)
    assert found == {}
    assert "no other network is trained on the set: --evaluation.foreign is lenet, which these images" in caplog.text


def test_the_plan_foresees_it(folder: Path, tmp_path: Path) -> None:
    of, _ = opened(folder)
    with bench(of, tmp_path) as on:
        stage = _foreign(of, on.path, 2, 100.0)
    assert stage.name == "evaluate on lenet"
    assert 0 < stage.on_ranks.seconds < stage.seconds
    assert Layout.of(build(lambda: lenet((1, 8, 8), 10), 0)[0]).size > 1000  # a network of its own, no stand-in


def test_a_run_says_nothing_where_it_is_switched_off(tmp_path: Path) -> None:
    assert Config().evaluation.foreign == "lenet"
    succeed("run", *FLAGS, "--method", "random", "--evaluation.epochs", 1, "--out", tmp_path / "run")
    assert "foreign" not in scores_of(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "carries over" not in page
    assert "carry over" not in page
