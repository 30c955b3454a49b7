"""How much memory a process has: its own, and not what its parent held when it started it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trajmatch.machine import memory
from trajmatch.machine.processes import Peak, Report, run_apart, run_tasks

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
BLOCK = 400_000_000


def held(report: Report) -> float:
    return memory.peak_memory_mb()


@linux
def test_a_worker_s_peak_is_not_its_parent_s() -> None:
    before = run_apart(memory.peak_memory_mb)
    block = torch.ones(BLOCK // 4)
    after = run_apart(memory.peak_memory_mb)
    assert memory.peak_memory_mb() > block.nbytes / 1e6
    assert abs(after - before) < 50


@linux
def test_this_process_and_its_workers_count_at_once() -> None:
    peak = Peak()
    found = [mb for _, mb in run_tasks(held, [(), (), ()], 2, 1, peak=peak)]
    # Two of the three ran at once, beside this process as it is: not as it was at its largest.
    assert 2 * max(found) < peak.mb < 2 * max(found) + memory.resident_mb() + 50


@linux
def test_memory_grows_and_is_given_back() -> None:
    memory.give_back_freed()
    before = memory.resident_mb()
    block: torch.Tensor | None = torch.ones(BLOCK // 4)
    full = memory.resident_mb()
    assert full - before == pytest.approx(BLOCK / 1e6, rel=0.1)
    assert memory.peak_memory_mb() >= full
    block = None
    memory.give_back_freed()
    assert block is None
    assert memory.resident_mb() < full - 0.9 * BLOCK / 1e6


@pytest.mark.parametrize("measure", [memory.peak_memory_mb, memory.resident_mb])
def test_a_system_without_records_counts_as_getrusage_does(
    measure: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = measure()

    def missing(self: Path, *arguments: Any) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    assert measure() >= 0.5 * known
