"""Experts that the tests of this folder share."""

from pathlib import Path

import pytest

from tests.run.small import command, succeed


@pytest.fixture(scope="session")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two small experts."""
    folder = tmp_path_factory.mktemp("experts")
    succeed(*command("experts", "--experts", 2, "--out", folder))
    return folder


@pytest.fixture(scope="session")
def whole(experts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of 24 outer steps that nothing interrupted, evaluated and reported."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    succeed(*command("distill", "--experts", experts, "--steps", 24, "--out", folder))
    return folder
