"""Float32 is plain in every process of a run from its start; the loop's own precision is around its steps alone."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trajmatch
from tests.small import command, succeed
from trajmatch.machine import processes as pool
from trajmatch.machine.precision import precision, set_precision
from trajmatch.methods.training import Training
from trajmatch.run.assembly import setup
from trajmatch.run.assembly.distilled import base_configuration
from trajmatch.run.assembly.engine import prepare_process
from trajmatch.run.stages import trials as jobs
from trajmatch.run.stages.experts import open_experts
from trajmatch.run.stages.loop import Loop
from trajmatch.run.stages.run import Run
from trajmatch.run.stages.steps import Matching
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.flat import parsed

PLAIN, TF32 = ["ieee"] * 6, ["tf32"] * 3 + ["ieee"] * 3


def flags() -> list[str]:
    """Torch's, read here one by one: matrix products, convolutions and recurrent networks, on CUDA and on the CPU."""
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    kinds: list[Any] = [cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]  # type: ignore[attr-defined]
    return [kind.fp32_precision for kind in kinds]


@pytest.fixture(autouse=True)
def before() -> Iterator[list[str]]:
    """A process in which something has left convolutions in TF32, as torch's default is, and products too."""
    with precision("float32"):
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]
        yield flags()


def test_a_block_has_its_own_precision_and_puts_back_what_was(before: list[str]) -> None:
    assert before == ["tf32", "tf32", "ieee", "bf16", "ieee", "ieee"]
    for name, wanted in (("float32", PLAIN), ("bf16", PLAIN), ("bf16-sweep", PLAIN), ("tf32", TF32)):
        with precision(name):
            assert flags() == wanted
            with precision("tf32"):
                assert flags() == TF32
            assert flags() == wanted
        assert flags() == before


@pytest.mark.parametrize("error", [FloatingPointError, KeyboardInterrupt])
def test_it_is_put_back_after_an_exception_too(error: type[BaseException], before: list[str]) -> None:
    with pytest.raises(error), precision("tf32"):
        raise error
    assert flags() == before


def test_a_process_is_plain_once_prepared() -> None:
    prepare_process()
    assert flags() == PLAIN


def _flags_here(report: pool.Report) -> list[str]:
    return flags()


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_are_plain_in_workers_and_here(workers: int, before: list[str]) -> None:
    found = dict(pool.run_tasks(_flags_here, [(), ()], workers, threads=1))
    assert found == {0: PLAIN, 1: PLAIN}
    assert flags() == before


@pytest.mark.parametrize("verb", ["distill", "evaluate"])
def test_commands_are_plain_and_leave_it_so(
    verb: str, experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[str]] = []
    make, take = jobs._train_one, Matching.__call__
    monkeypatch.setattr(jobs, "_train_one", lambda *given: (found.append(flags()), make(*given))[1])
    monkeypatch.setattr(Matching, "__call__", lambda *given: (found.append(flags()), take(*given))[1])
    succeed(*command("distill", "--experts", experts, "--steps", 2, "--out", tmp_path / "r"))
    if verb == "evaluate":
        found.clear()
        set_precision("tf32")
        succeed("evaluate", tmp_path / "r", "--evaluation.networks", 1, "--evaluation.random-draws", 1)
    assert found
    assert found == [PLAIN] * len(found)
    assert flags() == PLAIN


def test_the_loop_s_precision_is_around_its_steps_alone(
    whole: Path, experts: Path, tmp_path: Path, before: list[str]
) -> None:
    config = resolve(parsed(base_configuration(whole)))
    this = setup.Setup.load(config)
    loop = Loop(this, open_experts(this, experts), tmp_path)
    loop.config, take, seen = replace(config, precision="tf32"), loop.take, []

    def watched(state: Any) -> Any:
        seen.append(flags())
        if len(seen) == 2:
            raise KeyboardInterrupt
        return take(state)

    loop.take = watched
    loop.step()
    assert flags() == before
    with pytest.raises(KeyboardInterrupt):
        loop.step()
    assert seen == [TF32, TF32]
    assert flags() == before


def test_from_python_the_process_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: list[str]
) -> None:
    distill, found = Run.distill, []
    monkeypatch.setattr(Run, "distill", lambda run: (found.append(flags()), distill(run))[1])
    trajmatch.distill("digits", ipc=1, method="random", device="cpu", quiet=True)
    assert found == [PLAIN]
    assert flags() == before


OLD = """
import torch
torch.set_float32_matmul_precision("high")
torch.backends.cuda.matmul.allow_tf32 = True
torch.backends.cudnn.allow_tf32 = {cudnn}
from trajmatch.run.assembly.engine import prepare_process
from trajmatch.machine.precision import precision
x = torch.randn(5, 5)
for name in ("float32", "tf32"):
    with precision(name):
        torch.nn.functional.conv2d(x[None, None] @ x, x[None, None, :3, :3])
print(torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
prepare_process()
print(torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision,
      torch.backends.mkldnn.matmul.fp32_precision)
"""


@pytest.mark.parametrize("cudnn", [True, False])
def test_a_process_that_used_the_older_flags_can_read_them_again(cudnn: bool) -> None:
    done = subprocess.run([sys.executable, "-c", OLD.format(cudnn=cudnn)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"high True {cudnn}", "ieee ieee ieee"]


def test_a_score_on_cuda_is_not_taken_for_one_that_may_have_been_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    config, job = Config(), jobs.Trial("a", np.zeros(4), np.zeros(2), Training(0.1, 1), 0, "test")

    def of_before(where: str) -> str:
        """The digest of releases that did not know in which precision convolutions were."""
        found = blake2b(digest_size=16)
        for array in (job.X, job.Y):
            found.update(repr(array.shape).encode() + array.tobytes())
        about = (job.recipe, 0, "test", config.network, (torch.__version__, where, config.engine), "zca", "images")
        found.update(repr(about).encode())
        return found.hexdigest()

    for where in ("cpu", "cuda"):
        monkeypatch.setattr(jobs, "device", lambda name, where=where: torch.device(where))
        assert (job.digest(config, "images") == of_before(where)) == (where == "cpu")
