"""What torch makes of float32 in matrix products and convolutions: plain float32, but for the steps of a loop.

By default CUDA's convolutions round to TF32, and a process may have asked for more rounding before it came to this
package. Torch has an older and a newer kind of flags for this, and reading one after the other was set raises: here
the newer kind alone is read and written, which holds whatever the older kind says.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# A CPU's products, which may be bfloat16's after torch.set_float32_matmul_precision, stay plain whatever is asked.
PLAIN, TF32 = "ieee", "tf32"


def _on_cuda() -> tuple[Any, ...]:
    return torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn  # type: ignore[attr-defined]


def _on_cpu() -> tuple[Any, ...]:
    mkldnn: Any = torch.backends.mkldnn
    return mkldnn.matmul, mkldnn.conv, mkldnn.rnn


def set_precision(name: str) -> None:
    """Set this process's float32, for good: TF32 on CUDA where the precision is tf32, plain for every other name."""
    for switch in _on_cuda():
        switch.fp32_precision = TF32 if name == "tf32" else PLAIN
    for switch in _on_cpu():
        switch.fp32_precision = PLAIN


@contextmanager
def precision(name: str) -> Iterator[None]:
    """The same for a block alone: what held before holds again after it, also after an exception or an interrupt."""
    switches = _on_cuda() + _on_cpu()
    before = [switch.fp32_precision for switch in switches]
    try:
        set_precision(name)
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
