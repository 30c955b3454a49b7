"""What a notebook calls: distil, score, networks and sharpness rules of the user's own."""

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

import trajmatch
from tests.run.test_cli import refusal
from tests.small import FLAGS, command, succeed
from trajmatch.core.sharpness import SAM
from trajmatch.data.images import export_folder
from trajmatch.data.images import load as load_images
from trajmatch.run.assembly.letters import own_rule
from trajmatch.settings.command_line import settings_of
from trajmatch.settings.config import Config

Captured = pytest.CaptureFixture[str]
Logged = pytest.LogCaptureFixture
ROOT = Path(__file__).parents[2]
HERE = "tests.run.test_api"


def tiny(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    c, h, w = shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, 4), nn.Tanh(), nn.Linear(4, num_classes))


def along(d: Tensor, X: Tensor, rho: float) -> Tensor:
    """SAM's ascent, written by a user."""
    return SAM(rho).perturbation(d, X, torch.zeros_like(X)).eps


def crooked(d: Tensor, X: Tensor, rho: float) -> Tensor:
    return d.sum()


class Half:
    """A rule with both methods."""

    def perturbation(self, d: Tensor, X: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return 0.1 * d / d.norm(), state

    def direction(self, d: Tensor, d_prime: Tensor) -> Tensor:
        return (d + d_prime) / 2


@pytest.fixture(scope="module")
def config() -> Config:
    return settings_of("run", "digits-ipc1", FLAGS[1:]).config


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[object, object]]:
    """A folder of two kinds of images, and a pair of data sets in Python with the same pixels and no names."""
    source = torch.Generator().manual_seed(0)
    x = torch.randint(0, 200, (60, 3, 8, 8), generator=source, dtype=torch.uint8)
    y = torch.arange(60) % 2
    x[y == 1, 0] += 55
    both = [torch.utils.data.TensorDataset(x[part], y[part]) for part in (slice(0, 40), slice(40, 60))]
    folder = tmp_path_factory.mktemp("pictures") / "all"
    export_folder(replace(load_images(tuple(both)), classes=("cat", "dog")), folder)
    return folder, (both[0], both[1])


def test_a_set_of_python_s_is_scored_by_python_and_by_the_command_on_the_user_s_folder(
    pictures: tuple[Path, tuple[object, object]], config: Config, tmp_path: Path, capsys: Captured, caplog: Logged
) -> None:
    folder, pair = pictures
    made = tmp_path / "made"
    synthetic = trajmatch.distill(pair, ipc=2, method="random", config=config, out=made)
    assert f"{made} has the set, and no accuracies" in caplog.text
    assert not (made / "summary.json").exists()
    scores = trajmatch.evaluate(synthetic, pair, quiet=True)
    assert set(scores) == {"distilled", "random", "random tuned"}
    assert (scores["distilled"].n, scores["random"].n) == (2, 8)
    assert "name the folder or file of the same images by --data" in refusal(capsys, "evaluate", made)
    succeed("evaluate", made, "--data", folder)
    assert "knows its classes by number alone" in caplog.text
    assert "in their order (0 is cat, 1 is dog)" in caplog.text
    line = next(line for line in capsys.readouterr().out.splitlines() if "last iterate" in line)
    assert f"{scores['distilled'].mean:.2%}" in line, "the same networks on the same images"
    trajmatch.distill(pair, ipc=2, method="random", config=config, out=made, score=True, quiet=True)
    summary = json.loads((made / "summary.json").read_text())
    assert summary["accuracy"]["distilled"]["mean"] == scores["distilled"].mean
    assert (made / "report.html").exists()


def test_networks_and_rules_of_one_s_own(config: Config, tmp_path: Path) -> None:
    given = {"experts": 1, "steps": 3, "config": config, "quiet": True, "network": tiny}
    ours = trajmatch.distill("digits", sharpness=along, out=tmp_path / "ours", **given)
    theirs = trajmatch.distill("digits", sharpness="sam", **given)
    assert torch.equal(ours.X, theirs.X), "a function that is SAM's ascent gives SAM's set"
    assert f"{HERE}:tiny" in (tmp_path / "ours" / "config.yaml").read_text()
    other = trajmatch.distill("digits", sharpness=Half, **given)
    assert not torch.equal(other.X, ours.X)
    assert trajmatch.evaluate(ours, "digits", random_draws=0, quiet=True).keys() == {"distilled"}
    scores = trajmatch.evaluate(tmp_path / "ours", network="mlp", networks=1, quiet=True)
    assert set(scores) == {"distilled", "distilled tuned", "random tuned"}


def test_a_rule_by_its_name_on_the_command_line(experts: Path, tmp_path: Path, capsys: Captured) -> None:
    words = ("distill", "--experts", experts, "--steps", 2)
    succeed(*command(*words, "--matching.sharpness", f"{HERE}:along", "--out", tmp_path / "own"))
    succeed(*command(*words, "--matching.sharpness", "sam", "--out", tmp_path / "sam"))
    own, sam = (trajmatch.load(tmp_path / name) for name in ("own", "sam"))
    assert torch.equal(own.X, sam.X)
    succeed("evaluate", tmp_path / "own", "--evaluation.random-draws", 0)
    for name, says in (
        (f"{HERE}:nothing", "which can't be imported: "),
        ("nowhere:rule", "which can't be imported: No module named 'nowhere'"),
        (f"{HERE}:ROOT", "and must be a function (d, X, rho) -> eps"),
        ("samm", "or MODULE:NAME, code of your own; did you mean sam?"),
    ):
        said = refusal(capsys, *command(*words, "--matching.sharpness", name, "--out", tmp_path / "r"))
        assert f"--matching.sharpness is '{name}'" in said or f"--matching.sharpness is {name}" in said
        assert says in said
    with pytest.raises(ValueError, match=r"sharpness: the rule gives eps of shape \(\) for \(2, 3\)"):
        own_rule(f"{HERE}:crooked", 0.1).perturbation(torch.ones(2, 3), torch.ones(2, 3), torch.zeros(2, 3))


def test_what_can_not_be_is_refused_in_a_sentence(config: Config, tmp_path: Path) -> None:
    def inside(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        return tiny(shape, num_classes)

    for given, says in (
        ({"method": "mt"}, "--method is 'mt' and must be one of .*; did you mean mtt"),
        ({"network": inside}, "network is .*inside, which can't be found again by its name"),
        ({"network": nn.Flatten()}, "network is a Flatten that is made already"),
        ({"sharpness": lambda d, X, rho: d}, "sharpness is .*<lambda>, which can't be found again"),
        ({"ipc": 0}, "--ipc is 0 and must be at least 1"),
    ):
        with pytest.raises(ValueError, match=says):
            trajmatch.distill("digits", config=config, out=tmp_path / "r", quiet=True, **given)  # type: ignore[arg-type]
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("dataset", "given", "says"),
    [
        (None, {}, "^dataset is None and must be the images: give 'digits', a folder .* or a pair"),
        ((), {}, "^a tuple of 0 is no source of images: a pair"),
        (
            "digits",
            {"config": "cifar10-16px"},
            r"^config is 'cifar10-16px' and .* as trajmatch.preset\('cifar10-16px'\)$",
        ),
        (
            "digits",
            {"config": "mine.yaml"},
            r"^config is 'mine.yaml' and .*Config, such as trajmatch.preset\('digits-",
        ),
        ("digits", {"config": {}}, "^config is a dict and must be a trajmatch.Config, "),
        ("digits", {"config": Config}, "^config is the class Config and must be a trajmatch.Config, "),
        ("nowhere", {}, "^--data is 'nowhere' and does not exist: give "),
    ],
)
def test_arguments_of_another_kind_are_told(
    dataset: object, given: dict[str, object], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says):
        trajmatch.distill(dataset, out=tmp_path / "r", quiet=True, **given)  # type: ignore[arg-type]
    assert not (tmp_path / "r").exists()


def test_images_of_other_classes_are_told_with_both(
    pictures: tuple[Path, tuple[object, object]], config: Config, tmp_path: Path, capsys: Captured
) -> None:
    folder, pair = pictures
    made = trajmatch.distill("digits", method="random", config=config, out=tmp_path / "made", quiet=True)
    file = tmp_path / "made" / "distilled.safetensors"
    ends = "was made of 10 (0, 1, 2, 3, 4 and 5 more): leave --data out, or name images of these classes, in this order"
    said = refusal(capsys, "evaluate", tmp_path / "made", "--data", folder)
    assert said == f"trajmatch: --data {folder} has 2 classes (cat, dog), and {file} {ends}"
    with pytest.raises(
        ValueError, match=re.escape(f"the data set TensorDataset has 2 classes (0, 1), and the set {ends}")
    ):
        trajmatch.evaluate(made, pair, quiet=True)


def test_classes_that_begin_alike_are_told_from_the_first_other_on(config: Config) -> None:
    made = trajmatch.distill("digits", method="random", config=config, quiet=True)
    other = replace(made, classes=(*map(str, range(8)), "eight", "nine"), info={})
    with pytest.raises(ValueError, match=re.escape("has 10 classes (from number 8 on 8, 9), and")) as refused:
        trajmatch.evaluate(other, "digits", quiet=True)
    assert str(refused.value).endswith(
        "and the set was made of 10 (from number 8 on eight, nine): name images of these classes, in this order"
    )


def test_what_the_images_decide_is_told(caplog: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trajmatch.run.stages.run.Run.experts", stop)
    x = torch.randint(0, 256, (60, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with pytest.raises(KeyboardInterrupt):
        trajmatch.distill(torch.utils.data.TensorDataset(x, torch.arange(60) % 2))
    assert "chosen: --outer.step-size open (the experts decide it, when they are trained)" in caplog.text
    assert "32 x 32 pixels in colour; resized from 16 x 16" in caplog.text  # whose sides nobody saw


@pytest.mark.parametrize(("method", "learned"), [(None, True), ("satm", False)])
def test_labels_of_many_classes_are_learned_where_no_method_is_named(
    method: Literal["satm"] | None, learned: bool, caplog: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trajmatch.run.stages.run.Run.experts", stop)
    x = torch.randint(0, 256, (300, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with pytest.raises(KeyboardInterrupt):
        trajmatch.distill(torch.utils.data.TensorDataset(x, torch.arange(300) % 50), method=method)
    assert ("chosen: --outer.labels learned" in caplog.text) == learned


def test_the_section_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), flags=re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 20
    (tmp_path / "of_the_documentation.py").write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = importlib.import_module("of_the_documentation")
    assert made.synthetic.images.shape == (10, 1, 8, 8)
    assert made.scores["distilled"].n == 2
