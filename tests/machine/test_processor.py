"""What is known of the processor, from files and names that stand for other machines."""

import platform
from pathlib import Path

import pytest
import torch

from trajmatch.machine import processor


@pytest.mark.parametrize(
    ("machine", "capability", "flags", "has"),
    [("x86_64", "AVX512", "fma avx512f avx512_bf16", True), ("x86_64", "AVX512", "avx512f amx_bf16", True),
     ("x86_64", "AVX512", "fma avx512f", False), ("x86_64", "AVX2", "fma avx512f avx512_bf16", False),
     ("AMD64", "AVX2", "fma", False), ("x86_64", "DEFAULT", "", False), ("aarch64", "DEFAULT", "", True)],
)  # fmt: skip
def test_which_processors_have_bfloat16(
    machine: str, capability: str, flags: str, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"model name\t: Some processor\nflags\t\t: {flags}\n"
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: text)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert processor.has_bfloat16() is has
    assert processor.has_matrix_units() is ("amx" in flags or machine == "aarch64")
    products = " with AMX" if "amx" in flags else " with bfloat16"
    assert processor.kind() == capability + (products if has and machine != "aarch64" else "")
    assert "Some processor" in processor.described()
    assert flags in processor.described()


def test_a_machine_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Path, encoding: str) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    assert platform.processor() in processor.described()
    assert processor.has_bfloat16() is (platform.machine() not in processor.X86_NAMES)


def test_the_compiler_s_flags_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAJMATCH_TARGET", raising=False)
    assert processor.compiler_flags()[0] == "-march=native"
    monkeypatch.setenv("TRAJMATCH_TARGET", " -mavx2  -mfma ")
    assert processor.compiler_flags() == ("-mavx2", "-mfma")
