"""Several processes make the set of one, to the last bit; a fault of one of them ends all with one sentence."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.run.ranks_job import CASES
from tests.small import command, rows, succeed
from trajmatch.data.tensors import read_tensors


def environment(**others: object) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in others.items()}}


def program_of(folder: Path, name: str, first: str) -> str:
    """Write a module that does something first and then is trajmatch; returns the PYTHONPATH that finds it."""
    last = "import runpy\nimport sys\n\nsys.argv[0] = 'trajmatch'\nrunpy.run_module('trajmatch', run_name='__main__')\n"
    (folder / f"{name}.py").write_text(f"{first}{last}")
    return f"{folder}:{os.environ.get('PYTHONPATH', '')}:{os.getcwd()}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def torchrun(ranks: int, *words: object, options: tuple[str, ...] = (), **variables: object) -> "subprocess.Popen[str]":
    """A job as users start it."""
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(ranks),
        "--master-port",
        str(free_port()),
        *options,
    ]
    return subprocess.Popen(
        [*launcher, "-m", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**variables),
    )  # fmt: skip


def ranks(count: int, *words: object, program: str = "trajmatch", **variables: object) -> "list[subprocess.Popen[str]]":
    """The same processes without their launcher, so that each can be hurt, and asked how it ended."""
    port, started = free_port(), []
    for number in range(count):
        about = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        about |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **variables}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", program, *map(str, words)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(**about),
            )
        )
    return started


def ended(started: "list[subprocess.Popen[str]]", seconds: float = 60.0) -> list[tuple[int, str]]:
    """The exit code of each process and what it wrote to stderr. Fails where one goes on."""
    found = [process.communicate(timeout=seconds)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, found, strict=True)]


def wait_for(folder: Path, count: int, started: "list[subprocess.Popen[str]]", seconds: float = 90.0) -> None:
    """Wait until a run has taken so many steps."""
    deadline = time.monotonic() + seconds
    while len(rows(folder)) < count:
        assert all(process.poll() is None for process in started), ended(started)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def set_of(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "distilled.safetensors")


def assert_same(one: Path, other: Path) -> None:
    """Sets and logs are the same to the last bit."""
    a, b = set_of(one), set_of(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
    assert [_bare(row) for row in rows(one)] == [_bare(row) for row in rows(other)]


def _bare(row: dict[str, object]) -> dict[str, object]:
    """A row of the log without the checksum, which is of its seconds too."""
    return {key: value for key, value in row.items() if key != "check"}


@pytest.fixture(scope="module")
def alone(experts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sets of one process."""
    folder = tmp_path_factory.mktemp("alone")
    done = subprocess.run(
        [sys.executable, "-m", "tests.run.ranks_job", experts, folder],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("count", [2, 4])
def test_ranks_make_the_set_of_one_process(count: int, alone: Path, experts: Path, tmp_path: Path) -> None:
    started = torchrun(count, "tests.run.ranks_job", experts, tmp_path)
    ((code, errors),) = ended([started], 240)
    assert code == 0, errors
    for name in CASES:
        assert_same(alone / name, tmp_path / name)


@pytest.fixture
def hurt(experts: Path, tmp_path: Path) -> Iterator[tuple[Path, "list[subprocess.Popen[str]]"]]:
    """Two ranks in the midst of 400 outer steps of three segments; none of them is left at the end."""
    folder = tmp_path / "run"
    words = command("distill", "--experts", experts, "--out", folder, *LONG)
    started = ranks(2, *words, TRAJMATCH_RANK_TIMEOUT=8)
    try:
        wait_for(folder, 3, started)
        yield folder, started
    finally:
        for process in started:
            process.kill()
            process.communicate()


LONG = ["--steps", "400", "--method", "contra", "--matching.segments", "3"]


def sentences(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("trajmatch:")]


def assert_saved(folder: Path) -> None:
    """Every step that the log has is in the checkpoint."""
    from trajmatch.data.files import read_header

    assert int(read_tensors(folder / "checkpoint.safetensors")["state.steps"]) == len(rows(folder)) > 0
    assert read_header(folder / "checkpoint.safetensors")["kind"] == "checkpoint"
    assert not (folder / ".trajmatch.lock").exists()


def test_a_rank_that_is_killed_is_named_and_nothing_is_lost(hurt: tuple[Path, "list[subprocess.Popen[str]]"]) -> None:
    folder, started = hurt
    started[1].kill()
    (code, errors), _ = ended(started)
    assert code == 1
    (said,) = sentences(errors)
    assert said.startswith(f"trajmatch: rank 1 (process {started[1].pid} of ")
    assert "Traceback" not in errors
    assert_saved(folder)


def test_a_rank_that_hangs_is_named_when_its_time_is_over(hurt: tuple[Path, "list[subprocess.Popen[str]]"]) -> None:
    folder, started = hurt
    started[1].send_signal(signal.SIGSTOP)
    code, errors = ended(started[:1])[0]
    assert code == 1
    (said,) = sentences(errors)
    assert f"rank 1 (process {started[1].pid}" in said
    assert " s; what was complete is kept" in said or "Timed out" in said
    assert_saved(folder)
    started[1].send_signal(signal.SIGCONT)
    ((code, errors),) = ended(started[1:])
    assert code == 0  # rank 0 had told it to end


@pytest.mark.parametrize(("number", "which"), [(signal.SIGINT, 0), (signal.SIGTERM, 1)])
def test_a_request_to_end_reaches_all_after_the_same_step(
    number: int, which: int, hurt: tuple[Path, "list[subprocess.Popen[str]]"]
) -> None:
    folder, started = hurt
    started[which].send_signal(number)
    (code, errors), (other, others) = ended(started)
    assert (code, other) == (130, 0), errors + others
    (said,) = sentences(errors)
    assert said.startswith("trajmatch: interrupted; ")
    assert said.endswith(" --resume")
    assert not sentences(others)
    assert_saved(folder)


def test_the_others_end_where_rank_0_is_killed(hurt: tuple[Path, "list[subprocess.Popen[str]]"]) -> None:
    _, started = hurt
    started[0].kill()
    code, errors = ended(started)[1]
    assert code == 1
    (said,) = sentences(errors)
    assert said.endswith("rank 0 is gone")
    assert "Traceback" not in errors


def test_what_a_rank_raises_is_said_once_with_its_name(experts: Path, tmp_path: Path) -> None:
    path = program_of(
        tmp_path,
        "broken",
        "import os\n\nimport trajmatch.run.stages.segments as segments\n\n\n"
        "def fail(*given):\n    raise RuntimeError('the card has fallen off')\n\n\n"
        "if os.environ['RANK'] == '1':\n    segments.estimator = fail\n",
    )
    folder = tmp_path / "run"
    words = command("distill", "--experts", experts, "--out", folder, *LONG)
    started = ranks(2, *words, program="broken", PYTHONPATH=path)
    (code, errors), (other, _) = ended(started)
    assert (code, other) == (1, 0), errors
    (said,) = sentences(errors)
    assert "rank 1 (process " in said
    assert "failed (RuntimeError: the card has fallen off)" in said
    assert "Traceback" not in errors


def test_wrong_settings_are_said_by_rank_0_alone(tmp_path: Path) -> None:
    words = command("distill", "--out", tmp_path / "run", "--matching.radius", "-1")
    (code, errors), (other, others) = ended(ranks(2, *words))
    assert (code, other) == (2, 2), errors + others
    assert len(sentences(errors)) == 1
    assert "--matching.radius" in errors
    assert not others.strip()
    words = command("distill", "--no-such-flag", "1")
    (code, errors), (other, others) = ended(ranks(2, *words))
    assert (code, other) == (2, 2)
    assert errors.strip()
    assert not others.strip()


def test_a_full_disk_at_rank_0_ends_all_and_keeps_what_was_there(experts: Path, tmp_path: Path) -> None:
    path = program_of(
        tmp_path,
        "small",
        "import os\nimport resource\n\n"
        "if os.environ['RANK'] == '0':\n    resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))\n",
    )
    folder = tmp_path / "run"
    words = command("distill", "--experts", experts, "--out", folder, *LONG, "--outer.checkpoint-seconds", "0.1")
    (code, errors), (other, _) = ended(ranks(2, *words, program="small", PYTHONPATH=path))
    assert (code, other) == (2, 0), errors
    assert len(sentences(errors)) == 1
    assert "Traceback" not in errors


def test_a_run_goes_on_with_another_number_of_ranks(experts: Path, tmp_path: Path) -> None:
    name, folder = "satm-3", tmp_path / "run"
    words = command("distill", "--experts", experts, "--out", folder, *CASES[name])
    straight = tmp_path / "straight"
    succeed(*command("distill", "--experts", experts, "--out", straight, *CASES[name], "--steps", "30"))
    started = ranks(2, *words, "--steps", "30")
    wait_for(folder, 2, started)
    started[0].send_signal(signal.SIGINT)
    assert [code for code, _ in ended(started)] == [130, 0]
    assert 0 < len(rows(folder)) < 30
    assert [code for code, _ in ended(ranks(3, *words, "--steps", "30", "--resume"))] == [0, 0, 0]
    assert_same(straight, folder)


def test_experts_and_scores_are_shared_out_and_the_same(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    flags = ["--steps", "2", "--experts", "3"]
    succeed(*command("run", *flags, "--out", one))
    done = ended(ranks(2, *command("run", *flags, "--out", two)), 120)
    assert [code for code, _ in done] == [0, 0], done
    assert_same(one, two)
    for name in sorted(path.name for path in (one / "experts").glob("*.safetensors")):
        a, b = read_tensors(one / "experts" / name), read_tensors(two / "experts" / name)
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert json.loads((one / "networks.json").read_text()) == json.loads((two / "networks.json").read_text())
    assert not done[1][1].strip()


def test_orders_of_classes_are_shared_out(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    flags = ["--method", "random", "--class-steps", "2", "--orders", "3", "--fresh-networks", "1"]
    succeed(*command("continual", *flags, "--out", one))
    done = ended(ranks(2, *command("continual", *flags, "--out", two)), 120)
    assert [code for code, _ in done] == [0, 0], done
    a, b = (json.loads((folder / "continual.json").read_text()) for folder in (one, two))
    assert a["accuracy"] == b["accuracy"]
    assert done[0][1].count("classes: ") == 6  # rank 0 says what each rank has found
    assert not done[1][1].strip()


def test_a_verb_that_takes_no_ranks_is_rank_0s_alone() -> None:
    (code, _), (other, others) = ended(ranks(2, "presets"))
    assert (code, other, others.strip()) == (0, 0, "")


DYING = """
import os, signal, threading, time
from pathlib import Path


def die():
    log = Path(os.environ['LOG'])
    while not log.exists() or log.read_text().count(chr(10)) < 4:
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)


if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' and os.environ['RANK'] == os.environ['VICTIM']:
    threading.Thread(target=die, daemon=True).start()
"""


@pytest.mark.parametrize("victim", [0, 1])
def test_torchrun_starts_a_job_again_and_it_goes_on(victim: int, experts: Path, tmp_path: Path) -> None:
    path = program_of(tmp_path, "dying", DYING)
    words = ["--experts", experts, "--steps", "40", "--method", "contra", "--outer.checkpoint-seconds", "0"]
    again, straight = tmp_path / "again", tmp_path / "straight"
    succeed(*command("distill", *words, "--out", straight))
    started = torchrun(
        2, "dying", *command("distill", *words, "--out", again, "--resume"),
        options=("--max-restarts", "1"), PYTHONPATH=path, LOG=again / "metrics.jsonl", VICTIM=victim,
    )  # fmt: skip
    ((code, errors),) = ended([started], 120)
    assert code == 0, errors
    assert "failed (exitcode: -9)" in errors
    assert_same(straight, again)
