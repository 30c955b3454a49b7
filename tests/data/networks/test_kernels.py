import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from trajmatch.data.networks import kernels
from trajmatch.data.networks.kernels import DTYPES, CompiledKernels, compiled_kernels
from trajmatch.machine import caches, processor
from trajmatch.machine.caches import cache_folder

build_anew = compiled_kernels.__wrapped__
Compiler = Callable[..., Path]


@pytest.fixture(scope="module")
def real() -> CompiledKernels | str:
    """This process's own kernels, made before anything is replaced: they are cached, for other tests too."""
    return compiled_kernels()


@pytest.fixture(autouse=True)
def cache(real: CompiledKernels | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that does not exist yet; nothing is built elsewhere, and torch's operators are not defined twice."""
    folder = tmp_path / "some" / "cache"
    monkeypatch.setenv("TRAJMATCH_CACHE", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(kernels, "CompiledKernels", lambda library: library)
    (tmp_path / "tmp").mkdir()
    return folder


@pytest.fixture
def compiler(real: CompiledKernels | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """Makes a compiler that copies the library built before, after some lines of shell, and names it in CXX."""
    if isinstance(real, str):
        pytest.skip(real)
    library = real.library._name

    def make(before: str = "", name: str = "compiler") -> Path:
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\n{before}\nfor last; do :; done\ncp "{library}" "$last"\n')
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))
        return path

    return make


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def assert_one_library(folder: Path) -> None:
    (name,) = files(folder)
    assert re.fullmatch(r"block-[0-9a-f]{16}\.so", name)


def test_the_source_is_part_of_the_package_and_has_every_precision() -> None:
    source = resources.files("trajmatch.data.networks").joinpath("block.cpp").read_text(encoding="utf-8")
    assert set(re.findall(r"^EXPORT\((\w+),", source, re.MULTILINE)) == set(DTYPES.values())


def test_without_a_compiler_there_is_a_sentence(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("CXX", raising=False)
    assert build_anew() == "no C++ compiler was found (g++, clang++ or the one named in CXX)"
    assert not cache.exists()


def test_any_known_compiler_will_do(tmp_path: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(kernels, "_build", lambda compiler, source, path: asked.append(" ".join(compiler)) or "not now")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("c++", "clang++", "g++"):
        compiler(name=name)
        monkeypatch.delenv("CXX")
        assert build_anew() == "not now"
    compiler(name="icpx")
    monkeypatch.setenv("CXX", "icpx -m64")
    assert build_anew() == "not now"
    assert asked == ["c++", "clang++", "g++", "icpx -m64"]


def test_a_compiler_that_fails_silently_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = shutil.which("false")
    assert broken
    monkeypatch.setenv("CXX", broken)
    assert build_anew() == f"{broken} could not build the kernels: {broken} failed"
    assert files(cache) == []


def test_a_compiler_s_complaint_is_passed_on(cache: Path, compiler: Compiler) -> None:
    path = compiler("echo 'error: unknown flag' >&2; echo 'and so on' >&2; exit 1")
    assert build_anew() == f"{path} could not build the kernels: error: unknown flag"
    assert files(cache) == []


def test_a_compiler_that_is_not_there_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    assert build_anew() == "the C++ compiler '/nowhere/g++' that CXX names was not found"
    assert files(cache) == []


def test_a_folder_of_another_user_is_never_loaded_from(
    cache: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler()
    monkeypatch.setattr(kernels, "user", lambda: 12345)
    found = build_anew()
    assert isinstance(found, str)
    assert found.endswith("belongs to another user")
    assert files(cache) == []


def test_a_real_compiler_builds_one_library_with_every_kernel(cache: Path, real: CompiledKernels | str) -> None:
    if isinstance(real, str):
        pytest.skip(real)
    library = build_anew()
    assert isinstance(library, ctypes.CDLL), library
    assert_one_library(cache)
    for kernel in ("forward", "gradient", "curvature"):
        assert all(hasattr(library, f"{kernel}_{dtype}") for dtype in DTYPES.values())


def test_a_second_process_builds_nothing(cache: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler()
    assert isinstance(build_anew(), ctypes.CDLL)
    assert_one_library(cache)
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail("it was built again"))
    assert isinstance(build_anew(), ctypes.CDLL)
    assert_one_library(cache)


def test_each_compiler_machine_and_source_has_its_own_library(
    cache: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(name="one")
    build_anew()
    compiler(name="other")
    build_anew()
    monkeypatch.setattr(processor, "described", lambda: "a machine of another kind")
    build_anew()
    monkeypatch.setenv("TRAJMATCH_TARGET", "-mavx2 -mfma")
    build_anew()
    for name in kernels.SOURCES:
        (cache.parent / name).write_text("// of a later version")
    monkeypatch.setattr(resources, "files", lambda package: cache.parent)
    build_anew()
    assert len(files(cache)) == 5


def test_without_openmp_it_is_built_without_threads(cache: Path, compiler: Compiler, tmp_path: Path) -> None:
    log = tmp_path / "log"
    compiler(f'echo "$*" >> {log}\ncase "$*" in *-fopenmp*) echo "no -fopenmp here" >&2; exit 1;; esac')
    assert isinstance(build_anew(), ctypes.CDLL)
    assert_one_library(cache)
    assert ["-fopenmp" in line for line in log.read_text().splitlines()] == [True, False]


def test_an_unwritable_cache_falls_back_to_a_folder_of_the_user_s_own(
    tmp_path: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TRAJMATCH_CACHE", str(tmp_path / "file" / "cache"))
    compiler()
    assert isinstance(build_anew(), ctypes.CDLL)
    (own,) = (tmp_path / "tmp").iterdir()
    assert own.name == f"trajmatch-{os.getuid()}"
    assert own.stat().st_mode & 0o777 == 0o700
    assert_one_library(own)


def test_where_nothing_can_be_written_there_is_a_sentence(
    tmp_path: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TRAJMATCH_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    compiler()
    found = build_anew()
    assert isinstance(found, str)
    assert found.startswith(str(tmp_path / "file" / f"trajmatch-{os.getuid()}"))
    assert "could not be written or loaded" in found


def test_a_damaged_library_is_not_the_end(
    cache: Path, compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler()
    monkeypatch.setenv("TRAJMATCH_CACHE", str(tmp_path / "elsewhere"))
    build_anew()
    (name,) = files(tmp_path / "elsewhere")
    monkeypatch.setenv("TRAJMATCH_CACHE", str(cache))
    cache.mkdir(parents=True)
    (cache / name).write_bytes(b"half of it")
    assert isinstance(build_anew(), ctypes.CDLL)
    assert files(cache) == [name]
    assert (cache / name).read_bytes() == (tmp_path / "elsewhere" / name).read_bytes()
    assert files(tmp_path / "tmp") == []


def test_a_library_that_is_cut_short_is_built_again_and_ends_no_process(cache: Path, compiler: Compiler) -> None:
    compiler()
    build_anew()
    (name,) = files(cache)
    whole = (cache / name).read_bytes()
    (cache / name).write_bytes(whole[: len(whole) // 2])
    script = (
        "import torch\nfrom trajmatch.data.networks.kernels import compiled_kernels\nk = compiled_kernels()\n"
        "c = torch.ones(1, 2, 4, 4)\nprint(k.forward(c, torch.ones(2), torch.ones(2), 2, 1e-5)[0].sum().item())"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert f"{name}: this library is damaged" in run.stderr
    assert float(run.stdout) == 8.0
    assert (cache / name).read_bytes() == whole


def test_a_damaged_byte_of_a_library_is_found(cache: Path, compiler: Compiler) -> None:
    compiler()
    build_anew()
    (name,) = files(cache)
    whole = (cache / name).read_bytes()
    (cache / name).write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    assert isinstance(build_anew(), ctypes.CDLL)
    assert (cache / name).read_bytes() == whole


def test_another_release_of_the_compiler_has_its_own_library(cache: Path, compiler: Compiler) -> None:
    compiler()
    build_anew()
    compiler("# a later release")
    build_anew()
    assert len(files(cache)) == 2


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home, caches = tmp_path / "home", tmp_path / "xdg"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TRAJMATCH_CACHE", "/here")
    assert cache_folder() == Path("/here")
    for unset in (lambda name: monkeypatch.setenv(name, ""), monkeypatch.delenv):
        unset("TRAJMATCH_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(caches))
        assert cache_folder() == caches / "trajmatch"
        unset("XDG_CACHE_HOME")
        assert cache_folder() == home / ".cache" / "trajmatch"


def test_one_process_builds_them_once() -> None:
    assert compiled_kernels() is compiled_kernels()
    assert isinstance(compiled_kernels(), CompiledKernels | str)


def test_without_a_home_folder_the_cache_is_among_temporary_files_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("TRAJMATCH_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(caches, "_home", lambda: "")
    caches._among_temporary_files.cache_clear()
    with caplog.at_level("WARNING", logger="trajmatch"):
        place = cache_folder()
        assert cache_folder() == place
    assert place.is_absolute()
    assert place.name.startswith("trajmatch-")
    assert [record.getMessage().endswith(f"is kept in {place}") for record in caplog.records] == [True]
