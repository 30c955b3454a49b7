"""Fresh processes, machines, ratios and tables: what every benchmark needs besides trajmatch/measure/cost.py."""

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from trajmatch.run.folder import commit

ALLOCATOR = "glibc malloc told to keep freed memory (run/allocator.py), the same for all sides"


def spread(values: Sequence[float]) -> float:
    """Half of the distance between the largest and the smallest."""
    return (max(values) - min(values)) / 2


def paired_ratio(reference: Sequence[float], side: Sequence[float]) -> float:
    """The median over rounds of reference / side: how many times faster the side is."""
    return statistics.median(r / s for r, s in zip(reference, side, strict=True))


def in_fresh_process(module: str, argument: Any) -> Any:
    """What `python -m module --probe JSON` prints on its last line, as a value: one measurement with its own memory."""
    command = [sys.executable, "-m", module, "--probe", json.dumps(argument)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChildProcessError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def machine(device: torch.device, threads: int) -> dict[str, Any]:
    """What a reader must know to compare numbers."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        models = [line for line in _cpuinfo() if line.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else platform.processor() or platform.machine()
    return {
        "device": f"{name} ({device})",
        "threads": threads,
        "torch": torch.__version__,
        "commit": commit(),
        "date": date.today().isoformat(),
        "allocator": ALLOCATOR if device.type == "cpu" else "torch's CUDA allocator",
    }


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return []


def table(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> str:
    """Rows as a Markdown table; columns: key -> title. Numbers with three digits, what is missing as a dash."""
    cells = [list(columns.values()), *[[_cell(row.get(key)) for key in columns] for row in rows]]
    widths = [max(len(line[k]) for line in cells) for k in range(len(columns))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.0e}"
