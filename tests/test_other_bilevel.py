"""examples/other_bilevel.py: its derivatives in float64 beside plain autograd, and what it prints."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracles import F64, relative_error
from trajmatch.core.inner import rollout

PLACE = Path(__file__).parents[1] / "examples" / "other_bilevel.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("other_bilevel", PLACE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["other_bilevel"] = module  # where its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def by_autograd(example: ModuleType, data: object, logits: Tensor, start: Tensor, first: int, T: int) -> Tensor:
    """d outer loss / d logits through inner steps first, ..., T - 1, written out; what is before is a constant."""
    logits, theta = logits.detach().requires_grad_(), start.detach()
    x, y = data.x, data.y  # type: ignore[attr-defined]
    for i in range(T):
        if i == first:
            theta = theta.detach()
        if not theta.requires_grad:
            theta.requires_grad_()
        w = theta.view(x.shape[1] + 1, 10)
        each = F.cross_entropy(x @ w[:-1] + w[-1], y, reduction="none")
        (u,) = torch.autograd.grad((torch.sigmoid(logits[:, 0]) * each).mean(), theta, create_graph=True)
        theta = theta - example.RATE * u
    w = theta.view(x.shape[1] + 1, 10)
    loss = F.cross_entropy(data.clean_x @ w[:-1] + w[-1], data.clean_y)  # type: ignore[attr-defined]
    return torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("iota", [6, 2])
def test_derivatives_are_those_of_autograd_through_the_steps(example: ModuleType, iota: int) -> None:
    data, T = example.noisy_digits(0, F64), 6
    source = torch.Generator().manual_seed(1)
    logits, start = torch.randn(300, 1, dtype=F64, generator=source), torch.zeros(650, dtype=F64)
    _, d = example.direction(example.Method(T, iota), data, logits, start, 0)
    wanted = by_autograd(example, data, logits, start, T - iota, T)
    assert wanted.norm() > 1e-6
    assert relative_error(d, wanted) < 1e-10
    if iota < T:
        whole = by_autograd(example, data, logits, start, 0, T)
        assert relative_error(d, whole) > 1e-3, "truncation makes a difference here"


def test_the_ascent_is_sam_of_the_truncated_loss_with_the_first_steps_reused(example: ModuleType) -> None:
    data, T, iota, rho = example.noisy_digits(0, F64), 6, 2, 0.5
    source = torch.Generator().manual_seed(1)
    logits, start = torch.randn(300, 1, dtype=F64, generator=source), torch.zeros(650, dtype=F64)
    _, found = example.direction(example.Method(T, iota, rho), data, logits, start, 0)
    d = by_autograd(example, data, logits, start, T - iota, T)
    middle = rollout(example.weighted(data), start, logits, data.y, start.new_tensor(example.RATE), T - iota)[T - iota]
    wanted = by_autograd(example, data, logits + rho * d / d.norm(), middle, 0, iota)
    assert relative_error(found, wanted) < 1e-10
    assert relative_error(found, d) > 1e-3


def test_the_example_runs_and_its_output_is_committed(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    example.main(seeds=1, steps=1)
    printed = capsys.readouterr().out.splitlines()
    committed = PLACE.with_suffix(".txt").read_text().splitlines()
    assert [line[:26] for line in printed] == [line[:26] for line in committed]
