"""Networks trained at once: kept, found again, and told apart by all that their accuracy depends on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.small import FLAGS, succeed
from trajmatch.data import synthetic as sets
from trajmatch.data.material import Material
from trajmatch.measure.evaluate import train_and_test
from trajmatch.methods.training import Training
from trajmatch.run.assembly import letters, setup
from trajmatch.run.assembly.distilled import base_configuration
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages import trials as jobs
from trajmatch.run.stages.trials import Trial, bench, real_trial, set_trials
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.flat import parsed
from trajmatch.settings.inputs import Network


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Material, sets.SyntheticSet]:
    folder = tmp_path_factory.mktemp("jobs") / "run"
    succeed("distill", *FLAGS, "--method", "random", "--ipc", 3, "--out", folder)
    config = resolve(parsed(base_configuration(folder)))
    return config, setup.load_material(config), sets.load(folder)


def accuracies_in(folder: Path) -> int:
    """How many networks the file of what is kept has; answers by class stand beside their accuracies."""
    record = json.loads((folder / "networks.json").read_text())
    return sum(isinstance(value, float) for value in record.values())


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one for every network that is trained."""
    whole, came = jobs.train_and_test, []

    def counted(*arguments: object, **named: object) -> float:
        came.append(1)
        return whole(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "train_and_test", counted)
    return came


def test_what_was_trained_is_not_trained_again(
    made: tuple[Config, Material, sets.SyntheticSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, material, synthetic = made
    wanted = set_trials("a", config, synthetic.X, synthetic.Y, 0.05, 3)
    whole, came = jobs.train_and_test, []

    def counted(*arguments: object, **named: object) -> float:
        if len(came) == 2:
            raise KeyboardInterrupt
        came.append(1)
        return whole(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "train_and_test", counted)
    with bench(Setup(config, material), tmp_path) as on, pytest.raises(KeyboardInterrupt):
        on.accuracies(wanted)
    assert accuracies_in(tmp_path) == 2
    came.clear()
    with bench(Setup(config, material), tmp_path) as on:
        found = on.accuracies(wanted)
    assert len(came) == 1
    monkeypatch.setattr(jobs, "train_and_test", whole)
    (tmp_path / "anew").mkdir()
    with bench(Setup(config, material), tmp_path / "anew") as on:
        assert on.accuracies(wanted) == found
    assert len(set(found["a"])) > 1


def test_one_network_under_two_names_is_trained_once(
    made: tuple[Config, Material, sets.SyntheticSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, material, synthetic = made
    wanted = [job for key in "ab" for job in set_trials(key, config, synthetic.X, synthetic.Y, 0.05, 2)]
    wanted += set_trials("c", config, synthetic.X, synthetic.Y, 0.06, 1)
    came = counting(monkeypatch)
    with bench(Setup(config, material), tmp_path) as on:
        found = on.accuracies(wanted)
    assert len(came) == 3
    assert found["a"] == found["b"]
    assert [len(found[key]) for key in "abc"] == [2, 2, 1]


def test_one_network_that_is_asked_for_twice_counts_once(
    made: tuple[Config, Material, sets.SyntheticSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, material, synthetic = made
    twice = [job for _ in range(2) for job in set_trials("a", config, synthetic.X, synthetic.Y, 0.05, 2)]
    came = counting(monkeypatch)
    with bench(Setup(config, material), tmp_path) as on:
        found = on.accuracies(twice)
        once = on.accuracies(twice[:2])
    assert len(came) == 2
    assert len(found["a"]) == 2
    assert found == once


def test_two_networks_of_equal_accuracy_count_twice(
    made: tuple[Config, Material, sets.SyntheticSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, material, synthetic = made
    monkeypatch.setattr(jobs, "train_and_test", lambda *arguments, **named: 0.25)
    with bench(Setup(config, material), tmp_path) as on:
        found = on.accuracies(set_trials("a", config, synthetic.X, synthetic.Y, 0.05, 3))
    assert found == {"a": [0.25] * 3}


@pytest.mark.parametrize("content", ["", "[]", "3", '{"a": 0.5', '{"a": "0.5"}', '{"a": [0.5]}'])
def test_damaged_accuracies_are_one_sentence_and_stay(
    content: str, made: tuple[Config, Material, sets.SyntheticSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, material, synthetic = made
    kept = tmp_path / "networks.json"
    kept.write_text(content)
    came = counting(monkeypatch)
    says = r"networks\.json: this record is damaged .*; delete it, and its networks are trained again$"
    with bench(Setup(config, material), tmp_path) as on, pytest.raises(ValueError, match=says):
        on.accuracies(set_trials("a", config, synthetic.X, synthetic.Y, 0.05, 1))
    assert not came
    assert kept.read_text() == content


def test_networks_of_the_users_own_are_trained_again(
    made: tuple[Config, Material, sets.SyntheticSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_of = "nn.Sequential(nn.Flatten(), nn.Linear(64, classes))"
    (tmp_path / "mine_for_jobs.py").write_text(
        f"from torch import nn\n\ndef tiny(shape, classes):\n    return {made_of}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    config, material, synthetic = made
    own, known = Network("mine_for_jobs:tiny"), Network("mlp")
    (first,) = set_trials("a", config, synthetic.X, synthetic.Y, 0.05, 1)
    jobs_of = [first._replace(network=network) for network in (own, known)]
    came = counting(monkeypatch)
    for count in (2, 3):
        with bench(Setup(config, material), tmp_path) as on:
            on.accuracies(jobs_of)
        assert len(came) == count
    assert accuracies_in(tmp_path) == 1


def test_a_digest_is_of_all_that_an_accuracy_depends_on(made: tuple[Config, Material, sets.SyntheticSet]) -> None:
    config, _, synthetic = made
    job = set_trials("a", config, synthetic.X, synthetic.Y, 0.05, 1)[0]
    others: list[Trial] = [
        job._replace(X=job.X + 1),
        job._replace(Y=job.Y[:, ::-1]),
        job._replace(recipe=replace(job.recipe, lr=0.06)),
        job._replace(recipe=replace(job.recipe, epochs=1)),
        job._replace(seed=job.seed + 1),
        job._replace(split="validation"),
        job._replace(network=Network("mlp")),
        real_trial("a", job.recipe, job.seed),
    ]
    digests = [one.digest(config, "images") for one in (job, *others)]
    whitened = replace(config, images=replace(config.images, normalise="zca"))
    digests += [job.digest(config, "others"), job.digest(whitened, "images")]
    assert len(set(digests)) == len(digests)
    assert job._replace(key="b").digest(config, "images") == digests[0]
    assert job._replace(network=config.network).digest(config, "images") == digests[0]


def test_digests_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under these keys accuracies lie on disks."""
    monkeypatch.setattr(torch, "__version__", "2.0")
    config = replace(Config(), device="cpu", engine="eager")
    X, Y = torch.arange(20.0).view(5, 1, 2, 2).numpy(), torch.eye(5).numpy()
    job = Trial("a", X, Y, Training(0.05, 3, 4, 0.9, 5e-4, lr_drop=0.5), 7, "validation", Network("mlp"))
    assert job.digest(config, "images") == "ec740e3604922bf4cc4fd6891d6a4237"


def test_real_jobs_are_of_all_training_images(made: tuple[Config, Material, sets.SyntheticSet], tmp_path: Path) -> None:
    config, material, _ = made
    recipe = replace(letters.expert_training(config), epochs=1)
    with bench(Setup(config, material), tmp_path) as on:
        found = on.accuracies([real_trial("real", recipe, 4, Network("mlp"))])
    data = material.dataset
    make = setup.factory(Network("mlp"), data.shape, data.num_classes)
    x, test = material.space.forward(data.train.x), material.space.forward(data.test.x)
    wanted = train_and_test(make, x, torch.eye(10)[data.train.y], recipe, test, data.test.y, 4)
    assert found["real"] == [pytest.approx(wanted, abs=0.01)]


def test_leading_parts_are_scored_as_sets_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    succeed("distill", *FLAGS, "--method", "random", "--ipc", 3, "--out", folder)
    succeed("evaluate", folder, "--sizes", 1, 3)
    found = json.loads((folder / "sizes.json").read_text())["sizes"]
    assert list(found) == ["1", "3"]
    succeed("evaluate", folder)
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if "last iterate" in line)
    assert f"{found['3']['mean']:.2%}" in line, "the whole set is its last part"
    first, labels = sets.leading(sets.load(folder), 1)
    assert torch.equal(first, sets.load(folder).X[::3])
    assert torch.equal(labels, torch.eye(10))


def test_sizes_that_a_set_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.run.test_cli import refusal

    folder = tmp_path / "run"
    succeed("distill", *FLAGS, "--method", "random", "--out", folder)
    assert "--sizes has 2 and must be from 1 to the set's 1 images" in refusal(
        capsys, "evaluate", folder, "--sizes", "2"
    )
