"""The examples run in a small form, and the outputs beside them are of these scripts."""

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from trajmatch.data.images import load

PLACE = Path(__file__).parents[1] / "examples"
Captured = pytest.CaptureFixture[str]
Example = Callable[[str], ModuleType]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Example:
    """A script of `examples` as a module."""

    def imported(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, PLACE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return imported


def skeleton(text: str) -> list[str]:
    """Lines without their numbers, which a small form has others of."""
    return [re.sub(r"[\d.,%+-]+", "", line).split() for line in text.splitlines()]  # type: ignore[misc]


def committed(name: str) -> str:
    return (PLACE / f"{name}.txt").read_text(encoding="utf-8")


def test_clients_send_sets_or_weights(example: Example, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    module = example("federated")
    x = torch.arange(1000.0).view(1000, 1, 1, 1)
    parts = module.clients(x, torch.arange(1000) % 10)
    assert [sorted(y.unique().tolist()) for _, y in parts][:2] == [[0, 1, 2, 3], [2, 3, 4, 5]]
    assert torch.cat([images.flatten() for images, _ in parts]).sort().values.equal(x.flatten()), "each image once"
    sizes, module.SIZES = module.SIZES, (1,)
    with torch.random.fork_rng():
        module.main(seeds=1, steps=1, experts=1, rounds=(1, 2))
    printed = capsys.readouterr().out
    said = committed("federated").splitlines()
    for line in printed.splitlines()[1:-1]:  # the same bytes for the same thing, whatever the accuracies
        name = line[:42].rstrip()
        assert any(other.startswith(name) for other in said), name
    # What is sent: an image of 64 float32 and a label for each class, or all weights.
    assert f"{4 * 257:,}" in printed
    assert sizes == (1, 12)
    assert f"{48 * 257:,}" in committed("federated")


def test_averaging_leaves_weights_that_no_client_changes(example: Example) -> None:
    module = example("federated")
    digits = load("digits")
    one = (digits.train.x[:64].float() / 255, digits.train.y[:64])
    with torch.random.fork_rng():
        alone = module.averaged([one], 0.1, (1,), 0)[1].state_dict()
        twice = module.averaged([one, one], 0.0, (1,), 0)[1].state_dict()
        first = module.network(0).state_dict()
    assert any(not torch.equal(alone[key], first[key]) for key in first)
    for key in first:
        torch.testing.assert_close(twice[key], first[key])


def test_the_attack_finds_members_that_are_told_apart_and_guesses_otherwise(example: Example) -> None:
    module, source = example("leaks"), torch.Generator().manual_seed(0)
    low, high = torch.rand(400, generator=source), torch.rand(300, generator=source)
    assert module.attack(low, high + 2, source) > 0.98
    assert module.attack(low, high, source) == pytest.approx(0.5, abs=0.08)


def test_what_leaks(example: Example, capsys: Captured) -> None:
    module = example("leaks")
    module.NETWORKS = 1
    with torch.random.fork_rng():
        module.main(seeds=1, steps=1, experts=1, epochs=2)
    printed, said = skeleton(capsys.readouterr().out), skeleton(committed("leaks"))
    assert {tuple(line) for line in printed} == {tuple(line) for line in said}


def test_a_folder_of_pictures(example: Example, capsys: Captured, tmp_path: Path) -> None:
    module = example("folder_of_pictures")
    small = ["--experts", "1", "--steps", "1", "--expert.epochs", "4", "--network.width", "4"]
    small += ["--evaluation.networks", "1", "--evaluation.epochs", "2", "--evaluation.random-draws", "1"]
    module.main(tmp_path, [*small, "--evaluation.foreign", "none"])
    printed = capsys.readouterr().out.replace(str(tmp_path), "runs/folder-of-pictures")
    said = committed("folder_of_pictures").splitlines()
    assert printed.splitlines()[0] == said[0]
    assert next(line for line in printed.splitlines() if line.startswith("read ")) in said
    assert next(line for line in printed.splitlines() if line.startswith("classes: ")) in said
    assert [p.name for p in sorted((tmp_path / "pictures" / "test").iterdir())] == sorted(module.NAMES)


def test_replay_memory(example: Example, capsys: Captured) -> None:
    module = example("replay_memory")
    assert module.STREAM[-2:] == ["--orders", "2"]
    module.STREAM[-1] = "1"
    module.DISTILLED[:] = []
    module.MEMORIES = {name: [*flags[:2], *flags[6:]] for name, flags in module.MEMORIES.items()}
    module.main(["--experts", "1", "--steps", "1", "--expert.epochs", "3", "--matching.expert-epochs", "1",
                 "--matching.inner-steps", "3", "--evaluation.epochs", "2"])  # fmt: skip
    printed = capsys.readouterr().out.splitlines()
    assert [line[:28] for line in printed[1:-1]] == [
        line[:28] for line in committed("replay_memory").splitlines()[1:-1]
    ]


def test_choose_architecture(example: Example, capsys: Captured, tmp_path: Path) -> None:
    module = example("choose_architecture")
    small = [*module.SET[:-4], "--experts", "1", "--steps", "1", "--expert.epochs", "9", "--evaluation.epochs", "2"]
    space = ["--depths", "1", "--widths", "4", "--norms", "instance", "none", "--poolings", "avg"]
    module.main(str(tmp_path / "set"), small, [*space, "--real-epochs", "1", "--proxy-networks", "1"])
    printed, said = capsys.readouterr().out, committed("choose_architecture")
    for line in ("  set: Spearman", "  random: Spearman"):
        assert line in printed
        assert line in said
    assert said.splitlines()[0].split(" --out")[0] == " ".join(["trajmatch", *module.SET])
