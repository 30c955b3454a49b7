"""One process at a time writes into a folder; a dead one is no obstacle."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import trajmatch
from tests import small
from trajmatch.machine.lock import LOCK, HeldError, Lock, tidy
from trajmatch.machine.owner import me
from trajmatch.machine.processes import WorkerLostError, run_apart
from trajmatch.run.cli import main

HOLD = """
import sys
from pathlib import Path
from trajmatch.machine.lock import Lock
with Lock(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another(folder: Path, name: str = LOCK) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds a folder's lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_process_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    with another(tmp_path) as process:
        before = contents(tmp_path)
        with pytest.raises(HeldError, match=rf"^{tmp_path}: process {process.pid} of {me().host} works there; "):
            Lock(tmp_path)
        assert contents(tmp_path) == before
        process.communicate("")
        assert not list(tmp_path.iterdir())
    with Lock(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("has_locks", [True, False])
def test_a_killed_one_is_no_obstacle(has_locks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_locks:
        without_locks(monkeypatch)
    with another(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / LOCK).exists()
        with Lock(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)


def test_where_a_file_system_has_no_locks_the_file_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch)
    with another(tmp_path) as process, pytest.raises(HeldError, match=f"process {process.pid} of"):
        Lock(tmp_path)
    (tmp_path / LOCK).write_text(json.dumps(asdict(replace(me(), started="before0the0machine0restarted"))))
    Lock(tmp_path).release()


def test_another_hosts_lock_cannot_be_checked(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(json.dumps({"host": "node7", "pid": 12, "started": "1"}))
    before = contents(tmp_path)
    with pytest.raises(HeldError, match=rf"process 12 of node7 .* if that process is gone, delete {tmp_path / LOCK}$"):
        Lock(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 3}', "\0" * 50])
def test_a_damaged_file_of_a_lock_that_nobody_holds_is_no_obstacle(text: str, tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(text)
    Lock(tmp_path).release()
    assert not list(tmp_path.iterdir())


def test_the_thread_that_holds_it_may_take_it_again_and_another_may_not(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            Lock(tmp_path)
        except HeldError as error:
            refused.append(str(error))

    with Lock(tmp_path):
        with Lock(tmp_path / "." / "", LOCK):
            pass
        assert (tmp_path / LOCK).exists()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    lock = Lock(tmp_path)
    lock.release()
    lock.release()
    assert not list(tmp_path.iterdir())


def test_many_at_once_never_hold_it_together(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom trajmatch.machine.lock import HeldError, Lock\n"
        "folder, got = Path(sys.argv[1]), 0\n"
        "until = time.monotonic() + 1.5\n"
        "while time.monotonic() < until:\n"
        "    try:\n        lock = Lock(folder)\n    except HeldError:\n        continue\n"
        "    (folder / 'inside').touch(exist_ok=False)\n    (folder / 'inside').unlink()\n"
        "    lock.release()\n    got += 1\nprint(got)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    counts = [int(process.communicate()[0] or -1) for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sum(counts) > 3
    assert not list(tmp_path.iterdir())


def test_parts_have_locks_of_their_own_and_dead_ones_are_tidied(tmp_path: Path) -> None:
    (tmp_path / ".expert_0003.lock").write_text(json.dumps(asdict(replace(me(), pid=2**22 + 1))))
    (tmp_path / ".theirs.lock").write_text("not ours")
    with another(tmp_path, ".expert_0001.lock"), Lock(tmp_path, ".expert_0002.lock", "expert 2"):
        with pytest.raises(HeldError, match=r"works there \(expert 1\)"):
            Lock(tmp_path, ".expert_0001.lock", "expert 1")
        tidy(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {".expert_0001.lock", ".expert_0002.lock", ".theirs.lock"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of random images."""
    folder = tmp_path_factory.mktemp("locked") / "run"
    small.succeed(*small.command("run", "--method", "random", "--out", folder))
    return folder


def test_every_verb_that_writes_is_refused_and_changes_nothing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small.command("run", "--method", "random", "--out", made)
    with another(made) as process:
        before = contents(made)
        for words in (
            run,
            ["distill", *run[1:]],
            ["evaluate", str(made)],
            ["search", str(made)],
            ["report", str(made)],
        ):
            assert main(words) == 2, words
            said = capsys.readouterr().err
            assert f"process {process.pid} of" in said, words
        with pytest.raises(HeldError):
            trajmatch.distill("digits", method="random", out=made, config=small_config(made))
        assert contents(made) == before
        assert main(["compare", str(made), "--out", str(made.parent / "pages")]) == 0
        assert main(["diagnose", "nearest", "--run", str(made), "--out", str(made.parent / "nearest")]) == 0
    assert main(["report", str(made)]) == 0
    assert not [path.name for path in made.rglob(".*")]


def small_config(folder: Path) -> trajmatch.Config:
    from trajmatch.settings.config_file import read_config
    from trajmatch.settings.flat import parsed

    return parsed(read_config(folder / "config.yaml"))


def test_experts_of_one_number_are_trained_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = small.command("experts", "--experts", 2, "--out", tmp_path)
    with another(tmp_path, ".expert_0001.lock") as process:
        assert main(words) == 2
        said = capsys.readouterr().err
        assert f"process {process.pid} of" in said
        assert "--expert.shard" in said
        assert [path.name for path in tmp_path.iterdir()] == [".expert_0001.lock"]
        assert main([*words, "--expert.shard", "0/2"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"expert_0000.safetensors", ".expert_0001.lock"}
    assert main(words) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"expert_0000.safetensors", "expert_0001.safetensors"}


def test_the_second_of_two_runs_is_refused_while_the_first_goes_on(
    experts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--experts", experts, "--steps", 3000, "--engine", "eager", "--out", tmp_path / "r")
    words = small.command("distill", *flags)
    first = small.start(*words)
    try:
        small.wait_for_rows(first, tmp_path / "r", 1)
        for again in ([*words, "--resume"], words):  # nor is it an interrupted run, with which --resume would go on
            assert main(again) == 2
            assert f"process {first.pid} of" in capsys.readouterr().err
        small.wait_for_rows(first, tmp_path / "r", len(small.rows(tmp_path / "r")) + 1)
        assert small.end(first, signal.SIGHUP)[0] == 130
    finally:
        first.kill()
        first.communicate()
    steps = [row["step"] for row in small.rows(tmp_path / "r")]
    assert steps == list(range(1, len(steps) + 1))
    assert not list((tmp_path / "r").rglob(".*"))


def test_a_worker_is_bound_to_its_parent_before_torch_is_loaded() -> None:
    code = (
        "import sys\nfrom trajmatch.machine import orphans\nseen = []\n"
        "orphans.end_with_parent = lambda: seen.append('torch' in sys.modules)\n"
        "orphans.begin('trajmatch.machine.processes.cores')\nprint(seen, 'torch' in sys.modules)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "[False] True\n"


def test_a_process_apart_gives_its_result_its_error_and_says_that_it_was_killed() -> None:
    assert run_apart(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        run_apart(divmod, 7, 0)
    with pytest.raises(WorkerLostError, match="killed, most likely for lack of memory"):
        run_apart(signal.raise_signal, signal.SIGKILL)


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom trajmatch.machine.processes import run_tasks\n"
        "from tests.machine.test_lock import sleep\n"
        "if __name__ == '__main__':\n    list(run_tasks(sleep, [(sys.argv[1], k) for k in range(2)], 2, 1))\n"
    )
    (tmp_path / "parent.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen([sys.executable, tmp_path / "parent.py", tmp_path], env=environment)
    until = time.monotonic() + 60
    while len(pids := [int(path.suffix[1:]) for path in tmp_path.glob("worker.*")]) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(pids[0], signal.SIGTERM)  # a request to the whole group is the parent's to follow
    time.sleep(0.2)
    assert all(map(runs, pids))
    process.kill()
    process.wait()
    until = time.monotonic() + 5
    while any(map(runs, pids)):
        assert time.monotonic() < until, "a worker outlived its parent"
        time.sleep(0.05)


def sleep(folder: str, k: int, report: object) -> None:
    """A job that takes long."""
    (Path(folder) / f"worker.{os.getpid()}").touch()
    time.sleep(60)


def runs(pid: int) -> bool:
    from trajmatch.machine.owner import started

    return started(pid) is not None
