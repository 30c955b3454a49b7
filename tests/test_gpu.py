"""What only a GPU can show: `pytest -m gpu`. Off by default; skipped with a reason where there is none."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.small import command, rows, start, succeed
from trajmatch.core.augment import families
from trajmatch.core.descent import Momentum
from trajmatch.core.sharpness import SAM
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.data.tensors import read_tensors
from trajmatch.data.trajectories import Segment
from trajmatch.machine.precision import set_precision
from trajmatch.methods import engines
from trajmatch.methods.engines import Engine
from trajmatch.methods.outer import Rule, outer_step
from trajmatch.methods.state import OuterState, Record, new_state

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]
FAMILIES = families("color_crop_cutout_flip_scale_rotate")
MTT = Rule(T=6, iota=6, images=Momentum(3.0), rate=Momentum(0.1), families=FAMILIES)
SATM = replace(MTT, iota=2, tau=4, gamma=0.1, sharpness=SAM(0.3), second_order_rate=False)


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    set_precision("float32")
    yield
    torch.cuda.set_sync_debug_mode("default")


def step(
    rule: Rule, engine: Engine, device: str, dtype: torch.dtype = torch.float32, K: int = 1
) -> tuple[OuterState, Record]:
    network, theta = build(lambda: convnet((3, 16, 16), 4, depth=2, width=16), 0)
    student = engines.student(network.to(device, dtype), engine, rule.together)
    source = torch.Generator().manual_seed(1)
    X = torch.randn(8, 3, 16, 16, generator=source).to(device, dtype)
    Y = torch.eye(4).repeat(2, 1).to(device, dtype)
    noise = 0.05 * torch.randn(2, K, len(theta), generator=source)
    segments = [
        Segment((theta + noise[0, k]).to(device, dtype), (theta + noise[1, k]).to(device, dtype), 0, k)
        for k in range(K)
    ]
    return outer_step(rule, student, new_state(X, Y, 0.05), segments, 5)


def moved(state: OuterState) -> torch.Tensor:
    return state.image_moments[0].cpu().double()


@pytest.mark.parametrize("rule", [MTT, SATM], ids=["mtt", "satm"])
@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_step_on_the_gpu_is_the_step_in_double_precision(rule: Rule, engine: str) -> None:
    wanted = moved(step(rule, Engine(), "cpu", torch.float64)[0])
    found = moved(step(rule, Engine(engine), "cuda")[0])
    assert float((found - wanted).norm() / wanted.norm()) < 2e-2  # ReLU masks may flip


@pytest.mark.parametrize("rule", [MTT, SATM], ids=["mtt", "satm"])
def test_compiled_code_is_eager_code_in_double_precision(rule: Rule) -> None:
    wanted = moved(step(rule, Engine(), "cuda", torch.float64)[0])
    found = moved(step(rule, Engine("compiled"), "cuda", torch.float64)[0])
    assert float((found - wanted).norm() / wanted.norm()) < 1e-8


def test_segments_together_are_segments_one_by_one() -> None:
    apart = step(MTT, Engine(), "cuda", torch.float64, K=3)[0]
    at_once = step(replace(MTT, together=True), Engine(), "cuda", torch.float64, K=3)[0]
    assert float((moved(apart) - moved(at_once)).norm() / moved(apart).norm()) < 1e-8


@pytest.mark.parametrize("K", [1, 3])
def test_a_step_never_waits_for_the_gpu(K: int) -> None:
    for rule in (MTT, SATM):
        step(rule, Engine(), "cuda", K=K)
    network, theta = build(lambda: convnet((3, 16, 16), 4, depth=2, width=16), 0)
    student = engines.student(network.cuda(), Engine())
    X, Y = torch.randn(8, 3, 16, 16, device="cuda", generator=torch.Generator("cuda").manual_seed(0)), torch.eye(4)
    state = new_state(X, Y.repeat(2, 1).cuda(), 0.05)
    segments = [Segment(theta.cuda(), (1.1 * theta).cuda(), 0, k) for k in range(K)]
    for rule in (MTT, SATM):
        torch.cuda.set_sync_debug_mode("error")
        outer_step(rule, student, state, segments, 5)
        torch.cuda.set_sync_debug_mode("default")


def test_a_run_on_the_gpu(tmp_path: Path) -> None:
    succeed(*command("run", "--device", "cuda", "--experts", 2, "--steps", 6, "--out", tmp_path / "run"))
    assert len(rows(tmp_path / "run")) == 6
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("method", ["satm", "mdc"])
def test_a_deterministic_run_repeats_to_the_bit(method: str, tmp_path: Path) -> None:
    words = command("run", "--device", "cuda", "--deterministic", "--method", method, "--experts", 1, "--ipc", 2)
    few = ["--steps", "6", "--baseline.updates", "2", "--baseline.epochs", "1"]
    for name in "ab":  # in processes of their own, before whose CUDA the environment is set
        process = start(*words, *few, "--out", tmp_path / name)
        assert process.wait(120) == 0, process.communicate()[1]
    a, b = (read_tensors(tmp_path / name / "distilled.safetensors") for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert (tmp_path / "a" / "networks.json").read_bytes() == (tmp_path / "b" / "networks.json").read_bytes()
