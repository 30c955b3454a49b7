"""What killed processes left behind is found by the names of files, and nothing else is touched."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from trajmatch.data.files import write_text
from trajmatch.machine import owner
from trajmatch.machine.litter import MATERIAL, OLD, litter, owner_of, remove_litter, temporary_name
from trajmatch.machine.owner import UNKNOWN, Owner, me, started


@pytest.fixture(scope="module")
def dead() -> Owner:
    """A process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    found = Owner(me().host, process.pid, started(process.pid) or UNKNOWN)
    assert found.is_alive
    process.kill()
    while started(process.pid) is not None:  # what is left until it is waited for does not count as a process
        time.sleep(0.01)
    assert not found.is_alive
    process.wait()
    return found


def test_this_process_lives_and_one_of_its_number_that_started_otherwise_does_not() -> None:
    assert me().is_alive
    assert not replace(me(), started="long0ago").is_alive
    assert replace(me(), started=UNKNOWN).is_alive
    assert not replace(me(), host="elsewhere").is_alive
    assert not Owner(me().host, 0).is_alive


def test_without_proc_the_operating_systems_program_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(owner, "_PROC", tmp_path)
    assert started(os.getpid()) not in (None, UNKNOWN)
    assert started(2**22 + 1) is None


@pytest.mark.parametrize("host", ["node-1.cluster.example", "x" * 64, "ö b"])
def test_a_name_tells_its_writer(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner.socket, "gethostname", lambda: host)
    name = temporary_name("a.b-1-2.tmp.safetensors")
    assert name.startswith(".a.b-1-2")
    assert owner_of(Path(name)) == me()
    assert owner_of(Path(f"{MATERIAL}{me().word}-ab_c1")) == me()
    assert len(temporary_name("ä" * 100).encode()) < 256


def left_by(host: str, pid: int, started: str) -> list[str]:
    return [f".a.json.{host}-{pid}-{started}-0123abcd.tmp", f"{MATERIAL}{host}-{pid}-{started}-x_y"]


def test_only_what_dead_processes_of_this_host_left_is_removed(tmp_path: Path, dead: Owner) -> None:
    litters = [*left_by(dead.host, dead.pid, dead.started), f".b.png.{dead.pid}-0123abcd.tmp"]
    litters += left_by(dead.host, os.getpid(), "long0ago")
    kept = [*left_by(*vars(me()).values()), *left_by("elsewhere", dead.pid, "1"), "a.tmp", ".notes.tmp", ".material"]
    for name in litters + kept:
        place = tmp_path / name
        if name.startswith(MATERIAL):
            place.mkdir()
            (place / "images.safetensors").write_text("")
        else:
            place.write_text("")
    (tmp_path / "target").mkdir()
    assert sorted(path.name for path in litter(tmp_path)) == sorted(litters)
    remove_litter(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "target"}
    remove_litter(tmp_path / "there is none")


def test_what_the_library_was_writing_is_removed_where_nobody_else_can_be_at_work(tmp_path: Path) -> None:
    (tmp_path / ".tmpGRDCkQ").write_text("")
    assert not list(litter(tmp_path))
    remove_litter(tmp_path, alone=True)
    assert not list(tmp_path.iterdir())


def test_another_hosts_is_removed_where_nobody_else_can_be_at_work_and_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / left_by("elsewhere", 5, "1")[0]
    path.write_text("")
    assert not list(litter(tmp_path, alone=True))
    os.utime(path, (time.time() - 2 * OLD,) * 2)
    assert not list(litter(tmp_path))
    assert list(litter(tmp_path, alone=True)) == [path]


def test_a_file_that_is_being_written_is_not_litter(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (tmp_path / temporary_name("a")).write_text("")
    assert not list(litter(tmp_path, alone=True))
