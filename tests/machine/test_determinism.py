"""--deterministic: torch's flags on CUDA for a block alone, said where they can't hold, and nothing on a CPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.small import command, rows, succeed
from trajmatch.data.tensors import read_tensors
from trajmatch.machine.determinism import VARIABLE, deterministic, prepare
from trajmatch.methods.training import Training
from trajmatch.run.assembly.setup import check
from trajmatch.run.stages import experts, loop, trials
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process whose environment says nothing of cuBLAS, and that looks for the fastest convolution."""
    monkeypatch.setenv(VARIABLE, "")  # so that what a test sets is taken back
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    yield
    assert not torch.are_deterministic_algorithms_enabled()


def flags() -> tuple[bool, bool, str | None]:
    return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, os.environ.get(VARIABLE)


@pytest.mark.parametrize(("wanted", "device"), [(False, CUDA), (True, CPU), (False, CPU)])
def test_nothing_changes_elsewhere(wanted: bool, device: torch.device) -> None:
    with deterministic(wanted, device):
        assert flags() == (False, True, None)


def test_on_cuda_the_flags_hold_for_a_block() -> None:
    with deterministic(True, CUDA):
        assert flags() == (True, False, ":4096:8")
        with deterministic(True, CUDA):
            assert flags()[0]
        assert flags() == (True, False, ":4096:8")
    assert flags()[:2] == (False, True)
    with pytest.raises(RuntimeError, match="another"), deterministic(True, CUDA):
        raise RuntimeError("another failure")
    assert flags()[:2] == (False, True)


def test_an_operation_without_such_a_form_is_named() -> None:
    said = "grid_sampler_2d_backward_cuda does not have a deterministic implementation, but you set ...\nYou can ..."
    with pytest.raises(ValueError, match=r"^--deterministic .* no form of grid_sampler_2d_backward_cuda whose"):  # noqa: SIM117
        with deterministic(True, CUDA):
            raise RuntimeError(said)
    assert flags()[:2] == (False, True)


def test_an_environment_that_says_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, ":0:0")
    prepare(CPU)
    with pytest.raises(ValueError, match=f"{VARIABLE} is ':0:0' and must be :4096:8 or :16:8"):
        prepare(CUDA)
    monkeypatch.setenv(VARIABLE, ":16:8")
    prepare(CUDA)
    assert os.environ[VARIABLE] == ":16:8"


def test_cuda_that_has_started_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match=f"needs {VARIABLE}=:4096:8 in the environment before CUDA starts"):
        prepare(CUDA)
    monkeypatch.setenv(VARIABLE, ":4096:8")
    prepare(CUDA)


def test_it_is_prepared_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trajmatch.run.assembly.setup.device", lambda name: torch.device(name))
    check(resolve(Config(device="cuda")))
    assert VARIABLE not in os.environ
    check(resolve(Config(device="cpu", deterministic=True)))
    assert VARIABLE not in os.environ
    check(resolve(Config(device="cuda", deterministic=True)))
    assert os.environ[VARIABLE] == ":4096:8"


def test_every_stage_asks_for_it_and_on_a_cpu_the_bits_are_those_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    def told(name: str) -> Any:
        @contextmanager
        def recorded(wanted: bool, device: torch.device) -> Iterator[None]:
            asked.append((name, wanted))
            with deterministic(wanted, device):
                yield

        return recorded

    for name, module in (("experts", experts), ("loop", loop), ("trials", trials)):
        monkeypatch.setattr(module, "deterministic", told(name))
    words = command("run", "--experts", 2, "--steps", 4, "--device", "cpu")
    succeed(*words, "--out", tmp_path / "plain")
    assert {wanted for _, wanted in asked} == {False}
    asked.clear()
    succeed(*words, "--deterministic", "--out", tmp_path / "r")
    assert set(asked) == {("experts", True), ("loop", True), ("trials", True)}
    found, wanted = (read_tensors(tmp_path / name / "distilled.safetensors") for name in ("r", "plain"))
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert rows(tmp_path / "r") == rows(tmp_path / "plain")
    assert (tmp_path / "r" / "networks.json").read_bytes() == (tmp_path / "plain" / "networks.json").read_bytes()


def test_kept_scores_tell_cudas_two_kinds_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "device", lambda name: torch.device(name))
    trial = trials.Trial("k", np.ones((2, 1, 4, 4)), np.eye(2), Training(0.1, 1), 0, "test")
    plain = Config(device="cuda")
    assert trial.digest(plain, "c") != trial.digest(replace(plain, deterministic=True), "c")
    plain = Config(device="cpu")
    assert trial.digest(plain, "c") == trial.digest(replace(plain, deterministic=True), "c")
