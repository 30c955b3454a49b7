"""The commands of README.md and docs: all through the real command line, and those for a newcomer run, made small."""

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_documents import DOCUMENTS, ROOT, commands, shell_lines
from trajmatch.run import cli
from trajmatch.run.verbs import VERBS
from trajmatch.settings import presets
from trajmatch.settings.config import Config
from trajmatch.settings.flat import flatten

# What a reader would run from the first to the last line. The other pages' commands are told apart by their arguments.
RUN = ("README.md", "docs/start.md", "docs/choose.md")
VERBS_RUN = (
    "run", "experts", "distill", "evaluate", "search", "continual", "compare", "diagnose", "report", "plan", "presets",
)  # fmt: skip
# Numbers that decide how long a command takes, and what they are here; names of folders that hold them follow.
SMALL = {
    r"(?<=--steps )\d+": "1",
    r"(?<=-steps)\d+": "1",
    r"(?<=--orders )\d+": "1",
    r"(?<=--starts )\d+": "2",
    r"(?<=--real-epochs )\d+": "1",
    r"(?<=--evaluation.networks )\d+": "1",
}


def small(make: Callable[..., Config]) -> Callable[..., Config]:
    """A preset with as little to do as it can have; all else of it stays."""

    def made(*given: object) -> Config:
        config = make(*given)
        return replace(
            config,
            steps=2,  # another number than in any command, so that a folder is named for it
            experts="1",
            images=replace(config.images, normalise="channel"),  # ZCA of 32 pixels takes seconds
            network=replace(config.network, width=8),
            expert=replace(config.expert, epochs=2, batch=64, workers=1),
            matching=replace(
                config.matching,
                inner_steps=3,
                expert_epochs=1,
                first_epoch=0,
                last_epoch=1,
                window_start=config.matching.window_start and 1,
                batch=None,
            ),
            outer=replace(config.outer, threads=1, snapshots=1, initial="real"),  # such experts are right about nothing
            evaluation=replace(
                config.evaluation, epochs=1, networks=1, random_draws=1, validation_networks=1, workers=1
            ),
        )

    return made


@pytest.fixture
def _understood_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are understood and do nothing; every distilled set was made by the preset digits-ipc10."""
    for name, verb in VERBS.items():
        if name not in ("compare", "diagnose"):  # these read their own words
            monkeypatch.setitem(VERBS, name, verb._replace(run=lambda call: 0))
    monkeypatch.setattr(cli, "base_configuration", lambda path: flatten(presets.preset("digits-ipc10")))
    monkeypatch.setattr("trajmatch.run.compare.compare.compare", lambda folders, own: Path())
    monkeypatch.setattr("trajmatch.run.diagnose.frame.diagnose", lambda name, own, command: Path())


ALL = [(path.name, words) for path in DOCUMENTS for words in commands([path])]


@pytest.mark.usefixtures("_understood_alone")
@pytest.mark.parametrize(("page", "words"), ALL, ids=[f"{page}: {' '.join(words)}" for page, words in ALL])
def test_commands_are_understood(page: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0, capsys.readouterr().err
    assert "no effect" not in capsys.readouterr().err


def photographs(folder: Path, classes: list[str], count: int, side: int) -> None:
    """Images of each class, alike in colour, as files."""
    for index, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        source = np.random.Generator(np.random.PCG64(index))
        for k in range(count):
            pixels = source.normal(source.integers(60, 200, 3) / 2 + 20 * index, 20, (side, side, 3)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{k}.png")


@pytest.fixture
def _small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, make in presets.PRESETS.items():
        monkeypatch.setitem(presets.PRESETS, name, small(make))
    monkeypatch.setattr(presets, "preset_of", small(presets.preset_of))


@pytest.mark.usefixtures("_small_presets")
@pytest.mark.parametrize("page", RUN)
def test_commands_run_one_after_another(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "photos", ["ant", "bee", "cow"], 20, 40)
    photographs(tmp_path / "cifar10", [f"class {k}" for k in range(10)], 18, 16)
    done, lacking = 0, set[str]()
    for words in commands([ROOT / page]):
        absent = any(find_spec(name) is None for name in {"wandb", "trackio"} & set(words))
        if (
            words[0] not in VERBS_RUN or lacking & set(words) or absent
        ):  # needs what a reader has, or what such a command makes
            lacking |= {words[words.index("--out") + 1]} if "--out" in words else set()
            continue
        line = " ".join(map(shlex.quote, words))
        for pattern, number in SMALL.items():
            line = re.sub(pattern, number, line)
        line += " --steps 2" if "photos/" in words and "--steps" not in words else ""  # which the images decide
        line += " --orders 1" if words[0] == "continual" and "--orders" not in words else ""
        assert cli.main(shlex.split(line)) == 0, f"{line}\n{capsys.readouterr().err}"
        done += 1
    assert done > 2


def test_no_command_is_left_out() -> None:
    """Lines that hold the name of the program and are not found as commands of it."""
    for path in DOCUMENTS:
        named = [line for line in shell_lines(path.read_text(encoding="utf-8")) if re.search(r"\btrajmatch ", line)]
        assert len(commands([path])) >= len(named), path.name
