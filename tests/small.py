"""A run small enough to be killed again and again: two narrow experts on the digits, a few short outer steps."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from trajmatch.run.cli import main

FLAGS = [
    "digits-ipc1", "--network.width", "8", "--expert.epochs", "3", "--expert.workers", "1",
    "--matching.inner-steps", "6", "--matching.expert-epochs", "1", "--matching.last-epoch", "3",
    "--matching.augment", "color_crop_cutout_scale_rotate", "--evaluation.epochs", "4", "--evaluation.networks", "2",
    "--evaluation.random-draws", "2", "--evaluation.validation-networks", "1", "--evaluation.workers", "1",
    "--outer.threads", "1", "--outer.snapshots", "2",
    "--evaluation.foreign", "none",
]  # fmt: skip


def command(verb: str, *flags: object) -> list[str]:
    """The words of a small command."""
    return [verb, *FLAGS, *map(str, flags)]


def start(*words: object) -> "subprocess.Popen[str]":
    """The same in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "trajmatch", *map(str, words)],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def rows(folder: Path) -> list[dict[str, Any]]:
    """The complete rows of metrics.jsonl, without their times."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def wait_for_rows(process: "subprocess.Popen[str]", folder: Path, count: int, seconds: float = 90.0) -> None:
    """Wait until the log has `count` rows. Fails where the process ends before."""
    deadline = time.monotonic() + seconds
    while len(rows(folder)) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"no {count} steps in {seconds} s"
        time.sleep(0.01)


def end(process: "subprocess.Popen[str]", number: int) -> tuple[int, str]:
    """Send a signal; the exit code and what was written to stderr."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def succeed(*words: object) -> None:
    """Run a command in this process, which must succeed."""
    assert main(list(map(str, words))) == 0


KILL, INTERRUPT, TERMINATE = signal.SIGKILL, signal.SIGINT, signal.SIGTERM
