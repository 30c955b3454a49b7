"""The processor: what code is built for it, and which numbers it computes with instructions of its own."""

import os
import platform
from pathlib import Path

import torch

NATIVE = ("-march=native",)
X86 = (*NATIVE, "-mprefer-vector-width=512")
X86_NAMES = ("x86_64", "AMD64")


def compiler_flags() -> tuple[str, ...]:
    """The compiler's flags for a kind of processor: those of $TRAJMATCH_TARGET, or of this one.

    With `-mavx2 -mfma` a newer processor runs what an older one would (docs/performance.md says how it is measured).
    """
    if named := os.environ.get("TRAJMATCH_TARGET", "").split():
        return tuple(named)
    return X86 if platform.machine() in X86_NAMES else NATIVE


def described() -> str:
    """What code is built for: a home folder may be shared by machines of several kinds."""
    known = _known()
    flags = " ".join(known.get(name, "") for name in ("model name", "flags", "CPU part", "Features"))
    return f"{platform.system()} {platform.machine()} {flags if known else platform.processor()}"


def kind() -> str:
    """The widest vectors that torch uses here and what multiplies bfloat16: AVX2, AVX512 with bfloat16, with AMX."""
    vectors = torch.backends.cpu.get_cpu_capability()
    if platform.machine() not in X86_NAMES or not has_bfloat16():
        return vectors
    return f"{vectors} with {'AMX' if has_matrix_units() else 'bfloat16'}"


def has_bfloat16() -> bool:
    """Whether products of bfloat16 have instructions. Without them they take up to ten times as long as float32's."""
    if platform.machine() not in X86_NAMES:
        return True  # not known to lack them
    # torch counts AMX among AVX512, and what it is told not to use is as good as absent.
    wide = torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "NO AVX", "AVX2")
    flags = _known().get("flags", "").split()
    return wide and ("avx512_bf16" in flags or "amx_bf16" in flags)


def has_matrix_units() -> bool:
    """Whether bfloat16 has units for whole matrices, AMX: its vectors alone are twice as fast as float32's at most."""
    return platform.machine() not in X86_NAMES or (has_bfloat16() and "amx_bf16" in _known().get("flags", "").split())


def _known() -> dict[str, str]:
    """The last line of each name in /proc/cpuinfo, whole; nothing where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {line.partition(":")[0].strip(): line for line in lines}
