"""Settings out of a set's header or a run's config.yaml: those that cannot be are one sentence with file and flag."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.run.test_cli import refusal
from trajmatch.data import synthetic
from trajmatch.data.synthetic import SyntheticSet, class_labels, one_hot
from trajmatch.data.whitening import fit
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.flat import DEFAULTS, flatten, parsed

WHOLE = flatten(resolve(Config()))


def test_all_settings_of_a_resolved_configuration_are_taken() -> None:
    assert parsed(WHOLE, "x", "no") == resolve(Config())
    assert parsed(flatten(Config()), "x", "no") == Config()


@pytest.mark.parametrize("value", [None, [[]], "neither", -7.5])
@pytest.mark.parametrize("key", ["method", "ipc", "steps", "network.depth", "images.classes", "matching.sharpness"])
def test_a_setting_that_cannot_be_names_file_and_flag(key: str, value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    if key == "images.classes" and isinstance(value, list):
        return  # names of classes are looked for in the data
    with pytest.raises(ValueError, match=rf"^a/config\.yaml: --{key} (is|has) .*; mend it$") as caught:
        parsed({**WHOLE, key: value}, "a/config.yaml", "mend it")
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_settings_that_older_versions_had_are_no_obstacle() -> None:
    old = {
        "evaluation.architectures": [],
        "evaluation.rates": [0.001],
        "evaluation.ranking": False,
        "evaluation.sizes": [],
    }
    assert parsed({**WHOLE, **old}, "x", "no") == resolve(Config())


def test_a_setting_that_there_is_not() -> None:
    assert "ipcs" not in DEFAULTS
    with pytest.raises(ValueError, match=r"^x: there is no setting 'ipcs'; did you mean ipc\?; mend it$"):
        parsed({**WHOLE, "ipcs": 3}, "x", "mend it")


@pytest.mark.parametrize("config", [None, [], "x", 3, {}, {**WHOLE, "steps": "x"}, {**WHOLE, "method": None}])
def test_a_set_with_settings_that_cannot_be(config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    space, classes = fit("channel", pixels), tuple("0123456789")
    path = tmp_path / "mine.safetensors"
    made = SyntheticSet(
        space.forward(pixels), one_hot(class_labels(10, 1), 10), 0.01, classes, space, {"config": config}
    )
    synthetic.save(made, path)
    if config == {}:
        return  # all settings are the defaults
    for words in (["evaluate", path], ["diagnose", "nearest", "--set", path]):
        said = refusal(capsys, *words)
        assert str(path) in said
        assert "Traceback" not in said
