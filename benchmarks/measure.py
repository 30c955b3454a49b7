"""Fresh processes, machines, ratios and tables: what every benchmark needs besides trajmatch/measure/cost.py."""

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from trajmatch.machine import processor
from trajmatch.pages.tables import as_markdown, three_digits
from trajmatch.run.folder import commit

ALLOCATOR = "glibc malloc told to keep freed memory (machine/memory.py), the same for all sides"


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
        **({"processor": processor.kind()} if device.type == "cpu" else {}),
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
    return as_markdown(rows, columns, three_digits, aligned=True).rstrip("\n")


def has(*keys: str) -> Callable[[Any], bool]:
    """A test of a value out of a file: whether it is a record with these keys."""
    return lambda found: isinstance(found, dict) and set(keys) <= found.keys()


def exit_code(program: str, work: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Do the work of a program, and say why it ends where it fails.

    Returns its exit code: 0, 2 for bad input, 1 for a failed run, 130 when interrupted.
    """
    try:
        work()
        return 0
    except (FloatingPointError, MemoryError, ChildProcessError) as error:
        sentence, code = str(error) or "out of memory", 1
    except ValueError as error:
        sentence, code = str(error), 2
    except OSError as error:
        sentence, code = f"{error.filename}: {error.strerror}", 2
    except KeyboardInterrupt:
        sentence, code = interrupted, 130
    print(f"{program}: {sentence}", file=sys.stderr)
    return code
